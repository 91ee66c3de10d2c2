"""How the contents of two files differ: text line by line, archives member by member, programs and bytecode by their
headers. What is looked into comes from images, and may be anything."""

from __future__ import annotations

import difflib
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from arkwright.diagnostics.errors import ArkwrightError
from arkwright.layer.tar_read import Limits, looks_like_tar, read_tar
from arkwright.verify.causes import Window as Window  # noqa: PLC0414
from arkwright.verify.causes import by_place, by_text, cause
from arkwright.verify.report import Cause, Member

_LINES = 12
_COLUMNS = 160
_DIFFED = 4000
_UNPACKED = 32 << 20
_MEMBERS = 20_000
_SHOWN_MEMBERS = 50
_DEPTH = 3
# Bytes of all archives in one file together, those in archives too: small ones may unpack to much, thousands of times.
_UNPACKED_IN_ALL = 256 << 20
_GZIP, _ZIP, _AR, _ELF, _SQLITE = b"\x1f\x8b", b"PK\x03\x04", b"!<arch>\n", b"\x7fELF", b"SQLite format 3\0"


class Findings(msgspec.Struct, frozen=True):
    """What was found in two contents."""

    diff: tuple[str, ...] = ()
    members: tuple[Member, ...] = ()
    causes: tuple[Cause, ...] = ()


class _Part(msgspec.Struct, frozen=True):
    """A member of an archive: what its header says by field, and its content."""

    header: dict[str, object]
    content: bytes


class _Room:
    """How many bytes may still be unpacked, and how deep an archive lies in others."""

    def __init__(self) -> None:
        self.left = _UNPACKED_IN_ALL
        self.depth = 0

    @property
    def is_there(self) -> bool:
        return self.depth < _DEPTH and self.left > 0

    @contextmanager
    def inside(self) -> Iterator[None]:
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1


def look_into(path: str, old: bytes | None, new: bytes | None, window: Window) -> Findings:
    """What differs and why; the contents are None of files that are too large, or differ in something else."""
    return _look(path, old, new, window, _Room())


def _look(path: str, old: bytes | None, new: bytes | None, window: Window, room: _Room) -> Findings:
    if old is None or new is None:
        return Findings(causes=tuple(by_place(path)))
    if old == new:
        return Findings()
    placed = tuple(by_place(path))
    found = _by_kind(path, old, new, window, room)
    causes = {one.rule: one for one in (*placed, *found.causes)}
    if not causes:
        causes["unknown"] = cause("unknown", _place_of_difference(old, new))
    return Findings(found.diff, found.members, tuple(causes.values()))


def _by_kind(path: str, old: bytes, new: bytes, window: Window, room: _Room) -> Findings:
    heads = old[:16], new[:16]
    if path.endswith(".pyc"):
        return Findings(causes=tuple(_bytecode(old, new)))
    if room.is_there:
        if all(head.startswith(_GZIP) for head in heads):
            return _gzip(path, old, new, window, room)
        for matches, read, rule in (
            (lambda data: data.startswith(_ZIP), _zip_parts, "zip-time"),
            (lambda data: data.startswith(_AR), _ar_parts, "ar-metadata"),
            (lambda data: len(data) >= 512 and looks_like_tar(data[:512]), _tar_parts, "tar-metadata"),
        ):
            if matches(old) and matches(new):
                try:
                    parts = dict(read(old)), dict(read(new))
                    room.left -= sum(len(one.content) for side in parts for one in side.values())
                    return _archive(path, *parts, rule, window, room)
                except (
                    zipfile.BadZipFile,
                    ArkwrightError,
                    ValueError,
                    EOFError,
                    zlib.error,
                    NotImplementedError,
                    RuntimeError,
                ):
                    break
    if all(head.startswith(_ELF) for head in heads):
        return Findings(causes=tuple(_program(old, new, window)))
    if all(head.startswith(_SQLITE) for head in heads):
        return Findings(causes=(cause("database"),))
    return _text(path, old, new, window)


