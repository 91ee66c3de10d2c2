"""What a file op does to a tree: copy, mkfile, mkdir, symlink and rm."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from arkwright.diagnostics.errors import HostUnsupported, UserError
from arkwright.graph.ops import (
    CopyAction,
    FileAction,
    MkDirAction,
    MkFileAction,
    Owner,
    RmAction,
    SymlinkAction,
)
from arkwright.layer import files
from arkwright.layer.rooted import Root, remove_tree, set_mode
from arkwright.layer.stamps import Stamps
from arkwright.ops.contexts import ContextReader, hidden_by, pivot_of, source_matches
from arkwright.ops.file_copy import Copier
from arkwright.ops.file_unpack import unpack_archive
from arkwright.ops.modes import parse_mode
from arkwright.sandbox.users import resolve_owner
from arkwright.sources.expand import expand
from arkwright.store.space import space_needed


def copy(action: CopyAction, source: Root, dest: Root, reader: ContextReader | None, stamps: Stamps) -> None:
    """Copy: `reader` is that of the context which `source` is, None for a tree of the build."""
    owner = owner_in(dest, action.owner)
    copier = Copier(
        source, dest, owner=owner, keep_owner=reader is None, mode=parse_mode(action.mode),
        excluded=reader.excluded if reader else None,
        may_prune=reader.matcher.may_prune if reader and reader.matcher else None,
        time_ns=stamps.context_ns if reader else None,
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


def perform(action: FileAction, root: Root) -> None:
    """Any action but a copy."""
    if isinstance(action, MkFileAction):
        make_file(action, root)
    elif isinstance(action, MkDirAction):
        make_directory(action, root)
    elif isinstance(action, SymlinkAction):
        make_symlink(action, root)
    else:
        assert isinstance(action, RmAction)
        remove(action, root)


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
