"""The media types of one thing in OCI's format and in Docker's (media-types.md; Docker image manifest
version 2, schema 2)."""

from __future__ import annotations

from typing import Literal

from arkwright.oci import descriptor as media

Format = Literal["oci", "docker"]
Codec = Literal["none", "gzip", "zstd"]

MANIFEST: dict[Format, str] = {"oci": media.MANIFEST, "docker": media.DOCKER_MANIFEST}
INDEX: dict[Format, str] = {"oci": media.INDEX, "docker": media.DOCKER_INDEX}
CONFIG: dict[Format, str] = {"oci": media.CONFIG, "docker": media.DOCKER_CONFIG}

_OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"
_DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"
LAYER: dict[tuple[Format, bool, Codec], str] = {
    ("oci", False, "none"): media.LAYER_TAR,
    ("oci", False, "gzip"): media.LAYER_GZIP,
    ("oci", False, "zstd"): media.LAYER_ZSTD,
    ("docker", False, "none"): media.DOCKER_LAYER_TAR,
    ("docker", False, "gzip"): media.DOCKER_LAYER_GZIP,
    ("oci", True, "none"): _OCI_FOREIGN,
    ("oci", True, "gzip"): f"{_OCI_FOREIGN}+gzip",
    ("oci", True, "zstd"): f"{_OCI_FOREIGN}+zstd",
    ("docker", True, "none"): _DOCKER_FOREIGN,
    ("docker", True, "gzip"): f"{_DOCKER_FOREIGN}.gzip",
}
"""By format, whether the layer is foreign (not to be distributed), and compression."""

LAYER_KINDS: dict[str, tuple[bool, Codec]] = {
    **{name: kind[1:] for kind, name in LAYER.items()},
    # Written by some builders, though Docker's schema 2 does not have it.
    media.DOCKER_LAYER_ZSTD: (False, "zstd"),
}
"""Of each media type of layers that are tars of files: whether it is foreign, and its compression."""

_OCI = {
    **{table["docker"]: table["oci"] for table in (MANIFEST, INDEX, CONFIG)},
    **{name: LAYER["oci", *kind] for name, kind in LAYER_KINDS.items()},
}


def as_oci(media_type: str) -> str:
    """OCI's media type for the same; one that neither format has stays."""
    return _OCI.get(media_type, media_type)


def oci_layer(codec: str) -> str:
    """OCI's media type for a layer in this compression, "" where it has none."""
    return next((name for kind, name in LAYER.items() if kind == ("oci", False, codec)), "")


def docker_layer(media_type: str) -> str:
    """Docker's media type for a layer; one that Docker's format does not have stays."""
    kind = LAYER_KINDS.get(media_type)
    return media_type if kind is None else LAYER.get(("docker", *kind), media_type)
