"""Streams that know the digest of what was read of them."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

_CHUNK = 1 << 18


class Hashed:
    """A stream whose bytes are counted and digested on their way; the one below is left open."""

    def __init__(self, stream: BinaryIO, algorithm: str = "sha256") -> None:
        self._stream = stream
        self._algorithm = algorithm
        self._hash = hashlib.new(algorithm)
        self.size = 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._hash.update(data)
        self.size += len(data)
        return data

    def drain(self) -> None:
        """Read to the end."""
        while self.read(_CHUNK):
            pass

    @property
    def digest(self) -> str:
        """Of all that was read so far."""
        return f"{self._algorithm}:{self._hash.hexdigest()}"
