"""Manifests of trees (mtree(5), see `images.mtree`) read with bounded memory, in the order of a layer.

A manifest has its own order: what other tools write has files before directories. So its lines are sorted,
in a file without a name when there are many.
"""

from __future__ import annotations

import heapq
import os
import re
import struct
import tempfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from types import TracebackType
from typing import BinaryIO

from arkwright.diagnostics.errors import UserError

Keywords = dict[str, str]

MAX_PATHS = 4_000_000
_HELD = 8 << 20  # bytes of lines that are sorted in memory
_LINE_LIMIT = 4 << 20
_LIMIT = 4 << 30  # bytes of lines, with what /set adds to each
_DEPTH = 4096
_READ = 1 << 16
_SIZES = struct.Struct("<II")
_ESCAPE = re.compile(r"\\([0-7]{3})")
_PLAIN = re.compile(rb"[A-Za-z0-9._,:+@%^/{}~!$&'()\-=;<>|`\"]*")
_IN_COMMENTS = re.compile(rb"[ -\[\]-~]*")

Record = tuple[bytes, bytes]


class Manifest:
    """The keywords by path (the root is `""`), in the order of a layer; of a path that comes several
    times, the last ones. `xattrs`: they name all extended attributes. A context manager."""

    def __init__(self, scratch_path: str | None = None) -> None:
        """`scratch_path`: a directory for the file without a name; None is the system's."""
        self.xattrs = False
        self._scratch_path = scratch_path
        self._held: list[Record] = []
        self._size = 0
        self._total = self._count = 0
        self._file: BinaryIO | None = None
        self._runs: list[tuple[int, int]] = []

    def __iter__(self) -> Iterator[tuple[str, Keywords]]:
        runs: list[Iterable[Record]] = [self._run(begin, end) for begin, end in self._runs]
        runs.append(sorted(self._held, key=itemgetter(0)))
        for key, found in groupby(heapq.merge(*runs, key=itemgetter(0)), key=itemgetter(0)):
            *_, (_, keywords) = found
            yield _decoded(key.replace(b"\0", b"/")), _pairs(_decoded(keywords).split(" "))

    def __enter__(self) -> Manifest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, path: str, keywords: Keywords, number: int) -> None:
        """Take a line; `number` is for errors. Raises `UserError` `invalid-mtree`; `OSError`."""
        parts = path.split("/") if path else []
        if "\0" in path or any(part in ("", ".", "..") for part in parts):
            raise invalid("it names what no path can be", number)
        text = " ".join(f"{name}={value}" if value else name for name, value in keywords.items())
        record = order(path), text.encode("utf-8", "surrogateescape")
        size = len(record[0]) + len(record[1])
        self._count += 1
        self._total += size
        if self._count > MAX_PATHS or self._total > _LIMIT:
            raise invalid("it is too large", number)
        self._held.append(record)
        # What a list and two objects take besides.
        self._size += size + 128
        if self._size > _HELD:
            self._spill()

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._scratch_path)  # noqa: SIM115
        begin = self._file.tell()
        for key, keywords in sorted(self._held, key=itemgetter(0)):
            self._file.write(_SIZES.pack(len(key), len(keywords)) + key + keywords)
        self._file.flush()
        self._runs.append((begin, self._file.tell()))
        self._held.clear()
        self._size = 0

    def _run(self, position: int, end: int) -> Iterator[Record]:
        assert self._file is not None
        fd, held = self._file.fileno(), b""

        def take(size: int) -> bytes:
            nonlocal held, position
            while len(held) < size:
                data = os.pread(fd, min(max(_READ, size - len(held)), end - position), position)
                held, position = held + data, position + len(data)
            taken, held = held[:size], held[size:]
            return taken

        while held or position < end:
            key_size, size = _SIZES.unpack(take(_SIZES.size))
            yield take(key_size), take(size)


