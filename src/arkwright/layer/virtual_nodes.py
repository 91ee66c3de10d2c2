"""Files that exist in this process only: nodes, their contents, trees of them.

A tree that was frozen can be cloned at no cost: a clone shares the nodes and copies those that are
changed, directories when they are opened. What is the same object in two trees is the same file,
so a comparison needs to look only at what differs. As on overlayfs, changing one of two hard-linked
names of the tree below leaves the other alone, and both go on to count as linked until then.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import threading
import time
from bisect import bisect_left
from typing import Protocol
from weakref import WeakValueDictionary

PREFIX = "/dev/null/tree-"
"""Roots of trees have paths that begin so, where no file can be."""

_numbers = itertools.count(1)
_inodes = itertools.count(1)
_trees: WeakValueDictionary[int, VirtualTree] = WeakValueDictionary()
_CHUNK = 1 << 20
_SMALL = 1 << 16
_NO_RANGE = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF, errno.ETXTBSY}
)


class Source(Protocol):
    """Where the bytes of files are."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes; empty only at the end."""
        ...


Extent = tuple[int, Source | None, int, int]
"""Position in the file, source (None: a hole), offset there, length."""


class Spool:
    """A file without a name that holds the contents of many; gone with the process. Thread-safe."""

    def __init__(self, directory_path: str) -> None:
        path = os.path.join(directory_path, f"spool-{os.urandom(8).hex()}")
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.unlink(path)
        self._end = 0
        self._lock = threading.Lock()

    def __del__(self) -> None:
        os.close(self._fd)

    def read_at(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, offset)

    def add(self, data: bytes | memoryview) -> int:
        """Keep bytes; their offset."""
        offset = at = self._reserve(len(data))
        view = memoryview(data)
        while view:
            done = os.pwrite(self._fd, view, at)
            view, at = view[done:], at + done
        return offset

    def add_range(self, fd: int, size: int) -> tuple[int, int]:
        """Keep up to `size` bytes of a real file from its current position; offset and how many."""
        offset = self._reserve(size)
        done = 0
        try:
            while done < size:
                count = os.copy_file_range(fd, self._fd, size - done, offset_dst=offset + done)
                if count == 0:
                    return offset, done
                done += count
        except OSError as error:
            if error.errno not in _NO_RANGE:
                raise
        while done < size and (data := os.read(fd, min(size - done, _CHUNK))):
            done += os.pwrite(self._fd, data, offset + done)
        return offset, done

    def _reserve(self, size: int) -> int:
        with self._lock:
            offset = self._end
            self._end += size
        return offset


# Most nodes have none: one of each kind for all of them, which nobody changes.
_NO_XATTRS: dict[str, bytes] = {}
_NO_CHILDREN: dict[str, Node] = {}
_NO_EXTENTS: list[Extent] = []


class Node:
    """An inode. `tree` is the number of the tree that may change it."""

    __slots__ = (
        "children", "extents", "gid", "ino", "mode", "mtime_ns", "nlink", "rdev", "size", "target", "tree",
        "uid", "xattrs",
    )  # fmt: skip

    def __init__(self, tree: int, mode: int) -> None:
        self.tree = tree
        self.mode = mode
        self.ino = next(_inodes)
        self.nlink = 1
        self.uid = self.gid = self.rdev = self.size = 0
        self.mtime_ns = now_ns()
        self.xattrs = _NO_XATTRS
        self.children: dict[str, Node] = {} if stat.S_ISDIR(mode) else _NO_CHILDREN
        self.extents: list[Extent] = [] if stat.S_ISREG(mode) else _NO_EXTENTS
        self.target = ""

    def copy(self, tree: int) -> Node:
        """The node as another tree's own, with one name."""
        new = Node.__new__(Node)
        new.tree, new.mode, new.ino, new.nlink = tree, self.mode, next(_inodes), 1
        new.uid, new.gid, new.rdev, new.size = self.uid, self.gid, self.rdev, self.size
        new.mtime_ns, new.target = self.mtime_ns, self.target
        new.xattrs = self.xattrs
        new.children = dict(self.children) if self.is_dir else _NO_CHILDREN
        new.extents = list(self.extents) if stat.S_ISREG(self.mode) else _NO_EXTENTS
        return new

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    def status(self) -> os.stat_result:
        """As `stat(2)` gives it."""
        seconds = self.mtime_ns // 1_000_000_000
        return os.stat_result(
            (self.mode, self.ino, 0, self.nlink, self.uid, self.gid, self.size, seconds, seconds, seconds),
            {
                "st_mtime_ns": self.mtime_ns, "st_atime_ns": self.mtime_ns, "st_ctime_ns": self.mtime_ns,
                "st_rdev": self.rdev, "st_blocks": (self.size + 511) // 512,
            },
        )  # fmt: skip

    def append(self, source: Source | None, offset: int, length: int) -> None:
        """Make a file longer."""
        if not length:
            return
        if self.extents:
            start, last, at, size = self.extents[-1]
            if last is source and (source is None or at + size == offset):
                self.extents[-1] = (start, last, at, size + length)
                self.size += length
                return
        self.extents.append((self.size, source, offset, length))
        self.size += length

    def read_at(self, position: int, size: int) -> bytes:
        """Up to `size` bytes of a file."""
        if position >= self.size or size <= 0:
            return b""
        start, source, offset, length = self.extents[bisect_left(self.extents, (position + 1,)) - 1]
        count = min(size, start + length - position)
        return bytes(count) if source is None else source.read_at(offset + position - start, count)

    def fill(self, spool: Spool, fd: int) -> None:
        """Take the bytes of a real file from its position to its end."""
        size = os.fstat(fd).st_size
        if size > _SMALL:
            offset, done = spool.add_range(fd, size)
            self.append(spool, offset, done)
        while data := os.read(fd, _CHUNK if size > _SMALL else size + 1):
            self.append(spool, spool.add(data), len(data))


class VirtualTree:
    """A root directory; `path` is what `files.open_root` opens, as long as the tree is referred to."""

    def __init__(self, spool: Spool, root: Node | None = None) -> None:
        self.number = next(_numbers)
        self.path = f"{PREFIX}{self.number}"
        self.spool = spool
        self.frozen = False
        self.root = Node(self.number, stat.S_IFDIR | 0o755) if root is None else root.copy(self.number)
        _trees[self.number] = self

    def freeze(self) -> None:
        """From now on nothing changes, and the tree can be cloned."""
        self.frozen = True

    def clone(self) -> VirtualTree:
        """A tree of the same files, to be changed."""
        assert self.frozen
        return VirtualTree(self.spool, self.root)


def tree_at(path: str) -> tuple[VirtualTree, list[str]]:
    """The tree of a path, and the names below its root. Raises `FileNotFoundError`."""
    number, *names = path[len(PREFIX) :].split("/")
    tree = _trees.get(int(number)) if number.isdecimal() else None
    if tree is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return tree, [name for name in names if name]


class _Clock:
    last_ns = 0


def now_ns() -> int:
    """The time, later than at the last call."""
    _Clock.last_ns = max(time.time_ns(), _Clock.last_ns + 1)
    return _Clock.last_ns
