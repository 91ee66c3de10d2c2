"""COPY and ADD: one file op per instruction, its sources in order."""

from __future__ import annotations

import posixpath
from typing import Any, TypeVar

import msgspec

from arkwright.frontends.dockerfile import gitref, values
from arkwright.frontends.dockerfile.draft import Inputs, Ref, clean, join
from arkwright.frontends.dockerfile.plan import origin_key
from arkwright.frontends.dockerfile.state import Step
from arkwright.frontends.dockerfile.syntax import Add, Copy, Heredoc, Transfer
from arkwright.frontends.dockerfile.tokens import Token, warning
from arkwright.frontends.dockerfile.words import Rules
from arkwright.graph.definition import VertexMetadata
from arkwright.graph.ops import CopyAction, FileAction, FileOp, MergeOp, MkFileAction, SourceOp
from arkwright.oci.digest import is_digest

# Bodies of heredocs know `\` as their only escape, and quotes are text.
_BODY = Rules(literal_quotes=True)
_UNNAMED = "__unnamed__"
_T = TypeVar("_T")


def convert_transfer(step: Step, instruction: Transfer) -> None:
    """COPY or ADD: copy each source into the stage's tree, the result of one on the other."""
    sources = _Sources(step, instruction)
    state, build = step.state, step.build
    linked = instruction.link and not sources.mode
    actions = sources.actions(None if linked else state.tree)
    metadata = step.metadata()
    copied = build.draft.add(FileOp(actions=actions), sources.inputs.refs, metadata=metadata)
    if linked and state.tree is not None:
        joined = msgspec.structs.replace(
            metadata, name=metadata.name.replace("] ", "] LINK ", 1), label="LINK"
        )
        state.tree = build.draft.add(MergeOp(), (state.tree, copied), metadata=joined)
    else:
        state.tree = copied
    step.record(sources.history(), layer=True)


