"""Remote caches: what a store for them offers, and records in a form that travels.

A record on a remote is a small JSON document that names the layers of a result by diffID and by
blob, and the blobs beside it. Layers of base images are named and never carried: who asks for a
record has pinned the same bases, because they are part of its key. What comes from a remote is
not trusted to be well-formed: `decode` refuses whatever could not have been written by `encode`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import BinaryIO, Protocol

import msgspec

from arkwright.cache.keys import KeyBuilder
from arkwright.diagnostics.errors import UserError
from arkwright.diagnostics.wire import ready
from arkwright.oci import descriptor as media
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.digest import is_digest
from arkwright.snapshot.layers import chain_id
from arkwright.store.content import ContentStore

RECORD_TYPE = "application/vnd.arkwright.cache.record.v1+json"
ARTIFACT_TYPE = "application/vnd.arkwright.cache.record.v1"
RECORD_LIMIT = 1 << 20  # bytes
_LAYERS = 4096
_BLOB_LIMIT = 1 << 40  # bytes
_TIME_LIMIT = 1 << 63
_LAYER_TYPES = frozenset({media.LAYER_TAR, media.LAYER_GZIP, media.LAYER_ZSTD})
_PROFILE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")


class Opener(Protocol):
    """Opens a blob's bytes from the start, seekable, any number of times."""

    def __call__(self) -> BinaryIO: ...


class Report(Protocol):
    """Called with bytes done and bytes in all."""

    def __call__(self, done: int, total: int) -> None: ...


class CacheStore(Protocol):
    """Where records and their blobs are kept. Thread-safe.

    Keys are digests (`sha256:<64 hex digits>`). Every method raises an `ArkwrightError` when the
    store cannot be asked; `Cancelled` after `abort`. `tests/cache/test_cache_remote.py` has the suite
    that every implementation passes.
    """

    @property
    def name(self) -> str:
        """What events and layer records call it: the same in every session, without credentials."""
        ...

    def has_record(self, key: str) -> bool: ...

    def get_record(self, key: str) -> bytes | None:
        """The record's bytes, at most `RECORD_LIMIT` of them; None when there is none."""
        ...

    def put_record(self, key: str, data: bytes, blobs: Sequence[Descriptor]) -> None:
        """Publish a record, whose `blobs` are there already, in place of an earlier one."""
        ...

    def has_blob(self, digest: str) -> bool: ...

    def put_blob(self, blob: Descriptor, opener: Opener) -> None:
        """Make a blob present; nothing is sent when it is there."""
        ...

    def fetch_blob(self, blob: Descriptor, content: ContentStore, report: Report) -> None:
        """Make a blob present in `content`, verified; an interrupted transfer goes on."""
        ...

    def abort(self) -> None:
        """End every transfer and wait of any thread."""
        ...


class PortableLayer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One layer of a record. `parents` are indexes of layers before it, that it was made on.

    A layer of a base image has `base`, the digest of its blob; another one has `blob`, written
    under the compression profile `profile`.
    """

    diff_id: str
    parents: tuple[int, ...] = ()
    base: str = ""
    profile: str = ""
    blob: Descriptor | None = None


class PortableRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a key gives: per output the indexes of its layers, lowest first. `created_at` is in
    nanoseconds since the epoch."""

    version: int = 1
    key: str
    created_at: int = 0
    layers: tuple[PortableLayer, ...] = ()
    results: tuple[tuple[int, ...], ...] = ()


class PortableMount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The content of a cache mount: a tar as `cache.mounts.export_mount` writes it, compressed."""

    version: int = 1
    key: str
    blob: Descriptor


ready(PortableRecord, PortableMount)


def encode(record: PortableRecord | PortableMount) -> bytes:
    """The canonical bytes."""
    return msgspec.json.encode(record, order="deterministic")


def decode(data: bytes, key: str) -> PortableRecord:
    """Read a record of `key`. Raises `UserError` `invalid-cache-record`."""
    try:
        record = msgspec.json.decode(data, type=PortableRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(key, str(error)) from error
    _require(len(data) <= RECORD_LIMIT, key, "it is too large")
    _require(record.version == 1, key, f"its version is {record.version}")
    _require(record.key == key, key, "it is of another key")
    _require(0 <= record.created_at < _TIME_LIMIT, key, "its time is out of range")
    _require(0 < len(record.results) <= _LAYERS, key, "it has no results, or too many")
    _require(len(record.layers) <= _LAYERS, key, f"it has more than {_LAYERS} layers")
    for number, layer in enumerate(record.layers):
        _check_layer(layer, number, key)
    for result in record.results:
        _require(_within(result, len(record.layers)), key, "a result names layers that it does not have")
    return record


def decode_mount(data: bytes, key: str) -> PortableMount:
    """Read the record of a cache mount. Raises `UserError` `invalid-cache-record`."""
    try:
        mount = msgspec.json.decode(data, type=PortableMount)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(key, str(error)) from error
    _require(mount.version == 1 and mount.key == key, key, "it is of another key or version")
    _check_blob(mount.blob, key)
    return mount


def mount_key(cache_id: str) -> str:
    """The key under which a cache mount's content is published."""
    return KeyBuilder("cache mount").field("id", cache_id).digest()


def layer_ids(record: PortableRecord) -> list[str]:
    """The ids that the layers of a record get: equal layers have equal ids on every machine.

    A base layer has the id that `ops.trees.ImageLayers` gives it.
    """
    found: list[str] = []
    for layer in record.layers:
        if layer.base:
            chain = chain_id([*(record.layers[number].diff_id for number in layer.parents), layer.diff_id])
            found.append(hashlib.sha256(f"{chain} {layer.base}".encode()).hexdigest())
            continue
        assert layer.blob is not None
        parents = " ".join(found[number] for number in layer.parents)
        text = f"imported {layer.diff_id} {layer.profile} {layer.blob.digest} on {parents}"
        found.append(hashlib.sha256(text.encode()).hexdigest())
    return found


def _check_layer(layer: PortableLayer, number: int, key: str) -> None:
    _require(is_digest(layer.diff_id), key, "a diffID is malformed")
    _require(_within(layer.parents, number), key, "a layer stands on layers that do not come before it")
    if layer.base:
        _require(is_digest(layer.base) and layer.blob is None, key, "a base layer is malformed")
        return
    named = _PROFILE.fullmatch(layer.profile) is not None and layer.profile != "source"
    _require(named, key, "a compression profile is malformed")
    _require(layer.blob is not None, key, "a layer has no blob")
    assert layer.blob is not None
    _check_blob(layer.blob, key)
    _require(layer.blob.media_type in _LAYER_TYPES, key, "a blob is no layer")


def _check_blob(blob: Descriptor, key: str) -> None:
    _require(is_digest(blob.digest), key, "a blob's digest is malformed")
    _require(0 < blob.size < _BLOB_LIMIT, key, "a blob's size is out of range")
    _require(not (blob.urls or blob.annotations or blob.platform), key, "a blob is to be had elsewhere")


def _within(numbers: tuple[int, ...], limit: int) -> bool:
    return len(numbers) <= _LAYERS and all(0 <= number < limit for number in numbers)


def _require(holds: bool, key: str, why: str) -> None:
    if not holds:
        raise _invalid(key, why)


def _invalid(key: str, why: str) -> UserError:
    error = UserError.of("invalid-cache-record", f"the cache record {key} cannot be used: {why}")
    assert isinstance(error, UserError)
    return error
