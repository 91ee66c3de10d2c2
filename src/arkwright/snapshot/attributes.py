"""Attributes of files: carried from one to another, through descriptors.

`user.overlay.*` and `trusted.overlay.*` are the kernel's notes in overlay directories, and are
never carried.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from arkwright.layer.attributes import carried
from arkwright.layer.rooted import set_mode

_OVERLAY = ("user.overlay.", "trusted.overlay.")
_NO_XATTRS = frozenset({errno.EOPNOTSUPP, errno.ENOSYS})
# Also for our own files, when their mode is against it and we are nobody special (xattr(7)).
_UNREADABLE = frozenset({errno.ENODATA, errno.EPERM, errno.EACCES, *_NO_XATTRS})
_REFUSED = frozenset({errno.EPERM, errno.EACCES, errno.EINVAL, *_NO_XATTRS})
OPAQUE = "user.overlay.opaque"


def is_opaque(directory_fd: int) -> bool:
    """Whether an overlay directory hides what is below it."""
    try:
        return os.getxattr(directory_fd, OPAQUE) == b"y"
    except OSError as error:
        if error.errno in _UNREADABLE:
            return False
        raise


def strip_overlay_notes(place: int | str) -> None:
    """Remove overlayfs's attributes from a file (a path, not followed) or an open directory."""
    for name in _listed(place):
        if name.startswith("user.overlay."):
            with suppress(PermissionError):
                os.removexattr(place, name, follow_symlinks=isinstance(place, int))


def copy_attributes(source_fd: int, target_fd: int, info: os.stat_result) -> None:
    """Give an open file or directory the owner, mode, attributes and times of another.

    In this order: a change of owner takes set-id bits and capabilities away (chown(2)), and the mode
    may forbid to set attributes.
    """
    os.fchown(target_fd, info.st_uid, info.st_gid)
    copy_xattrs(source_fd, target_fd)
    os.fchmod(target_fd, stat.S_IMODE(info.st_mode))
    os.utime(target_fd, ns=(info.st_atime_ns, info.st_mtime_ns))


def copy_xattrs(source: int | str, target: int | str) -> None:
    """Make the target's extended attributes those of the source. A `str` is a path, not followed."""
    wanted = {name: _value(source, name) for name in _listed(source) if not name.startswith(_OVERLAY)}
    for name in _listed(target):
        if name not in wanted and not name.startswith(_OVERLAY):
            os.removexattr(target, name, follow_symlinks=isinstance(target, int))
    for name, value in wanted.items():
        if value is not None:
            _set(target, name, value)


def _set(target: int | str, name: str, value: bytes) -> None:
    try:
        os.setxattr(target, name, value, follow_symlinks=isinstance(target, int))
    except OSError as error:
        # Labels and the like: of this host, and no part of a layer.
        if carried(name) or error.errno not in _REFUSED:
            raise


def _listed(place: int | str) -> list[str]:
    try:
        return os.listxattr(place, follow_symlinks=isinstance(place, int))
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return []
        raise


def _value(place: int | str, name: str) -> bytes | None:
    try:
        return os.getxattr(place, name, follow_symlinks=isinstance(place, int))
    except OSError as error:
        if error.errno in _UNREADABLE:
            return None
        raise


def make_directory(parent_fd: int, name: str) -> None:
    """Make a directory that we can work in, whatever the umask."""
    os.mkdir(name, 0o700, dir_fd=parent_fd)
    set_mode(parent_fd, name, 0o700)
