"""What the tars of layers hold: one record for each entry, with the digest of its content.

A layer's bytes never change, so a listing is remembered in the store's metadata (bucket
`layer-listings`, by the blob's digest): the second look at an image reads no blob.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.layer import names
from arkwright.layer.codec import decompress
from arkwright.layer.entry import Entry, EntryType
from arkwright.layer.tar_read import DEFAULT_LIMITS, Limits, read_tar
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.formats import LAYER_KINDS
from arkwright.store.content import ContentStore
from arkwright.store.store import Store

LISTINGS = "layer-listings"

_FORM = b"1"
_TYPES: tuple[EntryType, ...] = (
    "file", "dir", "symlink", "hardlink", "char", "block", "fifo", "whiteout", "opaque",
)  # fmt: skip
_NUMBERS = {name: number for number, name in enumerate(_TYPES)}
_BATCH = 1000
_CHUNK = 1 << 18
# A listing beyond this is made anew each time: a database is no place for it.
_REMEMBERED = 32 << 20


class Listed(msgspec.Struct, frozen=True, gc=False):
    """An entry, its position among the entries of the tar, and the sha256 of a regular file's
    content, as 32 bytes."""

    entry: Entry
    position: int
    content: bytes = b""


class _Row(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    path: bytes
    type: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    content: bytes = b""
    link: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


def list_layer(store: Store, layer: Descriptor, *, limits: Limits = DEFAULT_LIMITS) -> Iterator[Listed]:
    """The entries of a layer of the store, in the order of its tar.

    Raises `UserError` `not-a-layer`, `missing-blob`, and what `layer.tar_read.read_tar` raises.
    """
    known = store.metadata.get(LISTINGS, layer.digest)
    if known is not None and _is_whole(known):
        yield from _remembered(known)
        return
    memory = _Memory()
    with open_layer(store.content, layer) as tar:
        for listed in read_entries(tar, limits=limits):
            memory.add(listed)
            yield listed
    record = memory.finish()
    if record:
        store.metadata.put(LISTINGS, layer.digest, record)


def open_layer(content: ContentStore, layer: Descriptor) -> BinaryIO:
    """The uncompressed tar of a layer, whatever it is packed in; the caller closes.

    Raises `UserError` `not-a-layer`, `missing-blob`.
    """
    if layer.media_type not in LAYER_KINDS:
        raise UserError.of(
            "not-a-layer",
            f"{layer.digest} is {layer.media_type or 'of no type'}, which is no tar of files",
            hint="this is an artifact, not an image that holds files; `arkwright inspect` shows it",
        )
    blob = content.open(layer.digest)
    return _Closing(decompress(blob, "auto"), blob)  # type: ignore[return-value]


def read_entries(tar: BinaryIO, *, limits: Limits = DEFAULT_LIMITS) -> Iterator[Listed]:
    """The entries of an uncompressed tar. Raises what `layer.tar_read.read_tar` raises."""
    found = read_tar(tar, limits=limits, require_end=False)
    for position, (entry, content) in enumerate(found):
        digest = b""
        if content is not None:
            hashed = hashlib.sha256()
            while data := content.read(_CHUNK):
                hashed.update(data)
            digest = hashed.digest()
        yield Listed(entry, position, digest)


def read_content(content: ContentStore, layer: Descriptor, position: int) -> Iterator[bytes]:
    """The content of the regular file at a position of a layer's tar, in pieces.

    Raises as `list_layer`.
    """
    with open_layer(content, layer) as tar:
        for at, (_, stream) in enumerate(read_tar(tar, require_end=False)):
            if at == position:
                assert stream is not None
                while data := stream.read(_CHUNK):
                    yield data
                return


class _Closing:
    """A decompressed stream that closes the blob below it."""

    def __init__(self, stream: BinaryIO, below: BinaryIO) -> None:
        self._stream = stream
        self._below = below
        self.read = stream.read

    def close(self) -> None:
        self._stream.close()
        self._below.close()

    def __enter__(self) -> _Closing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Memory:
    """Rows on their way into a record: the form's number, batches of msgpack, each compressed with its
    length in front, and a CRC-32 of all that. Nothing is kept of a listing that is too large."""

    def __init__(self) -> None:
        self._rows: list[_Row] = []
        self._pieces = [_FORM]
        self._left = _REMEMBERED

    def add(self, listed: Listed) -> None:
        if self._left > 0:
            self._rows.append(_to_row(listed))
            if len(self._rows) >= _BATCH:
                self._flush()

    def finish(self) -> bytes:
        """The record; empty when there is none."""
        self._flush()
        record = b"".join(self._pieces)
        return record + zlib.crc32(record).to_bytes(4) if self._left > 0 else b""

    def _flush(self) -> None:
        try:
            batch = zlib.compress(msgspec.msgpack.encode(self._rows), 1)
        except OverflowError:
            # A time or a device number that no file system has.
            self._left = 0
        else:
            self._left -= len(batch)
            self._pieces.append(len(batch).to_bytes(4) + batch)
        if self._left <= 0:
            self._pieces.clear()
        self._rows.clear()


def _is_whole(record: bytes) -> bool:
    return record.startswith(_FORM) and zlib.crc32(record[:-4]).to_bytes(4) == record[-4:]


def _remembered(record: bytes) -> Iterator[Listed]:
    decoder = msgspec.msgpack.Decoder(list[_Row])
    at, position = len(_FORM), 0
    while at < len(record) - 4:
        end = at + 4 + int.from_bytes(record[at : at + 4])
        for row in decoder.decode(zlib.decompress(record[at + 4 : end])):
            yield _from_row(row, position)
            position += 1
        at = end


def _to_row(listed: Listed) -> _Row:
    entry = listed.entry
    return _Row(
        path=names.encode(entry.path),
        type=_NUMBERS[entry.type],
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        mtime_ns=entry.mtime_ns,
        size=entry.size,
        content=listed.content,
        link=names.encode(entry.link),
        major=entry.major,
        minor=entry.minor,
        xattrs=tuple((names.encode(key), value) for key, value in entry.xattrs),
    )


def _from_row(row: _Row, position: int) -> Listed:
    entry = Entry(
        path=names.decode(row.path),
        type=_TYPES[row.type],
        mode=row.mode,
        uid=row.uid,
        gid=row.gid,
        size=row.size,
        mtime_ns=row.mtime_ns,
        link=names.decode(row.link),
        major=row.major,
        minor=row.minor,
        xattrs=tuple((names.decode(key), value) for key, value in row.xattrs),
    )
    return Listed(entry, position, row.content)
