"""Records in an image's config (`--cache-to type=inline`): they travel with the image itself.

The config's key `dev.arkwright.cache.v1` holds the profile of the layers that were made, one
entry per layer of the image (how many layers below it was made on; whether it came with the
base), and for each key how many of the image's layers its result has.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import msgspec

from arkwright.cache.blobs import SOURCE_BLOB
from arkwright.cache.remote import PortableLayer, PortableRecord, encode
from arkwright.diagnostics.wire import ready
from arkwright.oci.config import ImageConfig
from arkwright.oci.config import parse as parse_config
from arkwright.oci.descriptor import Descriptor, plain
from arkwright.snapshot.base import Layer

_RECORDS = 4096


class InlineLayer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One layer: on how many of the layers below it was made; whether it came with the base."""

    parents: int = 0
    base: bool = False


class InlineCache(msgspec.Struct, frozen=True, kw_only=True):
    """Cache keys, and how many of the image's layers are the result."""

    profile: str = ""
    layers: tuple[InlineLayer, ...] = ()
    records: dict[str, int] = {}


ready(InlineCache)


def inline_cache(layers: Sequence[Layer], records: Mapping[str, int], profile: str) -> InlineCache | None:
    """What goes into the config of an image of these layers; None when a layer does not stand on
    the ones right below it, so that a number cannot say what it was made on."""
    ids = tuple(layer.id for layer in layers)
    if any(layer.parents != ids[: len(layer.parents)] for layer in layers):
        return None
    return InlineCache(
        profile=profile,
        layers=tuple(
            InlineLayer(parents=len(layer.parents), base=SOURCE_BLOB in layer.blobs) for layer in layers
        ),
        records=dict(sorted(records.items())),
    )


def with_inline_cache(config: ImageConfig, cache: InlineCache | None) -> ImageConfig:
    """The config with these records, or without any."""
    return msgspec.structs.replace(config, cache=None if cache is None else msgspec.to_builtins(cache))


def inline_records(config: bytes) -> dict[str, int]:
    """Keys and numbers of layers in a config; empty when it has none, or none that can be read."""
    found = _read(parse_config(config))
    return dict(found.records) if len(found.records) <= _RECORDS else {}


def inline_record(key: str, count: int, config: bytes, blobs: Sequence[Descriptor]) -> bytes | None:
    """A record of a config in the form that travels; None when it does not fit the image."""
    parsed = parse_config(config)
    found, diff_ids = _read(parsed), parsed.rootfs.diff_ids
    if not 0 <= count <= len(found.layers) == len(diff_ids) == len(blobs):
        return None
    layers = []
    for number in range(count):
        layer, blob = found.layers[number], blobs[number]
        if not 0 <= layer.parents <= number:
            return None
        stands_on = tuple(range(layer.parents))
        if layer.base:
            made = PortableLayer(diff_id=diff_ids[number], parents=stands_on, base=blob.digest)
        else:
            made = PortableLayer(
                diff_id=diff_ids[number], parents=stands_on, profile=found.profile, blob=plain(blob)
            )
        layers.append(made)
    return encode(
        PortableRecord(
            key=key, created_at=_seconds(parsed.created), layers=tuple(layers), results=(tuple(range(count)),)
        )
    )


def _read(config: ImageConfig) -> InlineCache:
    try:
        return msgspec.convert(config.cache or {}, InlineCache)
    except msgspec.MsgspecError:
        return InlineCache()


def _seconds(created: str) -> int:
    """An RFC 3339 time in nanoseconds; 0 for none."""
    import calendar

    try:
        return calendar.timegm(time.strptime(created[:19], "%Y-%m-%dT%H:%M:%S")) * 1_000_000_000
    except (ValueError, OverflowError):
        return 0
