"""Contents of files, copied and compared."""

from __future__ import annotations

import errno
import os

from arkwright.layer import files
from arkwright.layer.rooted import REGULAR

_CHUNK = 1 << 24
_SMALL = 1 << 17


def copy_bytes(read_fd: int, write_fd: int, size: int) -> None:
    """Copy all content from one descriptor to the other, in the kernel where it can; `size` is about how
    much there is."""
    if files.is_virtual(write_fd):
        files.take(read_fd, write_fd)
        return
    if size < _SMALL:
        # Most files: one read and one write, with no question whether the kernel would do it.
        data = files.read(read_fd, size + 1)
        _write_all(write_fd, data)
        if len(data) == size:
            return
    _copy_rest(read_fd, write_fd)


def _copy_rest(read_fd: int, write_fd: int) -> None:
    try:
        while os.copy_file_range(read_fd, write_fd, _CHUNK):
            pass
        return
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM):
            raise
    while data := files.read(read_fd, 1 << 20):
        _write_all(write_fd, data)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[files.write(fd, view) :]


def same_bytes(one_fd: int, one_name: str, other_fd: int, other_name: str) -> bool:
    """Whether two regular files, by directory and name, hold the same."""
    with (
        files.fdopen(files.open(one_name, REGULAR, dir_fd=one_fd), "rb", buffering=0) as one,
        files.fdopen(files.open(other_name, REGULAR, dir_fd=other_fd), "rb", buffering=0) as other,
    ):
        while True:
            data = one.read(1 << 20)
            if data != other.read(len(data) or 1):
                return False
            if not data:
                return True
