"""GNU sparse files: maps of where the stored data belong (GNU tar manual, "Storing Sparse Files").

Read in all four forms: the old header (type `S`), and PAX versions 0.0, 0.1 and 1.0.
"""

from __future__ import annotations

from collections.abc import Callable

from arkwright.layer import faults, pax

# Bounds the memory of a map; real ones have thousands of segments.
_MAX_SEGMENTS = 1_000_000
_BLOCK = 512

Segments = list[tuple[int, int]]
Take = Callable[[int], bytes]
Number = Callable[[bytes], int]


class SparseMap:
    """Segments `(offset, length)` of data in a file of `size` bytes, ascending."""

    __slots__ = ("segments", "size")

    def __init__(self, size: int, segments: Segments, stored: int) -> None:
        """`stored` is the number of bytes that the archive holds for the file."""
        end = 0
        for offset, length in segments:
            if offset < end or length < 0:
                raise faults.invalid("the map of a sparse file is not ascending")
            end = offset + length
        if end > size or sum(length for _, length in segments) != stored:
            raise faults.invalid("the map of a sparse file does not fit its sizes")
        self.size = size
        self.segments = [segment for segment in segments if segment[1]]


def old_map(block: bytes, stored: int, take: Take, number: Number) -> SparseMap:
    """The map of an old GNU header; extension blocks follow it in the stream."""
    size = number(block[483:495])
    segments = _old_entries(block[386:482], number)
    extended = block[482]
    while extended:
        extension = take(_BLOCK)
        segments += _old_entries(extension[:504], number)
        _check_count(len(segments))
        extended = extension[504]
    return SparseMap(size, segments, stored)


def _old_entries(data: bytes, number: Number) -> Segments:
    return [
        (number(data[at : at + 12]), number(data[at + 12 : at + 24]))
        for at in range(0, len(data), 24)
        if data[at] != 0
    ]


def pax_map(records: pax.Records, stored: int, take: Take) -> SparseMap | None:
    """The map of a PAX header, or None if the file is not sparse.

    Version 1.0 keeps the map in front of the data, of which `stored` counts all.
    """
    if records.get(b"GNU.sparse.major") == b"1":
        size = _size(records)
        segments, used = _leading_map(take, stored)
        return SparseMap(size, segments, stored - used)
    listed = records.get(b"GNU.sparse.map")
    if listed is None and b"GNU.sparse.size" not in records:
        return None
    numbers = [pax.number(item, "GNU.sparse.map") for item in listed.split(b",")] if listed else []
    if len(numbers) % 2:
        raise faults.invalid("the map of a sparse file has an odd number of values")
    _check_count(len(numbers) // 2)
    return SparseMap(_size(records), list(zip(numbers[::2], numbers[1::2], strict=True)), stored)


def _size(records: pax.Records) -> int:
    for key in (b"GNU.sparse.realsize", b"GNU.sparse.size"):
        if key in records:
            return pax.number(records[key], key.decode())
    raise faults.invalid("a sparse file has no size")


def _leading_map(take: Take, stored: int) -> tuple[Segments, int]:
    """Decimal lines: the count, then offset and length of each; padded to a block."""
    numbers: list[int] = []
    wanted = 1
    tail = b""
    used = 0
    while len(numbers) < wanted:
        if used + _BLOCK > stored:
            raise faults.invalid("the map of a sparse file is longer than its data")
        *lines, tail = (tail + take(_BLOCK)).split(b"\n")
        used += _BLOCK
        if len(tail) > 20 and tail.strip(b"\0"):
            raise faults.invalid("the map of a sparse file has a line that is no number")
        for line in lines:
            if len(numbers) < wanted:
                numbers.append(pax.number(line, "sparse map"))
                if len(numbers) == 1:
                    _check_count(numbers[0])
                    wanted = 1 + 2 * numbers[0]
    return list(zip(numbers[1::2], numbers[2::2], strict=True)), used


def _check_count(count: int) -> None:
    if count > _MAX_SEGMENTS:
        raise faults.too_large(f"a sparse file has more than {_MAX_SEGMENTS} segments")
