"""System calls on virtual trees: what the kernel does to a file system, by the numbers of handles.

Errors are those of the kernel (`OSError` with its errno). Nothing is forbidden to anybody, there is no
umask, set-group-id directories are not inherited from, links are never followed. Extended attributes
follow xattr(7): `user.*` for files and directories only; `security.capability` must be well-formed.
"""

from __future__ import annotations

import errno
import io
import itertools
import os
import stat
import struct
from collections.abc import Iterator
from typing import Any

from arkwright.layer.virtual_nodes import Node, VirtualTree, now_ns, tree_at

FIRST = 1 << 30
"""Handles have numbers from here on, which no descriptor of the kernel's reaches."""

_NAME_MAX = 255
_XATTR_MAX = 1 << 16
_numbers = itertools.count(FIRST)


class _Handle:
    """An open file: the node, and the directory and name that it was opened by."""

    __slots__ = ("name", "node", "parent", "position", "tree")

    def __init__(self, tree: VirtualTree, node: Node, parent: _Handle | None, name: str) -> None:
        self.tree = tree
        self.node = node
        self.parent = parent
        self.name = name
        self.position = 0

    def changing(self) -> Node:
        """The node, made the tree's own."""
        _writable(self.tree)
        if self.node.tree != self.tree.number:
            assert self.parent is not None
            own = self.node.copy(self.tree.number)
            if self.parent.node.children.get(self.name) is self.node:
                self.parent.node.children[self.name] = own
            self.node = own
        return self.node


_handles: dict[int, _Handle] = {}


class DirEntry:
    """As `os.DirEntry`."""

    __slots__ = ("_node", "name")

    def __init__(self, name: str, node: Node) -> None:
        self.name = name
        self._node = node

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self._node.is_dir

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        return self._node.status()


class Listing:
    """As what `os.scandir` gives."""

    def __init__(self, entries: list[DirEntry]) -> None:
        self._entries = entries

    def __enter__(self) -> Iterator[DirEntry]:
        return iter(self._entries)

    def __exit__(self, *_: object) -> None:
        pass


def open_root(path: str) -> int:
    tree, names = tree_at(path)
    fd = _new(_Handle(tree, tree.root, None, ""))
    for name in names:
        child_fd = open_at(fd, name, os.O_RDONLY | os.O_DIRECTORY)
        close(fd)
        fd = child_fd
    return fd


def open_at(dir_fd: int, name: str, flags: int) -> int:
    handle = _directory(dir_fd)
    if name == ".":
        return _new(_Handle(handle.tree, handle.node, handle.parent, handle.name))
    if name == "..":
        above = handle.parent or handle
        return _new(_Handle(above.tree, above.node, above.parent, above.name))
    node = handle.node.children.get(name)
    if node is None:
        if not flags & os.O_CREAT:
            raise _error(errno.ENOENT, name)
        node = _add(handle, name, Node(handle.tree.number, stat.S_IFREG | 0o600))
    elif flags & os.O_CREAT and flags & os.O_EXCL:
        raise _error(errno.EEXIST, name)
    elif node.is_dir:
        if node.tree != handle.tree.number and not handle.tree.frozen:
            # A directory of our own from here on, as something in it may be changed.
            node = handle.node.children[name] = node.copy(handle.tree.number)
    elif flags & os.O_DIRECTORY:
        raise _error(errno.ENOTDIR, name)
    elif stat.S_ISLNK(node.mode):
        raise _error(errno.ELOOP, name)
    return _new(_Handle(handle.tree, node, handle, name))


def close(fd: int) -> None:
    if _handles.pop(fd, None) is None:
        raise _error(errno.EBADF, "")


def duplicate(fd: int) -> int:
    handle = _handles[fd]
    return _new(_Handle(handle.tree, handle.node, handle.parent, handle.name))


def fstat(fd: int) -> os.stat_result:
    return _handles[fd].node.status()


def stat_at(dir_fd: int, name: str) -> os.stat_result:
    return _find(dir_fd, name).status()


