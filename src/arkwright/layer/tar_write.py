"""The canonical tar form of a layer.

* ustar (POSIX.1-2017, pax, "ustar Interchange Format") with numeric owners only; where a field
  does not fit, a PAX header with just the records that are needed, sorted: `path`, `linkpath`,
  `size`, `uid`, `gid`, `mtime`, `SCHILY.xattr.*`. Never GNU extensions, never sparse entries.
  Names that are not ASCII go to PAX; bytes that are not UTF-8 stand there as they are.
* Every PAX header is named `././@PaxHeader`, has mode 0644, owner 0:0 and the constant time.
* Directories end with `/`. Hard links hold no data and no attributes. A deletion is `.wh.NAME`,
  an opaque directory `.wh..wh..opq`: empty files of mode 0 and owner 0:0.
* The archive ends with two zero blocks and no padding to a record.

Changes are written in the order in which they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from arkwright.diagnostics.errors import UserError
from arkwright.layer import faults, pax
from arkwright.layer.entry import Change, Entry, EntryType
from arkwright.layer.names import OPAQUE_NAME, WHITEOUT_PREFIX, encode
from arkwright.layer.profile import CONSTANT_EPOCH, CONSTANT_NS

BLOCK = 512
END = bytes(2 * BLOCK)

_BUFFER = 1 << 20
_READ = 1 << 18
_MAX_ID = 0o7777777
_MAX_SIZE = 0o77777777777
_ZEROS = bytes(BLOCK)
_TYPES: dict[EntryType, bytes] = {
    "file": b"0", "hardlink": b"1", "symlink": b"2", "char": b"3", "block": b"4", "dir": b"5",
    "fifo": b"6", "whiteout": b"0", "opaque": b"0",
}  # fmt: skip

Sink = Callable[[bytes], object]


def write_tar(
    changes: Iterable[Change],
    sink: Sink,
    *,
    mtime_ns: int | None = CONSTANT_NS,
    stamp: Callable[[Entry], int] | None = None,
) -> None:
    """Write an archive to `sink`, in pieces of about a mebibyte.

    `mtime_ns` becomes the time of every entry; None keeps their own; `stamp` decides for each. Raises `UserError`
    `reserved-name`, or `content-changed` when a file has not the size that its entry says.
    """
    buffer = bytearray()
    for change in changes:
        entry = change.entry
        if stamp is not None:
            mtime_ns = stamp(entry)
        buffer += header(entry, entry.mtime_ns if mtime_ns is None else mtime_ns)
        if entry.type == "file" and entry.size:
            _copy(change, buffer, sink)
        if len(buffer) >= _BUFFER:
            sink(bytes(buffer))
            buffer.clear()
    buffer += END
    sink(bytes(buffer))


def header(entry: Entry, mtime_ns: int) -> bytes:
    """The blocks in front of an entry's content."""
    name = _stored_name(entry)
    if entry.type in ("whiteout", "opaque"):
        entry = Entry(path=entry.path, type=entry.type)
    records: pax.Records = {}
    prefix = b""
    if len(name) > 100 or not name.isascii():
        split = _split(name)
        if split is None:
            records[b"path"] = name
            name = name[:100]
        else:
            prefix, name = split
    link = encode(entry.link)
    if len(link) > 100 or not link.isascii():
        records[b"linkpath"] = link
        link = link[:100]
    size = entry.size if entry.type == "file" else 0
    uid = _fit(entry.uid, _MAX_ID, b"uid", records)
    gid = _fit(entry.gid, _MAX_ID, b"gid", records)
    size = _fit(size, _MAX_SIZE, b"size", records)
    seconds, fraction = divmod(mtime_ns, 1_000_000_000)
    if fraction or not 0 <= seconds <= _MAX_SIZE:
        records[b"mtime"] = pax.format_time(mtime_ns)
        seconds = max(0, min(seconds, _MAX_SIZE))
    for key, value in entry.xattrs if entry.type != "hardlink" else ():
        records[pax.xattr_key(key)] = value
    block = _block(
        name, entry.mode, uid, gid, size, seconds, _TYPES[entry.type], link, entry.major, entry.minor, prefix
    )
    return _extension(records) + block if records else block


def _extension(records: pax.Records) -> bytes:
    data = pax.encode(records)
    block = _block(b"././@PaxHeader", 0o644, 0, 0, len(data), CONSTANT_EPOCH, b"x", b"", 0, 0, b"")
    return block + data + _ZEROS[: -len(data) % BLOCK]


def _block(
    name: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    seconds: int,
    kind: bytes,
    link: bytes,
    major: int,
    minor: int,
    prefix: bytes,
) -> bytes:
    if major > _MAX_ID or minor > _MAX_ID:
        raise faults.invalid(f"device {major}:{minor} does not fit a header")
    head = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(100, b"\0"), mode, uid, gid, size, seconds)
    tail = b"%s%sustar\00000%s%07o\0%07o\0%s" % (
        kind, link.ljust(100, b"\0"), _ZEROS[:64], major, minor, prefix.ljust(167, b"\0"),
    )  # fmt: skip
    # The checksum counts its own field as eight spaces.
    return b"%s%06o\0 %s" % (head, sum(head) + sum(tail) + 256, tail)


def _copy(change: Change, buffer: bytearray, sink: Sink) -> None:
    size = change.entry.size
    if change.open is None:
        raise _changed(change.entry)
    with change.open() as stream:
        if size <= _READ:
            data = stream.read(size + 1)
            if len(data) != size:
                data = _rest(data, stream.read, size)
            if len(data) != size:
                raise _changed(change.entry)
            buffer += data
        else:
            sink(bytes(buffer))
            buffer.clear()
            left = size
            while left:
                data = stream.read(min(left, _READ))
                if not data:
                    raise _changed(change.entry)
                sink(data)
                left -= len(data)
            if stream.read(1):
                raise _changed(change.entry)
    buffer += _ZEROS[: -size % BLOCK]


def _rest(data: bytes, read: Callable[[int], bytes], size: int) -> bytes:
    """The content of a stream that gives less than it is asked for."""
    while len(data) <= size and (more := read(size + 1 - len(data))):
        data += more
    return data


def _stored_name(entry: Entry) -> bytes:
    name = encode(entry.path)
    last = name[name.rfind(b"/") + 1 :]
    if entry.type == "opaque":
        return (name + b"/" if name else b"") + OPAQUE_NAME
    if entry.type == "whiteout":
        return name[: len(name) - len(last)] + WHITEOUT_PREFIX + last
    if last.startswith(WHITEOUT_PREFIX):
        raise faults.reserved(entry.path)
    if entry.type == "dir":
        return name + b"/" if name else b"./"
    return name


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """Prefix and name of a long path: cut at the last slash that leaves a prefix that fits."""
    if not name.isascii():
        return None
    cut = name.rfind(b"/", 0, min(len(name) - 1, 156))
    if cut <= 0 or len(name) - cut - 1 > 100:
        return None
    return name[:cut], name[cut + 1 :]


def _fit(value: int, maximum: int, keyword: bytes, records: pax.Records) -> int:
    if value <= maximum:
        return value
    records[keyword] = b"%d" % value
    return 0


def _changed(entry: Entry) -> UserError:
    error = UserError.of(
        "content-changed",
        f"{entry.path!r} changed while it was read: its size is no longer {entry.size} bytes",
        hint="stop whatever writes to it, and build again",
    )
    assert isinstance(error, UserError)
    return error
