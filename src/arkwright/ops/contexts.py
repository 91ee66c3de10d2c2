"""What ops read of trees: which paths a copy names, and what their content is."""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Callable, Iterator

import msgspec

from arkwright.cache.checksum import Excluded, FileFacts, TreeDigester
from arkwright.cache.keys import KeyBuilder
from arkwright.cache.stat_cache import StatCache
from arkwright.diagnostics.errors import UserError
from arkwright.diagnostics.suggest import nearest
from arkwright.graph.ops import CopyAction
from arkwright.layer import files
from arkwright.layer.rooted import Root
from arkwright.sources.base import HostTree
from arkwright.sources.ignore import Matcher
from arkwright.sources.patterns import has_wildcard

# Digits of a digest that people are shown.
_SHOWN = 16


class ContextReader:
    """One context during one build; digests are remembered, files' digests in the stat cache."""

    def __init__(self, tree: HostTree, stat_cache: StatCache | None) -> None:
        self.tree = tree
        self.matcher = Matcher(tree.exclude) if tree.exclude else None
        self._stat_cache = stat_cache
        self._digests: dict[tuple[object, ...], str] = {}

    def detach(self, stat_cache: StatCache | None) -> None:
        """Go on with another stat cache: the one of this side of a fork."""
        self._stat_cache = stat_cache

    def read_digest(self) -> str:
        """All that was digested of the context so far, as one digest; empty for nothing."""
        if not self._digests:
            return ""
        builder = KeyBuilder("context")
        for wanted, digest in sorted(
            (msgspec.json.encode(wanted), digest) for wanted, digest in self._digests.items()
        ):
            builder.field("selection", wanted, digest)
        return builder.digest()

    @property
    def excluded(self) -> Excluded | None:
        return self.matcher.excluded if self.matcher else None

    def selection(self, action: CopyAction) -> str:
        """The content digest of what a copy would take, remembered for the build."""
        wanted = selected(action)
        if wanted not in self._digests:
            self._digests[wanted] = self.fresh_selection(action)
        return self._digests[wanted]

    def fresh_selection(self, action: CopyAction) -> str:
        """The same, from the files as they are now."""
        with Root(self.tree.root, widen=self.tree.own) as root:
            return selection_digest(
                root, action, matcher=self.matcher, ownership=False, stat_cache=self._stat_cache
            )

    def listing(self, action: CopyAction) -> dict[str, str]:
        """What a copy takes, path by path (see `selection_listing`)."""
        with Root(self.tree.root, widen=self.tree.own) as root:
            return selection_listing(
                root, action, matcher=self.matcher, ownership=False, stat_cache=self._stat_cache
            )

    def copy_path(self, path: str, dest: Root) -> str:
        """Copy what a bind mount shows, with its parents; its path there, links followed.

        Raises what a copy raises.
        """
        from arkwright.ops.file_copy import Copier

        with Root(self.tree.root, widen=self.tree.own) as source:
            for match in source_matches(source, _whole(path), self.matcher):
                found = source.resolve(match)
                copier = Copier(
                    source, dest, keep_owner=False, excluded=self.excluded,
                    may_prune=self.matcher.may_prune if self.matcher else None,
                )  # fmt: skip
                if found:
                    copier.copy_parents(found, "", "/")
                else:
                    copier.copy("", "/", contents=True)
        return found

    def tree_selection(self, path: str) -> str:
        """The content digest of one path as a bind mount shows it."""
        return self.selection(_whole(path))

    def tree_listing(self, path: str) -> dict[str, str]:
        """What a bind mount of one path shows, path by path."""
        return self.listing(_whole(path))

    def fresh_tree_selection(self, path: str) -> str:
        """The same, from the files as they are now."""
        return self.fresh_selection(_whole(path))


ReaderOf = Callable[[str], ContextReader | None]


def selection_digest(
    root: Root, action: CopyAction, *, ownership: bool, matcher: Matcher | None = None,
    stat_cache: StatCache | None = None,
) -> str:  # fmt: skip
    """The digest of what a copy takes from a tree: each match's path and content.

    Raises `UserError` `copy-source-missing` and what `TreeDigester.digest` raises.
    """
    builder = KeyBuilder("selection")
    digesters = []
    for match, digester in _matches(root, action, ownership, matcher, stat_cache):
        builder.field(match, digester.digest(match))
        digesters.append(digester)
    # A copy keeps hard links as such, and a layer says so.
    for group in sorted({group for digester in digesters for group in digester.link_groups()}):
        builder.field("hard links", *group)
    return builder.digest()


def selection_listing(
    root: Root, action: CopyAction, *, ownership: bool, matcher: Matcher | None = None,
    stat_cache: StatCache | None = None,
) -> dict[str, str]:  # fmt: skip
    """What a copy takes from a tree, each path with what counts of it, for people.

    Raises as `selection_digest` does.
    """
    found = {}
    for match, digester in _matches(root, action, ownership, matcher, stat_cache):
        for facts in digester.facts(match):
            path = posixpath.join(match, facts.path).rstrip("/").encode("utf-8", "backslashreplace").decode()
            found[path or "."] = _shown_facts(facts)
    return found


