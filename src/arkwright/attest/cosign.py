"""Signatures and attestations in the places where cosign looks (its SIGNATURE_SPEC and ATTESTATION_SPEC).

A signature is over a payload in Red Hat's simple signing format, which holds the image's digest. Payloads are
the layers of an image manifest, the signatures their annotations; the manifest is found in the image's
repository by a tag made from the digest (`sha256-….sig`, `sha256-….att`) or as a referrer.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence

import msgspec

from arkwright.attest.dsse import ENVELOPE_MEDIA_TYPE
from arkwright.attest.keys import PublicKey, SigningKey
from arkwright.diagnostics.errors import Denied, UserError
from arkwright.oci import config as image_config
from arkwright.oci import manifest as image_manifest
from arkwright.oci.config import ImageConfig, RootFS
from arkwright.oci.descriptor import CONFIG, MANIFEST, Descriptor
from arkwright.oci.manifest import Manifest

PAYLOAD_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE_ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"
PREDICATE = "predicateType"
_SIGNED_TYPE = "cosign container image signature"
_ATOMIC_TYPE = "atomic container signature"


class Identity(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """The name that the signer gave the image."""

    docker_reference: str = ""


class SignedImage(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """The image itself."""

    docker_manifest_digest: str


class Critical(msgspec.Struct, frozen=True, kw_only=True):
    """What every reader must understand."""

    identity: Identity
    image: SignedImage
    type: str


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """A simple signing payload (containers-signature(5)); `optional` is the signer's own."""

    critical: Critical
    optional: dict[str, object] | None = None


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest to be stored, with the blobs that it names by digest."""

    descriptor: Descriptor
    manifest: bytes
    blobs: dict[str, bytes]


def tag_of(digest: str, kind: str) -> str:
    """The tag at which `sig` or `att` of a digest are found."""
    return f"{digest.replace(':', '-')}.{kind}"


def payload(digest: str, name: str = "", annotations: Mapping[str, str] | None = None) -> bytes:
    """The bytes to be signed for an image that was given `name`, a reference without tag."""
    critical = Critical(
        identity=Identity(docker_reference=name),
        image=SignedImage(docker_manifest_digest=digest),
        type=_SIGNED_TYPE,
    )
    optional: dict[str, object] | None = dict(annotations) if annotations else None
    return msgspec.json.encode(Payload(critical=critical, optional=optional), order="deterministic")


def signature_layer(data: bytes, key: SigningKey) -> tuple[Descriptor, bytes]:
    """The layer that holds a signed payload."""
    signature = base64.b64encode(key.sign(data)).decode()
    return _layer(data, PAYLOAD_TYPE, {SIGNATURE: signature}), data


def attestation_layer(envelope: bytes, predicate_type: str) -> tuple[Descriptor, bytes]:
    """The layer that holds a signed statement."""
    return _layer(envelope, ENVELOPE_MEDIA_TYPE, {SIGNATURE: "", PREDICATE: predicate_type}), envelope


def artifact(
    layers: Sequence[tuple[Descriptor, bytes]],
    subject: Descriptor | None = None,
    artifact_type: str = "",
    older: Manifest | None = None,
) -> Artifact:
    """The manifest over layers, after those of an `older` one, whose blobs are there already."""
    kept = older.layers if older is not None else ()
    new = tuple(layer for layer, _ in layers if layer not in kept)
    every = (*kept, *new)
    config = image_config.encode(
        ImageConfig(architecture="", os="", rootfs=RootFS(diff_ids=tuple(one.digest for one in every)))
    )
    config_digest = _digest(config)
    data = image_manifest.encode(
        Manifest(
            schema_version=2,
            media_type=MANIFEST,
            artifact_type=artifact_type,
            config=Descriptor(media_type=CONFIG, digest=config_digest, size=len(config)),
            layers=every,
            subject=subject,
        )
    )
    blobs = {layer.digest: blob for layer, blob in layers} | {config_digest: config}
    descriptor = Descriptor(media_type=MANIFEST, digest=_digest(data), size=len(data))
    return Artifact(descriptor=descriptor, manifest=data, blobs=blobs)


def check_payload(layer: Descriptor, data: bytes, digest: str, keys: Sequence[PublicKey]) -> Payload:
    """The payload of a signature layer, which one of the keys signed for the image `digest`.

    Raises `UserError` `invalid-signature`; `Denied` `signature-mismatch`, `signature-of-another`.
    """
    if layer.digest != _digest(data):
        raise UserError.of(
            "invalid-signature", f"the payload {layer.digest} has other content than its digest says"
        )
    try:
        signature = base64.b64decode(layer.annotations.get(SIGNATURE, ""), validate=True)
        found = msgspec.json.decode(data, type=Payload)
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise UserError.of("invalid-signature", f"not a signature of an image: {error}") from error
    if not any(key.verifies(signature, data) for key in keys):
        raise _denied("signature-mismatch", "the signature is by none of the keys that were given")
    if found.critical.type not in (_SIGNED_TYPE, _ATOMIC_TYPE):
        raise _denied("signature-mismatch", f"what was signed is no image but {found.critical.type!r}")
    signed = found.critical.image.docker_manifest_digest
    if signed != digest:
        raise _denied("signature-of-another", f"the signature is of the image {signed}, not of {digest}")
    return found


def _layer(data: bytes, media_type: str, annotations: dict[str, str]) -> Descriptor:
    return Descriptor(media_type=media_type, digest=_digest(data), size=len(data), annotations=annotations)


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _denied(code: str, why: str) -> Denied:
    error = Denied.of(code, why, details={"rule": "signature", "evidence": why})
    assert isinstance(error, Denied)
    return error
