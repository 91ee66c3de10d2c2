"""What is attached to an image: signatures and attestations beside it, by cosign's tags.

The image's own digest never changes. They are found at a tag made from the digest, in the repository of the
image: in a registry, in an archive, or among the names of the local store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext

import msgspec

from arkwright.attest import cosign
from arkwright.attest.dsse import ENVELOPE_MEDIA_TYPE
from arkwright.attest.keys import PublicKey
from arkwright.diagnostics.errors import ArkwrightError, Denied, UserError
from arkwright.images.deliver import Delivered, deliver
from arkwright.images.fetch import fetch
from arkwright.images.graph import read_document
from arkwright.images.places import Place
from arkwright.images.references import resolve
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.manifest import Manifest
from arkwright.oci.reference import Reference, parse_reference
from arkwright.registry.access import Access
from arkwright.registry.client import open_registries
from arkwright.registry.pull import fetch_manifest
from arkwright.store.store import Store

BLOB_LIMIT = 64 << 20
_ABSENT = frozenset({"registry-not-found", "unknown-image"})


def repository(place: Place) -> Reference:
    """The name of a place without tag and digest. Raises `UserError` `no-repository`."""
    if place.transport not in ("docker", "store"):
        raise _no_repository(place.text)
    reference = place.reference or parse_reference(place.text)
    return Reference(domain=reference.domain, path=reference.path)


def _no_repository(text: str) -> ArkwrightError:
    return UserError.of(
        "no-repository",
        f"{text} has no repository, where signatures are kept",
        hint="say it by name, in a registry or in the local store",
    )


def beside(place: Place, digest: str, kind: str) -> Place:
    """Where the signatures (`sig`) or attestations (`att`) of an image are. Raises as `repository`."""
    home = repository(place)
    there = Reference(domain=home.domain, path=home.path, tag=cosign.tag_of(digest, kind))
    return Place(
        transport=place.transport,
        text=str(there),
        reference=there if place.transport == "docker" else None,
    )


def locate(store: Store, place: Place, access: Access | None = None) -> tuple[Place, Descriptor]:
    """The manifest or index at a place, and the place with a name for one that was found by its
    digest; of an image in a registry no blob is fetched.

    Raises as `repository`, `images.references.resolve`, `registry.pull.fetch_manifest`.
    """
    if place.transport == "store":
        found = resolve(store, place.text)
        if not found.name and "@" not in place.text:
            raise _no_repository(place.text)
        named = msgspec.structs.replace(place, text=found.name) if found.name else place
        return named, found.descriptor
    if place.reference is None:
        raise _no_repository(place.text)
    with nullcontext(access) if access else Access() as shared:
        registries = open_registries(shared, place.reference)
        wanted = place.reference.digest or place.reference.tag
        return place, fetch_manifest(registries, wanted, store.content)[0]


def attach(
    store: Store,
    place: Place,
    digest: str,
    kind: str,
    layers: Sequence[tuple[Descriptor, bytes]],
    access: Access | None = None,
) -> Delivered:
    """Store signatures or attestations after those that are there.

    Raises `UserError` `no-repository`, and as `images.deliver.deliver`.
    """
    target = beside(place, digest, kind)
    made = cosign.artifact(layers, older=_older(store, target, access))
    for blob in (*made.blobs.values(), made.manifest):
        store.content.write(blob)
    return deliver(store, made.descriptor, target, access=access)


def attached(
    store: Store, place: Place, digest: str, kind: str, access: Access | None = None
) -> Iterator[tuple[Descriptor, bytes]]:
    """Layers with their bytes, of which nothing is verified but the digests. Raises as `attach`."""
    manifest = _older(store, beside(place, digest, kind), access)
    for layer in manifest.layers if manifest is not None else ():
        yield layer, store.content.read(layer.digest, limit=BLOB_LIMIT)


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What a good signature says: the payload as it was signed, and by which key."""

    payload: bytes
    key_id: str


def _older(store: Store, target: Place, access: Access | None) -> Manifest | None:
    try:
        found = fetch(store, target, access=access)
    except ArkwrightError as error:
        if error.code in _ABSENT:
            return None
        raise
    document = read_document(store.content, found.descriptor)
    if not isinstance(document, Manifest):
        raise UserError.of("invalid-signature", f"{target.text} is an index, which holds no signatures")
    return document


def check_signatures(
    found: Iterator[tuple[Descriptor, bytes]],
    digest: str,
    keys: Sequence[PublicKey],
    annotations: Mapping[str, str] | None = None,
) -> list[Verified]:
    """The good signatures of an image, over the annotations too; others beside them do no harm.

    Raises `Denied` `unsigned-image` when there is none at all, or the reason why the last was refused.
    """
    good: list[Verified] = []
    refused: ArkwrightError | None = None
    for layer, data in found:
        if layer.media_type != cosign.PAYLOAD_TYPE:
            continue
        for key in keys:
            try:
                payload = cosign.check_payload(layer, data, digest, [key])
                _check_annotations(payload.optional or {}, annotations or {})
            except ArkwrightError as error:
                refused = error
            else:
                good.append(Verified(payload=data, key_id=key.key_id))
    if not good:
        raise refused or unsigned(digest, "signature")
    return good


def _check_annotations(signed: Mapping[str, object], wanted: Mapping[str, str]) -> None:
    for name, value in wanted.items():
        if signed.get(name) != value:
            raise Denied.of(
                "signature-mismatch", f"the signature says {name}={signed.get(name)!r}, not {value!r}",
                details={"rule": "annotation", "evidence": name},
            )  # fmt: skip


def check_attestations(
    found: Iterator[tuple[Descriptor, bytes]],
    digest: str,
    keys: Sequence[PublicKey],
    predicate: str = "",
) -> list[bytes]:
    """The statements about an image that the keys have signed, of one type of predicate or of all.

    Raises as `check_signatures`, and `UserError` `invalid-statement`.
    """
    from arkwright.attest import dsse, statement

    good: list[bytes] = []
    refused: ArkwrightError | None = None
    for layer, data in found:
        if layer.media_type != ENVELOPE_MEDIA_TYPE:
            continue
        try:
            payload = dsse.verify(data, keys)
        except ArkwrightError as error:
            refused = error
            continue
        claim = statement.parse(payload)
        if not statement.speaks_of(claim, digest):
            refused = Denied.of(
                "signature-of-another", f"an attestation is of another image than {digest}",
                details={"rule": "signature", "evidence": claim.predicate_type},
            )  # fmt: skip
        elif not predicate or claim.predicate_type == predicate:
            good.append(payload)
    if not good:
        raise refused or unsigned(
            digest, f"attestation of the type {predicate}" if predicate else "attestation"
        )
    return good


def unsigned(digest: str, what: str) -> ArkwrightError:
    """`Denied` `unsigned-image`."""
    return Denied.of(
        "unsigned-image", f"there is no {what} of {digest}",
        details={"rule": "signature", "evidence": "none"},
        hint="`arkwright sign` makes one; one travels with `copy --referrers` only",
    )  # fmt: skip
