"""Image manifests and indexes (OCI image specification, manifest.md and image-index.md).

A document that came from outside keeps its original bytes; these structs are views for reading,
and `encode` makes the one canonical form that Arkwright itself writes.
"""

from __future__ import annotations

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.diagnostics.wire import ready
from arkwright.oci import descriptor as media
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.digest import is_digest


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """One image for one platform: a config and its layers, lowest first."""

    schema_version: int
    media_type: str = ""
    artifact_type: str = ""
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


class Index(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A list of manifests, usually one per platform."""

    schema_version: int
    media_type: str = ""
    artifact_type: str = ""
    manifests: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


def encode(document: Manifest | Index) -> bytes:
    """The canonical bytes of a document: JSON in field order, sorted maps, no spaces, no newline."""
    return msgspec.json.encode(document, order="deterministic")


def parse(data: bytes, media_type: str = "") -> Manifest | Index:
    """Read a manifest or an index, OCI or Docker schema 2.

    `media_type` is what the transport said; it must not contradict the document. Every descriptor
    of the result has a well-formed digest and a size of at least 0.
    Raises `UserError` `invalid-manifest`, `schema-1-manifest`.
    """
    try:
        probe = msgspec.json.decode(data, type=_Probe)
        stated = probe.media_type or media_type
        if probe.schema_version == 1 and probe.fs_layers:
            raise UserError.of(
                "schema-1-manifest",
                "the image is of Docker's schema 1, which names its layers by nothing that can be verified",
                hint="whoever has it can convert it: `skopeo copy --format v2s2`, or `docker pull` and `docker push`",
            )
        if probe.schema_version != 2:
            raise _invalid(f"schema version {probe.schema_version}; only version 2 is supported")
        if probe.media_type and media_type and probe.media_type != media_type:
            raise _invalid(f"the document says {probe.media_type}, its sender {media_type}")
        if probe.manifests and probe.config:
            raise _invalid("it has both `manifests` and `config`")
        is_index = stated in media.INDEXES or (stated not in media.MANIFESTS and bool(probe.manifests))
        document: Manifest | Index = (
            msgspec.json.decode(data, type=Index) if is_index else msgspec.json.decode(data, type=Manifest)
        )
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(str(error)) from error
    _check(document)
    return document


def _check(document: Manifest | Index) -> None:
    """A descriptor's digest becomes part of a path and of a URL, so a malformed one stops here."""
    parts = document.manifests if isinstance(document, Index) else (document.config, *document.layers)
    for part in (*parts, *((document.subject,) if document.subject else ())):
        if not is_digest(part.digest):
            raise _invalid(f"{part.digest!r} is not a digest")
        if part.size < 0:
            raise _invalid(f"{part.digest} has a negative size")


def _invalid(why: str) -> UserError:
    error = UserError.of("invalid-manifest", f"not an image manifest: {why}")
    assert isinstance(error, UserError)
    return error


class _Probe(msgspec.Struct, rename="camel"):
    schema_version: int = 0
    media_type: str = ""
    manifests: msgspec.Raw = msgspec.Raw()
    config: msgspec.Raw = msgspec.Raw()
    fs_layers: msgspec.Raw = msgspec.Raw()


ready(Manifest, Index, _Probe)
