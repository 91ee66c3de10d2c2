"""Context archives: a tar, unpacked as the plain files of the user who builds.

Names are only names here (`.wh.x` is a file), owners are dropped, devices are left out: a context
has none of them. Everything is written beneath the directory, through descriptors of its parents.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import BinaryIO

from arkwright.diagnostics.errors import UserError
from arkwright.layer.attributes import carried
from arkwright.layer.codec import decompress
from arkwright.layer.entry import Entry
from arkwright.layer.rooted import DIRECTORY, Root, remove_tree, set_mode
from arkwright.layer.tar_read import DEFAULT_LIMITS, Limits, read_tar

_CHUNK = 1 << 20


def unpack(stream: BinaryIO, directory: str, *, limits: Limits = DEFAULT_LIMITS) -> int:
    """Unpack an archive, compressed by any known codec or not, into an empty directory.

    Gives the time of the newest entry in seconds since 1970, 0 without entries.

    Raises `UserError` with the codes of `layer.tar_read` (`path-escapes-root` …), `invalid-archive`
    for entries that contradict one another, `no-space`, `unwritable-context`.
    """
    directories: dict[str, Entry] = {}
    newest_ns = 0
    with Root(directory) as root, decompress(stream, "auto") as tar:
        for entry, content in read_tar(tar, limits=limits, raw=True):
            newest_ns = max(newest_ns, entry.mtime_ns)
            try:
                _write(root, entry, content)
            except OSError as error:
                raise _failed(entry, error) from error
            if entry.type == "dir":
                directories[entry.path] = entry
            elif entry.path in directories:
                replaced = f"{entry.path}/"
                for path in [path for path in directories if f"{path}/".startswith(replaced)]:
                    del directories[path]
        # Modes and times last: a read-only directory could not be filled, and filling moves times.
        for entry in reversed(directories.values()):
            try:
                _settle(root, entry)
            except OSError as error:
                raise _failed(entry, error) from error
    return newest_ns // 1_000_000_000


def _write(root: Root, entry: Entry, content: BinaryIO | None) -> None:
    if not entry.path or entry.type in ("char", "block"):
        return
    parent_fd, name = root.open_parent(entry.path, create=_make_parent)
    try:
        if entry.type == "dir":
            _make_directory(parent_fd, name)
            return
        with suppress(FileNotFoundError):
            remove_tree(parent_fd, name)
        if entry.type == "file":
            assert content is not None
            _write_file(parent_fd, name, entry, content)
        elif entry.type == "symlink":
            os.symlink(entry.link, name, dir_fd=parent_fd)
        elif entry.type == "fifo":
            os.mkfifo(name, 0o600, dir_fd=parent_fd)
            set_mode(parent_fd, name, entry.mode)
        elif entry.type == "hardlink":
            _link(root, entry, parent_fd, name)
        if entry.type != "hardlink":
            os.utime(name, ns=(entry.mtime_ns,) * 2, dir_fd=parent_fd, follow_symlinks=False)
    finally:
        os.close(parent_fd)


def _make_parent(parent_fd: int, name: str, _: str) -> None:
    with suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=parent_fd)
        set_mode(parent_fd, name, 0o755)
        return
    raise NotADirectoryError(errno.ENOTDIR, "a file stands where a directory must be", name)


def _make_directory(parent_fd: int, name: str) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=parent_fd)
    except FileExistsError:
        os.close(os.open(name, DIRECTORY, dir_fd=parent_fd))


def _write_file(parent_fd: int, name: str, entry: Entry, content: BinaryIO) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=parent_fd)
    try:
        while chunk := content.read(_CHUNK):
            view = memoryview(chunk)
            while view:
                view = view[os.write(fd, view) :]
        for key, value in entry.xattrs:
            if carried(key):
                # Capabilities need a privilege that a builder may lack; then the copy has none.
                with suppress(OSError):
                    os.setxattr(fd, key, value)
        os.fchmod(fd, entry.mode)
    finally:
        os.close(fd)


def _link(root: Root, entry: Entry, parent_fd: int, name: str) -> None:
    target_fd, target = root.open_parent(entry.link)
    try:
        os.link(target, name, src_dir_fd=target_fd, dst_dir_fd=parent_fd, follow_symlinks=False)
    finally:
        os.close(target_fd)


def _settle(root: Root, entry: Entry) -> None:
    fd = root.open_dir(entry.path, follow=False) if entry.path else os.dup(root.fd)
    try:
        os.fchmod(fd, entry.mode)
        os.utime(fd, ns=(entry.mtime_ns,) * 2)
    finally:
        os.close(fd)


def _failed(entry: Entry, error: OSError) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        code, message = "no-space", f"no space left for {entry.path} of the context archive"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        code, message = "unwritable-context", f"cannot unpack {entry.path}: {error.strerror}"
    else:
        code, message = "invalid-archive", f"cannot unpack {entry.path}: {error.strerror}"
    wrapped = UserError.of(code, message)
    assert isinstance(wrapped, UserError)
    return wrapped
