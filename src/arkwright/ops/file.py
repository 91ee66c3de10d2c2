"""File ops: ordered copy, mkfile, mkdir, symlink and rm actions on one tree."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import msgspec

from arkwright.cache.keys import KeyBuilder
from arkwright.diagnostics.errors import Cancelled, HostUnsupported, UserError
from arkwright.graph.definition import Vertex
from arkwright.graph.ops import (
    CopyAction,
    FileAction,
    FileOp,
    MkDirAction,
    MkFileAction,
    Owner,
    RmAction,
    SymlinkAction,
)
from arkwright.layer import files
from arkwright.layer.rooted import Root, remove_tree, set_mode
from arkwright.layer.stamps import Stamps
from arkwright.ops.contexts import ContextReader, ReaderOf, hidden_by, pivot_of, source_matches
from arkwright.ops.file_copy import Copier
from arkwright.ops.file_unpack import unpack_archive
from arkwright.ops.modes import parse_mode
from arkwright.ops.result import HostResult, LayeredResult
from arkwright.ops.trees import Trees
from arkwright.sandbox.users import resolve_owner
from arkwright.solver.result import Details, Key, Result
from arkwright.sources.expand import expand
from arkwright.store.space import space_needed


class FileOperation:
    """One COPY, ADD or WORKDIR: all actions on one writable tree, which is output 0.

    Actions form a chain: the first starts from an input (or the empty tree), each later one from
    the result of the one before. Other shapes of LLB are refused.
    """

    slot = False

    def __init__(
        self, vertex: Vertex, reader_of: ReaderOf, trees: Callable[[], Trees],
        stamps: Stamps = Stamps(),  # noqa: B008 - frozen
    ) -> None:  # fmt: skip
        assert isinstance(vertex.op, FileOp)
        self._stamps = stamps
        self._actions = vertex.op.actions
        self._count = len(vertex.inputs)
        self._readers = [reader_of(edge.vertex) for edge in vertex.inputs]
        self._trees = trees
        self._check_chain()

    def _check_chain(self) -> None:
        for number, action in enumerate(self._actions):
            follows = action.input == self._count + number - 1 if number else action.input < self._count
            if not follows or (action.output >= 0) != (number == len(self._actions) - 1):
                raise UserError.of(
                    "unsupported-graph", "a file op whose actions are not one chain cannot be solved"
                )

    def immediate(self) -> Sequence[Result] | None:
        return None

    def definition_key(self, inputs: Sequence[str]) -> Key:
        builder = self._builder()
        for number, key in enumerate(inputs):
            if self._readers[number] is None:
                builder.field(f"input {number}", key)
        return Key(builder.digest(), builder.fields)

    def operation_key(self) -> str:
        return self._builder().digest()

    def same_content(self, number: int, have: Result, other: Result) -> bool:
        return self._trees().same(have, other, self._seen(number))

    def content_of(self, number: int, have: Result) -> str | None:
        return self._trees().content(have, self._seen(number))

    def _seen(self, number: int) -> list[CopyAction] | None:
        """What the actions take of an input; None for all of it."""
        if self._actions[0].input == number:
            return None
        return [action for action in self._copies() if action.secondary_input == number]

    def still_valid(self) -> bool:
        return all(
            reader.selection(action) == reader.fresh_selection(action)
            for action in self._copies()
            if (reader := self._reader(action)) is not None
        )

    def details(self) -> Details:
        found = [(self._reader(action), action) for action in self._copies()]
        return {
            reader.selection(action): partial(reader.listing, action)
            for reader, action in found
            if reader is not None
        }

    def _copies(self) -> list[CopyAction]:
        return [action for action in self._actions if isinstance(action, CopyAction)]

    def _reader(self, action: CopyAction) -> ContextReader | None:
        return self._readers[action.secondary_input] if 0 <= action.secondary_input < self._count else None

    def _builder(self) -> KeyBuilder:
        builder = KeyBuilder("file")
        for action in self._actions:
            builder.field("action", msgspec.json.encode(action, order="sorted"))
            if isinstance(action, CopyAction):
                reader = self._reader(action)
                if reader is not None:
                    builder.field(f"content of {action.src}", reader.selection(action))
        if self._stamps.key:
            builder.field("timestamps", *self._stamps.key)
        return builder

    def run(self, inputs: Sequence[Result], cancelled: threading.Event) -> Sequence[Result]:
        trees = self._trees()
        first = self._actions[0].input
        base = inputs[first] if first >= 0 else LayeredResult()
        assert isinstance(base, LayeredResult)
        trees.ensure(base.layers)
        active = trees.snapshotter.prepare(base.layers)
        try:
            with explained(active.root), Root(active.root) as root:
                for action in self._actions:
                    if cancelled.is_set():
                        raise Cancelled.of("cancelled", "the build was cancelled")
                    self._apply(action, root, inputs)
        except BaseException:
            active.abort()
            raise
        return [LayeredResult((*base.layers, active.commit().id))]

    def _apply(self, action: FileAction, root: Root, inputs: Sequence[Result]) -> None:
        if isinstance(action, CopyAction):
            with self._source(action, inputs) as source:
                self._copy(action, source, root)
        elif isinstance(action, MkFileAction):
            make_file(action, root)
        elif isinstance(action, MkDirAction):
            make_directory(action, root)
        elif isinstance(action, SymlinkAction):
            make_symlink(action, root)
        else:
            remove(action, root)

    @contextmanager
    def _source(self, action: CopyAction, inputs: Sequence[Result]) -> Iterator[Root]:
        number = action.secondary_input
        result = inputs[number] if 0 <= number < self._count else LayeredResult()
        if isinstance(result, HostResult):
            with Root(result.tree.root, widen=result.tree.own) as root:
                yield root
        else:
            assert isinstance(result, LayeredResult)
            with self._trees().view(result) as path, Root(path) as root:
                yield root

    def _copy(self, action: CopyAction, source: Root, dest: Root) -> None:
        reader = self._reader(action)
        owner = owner_in(dest, action.owner)
        copier = Copier(
            source, dest, owner=owner, keep_owner=reader is None, mode=parse_mode(action.mode),
            excluded=reader.excluded if reader else None,
            may_prune=reader.matcher.may_prune if reader and reader.matcher else None,
            time_ns=self._stamps.context_ns if reader else None,
        )  # fmt: skip
        hidden = hidden_by(action.exclude_patterns)
        for match in source_matches(source, action, reader.matcher if reader else None):
            if action.attempt_unpack and unpack_archive(source, match, dest, action.dest, owner):
                continue
            if action.parents:
                copier.copy_parents(match, pivot_of(action.src), action.dest, hidden)
            else:
                copier.copy(
                    match,
                    action.dest,
                    contents=action.dir_copy_contents,
                    follow=action.follow_symlink,
                    hidden=hidden,
                )


@contextmanager
def explained(root_path: str) -> Iterator[None]:
    """Errors of the operating system in our words: `UserError` `copy-failed`, `no-space`,
    `HostUnsupported` `owner-not-mapped`."""
    try:
        with space_needed(root_path, "copied files"):
            yield
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EINVAL):
            raise HostUnsupported.of(
                "owner-not-mapped", f"cannot give a file its owner or mode: {error.strerror}",
                hint="give the user more subordinate ids in /etc/subuid and /etc/subgid",
                details={"probe": f"errno {error.errno}", "fix": "usermod --add-subuids"},
            ) from error  # fmt: skip
        place = f" {error.filename!r}" if error.filename else ""
        raise UserError.of("copy-failed", f"cannot copy{place}: {error.strerror or error}") from error


def owner_in(root: Root, owner: Owner | None) -> tuple[int, int] | None:
    """Ownership in numbers, names looked up in the tree.

    Raises `UserError` `unknown-user`, `unknown-group`: BuildKit silently takes 0:0.
    """
    return None if owner is None else resolve_owner(root, owner.user, owner.group)


@contextmanager
def _parent(root: Root, path: str, *, make: bool, owner: tuple[int, int] | None) -> Iterator[tuple[int, str]]:
    directory, _, _ = path.rstrip("/").rpartition("/")
    if make:
        Copier(root, root, owner=owner).make_dirs(directory)
    parent_fd, name = root.open_parent(path.rstrip("/"))
    try:
        yield parent_fd, name
    finally:
        files.close(parent_fd)


def make_file(action: MkFileAction, root: Root) -> None:
    """MkFile: write a file, replacing one, following a link at its path inside the root."""
    owner = owner_in(root, action.owner)
    change = parse_mode(action.symbolic)
    mode = change(0o644, False) if change else action.mode
    path = root.resolve(action.path)
    status = root.lstat(path)
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise UserError.of("copy-type-conflict", f"cannot write the file /{path}: a directory is there")
    with _parent(root, path, make=True, owner=owner) as (parent_fd, name):
        if status is not None:
            files.unlink(name, dir_fd=parent_fd)
        fd = files.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=parent_fd)
        with files.fdopen(fd, "wb") as file:
            file.write(action.data)
            files.fchown(fd, *(owner or (0, 0)))
            files.fchmod(fd, mode)


def make_directory(action: MkDirAction, root: Root) -> None:
    """MkDir: existing directories stay as they are."""
    owner = owner_in(root, action.owner)
    if action.make_parents:
        Copier(root, root, owner=owner).make_dirs(action.path, action.mode)
        return
    with _parent(root, root.resolve(action.path), make=False, owner=owner) as (parent_fd, name):
        files.mkdir(name, 0o700, dir_fd=parent_fd)
        files.chown(name, *(owner or (0, 0)), dir_fd=parent_fd, follow_symlinks=False)
        set_mode(parent_fd, name, action.mode)


def make_symlink(action: SymlinkAction, root: Root) -> None:
    """Symlink: `new_path` points to `old_path` as written."""
    owner = owner_in(root, action.owner)
    with _parent(root, action.new_path, make=True, owner=owner) as (parent_fd, name):
        files.symlink(action.old_path, name, dir_fd=parent_fd)
        files.chown(name, *(owner or (0, 0)), dir_fd=parent_fd, follow_symlinks=False)


def remove(action: RmAction, root: Root) -> None:
    """Rm: a file, a link, or a tree; the path itself is not followed when it is a link."""
    paths = expand(root, action.path) if action.allow_wildcard else [action.path]
    for path in paths:
        try:
            with _parent(root, path, make=False, owner=None) as (parent_fd, name):
                remove_tree(parent_fd, name)
        except FileNotFoundError as error:
            if not action.allow_not_found:
                raise UserError.of("path-missing", f"/{path.strip('/')} does not exist") from error
