"""Headers of rpm packages, as its databases keep them (rpm.org, "RPM V4 Package format", header structure).

An index of entries (tag, type, offset, count), then the data that they point into; numbers are big-endian.
In a database the eight bytes of magic in front are left away.
"""

from __future__ import annotations

import struct

# rpm itself takes no more (lib/header.c: hdrchkTags, hdrchkData).
_MAX_ENTRIES = 0xFFFF
_MAX_DATA = 256 << 20
# What the paths of one package may take, and one path: an image of a few bytes must not fill the memory.
_MAX_FILES = 1_000_000
_MAX_PATHS = 64 << 20
_MAX_PATH = 4096
_ENTRY = struct.Struct(">IIII")
_INT16, _INT32, _STRING, _BINARY, _STRINGS, _TRANSLATED = 3, 4, 6, 7, 8, 9
_WIDTHS = {_INT16: ("H", 2), _INT32: ("I", 4)}

# rpmtag.h
NAME, VERSION, RELEASE, EPOCH = 1000, 1001, 1002, 1003
VENDOR, LICENSE, PACKAGER, URL, ARCH, SOURCE = 1011, 1014, 1015, 1020, 1022, 1044
_OLD_NAMES, _DIRECTORY_OF, _NAMES, _DIRECTORIES = 1027, 1116, 1117, 1118


class Header:
    """One header. Raises `ValueError` where it is damaged, when the field is asked for."""

    def __init__(self, blob: bytes) -> None:
        if len(blob) < 8:
            raise ValueError("a header that is cut off")
        count, size = struct.unpack_from(">II", blob)
        start = 8 + count * _ENTRY.size
        if not 0 < count <= _MAX_ENTRIES or size > _MAX_DATA or start + size > len(blob):
            raise ValueError("a header that is larger than it can be")
        self._data = blob[start : start + size]
        self._entries: dict[int, tuple[int, int, int]] = {}
        for tag, kind, offset, number in _ENTRY.iter_unpack(blob[8:start]):
            self._entries.setdefault(tag, (kind, offset, number))

    def text(self, tag: int) -> str:
        """A text, the first of several or of its translations; empty when there is none."""
        return next(iter(self._texts(tag, 1)), "")

    def number(self, tag: int) -> int | None:
        """A number; None when there is none."""
        return next(iter(self._numbers(tag)), None)

    def files(self) -> tuple[str, ...]:
        """The absolute paths that the package owns, directories too."""
        names = self._texts(_NAMES, _MAX_FILES)
        if not names:
            return tuple(self._texts(_OLD_NAMES, _MAX_FILES))
        directories = self._texts(_DIRECTORIES, _MAX_FILES)
        numbers = self._numbers(_DIRECTORY_OF)
        if len(numbers) != len(names) or max(numbers) >= len(directories):
            raise ValueError("file names without directories")
        found = []
        left = _MAX_PATHS
        for name, number in zip(names, numbers, strict=True):
            path = directories[number] + name
            left -= len(path)
            if len(path) > _MAX_PATH or left < 0:
                raise ValueError("file names that are too long")
            found.append(path)
        return tuple(found)

    def _texts(self, tag: int, limit: int) -> list[str]:
        kind, at, count = self._entries.get(tag, (_STRINGS, 0, 0))
        if kind not in (_STRING, _STRINGS, _TRANSLATED) or (kind == _STRING and count != 1):
            raise ValueError(f"tag {tag} is no text")
        if min(count, limit) > len(self._data) or (limit > 1 and count > limit):
            raise ValueError(f"tag {tag} has too many texts")
        found = []
        for _ in range(min(count, limit)):
            end = self._data.find(b"\0", at)
            if at > len(self._data) or end < 0:
                raise ValueError(f"tag {tag} ends outside of its header")
            found.append(self._data[at:end].decode(errors="replace"))
            at = end + 1
        return found

    def _numbers(self, tag: int) -> tuple[int, ...]:
        kind, at, count = self._entries.get(tag, (_INT32, 0, 0))
        if kind not in _WIDTHS:
            raise ValueError(f"tag {tag} is no number")
        letter, width = _WIDTHS[kind]
        if at + count * width > len(self._data):
            raise ValueError(f"tag {tag} ends outside of its header")
        return struct.unpack_from(f">{count}{letter}", self._data, at)
