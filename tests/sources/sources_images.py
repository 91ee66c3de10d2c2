"""Small images, made by hand."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from typing import Any

from arkwright.oci import descriptor as media
from arkwright.oci.config import ImageConfig, RootFS
from arkwright.oci.config import encode as encode_config
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.manifest import Index, Manifest, encode
from arkwright.oci.platform import Platform

Put = Callable[[bytes], str]


def layer(name: str, data: bytes) -> tuple[bytes, str]:
    """A gzip layer with one file, and its diffID."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    plain = packed.getvalue()
    return gzip.compress(plain, mtime=0), "sha256:" + hashlib.sha256(plain).hexdigest()


def image(put: Put, text: str, platform: Platform, *, diff_ids: Sequence[str] | None = None) -> Descriptor:
    """An image with one layer; its descriptor names the platform."""
    blob, diff_id = layer("file", text.encode())
    config = encode_config(
        ImageConfig(
            architecture=platform.architecture,
            os=platform.os,
            variant=platform.variant,
            rootfs=RootFS(diff_ids=tuple(diff_ids if diff_ids is not None else [diff_id])),
        )
    )
    manifest = encode(
        Manifest(
            schema_version=2,
            media_type=media.MANIFEST,
            config=describe(put, media.CONFIG, config),
            layers=(describe(put, media.LAYER_GZIP, blob),),
        )
    )
    return describe(put, media.MANIFEST, manifest, platform=platform)


def index(put: Put, manifests: Sequence[Descriptor]) -> Descriptor:
    document = Index(schema_version=2, media_type=media.INDEX, manifests=tuple(manifests))
    return describe(put, media.INDEX, encode(document))


def attestation(put: Put, subject: Descriptor) -> Descriptor:
    """As BuildKit adds them to indexes."""
    statement = describe(put, "application/vnd.in-toto+json", json.dumps({"_type": "x"}).encode())
    config = describe(put, media.CONFIG, b'{"architecture":"unknown","os":"unknown"}')
    manifest = Manifest(schema_version=2, media_type=media.MANIFEST, config=config, layers=(statement,))
    return describe(
        put, media.MANIFEST, encode(manifest), platform=Platform("unknown", "unknown"),
        annotations={
            "vnd.docker.reference.digest": subject.digest,
            "vnd.docker.reference.type": "attestation-manifest",
        },
    )  # fmt: skip


def describe(put: Put, media_type: str, data: bytes, **more: Any) -> Descriptor:
    return Descriptor(media_type=media_type, digest=put(data), size=len(data), **more)
