"""A streaming reader of tar archives: V7, ustar, PAX, GNU and star headers.

Reads PAX headers (local and global), GNU long names and links, base-256 numbers and GNU sparse
files in all forms. Every header's checksum is verified. Names come out relative to the root:
absolute ones lose their slash, `..` is refused. `Limits` bound what a hostile archive can cost.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

import msgspec

from arkwright.layer import faults, names, pax, sparse
from arkwright.layer.attributes import is_overlay
from arkwright.layer.entry import Entry, EntryType
from arkwright.layer.tar_source import Content, Source, SparseContent

BLOCK = 512
_FIELDS = struct.Struct("100s8s8s8s12s12s8sc100s8s64x8s8s155s12x")
_CHECKSUM = slice(148, 156)
_MAX_ID = 0xFFFFFFFE
_TYPES: dict[bytes, EntryType] = {
    b"0": "file", b"\0": "file", b"7": "file", b"S": "file", b"1": "hardlink", b"2": "symlink",
    b"3": "char", b"4": "block", b"5": "dir", b"D": "dir", b"6": "fifo",
}  # fmt: skip
# Entry types whose size field says nothing about data that follow (as in other readers: old
# archives have it set for links). A GNU dump directory does carry data.
_WITHOUT_DATA = frozenset(b"1 2 3 4 5 6".split())


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive may cost; the defaults admit 50 GB and two million entries.

    `max_bytes` bounds the sum of the file sizes, holes included, `max_xattr_bytes` the attributes
    of one entry.
    """

    max_bytes: int = 64 << 30
    max_entries: int = 4_000_000
    max_name_bytes: int = 4096
    max_pax_bytes: int = 4 << 20
    max_xattr_bytes: int = 1 << 20


DEFAULT_LIMITS = Limits()


def read_tar(
    stream: BinaryIO, *, limits: Limits = DEFAULT_LIMITS, raw: bool = False, require_end: bool = True
) -> Iterator[tuple[Entry, BinaryIO | None]]:
    """The entries of an archive with the content of regular files.

    A content stream is valid until the next entry is asked for; what was not read of it is
    skipped. Whiteout names become `whiteout` and `opaque` entries unless `raw`. With
    `require_end`, the end mark must be there, and nothing but zeros after it; without, as for a
    blob whose digest is checked, a missing mark and trailing data are tolerated.

    Raises `UserError` `invalid-archive`, `truncated-archive`, `archive-too-large`,
    `path-escapes-root`, `reserved-name`.
    """
    return _Reader(stream, limits, raw, require_end).entries()


def looks_like_tar(block: bytes) -> bool:
    """Whether 512 bytes from the start of a file are a tar header."""
    return len(block) == BLOCK and block.strip(b"\0") != b"" and _checksum_fits(block)


