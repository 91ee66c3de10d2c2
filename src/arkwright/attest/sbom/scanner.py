"""The contract of scanners: which files of an image they want, and what these say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO, Protocol

import msgspec

from arkwright.attest.sbom.model import Distribution, Package

TEXT_LIMIT = 64 << 20
"""Databases and manifests larger than this are not read."""


def _none(path: str) -> bool:
    return False


class Scanner(msgspec.Struct, frozen=True, kw_only=True):
    """Reads databases and manifests that are small enough for memory.

    `wants` is asked for every file by its path without the leading slash; `scan` gets all wanted files
    that hold anything, by path. Damaged files make it raise `ValueError` (what `msgspec`, `UnicodeDecodeError`
    and `int()` raise too), with the path as the second argument when it is known. `shared` are those of the wanted
    files that tell of many packages, so that each layer that adds one writes them anew; they are scanned
    as each layer left them, without the others. `limit` is what a file may hold, in bytes.
    """

    name: str
    wants: Callable[[str], bool]
    shared: Callable[[str], bool] = _none
    limit: int = TEXT_LIMIT
    scan: Callable[[Mapping[str, bytes], Distribution], Iterator[Package]]


class ProgramScanner(Protocol):
    """Looks into one program or archive, which may be large: it is given as a file to seek in."""

    def __call__(self, path: str, file: BinaryIO) -> Iterator[Package]: ...


def stanzas(data: bytes) -> Iterator[dict[str, str]]:
    """Paragraphs of `Name: value` lines with folded ones (deb822(5)); names in lower case."""
    fields: dict[str, str] = {}
    last = ""
    for line in data.decode(errors="replace").split("\n"):
        if not line.strip():
            if fields:
                yield fields
            fields, last = {}, ""
        elif line[0] in " \t":
            if last:
                fields[last] += "\n" + line.strip()
        else:
            name, colon, value = line.partition(":")
            if colon:
                last = name.strip().lower()
                fields[last] = value.strip()
    if fields:
        yield fields
