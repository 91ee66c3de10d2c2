"""The other two files that rpm keeps its packages in: its own `ndb`, and Berkeley DB's hash.

Each gives the headers of the packages. Numbers and places are checked against the file, and each page or
block is read once at most.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

NDB_MAGIC = b"RpmP"
_SLOT = struct.Struct("<4sIII")
_BLOCK = 16
_NDB_PAGE = 4096
_HEAD = struct.Struct("<4sIII")

# Berkeley DB: db_page.h. The magic is at offset 12, in the byte order of who wrote the file.
_BDB_MAGICS = {b"\x61\x15\x06\0": "<", b"\0\x06\x15\x61": ">"}
_BDB_HEADER = 26
_HASH_PAGES, _OVERFLOW = (2, 13), 7
_ON_PAGE, _OFF_PAGE = 1, 3


def is_bdb(data: bytes) -> bool:
    """Whether it is a hash of Berkeley DB."""
    return data[12:16] in _BDB_MAGICS


def ndb(data: bytes) -> Iterator[bytes]:
    """The headers of an `ndb` file (rpm: lib/backend/ndb/rpmpkg.c). Raises `ValueError` when damaged."""
    if len(data) < 32 or data[4:8] != b"\0\0\0\0":
        raise ValueError("an ndb file of an unknown version")
    (pages,) = struct.unpack_from("<I", data, 12)
    if pages * _NDB_PAGE > len(data):
        raise ValueError("an ndb file that is cut off")
    used = 0
    for at in range(32, pages * _NDB_PAGE, _SLOT.size):
        magic, number, block, blocks = _SLOT.unpack_from(data, at)
        if magic != b"Slot":
            raise ValueError("an ndb file with a damaged slot")
        if not block:
            continue
        begin, end = block * _BLOCK, (block + blocks) * _BLOCK
        used += end - begin
        # Slots that share blocks would make more of a file than it holds.
        if end > len(data) or used > len(data) or begin < pages * _NDB_PAGE or blocks < 2:
            raise ValueError("an ndb file with a slot outside of it")
        magic, owner, _, size = _HEAD.unpack_from(data, begin)
        if magic != b"BlbS" or owner != number or begin + _HEAD.size + size > end:
            raise ValueError("an ndb file with a damaged package")
        yield data[begin + _HEAD.size : begin + _HEAD.size + size]


def bdb(data: bytes) -> Iterator[bytes]:
    """The headers of a hash of Berkeley DB (db_page.h, hash.h). Raises `ValueError` when damaged."""
    order = _BDB_MAGICS[data[12:16]]
    if len(data) < 512:
        raise ValueError("a Berkeley DB that is cut off")
    (size,) = struct.unpack_from(f"{order}I", data, 20)
    (last,) = struct.unpack_from(f"{order}I", data, 32)
    if not 512 <= size <= 65536 or size & (size - 1) or data[24]:
        raise ValueError("a Berkeley DB that is encrypted or damaged")
    reader = _Bdb(data, order, size)
    for number in range(1, min(last, len(data) // size - 1) + 1):
        yield from reader.values(number)


class _Bdb:
    def __init__(self, data: bytes, order: str, size: int) -> None:
        self._data = data
        self._order = order
        self._size = size
        self._seen: set[int] = set()

    def values(self, number: int) -> Iterator[bytes]:
        """The values on a page, if it is one of the hash; the keys are numbers of packages."""
        page = self._data[number * self._size : (number + 1) * self._size]
        if page[25] not in _HASH_PAGES:
            return
        (count,) = struct.unpack_from(f"{self._order}H", page, 20)
        if _BDB_HEADER + 2 * count > self._size:
            raise ValueError(f"page {number} is damaged")
        places = struct.unpack_from(f"{self._order}{count}H", page, _BDB_HEADER)
        end = self._size
        for index, at in enumerate(places):
            if not _BDB_HEADER <= at < end:
                raise ValueError(f"page {number} is damaged")
            item, end = page[at:end], at
            if index % 2 == 0:
                continue
            if item[0] == _ON_PAGE:
                # The key 0 has the number of the next package, not a header.
                if len(item) > 5:
                    yield item[1:]
            elif item[0] == _OFF_PAGE and len(item) >= 12:
                yield self._overflow(*struct.unpack_from(f"{self._order}II", item, 4))
            else:
                raise ValueError(f"page {number} is damaged")

    def _overflow(self, number: int, size: int) -> bytes:
        if size > len(self._data):
            raise ValueError("a package that is larger than its file")
        parts: list[bytes] = []
        while size:
            page = self._data[number * self._size : (number + 1) * self._size]
            if number in self._seen or len(page) != self._size or page[25] != _OVERFLOW:
                raise ValueError(f"page {number} is damaged")
            self._seen.add(number)
            number, _, used = struct.unpack_from(f"{self._order}IHH", page, 16)
            part = page[_BDB_HEADER : _BDB_HEADER + min(used, size)]
            if not part:
                raise ValueError("a package that is cut off")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)
