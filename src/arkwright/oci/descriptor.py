"""Descriptors and media types (OCI image specification, descriptor.md and media-types.md)."""

from __future__ import annotations

import msgspec

from arkwright.diagnostics.wire import ready
from arkwright.oci.platform import Platform

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = LAYER_TAR + "+gzip"
LAYER_ZSTD = LAYER_TAR + "+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_TAR = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd"

MANIFESTS = frozenset({MANIFEST, DOCKER_MANIFEST})
INDEXES = frozenset({INDEX, DOCKER_INDEX})

REF_NAME = "org.opencontainers.image.ref.name"
# BuildKit's annotations of an attestation that stands in one index with its image: what it is, and of which.
REFERENCE_TYPE = "vnd.docker.reference.type"
REFERENCE_DIGEST = "vnd.docker.reference.digest"
OF_CONTENT = ("data", "urls")
"""The fields of a descriptor that hold for its present blob only."""


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """What a blob is: media type, digest, size in bytes."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = {}
    platform: Platform | None = None
    artifact_type: str = ""
    urls: tuple[str, ...] = ()


ready(Descriptor)


def plain(descriptor: Descriptor) -> Descriptor:
    """The descriptor without what an index or a layout says of the blob beside it."""
    return Descriptor(media_type=descriptor.media_type, digest=descriptor.digest, size=descriptor.size)


def layer_codec(media_type: str) -> str:
    """The codec of a layer's media type: `gzip`, `zstd` or `none`."""
    if media_type.endswith(("+gzip", ".gzip")):
        return "gzip"
    return "zstd" if media_type.endswith(("+zstd", ".zstd")) else "none"
