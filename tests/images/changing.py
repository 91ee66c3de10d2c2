"""Images of given layers for the tests of what changes them."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from layer_model import Member, tar_bytes

from arkwright.oci.descriptor import (
    CONFIG,
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    LAYER_GZIP,
    MANIFEST,
    Descriptor,
)
from arkwright.oci.digest import sha256
from arkwright.store.store import Store

CREATED = "2000-01-01T00:00:00Z"
LATER = "2020-02-02T02:02:02Z"


def put_layers(
    store: Store,
    layers: Sequence[Sequence[Member]],
    *,
    inner: Mapping[str, Any] | None = None,
    top: Mapping[str, Any] | None = None,
    manifest: Mapping[str, Any] | None = None,
    docker: bool = False,
) -> Descriptor:
    """An image of these layers; `inner` is the config's `config`, `top` and `manifest` more fields."""
    tars = [tar_bytes(members) for members in layers]
    config = {
        "created": LATER, "architecture": "amd64", "os": "linux", "config": dict(inner or {}),
        "rootfs": {"type": "layers", "diff_ids": [sha256(tar) for tar in tars]},
        "history": [{"created": LATER, "created_by": f"step {i}"} for i in range(len(tars))],
        **(top or {}),
    }  # fmt: skip
    blobs = [gzip.compress(tar, mtime=0) for tar in tars]
    types = (DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER_GZIP) if docker else (MANIFEST, CONFIG, LAYER_GZIP)
    document = {
        "schemaVersion": 2, "mediaType": types[0], "config": _kept(store, msgspec.json.encode(config), types[1]),
        "layers": [_kept(store, blob, types[2]) for blob in blobs], **(manifest or {}),
    }  # fmt: skip
    data = msgspec.json.format(msgspec.json.encode(document), indent=3)
    return Descriptor(media_type=types[0], digest=store.content.write(data), size=len(data))


def _kept(store: Store, data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": store.content.write(data), "size": len(data)}
