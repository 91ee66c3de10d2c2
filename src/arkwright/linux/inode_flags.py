"""The flags that keep a file from being changed or removed, chattr(1): immutable and append-only.

Only a process with CAP_LINUX_IMMUTABLE on the host sets and clears them, ioctl_iflags(2). No layer can
carry them.
"""

from __future__ import annotations

import os
import stat

_IMMUTABLE, _APPEND = 0x10, 0x20
# _IOR('f', 1, long) and _IOW('f', 2, long), which read and write an int all the same.
_GET = 0x80086601 if os.uname().machine not in ("ppc64le",) else 0x40086601
_SET = 0x40086602 if os.uname().machine not in ("ppc64le",) else 0x80086602


def clear(dir_fd: int, name: str) -> bool:
    """Clear both flags of a file or directory; whether it had one. No link is followed.

    Raises `OSError` when it may not be opened or changed.
    """
    kind = os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
        return False
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        return clear_open(descriptor)
    finally:
        os.close(descriptor)


def clear_open(descriptor: int) -> bool:
    """As `clear`, for an open file or directory."""
    import fcntl

    try:
        flags = int.from_bytes(fcntl.ioctl(descriptor, _GET, bytes(8))[:4], "little")
    except OSError:
        return False  # this file system has no flags
    if not flags & (_IMMUTABLE | _APPEND):
        return False
    fcntl.ioctl(descriptor, _SET, (flags & ~(_IMMUTABLE | _APPEND)).to_bytes(8, "little"))
    return True
