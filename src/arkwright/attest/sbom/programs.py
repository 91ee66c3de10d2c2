"""Packages inside of compiled programs: what Go and Rust write into them."""

from __future__ import annotations

import mmap
import struct
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
_ELF_64 = b"\x7fELF\x02\x01"
_LOADED = 1


def go(path: str, file: BinaryIO) -> Iterator[Package]:
    """The modules of a Go program. Raises `ValueError` for damaged build information."""
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
        if data[start + 15 : start + 16] >= bytes([_GO_INLINE]):
            version, at = _go_text(data, start + 32, path)
            modules, _ = _go_text(data, at, path)
        else:
            version, modules = _go_pointed(data, start, path)
    yield Package(
        kind="golang",
        name="stdlib",
        version=version.removeprefix("go"),
        licences=("BSD-3-Clause",),
        files=(f"/{path}",),
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
        found = Package(
            kind="golang", namespace=namespace, name=name, version=version, files=(f"/{path}",), told_by=path
        )
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


def _go_pointed(data: mmap.mmap, start: int, path: str) -> tuple[str, str]:
    """Before 1.18: addresses of two texts, each an address and a length in memory."""
    damaged = ValueError("damaged build information of Go", path)
    if start + 32 > len(data) or data[start + 14] != 8 or data[start + 15] or data[:6] != _ELF_64:
        raise ValueError("build information of Go for a machine that is not read", path)
    segments = _elf_segments(data)

    def at(address: int, size: int) -> int:
        for offset, begin, extent in segments:
            if begin <= address and address + size <= begin + extent <= begin + len(data) - offset:
                return offset + address - begin
        raise damaged

    texts = []
    for place in struct.unpack_from("<QQ", data, start + 16):
        address, size = struct.unpack_from("<QQ", data, at(place, 16))
        if size and not address:
            raise ValueError("build information of Go that is complete when it is loaded only", path)
        if size > _GO_LIMIT:
            raise damaged
        begin = at(address, size) if size else 0
        texts.append(data[begin : begin + size].decode(errors="replace"))
    return texts[0], texts[1]


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
            yield Package(kind="cargo", name=one.name, version=one.version, files=(f"/{path}",), told_by=path)


class _Crate(msgspec.Struct):
    name: str
    version: str
    kind: str = "runtime"


class _Audit(msgspec.Struct):
    packages: tuple[_Crate, ...]


def _elf_segments(data: mmap.mmap) -> list[tuple[int, int, int]]:
    """Where a 64-bit little-endian ELF file is loaded: offset, address, size in the file."""
    if len(data) < 64:
        return []
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    if size < 56 or table + size * count > len(data):
        return []
    headers = (struct.unpack_from("<I4xQQ8xQ", data, table + size * number) for number in range(count))
    return [(offset, address, extent) for kind, offset, address, extent in headers if kind == _LOADED]


def _elf_section(data: mmap.mmap, wanted: bytes) -> bytes | None:
    """A section of a 64-bit little-endian ELF file by its name (elf(5)); None when there is none."""
    if len(data) < 64 or data[:6] != _ELF_64:
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
            return data[offset : offset + min(extent, _AUDIT_LIMIT)]
    return None


def _mapped(file: BinaryIO) -> mmap.mmap:
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