def read_mtree(stream: BinaryIO, scratch_path: str | None = None) -> Manifest:
    """Read a manifest, `/set` taken into account.

    Raises `UserError` `invalid-mtree`; `OSError`.
    """
    manifest = Manifest(scratch_path)
    try:
        _Parser(manifest).parse(stream)
    except BaseException:
        manifest.__exit__(None, None, None)
        raise
    return manifest


class _Parser:
    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._default: Keywords = {}
        self._directory: list[str] = []
        self._number = 0
        self._begun = False

    def parse(self, stream: BinaryIO) -> None:
        held = ""
        while raw := stream.readline(_LINE_LIMIT + 1):
            self._number += 1
            if len(raw) + len(held) > _LINE_LIMIT:
                raise invalid("it is too long", self._number)
            line = held + raw.decode("utf-8", "surrogateescape").strip(" \t\r\n")
            if line.endswith("\\"):
                held = line[:-1] + " "
                continue
            held = ""
            if line.startswith("#"):
                said = line[1:].strip().partition("keywords:")
                if not said[0] and "xattr" in said[2].replace(",", " ").split():
                    self._manifest.xattrs = True
            elif line:
                self._line(line.split())

    def _line(self, words: list[str]) -> None:
        name, *rest = words
        if name == "/set":
            self._default = {**self._default, **_pairs(rest)}
        elif name == "/unset":
            gone = set(rest)
            self._default = {} if "all" in gone else {k: v for k, v in self._default.items() if k not in gone}
        elif name == "..":
            if self._directory:
                self._directory.pop()
        else:
            self._entry(decode_name(name), {**self._default, **_pairs(rest)})

    def _entry(self, name: str, keywords: Keywords) -> None:
        if "/" in name.removeprefix("./"):
            # A full path, which does not depend on where we are.
            path = name.removeprefix("./").strip("/")
            if ".." in path.split("/"):
                raise invalid(f"the path {name!r} leaves the tree", self._number)
            self._manifest.add(path, keywords, self._number)
            return
        name = name.removeprefix("./")
        if name in (".", ""):
            if self._begun:
                raise invalid("the root comes twice", self._number)
            self._begun = True
            self._manifest.add("", keywords, self._number)
            return
        self._manifest.add("/".join([*self._directory, name]), keywords, self._number)
        if keywords.get("type") == "dir":
            self._directory.append(name)
            if len(self._directory) > _DEPTH:
                raise invalid("directories are nested too deeply", self._number)


def _pairs(words: list[str]) -> Keywords:
    return {name: value for name, _, value in (word.partition("=") for word in words if word)}


def order(path: str) -> bytes:
    """What paths are sorted by to stand in the order of a layer."""
    return os.fsencode(path).replace(b"/", b"\0")


def encode_name(text: str, *, comment: bool = False) -> str:
    """A name as a manifest has it."""
    data = os.fsencode(text)
    plain = _IN_COMMENTS if comment else _PLAIN
    if plain.fullmatch(data):
        return text
    return "".join(chr(one) if plain.fullmatch(bytes([one])) else f"\\{one:03o}" for one in data)


def decode_name(text: str) -> str:
    """The inverse of `encode_name`; takes the C escapes of vis(3) too."""
    if "\\" not in text:
        return text
    names = {"s": " ", "t": "\t", "n": "\n", "r": "\r", "\\": "\\", "#": "#", "0": "\0"}
    raw, position = bytearray(), 0
    while position < len(text):
        if text[position] == "\\":
            octal = _ESCAPE.match(text, position)
            if octal is not None:
                raw.append(int(octal[1], 8) & 0xFF)
                position += 4
                continue
            if text[position + 1 : position + 2] in names:
                raw += names[text[position + 1]].encode()
                position += 2
                continue
        raw += os.fsencode(text[position])
        position += 1
    return os.fsdecode(bytes(raw))


def invalid(why: str, number: int) -> UserError:
    """`UserError` `invalid-mtree`."""
    error = UserError.of("invalid-mtree", f"line {number} of the manifest: {why}")
    assert isinstance(error, UserError)
    return error


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
