"""Cache keys: digests over named, framed fields.

Every field is written as its name, a type mark and the length of each value before the value
itself, so no two different sequences of fields have the same bytes. The first frame names the
scheme and its hash: keys of another scheme, or of a store with another hash, never mix with ours.
"""

from __future__ import annotations

import hashlib
from typing import Self

SCHEME = "arkwright-key/1;sha256"

Value = str | bytes | int


class KeyBuilder:
    """Builds one cache key of a kind, field by field; the order of fields counts.

    `fields` keeps a readable copy of what went in, by name, for `Record.fields`: never put a
    secret, a host path, a host uid or a time into a key.
    """

    def __init__(self, kind: str) -> None:
        self.fields: dict[str, str] = {}
        self._hash = hashlib.sha256()
        self._frame(b"k", SCHEME.encode())
        self._frame(b"k", kind.encode())

    def field(self, name: str, *values: Value) -> Self:
        """Add a field. A field without values differs from one that is absent."""
        self._frame(b"n", name.encode())
        self._frame(b"c", str(len(values)).encode())
        for value in values:
            self._frame(*_encode(value))
        self._describe(name, values)
        return self

    def digest(self) -> str:
        """The key so far, `sha256:<64 hex digits>`; further fields may follow."""
        return "sha256:" + self._hash.hexdigest()

    def _frame(self, mark: bytes, data: bytes) -> None:
        self._hash.update(b"%b%d:" % (mark, len(data)))
        self._hash.update(data)

    def _describe(self, name: str, values: tuple[Value, ...]) -> None:
        text = " ".join(map(_readable, values))
        self.fields[name] = f"{self.fields[name]}\n{text}" if name in self.fields else text


def _encode(value: Value) -> tuple[bytes, bytes]:
    if isinstance(value, str):
        # Names of files may hold bytes that are not UTF-8.
        return b"s", value.encode("utf-8", "surrogateescape")
    if isinstance(value, bytes):
        return b"b", value
    return b"i", str(int(value)).encode()


def _readable(value: Value) -> str:
    if isinstance(value, bytes):
        return f"({len(value)} bytes, sha256 {hashlib.sha256(value).hexdigest()})"
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else str(value)