def _text(path: str, old: bytes, new: bytes, window: Window) -> Findings:
    try:
        before, after = old.decode(), new.decode()
    except UnicodeDecodeError:
        return Findings(causes=tuple(_moments(old, new, window)))
    if "\0" in before or "\0" in after:
        return Findings(causes=tuple(_moments(old, new, window)))
    return Findings(tuple(_diff(before, after)), (), tuple(by_text(path, before, after, window)))


def _diff(old: str, new: str) -> Iterator[str]:
    """The first lines of a unified diff, without its head."""
    before, after = old.splitlines(), new.splitlines()
    if max(len(before), len(after)) > _DIFFED:
        for number, (one, other) in enumerate(zip(before, after, strict=False), 1):
            if one != other:
                yield from (f"@@ line {number} @@", f"-{one[:_COLUMNS]}", f"+{other[:_COLUMNS]}")
                return
        yield f"@@ {len(before)} lines, {len(after)} lines @@"
        return
    lines = list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:]
    yield from (line[:_COLUMNS] for line in lines[:_LINES])
    if len(lines) > _LINES:
        yield f"… {len(lines) - _LINES} more"


def _bytecode(old: bytes, new: bytes) -> Iterator[Cause]:
    """PEP 552: magic number, flags, then a hash of the source, or its time and size."""
    if len(old) < 16 or len(new) < 16 or old[:4] != new[:4]:
        yield cause("other-input", "another version of Python")
    elif old[4:8] != new[4:8]:
        yield cause("pyc-time", "one is by time, the other by hash")
    elif old[4:8] == b"\0\0\0\0" and old[8:12] != new[8:12]:
        yield cause("pyc-time", f"{_number(old[8:12])} | {_number(new[8:12])}")
    else:
        yield cause("pyc-content")


def _gzip(path: str, old: bytes, new: bytes, window: Window, room: _Room) -> Findings:
    """RFC 1952: the time is in the bytes 4 to 7."""
    causes: list[Cause] = []
    if old[4:8] != new[4:8]:
        causes.append(cause("gzip-time", f"{_number(old[4:8])} | {_number(new[4:8])}"))
    before, after = _inflated(old), _inflated(new)
    room.left -= len(before or b"") + len(after or b"")
    if before is None or after is None:
        return Findings(causes=tuple(causes))
    if before == after:
        return Findings(causes=tuple(causes) or (cause("compressor"),))
    with room.inside():
        inner = _look(path.removesuffix(".gz").replace(".tgz", ".tar"), before, after, window, room)
    return Findings(inner.diff, inner.members, (*causes, *inner.causes))


def _inflated(data: bytes) -> bytes | None:
    try:
        machine = zlib.decompressobj(wbits=31)
        found = machine.decompress(data, _UNPACKED)
    except zlib.error:
        return None
    return None if machine.unconsumed_tail else found


def _archive(
    path: str, old: dict[str, _Part], new: dict[str, _Part], rule: str, window: Window, room: _Room
) -> Findings:
    """Members by name: headers, contents, order."""
    members: list[Member] = []
    causes: dict[str, Cause] = {}
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before is None or after is None:
            members.append(Member(name=name, fields=("added" if before is None else "removed",)))
            continue
        fields = [field for field, value in before.header.items() if after.header.get(field) != value]
        diff: tuple[str, ...] = ()
        if fields:
            said = f"{name}: {', '.join(f'{one} {before.header[one]} | {after.header.get(one)}' for one in fields)}"
            causes.setdefault(rule, cause(rule, said))
        if before.content != after.content:
            with room.inside():
                inner = _look(f"{path}!/{name}", before.content, after.content, window, room)
            fields.append("content")
            diff = inner.diff
            causes = {one.rule: one for one in inner.causes} | causes
        if fields:
            members.append(Member(name=name, fields=tuple(fields), diff=diff))
    if not members and list(old) != list(new):
        causes["archive-order"] = cause("archive-order", f"{next(iter(old))} | {next(iter(new))}")
    elif not members:
        causes["compressor"] = cause("compressor")
    return Findings((), tuple(members[:_SHOWN_MEMBERS]), tuple(causes.values()))