def _shown_facts(facts: FileFacts) -> str:
    owner = f" {facts.uid}:{facts.gid}" if facts.uid >= 0 else ""
    attributes = f" attributes {facts.xattrs[:_SHOWN]}" if facts.xattrs else ""
    content = facts.content.rpartition(" ")[2].encode("utf-8", "backslashreplace").decode()
    shown = {"file": f" sha256:{content[:_SHOWN]}", "dir": "", "fifo": ""}.get(facts.type, f" {content}")
    return f"{facts.type} {facts.mode:o}{owner}{shown}{attributes}"


def _matches(
    root: Root,
    action: CopyAction,
    ownership: bool,
    matcher: Matcher | None,
    stat_cache: StatCache | None,
) -> Iterator[tuple[str, TreeDigester]]:
    """The paths that a copy names, each with what digests it."""
    hidden = hidden_by(action.exclude_patterns)
    plain = TreeDigester(
        root, ownership=ownership, excluded=matcher.excluded if matcher else None,
        may_prune=matcher.may_prune if matcher else None, stat_cache=stat_cache,
    )  # fmt: skip
    for match in source_matches(root, action, matcher):
        if hidden is None:
            yield match, plain
        elif not _is_hidden_file(root, match, action, hidden):
            base = root.resolve(pivot_of(action.src) if action.parents else match)
            excluded = _both(matcher.excluded if matcher else None, hidden, base)
            yield match, TreeDigester(root, ownership=ownership, excluded=excluded, stat_cache=stat_cache)


def selected(action: CopyAction) -> tuple[object, ...]:
    """What of a copy decides which paths it takes."""
    return (
        action.src, action.parents, action.exclude_patterns, action.include_patterns,
        action.allow_wildcard, action.allow_empty_wildcard,
    )  # fmt: skip


def pivot_of(src: str) -> str:
    """What stands before the `/./` of a copy with parents: the place that its paths count from."""
    before, found, _ = src.partition("/./")
    return "/".join(part for part in before.split("/") if part and part != ".") if found else ""


def _is_hidden_file(root: Root, match: str, action: CopyAction, hidden: Excluded) -> bool:
    """Whether `--exclude` hides a match by itself; it does so for anything but directories."""
    pivot = pivot_of(action.src)
    name = match[len(pivot) :].strip("/") if action.parents else posixpath.basename(match)
    status = root.lstat(root.resolve(match))
    return status is not None and not stat.S_ISDIR(status.st_mode) and hidden(name, False)


def _whole(path: str) -> CopyAction:
    return CopyAction(input=-1, secondary_input=0, src=path, dest="/")


def source_matches(root: Root, action: CopyAction, matcher: Matcher | None) -> list[str]:
    """The paths in a source tree that a copy action names, in the order of a walk.

    A wildcard may match nothing; a literal path must exist and not be ignored. Raises `UserError`
    `copy-source-missing` with the nearest name, or the ignore rule that hides the path, and
    `unreadable-path`.
    """
    pattern = action.src.replace("/./", "/") if action.parents else action.src
    try:
        if action.allow_wildcard and has_wildcard(pattern):
            from arkwright.sources.expand import expand

            found = expand(root, pattern, matcher, globstar=action.parents)
            if not found and not action.allow_empty_wildcard:
                raise _missing(root, pattern, matcher)
            return found
        path = posixpath.normpath("/" + pattern).lstrip("/")
        there = root.lstat(root.resolve(path)) is not None
        if not there or (matcher is not None and not _shows(root, path, matcher)):
            raise _missing(root, path, matcher)
        return [path]
    except OSError as error:
        raise UserError.of(
            "unreadable-path",
            f"cannot read {pattern.lstrip('/')}: {error.strerror}",
            hint=_readable_hint(error),
        ) from error


def _shows(root: Root, path: str, matcher: Matcher) -> bool:
    from arkwright.sources.expand import shown

    return shown(root, path, matcher)


def _readable_hint(error: OSError) -> str | None:
    return "let the user who builds read it" if isinstance(error, PermissionError) else None


def hidden_by(patterns: tuple[str, ...]) -> Excluded | None:
    """A predicate for `--exclude` patterns, on paths relative to the copied directory."""
    return Matcher.of_patterns(patterns).excluded if patterns else None


def _both(first: Excluded | None, second: Excluded, base: str) -> Excluded:
    def excluded(path: str, is_dir: bool) -> bool:
        relative = path[len(base) :].lstrip("/") if base else path
        return bool(first and first(path, is_dir)) or bool(relative and second(relative, is_dir))

    return excluded


def _missing(root: Root, path: str, matcher: Matcher | None) -> UserError:
    rule = matcher.deciding_line(path) if matcher is not None else None
    hint: str | None = None
    if rule is not None and root.lstat(root.resolve(path)) is not None:
        number, text = rule
        message = f"{path} is in the context, but line {number} of the ignore file hides it: {text}"
        hint = f"add the line !{path} after it, or copy another path"
    else:
        message = f"{path} does not exist"
        parent, _, name = path.rpartition("/")
        close = nearest(name, _names(root, parent))
        if close is not None:
            hint = f"did you mean {posixpath.join(parent, close)}?"
    error = UserError.of("copy-source-missing", message, hint=hint)
    assert isinstance(error, UserError)
    return error


def _names(root: Root, path: str) -> list[str]:
    try:
        directory_fd = root.open_dir(path)
    except OSError:
        return []
    try:
        return sorted(files.listdir(directory_fd))
    finally:
        files.close(directory_fd)
