"""The system calls of whoever works on trees, for files of the kernel and for virtual ones.

Each function is that of `os` with the same name, by directory descriptor and never following links;
numbers from `virtual_calls.FIRST` on, and roots below `virtual_nodes.PREFIX`, are of trees that exist in
this process only. So one and the same code copies, unpacks, compares and digests both.
"""

from __future__ import annotations

import fcntl
import os
import stat as stat_modes
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol, cast

from arkwright.layer import virtual_calls as virtual
from arkwright.layer.virtual_calls import FIRST
from arkwright.layer.virtual_nodes import PREFIX, Node

Place = int | tuple[int, str]
"""A descriptor, or a directory's and a name in it."""


class DirEntry(Protocol):
    """What is used of `os.DirEntry`."""

    @property
    def name(self) -> str: ...

    def is_dir(self, *, follow_symlinks: bool = True) -> bool: ...

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result: ...


def is_virtual(fd: int) -> bool:
    """Whether a descriptor belongs to a virtual tree."""
    return fd >= FIRST


def open_root(path: str) -> int:
    """A descriptor of a directory by its path."""
    if path.startswith(PREFIX):
        return virtual.open_root(path)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def open(name: str, flags: int, mode: int = 0o777, *, dir_fd: int) -> int:
    if dir_fd >= FIRST:
        return virtual.open_at(dir_fd, name, flags)
    return os.open(name, flags, mode, dir_fd=dir_fd)


def fdopen(fd: int, mode: str, buffering: int = -1) -> BinaryIO:
    if fd >= FIRST:
        return cast(BinaryIO, virtual.File(fd))
    return cast(BinaryIO, os.fdopen(fd, mode, buffering))


def close(fd: int) -> None:
    if fd >= FIRST:
        virtual.close(fd)
    else:
        os.close(fd)


def duplicate(fd: int) -> int:
    """A copy of a descriptor, close-on-exec."""
    return virtual.duplicate(fd) if fd >= FIRST else fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def stat(name: str, *, dir_fd: int, follow_symlinks: bool = False) -> os.stat_result:
    if dir_fd >= FIRST:
        return virtual.stat_at(dir_fd, name)
    return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)


def fstat(fd: int) -> os.stat_result:
    return virtual.fstat(fd) if fd >= FIRST else os.fstat(fd)


def listdir(fd: int) -> list[str]:
    return virtual.names(fd) if fd >= FIRST else os.listdir(fd)


def scandir(fd: int) -> AbstractContextManager[Iterator[DirEntry]]:
    if fd >= FIRST:
        return cast(AbstractContextManager[Iterator[DirEntry]], virtual.scan(fd))
    return cast(AbstractContextManager[Iterator[DirEntry]], os.scandir(fd))


def readlink(name: str, *, dir_fd: int) -> str:
    if dir_fd >= FIRST:
        return virtual.read_link(dir_fd, name)
    return os.readlink(name, dir_fd=dir_fd)


def mkdir(name: str, mode: int, *, dir_fd: int) -> None:
    if dir_fd >= FIRST:
        virtual.make(dir_fd, name, stat_modes.S_IFDIR | mode)
    else:
        os.mkdir(name, mode, dir_fd=dir_fd)


def mkfifo(name: str, mode: int, *, dir_fd: int) -> None:
    if dir_fd >= FIRST:
        virtual.make(dir_fd, name, stat_modes.S_IFIFO | mode)
    else:
        os.mkfifo(name, mode, dir_fd=dir_fd)


def mknod(name: str, mode: int, device: int, *, dir_fd: int) -> None:
    if dir_fd >= FIRST:
        virtual.make(dir_fd, name, mode, device)
    else:
        os.mknod(name, mode, device, dir_fd=dir_fd)


def symlink(target: str, name: str, *, dir_fd: int) -> None:
    if dir_fd >= FIRST:
        virtual.symlink(target, dir_fd, name)
    else:
        os.symlink(target, name, dir_fd=dir_fd)


def link(source: str, name: str, *, src_dir_fd: int, dst_dir_fd: int, follow_symlinks: bool = False) -> None:
    if dst_dir_fd >= FIRST:
        virtual.link(src_dir_fd, source, dst_dir_fd, name)
    else:
        os.link(source, name, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=False)


