"""Packages inside of Java archives (JAR file specification; Maven's files in them)."""

from __future__ import annotations

import io
import lzma
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple
from xml.sax.saxutils import unescape

from arkwright.attest.sbom.model import Package, first

ARCHIVES = (".jar", ".war", ".ear", ".jpi", ".hpi")

_MAX_DEPTH = 3
_MAX_ENTRIES = 100_000
# The library holds all entries at once before it can be asked how many there are.
_MAX_DIRECTORY = 32 << 20
_MAX_FILE = 1 << 20
# All that is unpacked of one archive, of those in it too; and the archives in it.
_MAX_BYTES = 1 << 30
_MAX_ARCHIVES = 10_000
_NESTED = 128 << 20
_MANIFEST = "META-INF/MANIFEST.MF"
# The records at the end, with the longest comment there can be.
_TAIL = 65_535 + 22 + 20 + 56
# What the library raises for archives that are none; some of it only when their entries are read.
_DAMAGED = (
    ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, zlib.error, struct.error,
    lzma.LZMAError,
)  # fmt: skip
_NAME = re.compile(r"<name>([^<>]{1,200})</name>")


class _Budget:
    """What may still be unpacked. Raises `ValueError` when it is used up."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._bytes = _MAX_BYTES
        self._archives = _MAX_ARCHIVES

    def read(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
        with archive.open(info) as file:
            data = file.read(limit)
        self._bytes -= len(data)
        if self._bytes < 0:
            raise ValueError("archives that are too large together", self._path)
        return data

    def count(self) -> None:
        self._archives -= 1
        if self._archives < 0:
            raise ValueError("too many archives in each other", self._path)


def java(path: str, file: BinaryIO) -> Iterator[Package]:
    """The artifacts of a Java archive, of archives inside of it too. Raises `ValueError` when damaged."""
    yield from _archive(path, path, file, _MAX_DEPTH, _Budget(path))


def _archive(path: str, shown: str, file: BinaryIO, depth: int, budget: _Budget) -> Iterator[Package]:
    budget.count()
    try:
        if _largest_directory(file) > _MAX_DIRECTORY:
            raise ValueError("an archive of too many entries", shown)
        archive = zipfile.ZipFile(file)
        if len(archive.infolist()) > _MAX_ENTRIES:
            raise ValueError("an archive of too many entries", shown)
        yield from _artifacts(path, shown, archive, budget)
        for info in archive.infolist():
            if depth > 1 and info.filename.endswith(ARCHIVES) and info.file_size <= _NESTED:
                inner = io.BytesIO(budget.read(archive, info, _NESTED))
                yield from _archive(path, f"{shown}!/{info.filename}", inner, depth - 1, budget)
    except _DAMAGED as error:
        if type(error) is ValueError and len(error.args) == 2:
            # It says already which one is damaged, maybe one inside.
            raise
        raise ValueError(str(error.args[0] if error.args else error), shown) from error


def _largest_directory(file: BinaryIO) -> int:
    """How large the list of entries may be, in bytes, by anything at the end that looks like its record
    (APPNOTE.TXT, 4.3.14 and 4.3.16)."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL))
    tail = file.read(_TAIL)
    found = 0
    for magic, at, form in ((b"PK\5\6", 12, "<I"), (b"PK\6\6", 40, "<Q")):
        begin = tail.find(magic)
        while 0 <= begin <= len(tail) - at - struct.calcsize(form):
            (stated,) = struct.unpack_from(form, tail, begin + at)
            # This says that the other record has it.
            found = max(found, 0 if form == "<I" and stated == 0xFFFFFFFF else stated)
            begin = tail.find(magic, begin + 4)
    return min(found, size)


class _Manifest(NamedTuple):
    """What an archive says of itself."""

    name: str
    version: str
    vendor: str
    licences: tuple[str, ...]


def _artifacts(path: str, shown: str, archive: zipfile.ZipFile, budget: _Budget) -> Iterator[Package]:
    """By Maven's pom.properties, of which an archive has as many as artifacts were put into it; and by the
    manifest, which tells of the archive itself."""
    names = {info.filename: info for info in archive.infolist()}
    manifest = _Manifest("", "", "", ())
    if _MANIFEST in names:
        manifest = _manifest(_fields(budget.read(archive, names[_MANIFEST], _MAX_FILE), ":"))
    file, own = shown.rpartition("/")[2], False
    for name, info in names.items():
        if not (name.startswith("META-INF/maven/") and name.endswith("/pom.properties")):
            continue
        fields = _fields(budget.read(archive, info, _MAX_FILE), "=")
        artifact = fields.get("artifactId", "")
        if not artifact:
            continue
        pom = names.get(f"{name.removesuffix('properties')}xml")
        licences, organisation = _pom(budget.read(archive, pom, _MAX_FILE)) if pom is not None else ((), "")
        is_own = file.startswith(_begun_by(artifact)) or f".{manifest.name}".endswith(f".{artifact}")
        own = own or is_own
        yield Package(
            kind="maven", namespace=fields.get("groupId", ""), name=artifact, version=fields.get("version", ""),
            licences=licences or (manifest.licences if is_own else ()),
            supplier=organisation or (manifest.vendor if is_own else ""), files=(f"/{path}",), told_by=shown,
        )  # fmt: skip
    if not own and manifest.name and manifest.version:
        yield Package(
            kind="maven", name=manifest.name, version=manifest.version, licences=manifest.licences,
            supplier=manifest.vendor, files=(f"/{path}",), told_by=shown,
        )  # fmt: skip


def _begun_by(artifact: str) -> tuple[str, ...]:
    """How a file begins that is named after an artifact, with its version or without."""
    return f"{artifact}-", f"{artifact}."


def _manifest(fields: dict[str, str]) -> _Manifest:
    name = fields.get("Bundle-SymbolicName", "").partition(";")[0] or fields.get("Implementation-Title", "")
    licence = fields.get("Bundle-License", "")
    return _Manifest(
        name=name.strip(),
        version=first(fields, "Bundle-Version", "Implementation-Version"),
        vendor=first(fields, "Implementation-Vendor", "Bundle-Vendor", "Specification-Vendor"),
        licences=(licence,) if licence else (),
    )


def _pom(data: bytes) -> tuple[tuple[str, ...], str]:
    """Licences and organisation of a pom.xml. No parser for XML is let near a file of a strange image; what a
    parent says is not known."""
    text = data.decode(errors="replace")
    licences = tuple(
        dict.fromkeys(unescape(one).strip() for one in _NAME.findall(_element(text, "licenses")))
    )
    organisation = _NAME.search(_element(text, "organization"))
    return licences, unescape(organisation[1]).strip() if organisation else ""


def _element(text: str, name: str) -> str:
    begin = text.find(f"<{name}>")
    end = text.find(f"</{name}>", begin) if begin >= 0 else -1
    return text[begin:end] if end >= 0 else ""


def _fields(data: bytes, separator: str) -> dict[str, str]:
    # A manifest's long lines go on after a space (JAR file specification).
    text = data.decode(errors="replace").replace("\r\n", "\n").replace("\n ", "")
    parts = (line.partition(separator) for line in text.splitlines() if not line.startswith("#"))
    return {name.strip(): value.strip() for name, found, value in parts if found}