class _Reader:
    def __init__(self, stream: BinaryIO, limits: Limits, raw: bool, require_end: bool) -> None:
        self._source = Source(stream)
        self._limits = limits
        self._raw = raw
        self._require_end = require_end
        self._headers = 0
        self._entries = 0
        self._bytes = 0
        self._global: pax.Records = {}
        self._local: pax.Records = {}
        self._long_name = b""
        self._long_link = b""

    def entries(self) -> Iterator[tuple[Entry, BinaryIO | None]]:
        source = self._source
        while block := source.block():
            if block[0] == 0 and not block.strip(b"\0"):
                self._end()
                return
            if not _checksum_fits(block):
                raise faults.invalid(f"a header at byte {source.offset - BLOCK} has a wrong checksum")
            kind = block[156:157]
            self._count(kind)
            if kind in _TYPES:
                yield from self._entry(block, kind)
            else:
                self._extension(block, kind)
        if self._require_end or self._local or self._long_name or self._long_link:
            raise faults.truncated("its end mark is missing")

    def _end(self) -> None:
        if not self._require_end:
            return
        second = self._source.block()
        if second.strip(b"\0"):
            raise faults.invalid("a single zero block between entries")
        if not self._source.only_zeros():
            raise faults.invalid("data follow its end mark")

    def _count(self, kind: bytes) -> None:
        self._headers += 1
        self._entries += kind in _TYPES
        # An entry may have headers of several kinds in front.
        if self._entries > self._limits.max_entries or self._headers > self._limits.max_entries * 4:
            raise faults.too_large(f"more than {self._limits.max_entries} entries")

    def _charge(self, size: int) -> None:
        self._bytes += size
        if self._bytes > self._limits.max_bytes:
            raise faults.too_large(f"more than {self._limits.max_bytes} bytes unpacked")

    def _extension(self, block: bytes, kind: bytes) -> None:
        """A header that describes the next entry, or none."""
        size = _number(block[124:136])
        if kind not in b"xgXLKV":
            raise faults.invalid(f"an entry has the unknown type {kind!r}")
        bound = self._limits.max_name_bytes + 1 if kind in b"LK" else self._limits.max_pax_bytes
        if size > bound:
            raise faults.too_large(f"an extended header has {size} bytes, the limit is {bound}")
        self._charge(size)
        data = self._source.take(size)
        self._source.take(-size % BLOCK)
        if kind == b"g":
            self._global = {**self._global, **pax.parse(data)}
            if sum(len(key) + len(value) for key, value in self._global.items()) > bound:
                raise faults.too_large(f"global headers have more than {bound} bytes")
        elif kind in b"xX":
            self._local = pax.parse(data)
        elif kind == b"L":
            self._long_name = data.partition(b"\0")[0]
        elif kind == b"K":
            self._long_link = data.partition(b"\0")[0]

    def _entry(self, block: bytes, flag: bytes) -> Iterator[tuple[Entry, BinaryIO | None]]:
        (_, mode, uid, gid, size, mtime, _, _, _, _, major, minor, _) = fields = _FIELDS.unpack(block)
        records = self._global
        if self._local:
            records = {**records, **self._local}
            self._local = {}
        name, link = self._stored_names(fields, records, block)
        kind = "dir" if flag == b"\0" and name.endswith(b"/") else _TYPES[flag]
        stored = 0 if flag in _WITHOUT_DATA else _number(size)
        if not records:
            owner, time_ns = (_number(uid), _number(gid)), _number(mtime) * 1_000_000_000
            xattrs: tuple[tuple[str, bytes], ...] = ()
        else:
            if records.get(b"size") and flag not in _WITHOUT_DATA:
                stored = pax.number(records[b"size"], "size")
            owner = (_pax_id(records, b"uid", uid), _pax_id(records, b"gid", gid))
            value = records.get(b"mtime")
            time_ns = pax.parse_time(value) if value else _number(mtime) * 1_000_000_000
            xattrs = self._xattrs(records)
        if stored < 0 or not (0 <= owner[0] <= _MAX_ID and 0 <= owner[1] <= _MAX_ID):
            raise faults.invalid(f"{names.decode(name)!r} has a size or an owner out of range")
        mapped = sparse.old_map(block, stored, self._source.take, _number) if flag == b"S" else None
        end = self._source.offset + stored + -stored % BLOCK
        content = self._content(kind, mapped, records, stored)
        path, meaning = self._path(name, kind)
        if meaning is not None:
            device = meaning in ("char", "block")
            entry = Entry(
                path=names.decode(path),
                type=meaning,
                mode=_number(mode) & 0o7777,
                uid=owner[0],
                gid=owner[1],
                size=content.size if content is not None and meaning == "file" else 0,
                mtime_ns=time_ns,
                link=_link(link, meaning),
                major=_number(major) if device else 0,
                minor=_number(minor) if device else 0,
                xattrs=xattrs,
            )
            yield entry, cast(BinaryIO, content) if meaning == "file" else None
        self._source.seek(end)

    def _stored_names(
        self, fields: tuple[bytes, ...], records: pax.Records, block: bytes
    ) -> tuple[bytes, bytes]:
        """Name and link target, from PAX, GNU headers in front, or the header itself."""
        name, link, magic, prefix = fields[0], fields[8], fields[9], fields[12]
        if self._long_name:
            name, self._long_name = self._long_name, b""
        else:
            name = name.partition(b"\0")[0]
            if prefix[0] and magic[:6] == b"ustar\0":
                # star uses less of the field for the prefix, and ends the header with its name.
                prefix = prefix[:131] if block[508:512] == b"tar\0" else prefix
                name = prefix.partition(b"\0")[0] + b"/" + name
        if self._long_link:
            link, self._long_link = self._long_link, b""
        else:
            link = link.partition(b"\0")[0]
        if records:
            name = pax.text(records.get(b"GNU.sparse.name") or records.get(b"path") or name, "path")
            link = pax.text(records.get(b"linkpath") or link, "linkpath")
        return name, link

    def _content(
        self, kind: EntryType, mapped: sparse.SparseMap | None, records: pax.Records, stored: int
    ) -> Content | None:
        if kind != "file":
            self._charge(stored)
            return None
        source = self._source
        if mapped is None and records:
            start = source.offset
            mapped = sparse.pax_map(records, stored, source.take)
            stored -= source.offset - start
        self._charge(stored if mapped is None else mapped.size)
        return Content(source, stored) if mapped is None else SparseContent(source, mapped)

    def _path(self, name: bytes, kind: EntryType) -> tuple[bytes, EntryType | None]:
        """The path beneath the root and the type, as whiteout names change it; None: no entry."""
        if len(name) > self._limits.max_name_bytes:
            raise faults.too_large(f"a name has {len(name)} bytes")
        path = names.clean(name, "the entry")
        if not path and kind != "dir":
            raise faults.invalid(f"the root is a {kind}")
        if self._raw or b".wh." not in path:
            return path, kind
        cut = path.rfind(b"/") + 1
        names.require_no_whiteout(path[:cut])
        if not path[cut:].startswith(names.WHITEOUT_PREFIX):
            return path, kind
        return names.whiteout(path) or (path, None)

    def _xattrs(self, records: pax.Records) -> tuple[tuple[str, bytes], ...]:
        found = []
        total = 0
        for key, value in records.items():
            if key.startswith(pax.XATTR):
                name = pax.xattr_name(key)
                total += len(key) + len(value)
                if not is_overlay(name):
                    found.append((name, value))
        if total > self._limits.max_xattr_bytes:
            raise faults.too_large(f"an entry has {total} bytes of extended attributes")
        found.sort(key=lambda item: names.encode(item[0]))
        return tuple(found)