def unlink(name: str, *, dir_fd: int) -> None:
    if dir_fd >= FIRST:
        virtual.remove(dir_fd, name, directory=False)
    else:
        os.unlink(name, dir_fd=dir_fd)


def rmdir(name: str, *, dir_fd: int) -> None:
    if dir_fd >= FIRST:
        virtual.remove(dir_fd, name, directory=True)
    else:
        os.rmdir(name, dir_fd=dir_fd)


def chown(name: str, uid: int, gid: int, *, dir_fd: int, follow_symlinks: bool = False) -> None:
    if dir_fd >= FIRST:
        virtual.change_owner(virtual.changing_at(dir_fd, name), uid, gid)
    else:
        os.chown(name, uid, gid, dir_fd=dir_fd, follow_symlinks=False)


def fchown(fd: int, uid: int, gid: int) -> None:
    if fd >= FIRST:
        virtual.change_owner(virtual.changing(fd), uid, gid)
    else:
        os.fchown(fd, uid, gid)


def chmod(name: str, mode: int, *, dir_fd: int) -> None:
    """`chmod(2)` that never follows a link, for what must not be opened (devices, fifos)."""
    if dir_fd >= FIRST:
        virtual.change_mode(virtual.changing_at(dir_fd, name), mode)
        return
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)


def fchmod(fd: int, mode: int) -> None:
    if fd >= FIRST:
        virtual.change_mode(virtual.changing(fd), mode)
    else:
        os.fchmod(fd, mode)


def utime(
    name: str | int, *, ns: tuple[int, int], dir_fd: int | None = None, follow_symlinks: bool = False
) -> None:
    if isinstance(name, int):
        if name >= FIRST:
            virtual.changing(name).mtime_ns = ns[1]
        else:
            os.utime(name, ns=ns)
    elif dir_fd is not None and dir_fd >= FIRST:
        virtual.changing_at(dir_fd, name).mtime_ns = ns[1]
    else:
        os.utime(name, ns=ns, dir_fd=dir_fd, follow_symlinks=False)


def read(fd: int, size: int) -> bytes:
    return virtual.read(fd, size) if fd >= FIRST else os.read(fd, size)


def write(fd: int, data: bytes | memoryview) -> int:
    return virtual.write(fd, data) if fd >= FIRST else os.write(fd, data)


def take(read_fd: int, write_fd: int) -> None:
    """Copy all that is left of a file to the end of one in a virtual tree."""
    virtual.take(read_fd, write_fd)


def skip(fd: int, count: int) -> None:
    """Go on behind a hole of so many bytes."""
    if fd >= FIRST:
        virtual.skip(fd, count)
    else:
        os.lseek(fd, count, os.SEEK_CUR)


def ftruncate(fd: int, size: int) -> None:
    if fd >= FIRST:
        virtual.extend(fd, size)
    else:
        os.ftruncate(fd, size)


def listxattr(place: Place) -> list[str]:
    if _is_virtual(place):
        return list(virtual.at(place).xattrs)
    return os.listxattr(_real(place), follow_symlinks=isinstance(place, int))


def getxattr(place: Place, key: str) -> bytes:
    if _is_virtual(place):
        return virtual.get_xattr(virtual.at(place), key)
    return os.getxattr(_real(place), key, follow_symlinks=isinstance(place, int))


def setxattr(place: Place, key: str, value: bytes) -> None:
    if _is_virtual(place):
        virtual.set_xattr(_changing(place), key, value)
    else:
        os.setxattr(_real(place), key, value, follow_symlinks=isinstance(place, int))


def removexattr(place: Place, key: str) -> None:
    if _is_virtual(place):
        virtual.remove_xattr(_changing(place), key)
    else:
        os.removexattr(_real(place), key, follow_symlinks=isinstance(place, int))


def _is_virtual(place: Place) -> bool:
    return (place if isinstance(place, int) else place[0]) >= FIRST


def _changing(place: Place) -> Node:
    return virtual.changing(place) if isinstance(place, int) else virtual.changing_at(*place)


def _real(place: Place) -> int | str:
    # There is no form of these calls with a directory descriptor.
    return place if isinstance(place, int) else f"/proc/self/fd/{place[0]}/{place[1]}"
