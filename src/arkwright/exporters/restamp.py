"""A layer with other times: written anew from its blob, once for each time and compression."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from arkwright.layer.codec import decompress
from arkwright.layer.entry import Change
from arkwright.layer.export import export_layer
from arkwright.layer.profile import Profile
from arkwright.layer.stamps import Stamps
from arkwright.layer.tar_read import read_tar
from arkwright.oci.descriptor import Descriptor, layer_codec
from arkwright.store.store import Store

BUCKET = "restamped"


class _Restamped(msgspec.Struct, frozen=True):
    diff_id: str
    blob: Descriptor


def restamped(
    store: Store, diff_id: str, blob: Descriptor, profile: Profile, stamps: Stamps
) -> tuple[str, Descriptor]:
    """DiffID and blob of a layer of ours whose entries have the times of `stamps`.

    Raises what reading the blob and `export_layer` raise.
    """
    name = f"{diff_id} {profile.name} {stamps.rule} {stamps.epoch}"
    known = store.metadata.get(BUCKET, name)
    if known is not None:
        found = msgspec.json.decode(known, type=_Restamped)
        if store.content.has(found.blob.digest):
            return found.diff_id, found.blob
    with (
        store.content.open(blob.digest) as packed,
        decompress(packed, layer_codec(blob.media_type)) as tar,
    ):
        made = export_layer(_changes(tar), store.content, profile, stamp=stamps.of)
    store.metadata.put(BUCKET, name, msgspec.json.encode(_Restamped(*made)))
    return made


def _changes(tar: BinaryIO) -> Iterator[Change]:
    for entry, stream in read_tar(tar):
        yield Change(entry, stream.__enter__ if stream is not None and entry.type == "file" else None)
