"""Extended attributes: which ones belong to a layer, and how they are read and set.

A layer carries `user.*` and `security.capability`. It does not carry what belongs to a host or to
a store: overlay's own marks, labels of security modules, POSIX ACLs (a default ACL on a
directory above the store would leak into every image) and `trusted.*` (only root would see it,
so root and rootless builds would differ).

File capabilities are in the revision 2 form inside a layer. Seen from outside the user namespace
that wrote it, or from a namespace without a root id, the kernel shows revision 3 with a root user
id (capabilities(7), "Namespaced file capabilities"): root id 0 becomes revision 2, any other
root id means nothing on another machine, and the attribute is dropped.
"""

from __future__ import annotations

import errno
import os
import struct

from arkwright.layer import files

CAPABILITY = "security.capability"
NODE = "user.arkwright.node"

_OVERLAY = ("trusted.overlay.", "user.overlay.")
_OWN = ("user.overlay.", "user.arkwright.")
_NO_XATTRS = (
    errno.ENOTSUP,
    errno.ENODATA,
    errno.EPERM,
    errno.EACCES,
    errno.EINVAL,
    errno.ENOSPC,
    errno.E2BIG,
)

# struct vfs_ns_cap_data, linux/capability.h.
_REVISION_MASK = 0xFF000000
_REVISION_2 = 0x02000000
_REVISION_3 = 0x03000000

Xattrs = tuple[tuple[str, bytes], ...]


def is_overlay(name: str) -> bool:
    """Whether the attribute is a mark of overlayfs, which no entry ever holds."""
    return name.startswith(_OVERLAY)


def carried(name: str) -> bool:
    """Whether a layer of ours carries the attribute, and a tree takes it from a layer."""
    return name == CAPABILITY or (name.startswith("user.") and not name.startswith(_OWN))


def portable_capability(value: bytes) -> bytes | None:
    """The revision 2 form of a `security.capability` value, or None if it has none."""
    if len(value) < 4:
        return None
    (magic,) = struct.unpack_from("<I", value)
    if magic & _REVISION_MASK == _REVISION_3 and len(value) == 24:
        (root_id,) = struct.unpack_from("<I", value, 20)
        return None if root_id else struct.pack("<I", magic - _REVISION_3 + _REVISION_2) + value[4:20]
    return value


def portable(name: str, value: bytes) -> bytes | None:
    """The value as it stands in a layer, or None if the layer does not carry it."""
    if not carried(name):
        return None
    return portable_capability(value) if name == CAPABILITY else value


def read_all(dir_fd: int, name: str) -> list[tuple[str, bytes]]:
    """All attributes of `name` in a directory, sorted; a last link is not followed."""
    try:
        names = files.listxattr((dir_fd, name))
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EACCES, errno.EPERM):
            return []
        raise
    found = []
    for key in sorted(names, key=os.fsencode) if names else ():
        try:
            found.append((key, files.getxattr((dir_fd, name), key)))
        except OSError as error:
            # EOVERFLOW: a capability of a user namespace that this one cannot name.
            if error.errno not in (errno.ENODATA, errno.EACCES, errno.EPERM, errno.EOVERFLOW):
                raise
    return found


def set_all(dir_fd: int, name: str, xattrs: Xattrs) -> list[str]:
    """Set what a tree takes from a layer; returns the names that were left out."""
    left_out = []
    for key, value in xattrs:
        wanted = portable(key, value)
        if wanted is None:
            left_out.append(key)
            continue
        try:
            files.setxattr((dir_fd, name), key, wanted)
        except OSError as error:
            if error.errno not in _NO_XATTRS:
                raise
            left_out.append(key)
    return left_out


def clear(dir_fd: int, name: str) -> None:
    """Remove what a layer would carry."""
    for key, _ in read_all(dir_fd, name):
        if carried(key):
            files.removexattr((dir_fd, name), key)


def encode_node(kind: str, major: int, minor: int) -> bytes:
    """The record of a device that could not be made: `c:1:3`."""
    return f"{kind}:{major}:{minor}".encode()


def decode_node(value: bytes) -> tuple[str, int, int] | None:
    """The inverse of `encode_node`; None for anything else."""
    parts = value.decode("ascii", "replace").split(":")
    if len(parts) != 3 or parts[0] not in ("c", "b") or not (parts[1].isdecimal() and parts[2].isdecimal()):
        return None
    return parts[0], int(parts[1]), int(parts[2])
