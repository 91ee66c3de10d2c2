"""Trees read as entries, in the order of a layer.

The order is by name within each directory, as bytes, and each directory stands before what is in
it: `a`, `a/b`, `a-b`. Everything is read through directory descriptors, links are not followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from arkwright.layer import attributes, files
from arkwright.layer.entry import Entry, EntryType
from arkwright.layer.rooted import REGULAR, DirStack, Root, open_at

OPAQUE = "user.overlay.opaque"
_OPAQUE_NAMES = (OPAQUE, "trusted.overlay.opaque")

Skip = Callable[[str], None]


class Fact(NamedTuple):
    """What one path of a tree, or of an overlay's upper directory, says.

    A deletion is a `whiteout` entry, without `status`. `opaque` marks a directory that hides what
    stands below it in the lower tree. Hard links have one (`st_dev`, `st_ino`) and `st_nlink` > 1.
    """

    entry: Entry
    status: os.stat_result | None
    opaque: bool = False


def walk(
    root: Root, path: str = "", *, xattrs: bool = True, on_skip: Skip | None = None
) -> Iterator[tuple[Entry, os.stat_result]]:
    """The entry of `path` and those of all below it, sorted.

    `path` must be canonical (`Root.resolve`); the paths of the entries begin with it. Every
    member of a hard-link group comes as what it is, mostly a `file`. `on_skip` is called with the
    paths of sockets, which no layer can hold. Raises `OSError`.
    """
    for fact in facts(root, path, xattrs=xattrs, on_skip=on_skip):
        if fact.status is not None:
            yield fact.entry, fact.status


def facts(
    root: Root,
    path: str = "",
    *,
    xattrs: bool = True,
    overlay: bool = False,
    on_skip: Skip | None = None,
) -> Iterator[Fact]:
    """As `walk`; with `overlay`, what overlayfs wrote to an upper directory is decoded."""
    parent_fd, name = root.open_parent(path)
    stack = DirStack(parent_fd)
    try:
        fact = fact_at(stack.fd, name, path.strip("/"), xattrs=xattrs, overlay=overlay)
        if fact is None:
            return
        yield fact
        if fact.entry.type != "dir":
            return
        stack.push(name)
        yield from _below(stack, fact.entry.path, xattrs, overlay, on_skip)
    finally:
        stack.close()


def _below(stack: DirStack, path: str, xattrs: bool, overlay: bool, on_skip: Skip | None) -> Iterator[Fact]:
    levels = [(path + "/" if path else "", iter(sorted_names(stack.fd)))]
    while levels:
        prefix, names = levels[-1]
        dir_fd = stack.fd
        for name in names:
            fact = fact_at(dir_fd, name, prefix + name, xattrs=xattrs, overlay=overlay)
            if fact is None:
                if on_skip is not None:
                    on_skip(prefix + name)
                continue
            yield fact
            if fact.entry.type == "dir":
                stack.push(name)
                levels.append((prefix + name + "/", iter(sorted_names(stack.fd))))
                break
        else:
            levels.pop()
            stack.pop()


def sorted_names(dir_fd: int) -> list[str]:
    """The names in a directory in the order of a layer."""
    names = files.listdir(dir_fd)
    names.sort(key=os.fsencode)
    return names


def entry_at(dir_fd: int, name: str, path: str) -> tuple[Entry, os.stat_result] | None:
    """The entry `path`, which is `name` in a directory; None for sockets and what is not there."""
    try:
        fact = fact_at(dir_fd, name, path)
    except FileNotFoundError:
        return None
    return None if fact is None or fact.status is None else (fact.entry, fact.status)


def fact_at(dir_fd: int, name: str, path: str, *, xattrs: bool = True, overlay: bool = False) -> Fact | None:
    """What `name` in a directory says; None for a socket. Raises `FileNotFoundError`."""
    status = files.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    mode = status.st_mode
    raw = attributes.read_all(dir_fd, name) if xattrs or (overlay and stat.S_ISDIR(mode)) else []
    if overlay and is_whiteout(status):
        return Fact(Entry(path=path, type="whiteout"), None)
    kind = _KINDS.get(stat.S_IFMT(mode))
    if kind is None:
        return None
    major, minor = _device(kind, status)
    if raw and kind == "file" and status.st_size == 0:
        kind, major, minor = _recorded_node(raw)
    entry = Entry(
        path=path,
        type=kind,
        mode=stat.S_IMODE(mode),
        uid=status.st_uid,
        gid=status.st_gid,
        size=status.st_size if kind == "file" else 0,
        mtime_ns=status.st_mtime_ns,
        link=files.readlink(name, dir_fd=dir_fd) if kind == "symlink" else "",
        major=major,
        minor=minor,
        xattrs=_portable(raw) if raw and xattrs else (),
    )
    opaque = overlay and kind == "dir" and any(key in _OPAQUE_NAMES and value == b"y" for key, value in raw)
    return Fact(entry, status, opaque)


def is_whiteout(status: os.stat_result) -> bool:
    """Whether something in a layer directory notes that its name is deleted: overlayfs's character device
    0/0, or a socket, which no layer holds, where that cannot be made (see `make_whiteout`)."""
    return (stat.S_ISCHR(status.st_mode) and status.st_rdev == 0) or stat.S_ISSOCK(status.st_mode)


def make_whiteout(dir_fd: int, name: str) -> None:
    """Note that a name is deleted. Needs no privilege since Linux 5.8.

    An overlay lets nobody make the device of its own notes; nor can an overlay be mounted on one, so only
    `is_whiteout` reads the other form.
    """
    try:
        files.mknod(name, stat.S_IFCHR, 0, dir_fd=dir_fd)
    except PermissionError:
        files.mknod(name, stat.S_IFSOCK | 0o600, 0, dir_fd=dir_fd)


class Contents:
    """Opens files of a tree one after the other, and remembers the last directory.

    The tree must not change meanwhile: a path whose parents became links is refused.
    """

    def __init__(self, root: Root) -> None:
        self._root = root
        self._parent = ""
        self._fd = -1

    def open(self, path: str) -> BinaryIO:
        """The content of the regular file at a canonical path. Raises `OSError`."""
        parent, _, name = path.rpartition("/")
        if self._fd < 0 or parent != self._parent:
            self.close()
            self._fd = self._root.open_canonical(parent)
            self._parent = parent
        fd = open_at(self._fd, name, REGULAR)
        if not stat.S_ISREG(files.fstat(fd).st_mode):
            files.close(fd)
            raise OSError(f"{path} changed while it was read")
        return files.fdopen(fd, "rb", 0)

    def close(self) -> None:
        """Forget the directory; `open` works on."""
        if self._fd >= 0:
            files.close(self._fd)
            self._fd = -1


def _portable(raw: list[tuple[str, bytes]]) -> attributes.Xattrs:
    found = ((key, attributes.portable(key, value)) for key, value in raw)
    return tuple((key, value) for key, value in found if value is not None)


def _device(kind: EntryType, status: os.stat_result) -> tuple[int, int]:
    if kind in ("char", "block"):
        return os.major(status.st_rdev), os.minor(status.st_rdev)
    return 0, 0


def _recorded_node(raw: list[tuple[str, bytes]]) -> tuple[EntryType, int, int]:
    for key, value in raw:
        if key == attributes.NODE and (node := attributes.decode_node(value)) is not None:
            return "char" if node[0] == "c" else "block", node[1], node[2]
    return "file", 0, 0


_KINDS: dict[int, EntryType] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
}