def names(fd: int) -> list[str]:
    return list(_directory(fd).node.children)


def scan(fd: int) -> Listing:
    return Listing([DirEntry(name, node) for name, node in _directory(fd).node.children.items()])


def read_link(dir_fd: int, name: str) -> str:
    node = _find(dir_fd, name)
    if not stat.S_ISLNK(node.mode):
        raise _error(errno.EINVAL, name)
    return node.target


def make(dir_fd: int, name: str, mode: int, device: int = 0) -> None:
    """mkdir(2), mkfifo(3), mknod(2): `mode` with the type."""
    handle = _directory(dir_fd)
    _refuse_existing(handle, name)
    _add(handle, name, Node(handle.tree.number, mode)).rdev = device


def symlink(target: str, dir_fd: int, name: str) -> None:
    handle = _directory(dir_fd)
    _refuse_existing(handle, name)
    if not target:
        raise _error(errno.ENOENT, name)
    if len(os.fsencode(target)) > 4095:
        raise _error(errno.ENAMETOOLONG, name)
    node = _add(handle, name, Node(handle.tree.number, stat.S_IFLNK | 0o777))
    node.target, node.size = target, len(os.fsencode(target))


def link(source_fd: int, source: str, dir_fd: int, name: str) -> None:
    node = _find(source_fd, source)
    handle = _directory(dir_fd)
    _refuse_existing(handle, name)
    if node.is_dir:
        raise _error(errno.EPERM, source)
    node = _own(_directory(source_fd), source)
    node.nlink += 1
    _add(handle, name, node)


def remove(dir_fd: int, name: str, *, directory: bool) -> None:
    """unlink(2), or rmdir(2)."""
    handle = _directory(dir_fd)
    node = _find(dir_fd, name)
    if directory != node.is_dir:
        raise _error(errno.ENOTDIR if directory else errno.EISDIR, name)
    if node.children:
        raise _error(errno.ENOTEMPTY, name)
    _writable(handle.tree)
    del handle.node.children[name]
    handle.node.mtime_ns = now_ns()
    if node.tree == handle.tree.number:
        node.nlink -= 1


def change_owner(node: Node, uid: int, gid: int) -> None:
    node.uid = node.uid if uid == -1 else uid
    node.gid = node.gid if gid == -1 else gid


def change_mode(node: Node, mode: int) -> None:
    node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)


def changing(fd: int) -> Node:
    """The node of a handle, to be changed."""
    return _handles[fd].changing()


def changing_at(dir_fd: int, name: str) -> Node:
    """The node of a name, to be changed."""
    handle = _directory(dir_fd)
    if name == ".":
        return handle.changing()
    _find(dir_fd, name)
    return _own(handle, name)


def at(place: int | tuple[int, str]) -> Node:
    """The node of a handle or of a name in a directory."""
    return _handles[place].node if isinstance(place, int) else _find(*place)


def get_xattr(node: Node, key: str) -> bytes:
    found = node.xattrs.get(key)
    if found is None:
        raise _error(errno.ENODATA, key)
    return found


def set_xattr(node: Node, key: str, value: bytes) -> None:
    if key.startswith("user.") and not (node.is_dir or stat.S_ISREG(node.mode)):
        raise _error(errno.EPERM, key)
    if key == "security.capability" and not _is_capability(value):
        raise _error(errno.EINVAL, key)
    if len(os.fsencode(key)) > _NAME_MAX:
        raise _error(errno.ERANGE, key)
    if len(value) > _XATTR_MAX:
        raise _error(errno.E2BIG, key)
    # Other nodes share the dictionary.
    node.xattrs = {**node.xattrs, key: value}


def remove_xattr(node: Node, key: str) -> None:
    get_xattr(node, key)
    node.xattrs = {name: value for name, value in node.xattrs.items() if name != key}


def read(fd: int, size: int) -> bytes:
    handle = _handles[fd]
    data = handle.node.read_at(handle.position, size)
    handle.position += len(data)
    return data