def _link(raw: bytes, kind: EntryType) -> str:
    """The link target that an entry holds: of a hard link a path beneath the root."""
    if kind == "hardlink":
        return names.decode(names.clean(raw, "the hard link target"))
    return names.decode(raw) if kind == "symlink" else ""


def _pax_id(records: pax.Records, key: bytes, field: bytes) -> int:
    value = records.get(key)
    return pax.number(value, key.decode()) if value else _number(field)


def _number(field: bytes) -> int:
    """Octal digits, or a base-256 number whose first bit is set. Raises `invalid-archive`."""
    text = field.strip(b" \0")
    if text.isdigit():
        try:
            return int(text, 8)
        except ValueError:
            raise faults.invalid(f"{text!r} is not an octal number") from None
    if not text:
        return 0
    if field[0] == 0xFF:
        return int.from_bytes(field, "big", signed=True)
    if field[0] & 0x80:
        return int.from_bytes(field, "big") & ~(0x80 << 8 * (len(field) - 1))
    head = text.partition(b"\0")[0].strip(b" ")
    if not head.isdigit() or head == text:
        raise faults.invalid(f"{text!r} is not an octal number")
    return _number(head)


def _checksum_fits(block: bytes) -> bool:
    """The header's checksum counts its bytes, with its own field as spaces.

    Adler-32's low half is that sum plus one, modulo 65521, at the speed of C.
    """
    stored = _stored_checksum(block)
    field = block[_CHECKSUM]
    total = stored + sum(field) - 256
    if zlib.adler32(block) & 0xFFFF == (total + 1) % 65521:
        return True
    # Some old writers summed signed bytes.
    return sum(block) - 256 * sum(byte >= 0x80 for byte in block[:148] + block[156:]) == total


def _stored_checksum(block: bytes) -> int:
    text = block[_CHECKSUM].strip(b" \0").partition(b"\0")[0].strip()
    try:
        return int(text, 8) if text.isdigit() else -1
    except ValueError:
        return -1
