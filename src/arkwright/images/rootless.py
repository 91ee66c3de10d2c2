"""Owners in a tree whose files all belong to one user: the attribute `user.rootlesscontainers`.

Its value is a protocol buffer (rootlesscontaine.rs, `message Resource { uint32 uid = 1; uint32 gid = 2; }`);
a file without it belongs to 0:0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO

import msgspec

from arkwright.layer.entry import Entry

XATTR = "user.rootlesscontainers"


def encode_owner(uid: int, gid: int) -> bytes:
    """The attribute's value; fields that are 0 are left out."""
    return b"".join(tag + _varint(number) for tag, number in ((b"\x08", uid), (b"\x10", gid)) if number)


def decode_owner(value: bytes) -> tuple[int, int]:
    """Uid and gid; 0, 0 for what is no such message."""
    found = {1: 0, 2: 0}
    position = 0
    while position < len(value):
        tag = value[position]
        number, position = _read(value, position + 1)
        if tag & 7 or tag >> 3 not in found or number is None or number >= 2**32 - 1:
            return 0, 0
        found[tag >> 3] = number
    return found[1], found[2]


def owned_by(
    items: Iterable[tuple[Entry, BinaryIO | None]], uid: int, gid: int
) -> Iterator[tuple[Entry, BinaryIO | None]]:
    """Entries of a layer as they come into such a tree of the user `uid`:`gid`."""
    for entry, content in items:
        xattrs = tuple(pair for pair in entry.xattrs if pair[0] != XATTR)
        if entry.uid or entry.gid:
            xattrs = tuple(sorted((*xattrs, (XATTR, encode_owner(entry.uid, entry.gid)))))
        yield msgspec.structs.replace(entry, uid=uid, gid=gid, xattrs=xattrs), content


def recorded(entry: Entry) -> Entry:
    """An entry of such a tree as it stands in a layer."""
    uid, gid = decode_owner(dict(entry.xattrs).get(XATTR, b""))
    xattrs = tuple(pair for pair in entry.xattrs if pair[0] != XATTR)
    return msgspec.structs.replace(entry, uid=uid, gid=gid, xattrs=xattrs)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _read(value: bytes, position: int) -> tuple[int | None, int]:
    number = shift = 0
    while position < len(value) and shift < 64:
        byte = value[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7
    return None, len(value)