def write(fd: int, data: bytes | memoryview) -> int:
    """At the end only, or beyond it: a hole is left."""
    handle = _handles[fd]
    node = handle.changing()
    if handle.position < node.size:
        raise _error(errno.EINVAL, handle.name)
    node.append(None, 0, handle.position - node.size)
    if data:
        node.append(handle.tree.spool, handle.tree.spool.add(data), len(data))
    handle.position = node.size
    node.mtime_ns = now_ns()
    return len(data)


def skip(fd: int, count: int) -> None:
    """lseek(2) from the current position."""
    _handles[fd].position += count


def extend(fd: int, size: int) -> None:
    """ftruncate(2) to no less than there is."""
    node = changing(fd)
    if size < node.size:
        raise _error(errno.EINVAL, "")
    node.append(None, 0, size - node.size)


def take(read_fd: int, write_fd: int) -> None:
    """Copy all that is left of a file to the end of a virtual one; between trees only by reference."""
    handle = _handles[write_fd]
    node = handle.changing()
    if read_fd < FIRST:
        node.fill(handle.tree.spool, read_fd)
    else:
        source = _handles[read_fd]
        position = source.position
        for start, where, offset, length in source.node.extents:
            passed = max(0, position - start)
            if passed < length:
                node.append(where, offset + passed, length - passed)
        source.position = source.node.size
    handle.position = node.size


class File(io.RawIOBase):
    """A handle as a file object, which it closes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def share(self, fd: int) -> int:
        """Give what is left to another handle without copying; how many bytes."""
        handle = _handles[self._fd]
        count = handle.node.size - handle.position
        take(self._fd, fd)
        return count

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        handle = _handles[self._fd]
        base = (0, handle.position, handle.node.size)[whence]
        handle.position = base + offset
        return handle.position

    def tell(self) -> int:
        return _handles[self._fd].position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view) and (data := read(self._fd, len(view) - done)):
            view[done : done + len(data)] = data
            done += len(data)
        return done

    def write(self, data: Any) -> int:
        return write(self._fd, memoryview(data).cast("B"))

    def close(self) -> None:
        if not self.closed:
            super().close()
            close(self._fd)


def _new(handle: _Handle) -> int:
    fd = next(_numbers)
    _handles[fd] = handle
    return fd


def _directory(fd: int) -> _Handle:
    handle = _handles[fd]
    if not handle.node.is_dir:
        raise _error(errno.ENOTDIR, handle.name)
    return handle


def _find(dir_fd: int, name: str) -> Node:
    handle = _directory(dir_fd)
    if name == ".":
        return handle.node
    node = handle.node.children.get(name)
    if node is None:
        raise _error(errno.ENOENT, name)
    return node


def _own(handle: _Handle, name: str) -> Node:
    _writable(handle.tree)
    node = handle.node.children[name]
    if node.tree != handle.tree.number:
        node = handle.node.children[name] = node.copy(handle.tree.number)
    return node


def _refuse_existing(handle: _Handle, name: str) -> None:
    if name in (".", "..") or name in handle.node.children:
        raise _error(errno.EEXIST, name)


def _add(handle: _Handle, name: str, node: Node) -> Node:
    _writable(handle.tree)
    if len(name) > _NAME_MAX or len(os.fsencode(name)) > _NAME_MAX:
        raise _error(errno.ENAMETOOLONG, name)
    handle.node.children[name] = node
    handle.node.mtime_ns = now_ns()
    return node


def _writable(tree: VirtualTree) -> None:
    if tree.frozen:
        raise _error(errno.EROFS, tree.path)


def _is_capability(value: bytes) -> bool:
    # capabilities(7): revision 2, maybe with the effective bit; revision 3 never comes here.
    return len(value) == 20 and struct.unpack_from("<I", value)[0] & ~1 == 0x02000000


def _error(number: int, name: str) -> OSError:
    return OSError(number, os.strerror(number), name)