def _zip_parts(data: bytes) -> Iterator[tuple[str, _Part]]:
    left = _UNPACKED
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist()[:_MEMBERS]:
            header: dict[str, object] = {
                "time": "%04d-%02d-%02d %02d:%02d:%02d" % info.date_time,  # noqa: UP031
                "mode": oct(info.external_attr >> 16), "extra": info.extra.hex(),
            }  # fmt: skip
            if info.file_size > left:
                raise ValueError("too much to unpack")
            with archive.open(info) as file:
                content = file.read(left)
            left -= len(content)
            yield info.filename, _Part(header, content)


def _tar_parts(data: bytes) -> Iterator[tuple[str, _Part]]:
    limits = Limits(max_bytes=_UNPACKED, max_entries=_MEMBERS)
    for entry, content in read_tar(io.BytesIO(data), limits=limits, require_end=False):
        header: dict[str, object] = {
            "time": entry.mtime_ns // 1_000_000_000, "owner": f"{entry.uid}:{entry.gid}", "mode": oct(entry.mode),
            "type": entry.type, "link": entry.link,
        }  # fmt: skip
        yield entry.path or ".", _Part(header, content.read(_UNPACKED) if content is not None else b"")


def _ar_parts(data: bytes) -> Iterator[tuple[str, _Part]]:
    """ar(5): headers of 60 bytes, contents on even positions."""
    at, count = len(_AR), 0
    while at + 60 <= len(data) and count < _MEMBERS:
        fields = data[at : at + 60]
        size = int(fields[48:58])
        header: dict[str, object] = {
            "time": fields[16:28].decode("latin-1").strip(),
            "owner": f"{fields[28:34].decode('latin-1').strip()}:{fields[34:40].decode('latin-1').strip()}",
            "mode": fields[40:48].decode("latin-1").strip(),
        }
        name = fields[:16].decode("latin-1").strip()
        yield name, _Part(header, data[at + 60 : at + 60 + size])
        at += 60 + size + size % 2
        count += 1


def _program(old: bytes, new: bytes, window: Window) -> Iterator[Cause]:
    """An ELF file: only its build id, a time, or its code."""
    identities = [_build_id(data) for data in (old, new)]
    if identities[0] and identities[0] != identities[1]:
        yield cause("build-id", f"{identities[0].hex()} | {identities[1].hex()}")
        if len(old) == len(new) and old.replace(identities[0], b"") == new.replace(identities[1], b""):
            return
    moments = list(_moments(old, new, window))
    yield from moments or [cause("elf-code", _place_of_difference(old, new))]


def _build_id(data: bytes) -> bytes:
    """The note of that name (type 3, owner GNU), wherever it is."""
    at = data.find(b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0")
    return data[at + 16 : at + 36] if at >= 0 else b""


def _moments(old: bytes, new: bytes, window: Window) -> Iterator[Cause]:
    """Whether the first bytes that differ are a moment of the builds, as a number or as text."""
    at = _first_difference(old, new)
    for start in range(max(0, at - 7), at + 1):
        for form, unit in (
            (">I", 1),
            ("<I", 1),
            (">Q", 1000),
            ("<Q", 1000),
            ("<Q", 1_000_000_000),
            ("<d", 1),
        ):
            size = struct.calcsize(form)
            parts = old[start : start + size], new[start : start + size]
            if all(len(part) == size for part in parts):
                numbers = [struct.unpack(form, part)[0] / unit for part in parts]
                if numbers[0] != numbers[1] and all(window.holds(number) for number in numbers):
                    yield cause("timestamp", f"at byte {start}: {numbers[0]:.0f} | {numbers[1]:.0f}")
                    return
    nearby = [data[max(0, at - 24) : at + 24].decode("latin-1") for data in (old, new)]
    yield from (
        one
        for one in by_text("", nearby[0], nearby[1], window)
        if one.rule in ("timestamp", "uuid", "build-path")
    )


def _first_difference(old: bytes, new: bytes) -> int:
    low, high = 0, min(len(old), len(new))
    while low < high:
        middle = (low + high + 1) // 2
        if old[:middle] == new[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _place_of_difference(old: bytes, new: bytes) -> str:
    at = _first_difference(old, new)
    return f"at byte {at}: {old[at : at + 8].hex() or 'the end'} | {new[at : at + 8].hex() or 'the end'}"


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")
