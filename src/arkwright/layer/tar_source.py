"""The byte stream below the tar reader: blocks, and the content of files as streams."""

from __future__ import annotations

import io
from typing import BinaryIO

from arkwright.layer import faults
from arkwright.layer.sparse import SparseMap

BLOCK = 512
_CHUNK = 1 << 18


class Source:
    """Buffered reading with a position; never seeks in the stream below."""

    __slots__ = ("_buffer", "_position", "_start", "_stream")

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._buffer = b""
        self._position = 0
        self._start = 0

    @property
    def offset(self) -> int:
        """Bytes taken so far."""
        return self._start + self._position

    def block(self) -> bytes:
        """The next 512 bytes; empty at the end. Raises `truncated-archive` in between."""
        position = self._position
        if position + BLOCK <= len(self._buffer):
            self._position = position + BLOCK
            return self._buffer[position : position + BLOCK]
        data = self._gather(BLOCK)
        if data and len(data) < BLOCK:
            raise faults.truncated("a header is incomplete")
        return data

    def take(self, size: int) -> bytes:
        """Exactly `size` bytes. Raises `truncated-archive`."""
        data = self._gather(size)
        if len(data) < size:
            raise faults.truncated(f"{size - len(data)} bytes are missing")
        return data

    def some(self, size: int) -> bytes:
        """Between 1 and `size` bytes. Raises `truncated-archive`."""
        if self._position == len(self._buffer):
            self._fill(size)
        data = self._buffer[self._position : self._position + size]
        if not data:
            raise faults.truncated("the content of a file is incomplete")
        self._position += len(data)
        return data

    def seek(self, offset: int) -> None:
        """Skip forward. Raises `truncated-archive`."""
        while (left := offset - self.offset) > 0:
            available = len(self._buffer) - self._position
            if available >= left:
                self._position += left
                return
            self._position += available
            self._fill(_CHUNK)
            if not self._buffer:
                raise faults.truncated("the content of a file is incomplete")

    def only_zeros(self) -> bool:
        """Read to the end; whether all was zero."""
        while True:
            if (
                self._buffer.strip(b"\0")
                if not self._position
                else self._buffer[self._position :].strip(b"\0")
            ):
                return False
            self._position = len(self._buffer)
            self._fill(_CHUNK)
            if not self._buffer:
                return True

    def _gather(self, size: int) -> bytes:
        pieces = []
        while size > 0:
            if self._position == len(self._buffer):
                self._fill(size)
                if not self._buffer:
                    break
            data = self._buffer[self._position : self._position + size]
            self._position += len(data)
            size -= len(data)
            pieces.append(data)
        return b"".join(pieces)

    def _fill(self, wanted: int) -> None:
        self._start += len(self._buffer)
        self._position = 0
        self._buffer = b""
        self._buffer = self._stream.read(max(_CHUNK, min(wanted, 4 * _CHUNK)))


class Content(io.RawIOBase):
    """The content of one file, read from the archive; `size` is the whole of it in bytes."""

    def __init__(self, source: Source, size: int) -> None:
        self.size = size
        self._source = source
        self._end = source.offset + size

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        """As a buffered stream: all that is asked for, unless the file ends."""
        left = self._end - self._source.offset
        if left <= 0:
            return b""
        if size is None or size < 0 or size > left:
            size = left
        data = self._source.some(size)
        return data if len(data) == size else data + self._source.take(size - len(data))

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class SparseContent(Content):
    """The content of a sparse file, with its holes as zeros."""

    def __init__(self, source: Source, mapped: SparseMap) -> None:
        super().__init__(source, mapped.size)
        self.segments = mapped.segments
        self._next = 0
        self._offset = 0

    def read(self, size: int | None = -1) -> bytes:
        left = self.size - self._offset
        if size is None or size < 0 or size > left:
            size = left
        pieces = []
        while size > 0:
            piece = self._piece(size)
            pieces.append(piece)
            size -= len(piece)
            self._offset += len(piece)
        return b"".join(pieces)

    def _piece(self, size: int) -> bytes:
        while self._next < len(self.segments):
            start, length = self.segments[self._next]
            if self._offset < start:
                return bytes(min(size, start - self._offset))
            if self._offset < start + length:
                return self._source.take(min(size, start + length - self._offset))
            self._next += 1
        return bytes(size)
