"""Packages inside of compiled programs and Java archives."""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from arkwright.attest.sbom.model import Package

# Go: debug/buildinfo. A 16-byte magic with pointer size and flags, the strings from offset 32.
_GO_MAGIC = b"\xff Go buildinf:"
_GO_INLINE = 2
_GO_LIMIT = 16 << 20
# The sixteen bytes around the module text (runtime/debug.modinfo).
_GO_FRAME = 16
# Rust: cargo-auditable's compressed JSON.
_RUST_SECTION = b".dep-v0"
_AUDIT_LIMIT = 8 << 20
_JAR_DEPTH = 3
_JAR_ENTRIES = 100_000
_JAR_FILE = 1 << 20
_JAR_NESTED = 256 << 20


def go(path: str, file: BinaryIO) -> Iterator[Package]:
    """The modules of a Go program (1.18 and later). Raises `ValueError` for damaged build information."""
    with _mapped(file) as data:
        start = -16
        while True:
            # The magic is aligned to 16 bytes; elsewhere it is text that only looks alike.
            start = data.find(_GO_MAGIC, start + 16)
            if start < 0:
                return
            if start % 16 == 0:
                break
            start -= start % 16
        if not data[start + 15] & _GO_INLINE:
            raise ValueError("build information of Go before 1.18", path)
        version, at = _go_text(data, start + 32, path)
        modules, _ = _go_text(data, at, path)
    yield Package(
        kind="golang",
        name="stdlib",
        version=version.removeprefix("go"),
        licences=("BSD-3-Clause",),
        told_by=path,
    )
    replaced: list[Package] = []
    for line in modules[_GO_FRAME:-_GO_FRAME].split("\n"):
        kind, *fields = line.split("\t")
        if kind not in ("mod", "dep", "=>") or not fields:
            continue
        namespace, _, name = fields[0].rpartition("/")
        # `(devel)` is what was built from a work tree.
        version = fields[1] if len(fields) > 1 and fields[1] != "(devel)" else ""
        found = Package(kind="golang", namespace=namespace, name=name, version=version, told_by=path)
        if kind == "=>" and replaced:
            replaced.pop()
        replaced.append(found)
    yield from replaced


def _go_text(data: mmap.mmap, at: int, path: str) -> tuple[str, int]:
    """A text with its length in front as a varint (encoding/binary)."""
    size = shift = 0
    for _ in range(5):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            if size > _GO_LIMIT or at + size > len(data):
                break
            return data[at : at + size].decode(errors="replace"), at + size
    raise ValueError("damaged build information of Go", path)


def rust(path: str, file: BinaryIO) -> Iterator[Package]:
    """The crates of a program that was built with cargo-auditable. Raises `ValueError` when damaged."""
    with _mapped(file) as data:
        section = _elf_section(data, _RUST_SECTION)
        if section is None:
            return
        inflater = zlib.decompressobj()
        try:
            text = inflater.decompress(section, _AUDIT_LIMIT)
        except zlib.error as error:
            raise ValueError(str(error), path) from error
    try:
        audit = msgspec.json.decode(text, type=_Audit)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error), path) from error
    for one in audit.packages:
        if one.kind == "runtime":
            yield Package(kind="cargo", name=one.name, version=one.version, told_by=path)


class _Crate(msgspec.Struct):
    name: str
    version: str
    kind: str = "runtime"


class _Audit(msgspec.Struct):
    packages: tuple[_Crate, ...]


def _elf_section(data: mmap.mmap, wanted: bytes) -> bytes | None:
    """A section of a 64-bit little-endian ELF file by its name (elf(5)); None when there is none."""
    if len(data) < 64 or data[:6] != b"\x7fELF\x02\x01":
        return None
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    if size < 64 or names >= count or table + size * count > len(data):
        return None

    def place(number: int) -> tuple[int, int, int]:
        name, offset, length = struct.unpack_from("<I20xQQ", data, table + size * number)
        return name, offset, length

    _, strings, length = place(names)
    for number in range(count):
        name, offset, extent = place(number)
        begin = strings + name
        if name < length and data[begin : begin + len(wanted) + 1] == wanted + b"\0":
            return data[offset : offset + extent]
    return None


def java(path: str, file: BinaryIO) -> Iterator[Package]:
    """The artifacts of a Java archive, of archives inside of it too. Raises `ValueError` when damaged."""
    yield from _jar(path, file, _JAR_DEPTH)


def _jar(path: str, file: BinaryIO, depth: int) -> Iterator[Package]:
    try:
        archive = zipfile.ZipFile(file)
        if len(archive.infolist()) > _JAR_ENTRIES:
            raise ValueError("an archive of too many entries", path)
        yield from _artifacts(path, archive)
        for info in archive.infolist():
            if depth > 1 and info.filename.endswith((".jar", ".war")) and info.file_size <= _JAR_NESTED:
                with archive.open(info) as inner:
                    yield from _jar(
                        f"{path}!/{info.filename}", io.BytesIO(inner.read(_JAR_NESTED)), depth - 1
                    )
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise ValueError(str(error), path) from error


def _artifacts(path: str, archive: zipfile.ZipFile) -> Iterator[Package]:
    """By Maven's pom.properties; an archive without says in its manifest what it is."""
    found = False
    for info in archive.infolist():
        if info.filename.startswith("META-INF/maven/") and info.filename.endswith("/pom.properties"):
            fields = _properties(archive, info)
            if fields.get("artifactId"):
                found = True
                yield Package(
                    kind="maven", namespace=fields.get("groupId", ""), name=fields["artifactId"],
                    version=fields.get("version", ""), told_by=path,
                )  # fmt: skip
    if not found and "META-INF/MANIFEST.MF" in archive.namelist():
        fields = _properties(archive, archive.getinfo("META-INF/MANIFEST.MF"), separator=":")
        name = fields.get("Bundle-SymbolicName", "").partition(";")[0] or fields.get(
            "Implementation-Title", ""
        )
        version = fields.get("Bundle-Version") or fields.get("Implementation-Version", "")
        if name and version:
            yield Package(
                kind="maven", name=name.strip(), version=version, told_by=path,
                supplier=fields.get("Implementation-Vendor", "") or fields.get("Bundle-Vendor", ""),
            )  # fmt: skip


def _properties(archive: zipfile.ZipFile, info: zipfile.ZipInfo, separator: str = "=") -> dict[str, str]:
    with archive.open(info) as file:
        text = file.read(_JAR_FILE).decode(errors="replace")
    # A manifest's long lines go on after a space (JAR file specification).
    lines = text.replace("\r\n", "\n").replace("\n ", "").splitlines()
    parts = (line.partition(separator) for line in lines if not line.startswith("#"))
    return {name.strip(): value.strip() for name, found, value in parts if found}


def _mapped(file: BinaryIO) -> mmap.mmap:
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
