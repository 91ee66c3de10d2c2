"""Reading one table of a SQLite file (sqlite.org/fileformat2.html), for a file that somebody else wrote.

A library that maps, locks or runs what stands in a schema has no business with the databases of strange
images; this reader knows pages and records only. Each page is read once at most, so that work and memory are
bounded by the file. A write-ahead log beside the file counts as far as it was committed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

MAGIC = b"SQLite format 3\0"
Value = int | bytes | None

_LEAF, _INTERIOR = 0x0D, 0x05
_MAX_COLUMNS = 100
_MAX_DEPTH = 40
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 7: 8}
_WAL_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_WAL_MAGICS = {0x377F0682: "<", 0x377F0683: ">"}


def rows(data: bytes, table: bytes, wal: bytes = b"") -> Iterator[tuple[Value, ...]]:
    """The rows of a table, by row number; texts are bytes, and fractions their eight bytes.

    `wal` is the content of the file that ends in `-wal`. Raises `ValueError` for what is damaged, and when
    there is no such table.
    """
    file = _File(data, wal)
    for row in file.rows(1):
        if len(row) >= 4 and row[0] == b"table" and row[2] == table and isinstance(row[3], int):
            yield from file.rows(row[3])
            return
    raise ValueError(f"a database without the table {table.decode()}")


class _File:
    def __init__(self, data: bytes, wal: bytes) -> None:
        if len(data) < 100 or not data.startswith(MAGIC):
            raise ValueError("no SQLite database")
        (size,) = struct.unpack_from(">H", data, 16)
        self._size = 65536 if size == 1 else size
        self._usable = self._size - data[20]
        if self._size < 512 or self._size & (self._size - 1) or self._usable < 480:
            raise ValueError("a database with pages of an impossible size")
        self._data = data
        self._wal = wal
        self._newer = _committed(wal, self._size)
        self._seen: set[int] = set()

    def rows(self, root: int) -> Iterator[tuple[Value, ...]]:
        self._seen.clear()
        pending = [(root, 0)]
        while pending:
            number, depth = pending.pop()
            page = self._page(number)
            at = 100 if number == 1 else 0
            kind, _, count = struct.unpack_from(">BHH", page, at)
            body = at + (12 if kind == _INTERIOR else 8)
            if kind not in (_LEAF, _INTERIOR) or body + 2 * count > self._usable or depth > _MAX_DEPTH:
                raise ValueError(f"page {number} is none of a table")
            cells = struct.unpack_from(f">{count}H", page, body)
            if kind == _INTERIOR:
                (last,) = struct.unpack_from(">I", page, at + 8)
                children = [self._child(page, cell) for cell in cells]
                pending.extend((child, depth + 1) for child in (last, *reversed(children)))
                continue
            used = 0
            for cell in cells:
                payload, local = self._payload(page, cell)
                used += local
                if used > self._usable:
                    raise ValueError(f"page {number} has cells that overlap")
                yield _record(payload)

    def _page(self, number: int) -> bytes:
        if number in self._seen:
            raise ValueError(f"page {number} is used twice")
        self._seen.add(number)
        at = self._newer.get(number)
        if at is not None:
            return self._wal[at : at + self._size]
        at = (number - 1) * self._size
        page = self._data[at : at + self._size] if number > 0 else b""
        if len(page) != self._size:
            raise ValueError(f"page {number} is not in the file")
        return page

    def _child(self, page: bytes, cell: int) -> int:
        if cell + 4 > self._usable:
            raise ValueError("a cell outside of its page")
        child: int = struct.unpack_from(">I", page, cell)[0]
        return child

    def _payload(self, page: bytes, cell: int) -> tuple[bytes, int]:
        """A record, with what is in overflow pages (section 1.6), and how much of it is on its own page."""
        size, at = _varint(page, cell)
        _, at = _varint(page, at)
        if size > len(self._data) + len(self._wal):
            raise ValueError("a record that is larger than its file")
        most = self._usable - 35
        if size <= most:
            local = size
        else:
            least = (self._usable - 12) * 32 // 255 - 23
            local = least + (size - least) % (self._usable - 4)
            local = local if local <= most else least
        end = at + local + (4 if local < size else 0)
        if end > self._usable:
            raise ValueError("a cell outside of its page")
        parts = [page[at : at + local]]
        left = size - local
        while left:
            following = page[at + local : end] if len(parts) == 1 else page[:4]
            page = self._page(int.from_bytes(following, "big"))
            parts.append(page[4 : min(4 + left, self._usable)])
            left -= len(parts[-1])
        return b"".join(parts), local


def _record(payload: bytes) -> tuple[Value, ...]:
    """The columns of a record (section 2.1)."""
    size, at = _varint(payload, 0)
    if not at <= size <= len(payload):
        raise ValueError("a damaged record")
    body = size
    found: list[Value] = []
    while at < size:
        kind, at = _varint(payload, at)
        if len(found) >= _MAX_COLUMNS:
            raise ValueError("a record of too many columns")
        if kind >= 12:
            width = (kind - 12) // 2
        else:
            width = _INTEGERS.get(kind, 0)
        part = payload[body : body + width]
        if len(part) != width:
            raise ValueError("a record that is cut off")
        body += width
        if kind >= 12 or kind == 7:
            found.append(part)
        elif kind in (8, 9):
            found.append(kind - 8)
        else:
            found.append(int.from_bytes(part, "big", signed=True) if width else None)
    return tuple(found)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of one to nine bytes, and where it ends."""
    value = 0
    for length in range(9):
        if at >= len(data):
            raise ValueError("a number that is cut off")
        byte = data[at]
        at += 1
        if length == 8:
            return value << 8 | byte, at
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            break
    return value, at


def _committed(wal: bytes, page_size: int) -> dict[int, int]:
    """Where the log has pages, as far as it was committed and is whole (section 4)."""
    if len(wal) < _WAL_HEADER.size:
        return {}
    magic, _, size, _, salt_1, salt_2, *sums = _WAL_HEADER.unpack_from(wal)
    order = _WAL_MAGICS.get(magic)
    if order is None or size != page_size or _summed(wal[:24], (0, 0), order) != tuple(sums):
        return {}
    found: dict[int, int] = {}
    pending: dict[int, int] = {}
    so_far = (sums[0], sums[1])
    at = _WAL_HEADER.size
    while at + _FRAME.size + size <= len(wal):
        number, pages, *salts, sum_1, sum_2 = _FRAME.unpack_from(wal, at)
        body = at + _FRAME.size
        so_far = _summed(wal[body : body + size], _summed(wal[at : at + 8], so_far, order), order)
        if salts != [salt_1, salt_2] or so_far != (sum_1, sum_2):
            break
        pending[number] = body
        if pages:
            found.update(pending)
            pending.clear()
        at = body + size
    return found


def _summed(data: bytes, start: tuple[int, int], order: str) -> tuple[int, int]:
    """The log's running checksum (section 4.2)."""
    first, second = start
    for one, two in struct.iter_unpack(f"{order}II", data):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + two + first) & 0xFFFFFFFF
    return first, second
