"""A root file system on its way into a layer: collected from a tar or made by hand, then sorted."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from arkwright.layer.entry import Change, Entry
from arkwright.layer.tar_read import read_tar

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_COPY_SIZE = 1 << 20


class Rootfs:
    """Entries by path; the content of files stands in a spool file or in memory."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._content: dict[str, tuple[BinaryIO, int] | bytes] = {}
        self._links: dict[str, str] = {}

    def add_directory(self, path: str, *, mode: int = 0o755) -> None:
        """A directory of root's; what is there at this path is kept if it is a directory."""
        found = self._entries.get(path)
        if found is None or found.type != "dir":
            self._entries[path] = Entry(path=path, type="dir", mode=mode)

    def add_file(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """A file of root's, in place of what is there; missing parents are made."""
        for end in (index for index, char in enumerate(path) if char == "/"):
            self.add_directory(path[:end])
        self._entries[path] = Entry(path=path, type="file", mode=mode, size=len(data))
        self._content[path] = data
        self._links.pop(path, None)

    def add_link(self, path: str, target: str) -> None:
        """Another name of the file `target`."""
        self._links[path] = target

    def add_spooled(self, entry: Entry, spool: BinaryIO, offset: int) -> None:
        """A file whose content stands in `spool` at `offset`."""
        self._entries[entry.path] = entry
        self._content[entry.path] = (spool, offset)

    def add(self, entry: Entry) -> None:
        """An entry without content."""
        if entry.type == "hardlink":
            self._links[entry.path] = entry.link
        else:
            self._entries[entry.path] = entry

    def changes(self) -> Iterator[Change]:
        """The tree in the order of a layer. Of the names of one file, the first is the file."""
        first = self._first_names()
        for path in sorted([*self._entries, *self._links], key=_order):
            target = self._links.get(path, path)
            entry = self._entries.get(target)
            if entry is None:
                continue
            entry = msgspec.structs.replace(entry, path=path)
            leader = first.get(target, path)
            if leader != path:
                yield Change(msgspec.structs.replace(entry, type="hardlink", link=leader, size=0))
            elif entry.type == "file":
                yield Change(entry, partial(_open, self._content[target], entry.size))
            else:
                yield Change(entry)

    def _first_names(self) -> dict[str, str]:
        first: dict[str, str] = {}
        for path, target in self._links.items():
            first[target] = min(first.get(target, target), path, key=_order)
        return first


def collect(tar: BinaryIO, spool: BinaryIO, dropped: Sequence[str], emptied: Sequence[str]) -> Rootfs:
    """Read a tar, leaving out the files that match `dropped` (paths without leading slash; a
    directory counts with all below, `*` matches anything) and the content of those in `emptied`.

    Directories stay, but for those below `dev`. Raises the codes of `layer.tar_read`.
    """
    tree = Rootfs()
    for entry, data in read_tar(tar):
        if not entry.path or _is_dropped(entry, dropped):
            continue
        if entry.type != "file":
            tree.add(entry)
        elif entry.path in emptied or data is None:
            tree.add_spooled(msgspec.structs.replace(entry, size=0), spool, 0)
        else:
            offset = spool.tell()
            while chunk := data.read(_COPY_SIZE):
                spool.write(chunk)
            tree.add_spooled(entry, spool, offset)
    spool.flush()
    return tree


def _is_dropped(entry: Entry, patterns: Sequence[str]) -> bool:
    if entry.type == "dir" and not entry.path.startswith("dev/"):
        return False
    return any(
        entry.path == pattern or entry.path.startswith(pattern + "/") or fnmatchcase(entry.path, pattern)
        for pattern in patterns
    )


def _order(path: str) -> tuple[bytes, ...]:
    return tuple(os.fsencode(part) for part in path.split("/"))


def _open(content: tuple[BinaryIO, int] | bytes, size: int) -> BinaryIO:
    if isinstance(content, bytes):
        return io.BytesIO(content)
    spool, offset = content
    return io.BufferedReader(_Slice(spool.fileno(), offset, size), _COPY_SIZE)


class _Slice(io.RawIOBase):
    """A range of a file, read without moving the file's own position."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        super().__init__()
        self._fd = fd
        self._offset = offset
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        # A slice of a bytearray would be a copy.
        count = os.preadv(self._fd, [memoryview(buffer)[: self._left]], self._offset)
        self._offset += count
        self._left -= count
        return count