class _Sources:
    """The sources of one instruction, expanded."""

    def __init__(self, step: Step, instruction: Transfer) -> None:
        self.step = step
        self.instruction = instruction
        self.inputs = Inputs()
        chown, chmod = step.optional(instruction.chown), step.optional(instruction.chmod)
        self.chown, self.chmod = chown, chmod
        self.owner = values.parse_owner(chown) if chown is not None else None
        self.mode = values.parse_mode(chmod) if chmod is not None else ""
        exclude = (step.expand(token).text for token in instruction.exclude)
        self.exclude = tuple(pattern for pattern in exclude if pattern)
        self.checksum = step.optional(instruction.checksum) if isinstance(instruction, Add) else None
        self.destination = step.expand(instruction.destination)
        self.texts = [
            token if place in instruction.heredocs else step.expand(token)
            for place, token in enumerate(instruction.sources)
        ]
        self._check_checksum()
        self._warn_of_ignored()

    def actions(self, base: Ref | None) -> tuple[FileAction, ...]:
        """The ordered actions on a tree; the last one's result is the op's output."""
        current = self.inputs.index(base)
        # Results of actions are numbered behind all inputs, so the inputs are gathered first.
        # Here-documents come behind all paths, wherever they stand (BuildKit, dispatchCopy).
        ordered = sorted(enumerate(self.texts), key=lambda item: item[0] in self.instruction.heredocs)
        copies = [self._copy(place, token) for place, token in ordered]
        actions: list[FileAction] = []
        for number, fields in enumerate(copies):
            output = 0 if number == len(copies) - 1 else -1
            actions.append(CopyAction(input=current, output=output, **fields))
            current = len(self.inputs.refs) + number
        return tuple(actions)

    def history(self) -> str:
        instruction = self.instruction
        parts = [instruction.name]
        if isinstance(instruction, Copy) and instruction.parents:
            parts.append("--parents")
        parts += [f"--chown={self.chown.text}"] if self.chown is not None else []
        parts += [f"--chmod={self.chmod.text}"] if self.chmod is not None else []
        paths = [token.text for place, token in enumerate(self.texts) if place not in instruction.heredocs]
        names = [f"<<{heredoc.name}" for heredoc in instruction.heredocs.values()]
        return " ".join([*parts, *paths, *names, self.destination.text])

    def _copy(self, place: int, token: Token) -> dict[str, Any]:
        heredoc = self.instruction.heredocs.get(place)
        if heredoc is not None:
            return self._common("/" + heredoc.name, self.inputs.index(self._file(heredoc)))
        if gitref.is_url(token.text):
            if not isinstance(self.instruction, Add):
                raise self.step.fail(
                    "invalid-source", f"COPY can't fetch {token.text}", token.span, hint="use ADD for URLs"
                )
            if gitref.is_git(token.text):
                return self._git(token, self.instruction)
            return self._http(token, self.instruction)
        return self._local(token)

    def _common(self, src: str, secondary_input: int) -> dict[str, Any]:
        return {
            "src": src,
            "secondary_input": secondary_input,
            "dest": _destination(self.step.state.workdir, self.destination.text),
            "owner": self.owner,
            "mode": self.mode,
            "exclude_patterns": self.exclude,
            "create_dest_path": True,
        }

    def _local(self, token: Token) -> dict[str, Any]:
        tree = self._tree()
        parents = isinstance(self.instruction, Copy) and self.instruction.parents
        source = _with_pivot(token.text) if parents else clean(token.text)
        self._check_ignored(token, source)
        self.step.build.draft.use(tree, source)
        unpack = isinstance(self.instruction, Add) and self.instruction.unpack is not False
        return {
            **self._common(source, self.inputs.index(tree)),
            "follow_symlink": True,
            "dir_copy_contents": True,
            "allow_wildcard": True,
            "allow_empty_wildcard": True,
            "attempt_unpack": unpack,
            "parents": parents,
        }

    def _check_ignored(self, token: Token, source: str) -> None:
        instruction = self.instruction
        if isinstance(instruction, Copy) and instruction.origin is not None:
            return
        path = clean(source).lstrip("/")
        if not any(char in path for char in "*?[\\") and self.step.build.ignored(path):
            message = f"{instruction.name} names {token.text}, which the ignore file excludes"
            self.step.build.warn(warning("copy-ignored-file", message, token.span))

    def _tree(self) -> Ref | None:
        build, instruction = self.step.build, self.instruction
        origin = instruction.origin if isinstance(instruction, Copy) else None
        if origin is None or not origin.text:
            return build.context()
        index = self.step.state.planned.origins.get(origin_key(origin))
        if index is not None:
            return build.states[index].tree
        return build.tree_of(build.external(origin, f"COPY --from={origin.text}"), origin)

    def _file(self, heredoc: Heredoc) -> Ref:
        """A tree that has the heredoc's body as its one file."""
        body = heredoc.body()
        if heredoc.expand:
            body = self.step.expand(Token(body, heredoc.content.span), _BODY).text
        action = MkFileAction(
            input=-1, output=0, path="/" + heredoc.name, data=body.encode(), create_parents=True
        )
        metadata = VertexMetadata(name="[internal] preparing inline document", spans=(heredoc.word.span,))
        return self.step.build.draft.add(FileOp(actions=(action,)), metadata=metadata)

    def _http(self, token: Token, add: Add) -> dict[str, Any]:
        from urllib.parse import unquote, urlsplit

        try:
            path = unquote(urlsplit(token.text).path, errors="surrogateescape")
            name = posixpath.basename(path.rstrip("/")) or _UNNAMED
        except ValueError as error:
            raise self.step.fail("invalid-source", f"not a URL: {error}", token.span) from error
        attrs = {"filename": name}
        if self.checksum is not None:
            if not is_digest(self.checksum.text):
                raise self.step.fail(
                    "invalid-checksum",
                    f"--checksum={self.checksum.text} is not a digest",
                    self.checksum.span,
                    hint="write sha256: and 64 hex digits",
                )
            attrs["checksum"] = self.checksum.text
        ref = self._source(SourceOp(identifier=token.text, attrs=tuple(sorted(attrs.items()))), token)
        return {**self._common("/" + name, self.inputs.index(ref)), "attempt_unpack": add.unpack is True}

    def _git(self, token: Token, add: Add) -> dict[str, Any]:
        try:
            found = gitref.parse_git_ref(token.text)
            keep = _agreed("keep-git-dir", add.keep_git_dir, found.keep_git_dir)
            given = self.checksum.text if self.checksum is not None else None
            checksum = _agreed("checksum", given, found.checksum or None)
        except ValueError as error:
            raise self.step.fail("invalid-source", f"{token.text}: {error}", token.span) from error
        attrs = {"ref": found.ref, "subdir": found.subdir, "checksum": checksum or ""}
        attrs["keep-git-dir"] = "true" if keep else ""
        attrs["submodules"] = "false" if found.submodules is False else ""
        attrs["mtime"] = found.mtime
        if found.fetch_by_commit:
            if len(checksum or "") not in (40, 64):
                why = f"{token.text}: fetch-by-commit needs a whole commit as checksum"
                raise self.step.fail("invalid-source", why, token.span)
            attrs["fetch-by-commit"] = "true"
        pairs = tuple(sorted((key, value) for key, value in attrs.items() if value))
        ref = self._source(SourceOp(identifier=f"git://{found.remote}", attrs=pairs), token)
        return {**self._common("/", self.inputs.index(ref)), "dir_copy_contents": True}

    def _source(self, op: SourceOp, token: Token) -> Ref:
        build = self.step.build
        metadata = VertexMetadata(
            name=f"[internal] load {op.identifier}",
            ignore_cache=build.ignores_cache(self.step.state),
            group=self.step.state.planned.stage.title,
            spans=(token.span,),
        )
        return build.draft.add(op, metadata=metadata)

    def _warn_of_ignored(self) -> None:
        """Name the flags that BuildKit ignores without a word."""
        instruction = self.instruction
        ignored = ["--link does nothing beside --chmod"] if instruction.link and self.mode else []
        if isinstance(instruction, Add):
            git = [gitref.is_git(token.text) for token in self.texts]
            if instruction.keep_git_dir is not None and not any(git):
                ignored.append("--keep-git-dir is for git repositories")
            if instruction.unpack is not None and all(git):
                ignored.append("--unpack is for files")
        for message in ignored:
            self.step.build.warn(warning("ignored-flag", message, instruction.span))

    def _check_checksum(self) -> None:
        if self.checksum is None:
            return
        if len(self.texts) != 1 or self.instruction.heredocs or not gitref.is_url(self.texts[0].text):
            raise self.step.fail(
                "invalid-checksum",
                "--checksum needs exactly one source, fetched by HTTP or git",
                self.checksum.span,
            )


def _agreed(what: str, flag: _T | None, url: _T | None) -> _T | None:
    if flag is not None and url is not None and flag != url:
        raise ValueError(f"{what} is {flag!r} in the flag and {url!r} in the URL")
    return url if flag is None else flag


def _with_pivot(source: str) -> str:
    """The source of a copy with parents, absolute and clean on both sides of its first `/./`."""
    directory, pivot, pattern = source.partition("/./")
    if not pivot:
        return clean(source)
    return clean(directory).rstrip("/") + "/./" + clean(pattern).lstrip("/")


def _destination(workdir: str, text: str) -> str:
    """The absolute destination; a slash at its end says that it is a directory."""
    path = join(workdir, text)
    directory = text in ("", ".", "..") or text.endswith(("/", "/.", "/.."))
    return path + "/" if directory and path != "/" else path
