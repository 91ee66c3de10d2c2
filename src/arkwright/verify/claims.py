"""Who says what of how an image was made: this store's history, or statements attached to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from arkwright.attest import attach, dsse, kept, provenance, statement
from arkwright.attest.keys import PublicKey
from arkwright.attest.provenance import PREDICATE, BuildFacts
from arkwright.build.attesting import ARTIFACT_TYPE
from arkwright.cache.explain import find_build
from arkwright.cache.history import build_ids, summarise
from arkwright.diagnostics.errors import ArkwrightError, UserError
from arkwright.images.fetch import fetch
from arkwright.images.graph import read_document
from arkwright.images.places import Place, parse_place
from arkwright.images.references import describe, resolve
from arkwright.oci import manifest as image_manifest
from arkwright.oci.descriptor import REFERENCE_DIGEST, REFERENCE_TYPE, Descriptor
from arkwright.oci.manifest import Index, Manifest
from arkwright.registry.access import Access
from arkwright.store.store import Store

_LIMIT = 64 << 20


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """An image to verify. `place` is None for one that is known by its build alone, whose `digest` may be of nothing
    that is still here."""

    text: str
    digest: str
    place: Place | None = None
    build: str = ""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A statement of provenance. `trusted`: this store made it; `signed`: by a key that was given. `contexts` are the
    directories that the build was given, as far as its journal tells."""

    data: bytes
    trusted: bool = False
    signed: bool = False
    contexts: dict[str, str] = {}


def find_subject(store: Store, text: str, access: Access) -> Subject:
    """An image by its name or digest, or a build of the history by its id (default: the last).

    Raises `UserError` `no-provenance`, `unknown-build`, and as `attest.attach.locate`.
    """
    if not text or any(build.startswith(text) for build in build_ids(store.root_path)):
        build = find_build(store.root_path, text)
        facts = kept.read(store.root_path, build)
        if facts is None or not facts.images:
            raise none(f"build {build}", "it failed, made no image, or was told --provenance=false")
        return Subject(text=text or build, digest=facts.digests()[0], build=build)
    place = parse_place(text)
    if place.transport == "store":
        return Subject(text=text, digest=resolve(store, place.text).digest, place=place)
    return Subject(text=text, digest=attach.locate(store, place, access)[1].digest, place=place)


def find_claim(store: Store, subject: Subject, keys: Sequence[PublicKey], access: Access) -> Claim:
    """The provenance of an image: with keys one that they signed, else of the history, else what is attached.

    Raises `UserError` `no-provenance`; `Denied` `unsigned-image`, `signature-mismatch`, `statement-altered`.
    """
    if keys:
        if subject.place is None:
            raise none(subject.text, "a build of the history has no signature; name its image")
        found = attach.attached(store, subject.place, subject.digest, "att", access)
        said = attach.check_attestations(found, subject.digest, keys, PREDICATE)
        return Claim(data=_fullest(said), signed=True)
    facts = kept.read(store.root_path, subject.build) if subject.build else None
    for one in [facts] if facts is not None else kept.of_image(store.root_path, subject.digest):
        return of_facts(store, one)
    attached = [data for data in _attached(store, subject, access) if _speaks(data, subject.digest)]
    if attached:
        return Claim(data=_fullest(attached))
    raise none(
        f"{subject.text} ({subject.digest})", "this store did not build it, and nothing is attached to it"
    )


def whole_image(store: Store, subject: Subject, access: Access) -> Descriptor | None:
    """The image with all of its blobs in the store; None for one that is known by its build only. Raises as
    `images.fetch.fetch`."""
    if subject.place is not None:
        return fetch(store, subject.place, access=access).descriptor
    return describe(store.content, subject.digest) if store.content.has(subject.digest) else None


def of_facts(store: Store, facts: BuildFacts) -> Claim:
    """What this store's history says, in full."""
    asked = summarise(store.root_path, facts.build)
    claim = provenance.statement(facts, facts.digests(), "max")
    return Claim(
        data=statement.encode(claim),
        trusted=True,
        contexts={"context": asked.context, **asked.named_contexts},
    )


def _attached(store: Store, subject: Subject, access: Access) -> Iterator[bytes]:
    """Statements that go with the image, signed or not, of which nothing is verified."""
    if subject.place is None:
        return
    yield from _inline(store, subject, access)
    if subject.place.transport == "docker" and subject.place.reference is not None:
        yield from _referring(store, subject.place, subject.digest, access)
    try:
        for layer, data in attach.attached(store, subject.place, subject.digest, "att", access):
            if layer.media_type == dsse.ENVELOPE_MEDIA_TYPE:
                yield dsse.parse(data)[1]
    except UserError as error:
        if error.code != "no-repository":
            raise


def _inline(store: Store, subject: Subject, access: Access) -> Iterator[bytes]:
    """Those in an index, as BuildKit puts them there."""
    assert subject.place is not None
    if not store.content.has(subject.digest):
        return
    document = image_manifest.parse(store.content.read(subject.digest, limit=_LIMIT))
    if not isinstance(document, Index):
        return
    for entry in document.manifests:
        if (
            entry.annotations.get(REFERENCE_TYPE) == "attestation-manifest"
            and REFERENCE_DIGEST in entry.annotations
        ):
            yield from _statements(store, subject.place, entry, access)


def _referring(store: Store, place: Place, digest: str, access: Access) -> Iterator[bytes]:
    from arkwright.registry.client import open_registries
    from arkwright.registry.referrers import list_referrers

    assert place.reference is not None
    for registry in open_registries(access, place.reference)[:1]:
        for artifact in list_referrers(registry, digest, ARTIFACT_TYPE):
            yield from _statements(store, place, artifact, access)


def _statements(store: Store, place: Place, artifact: Descriptor, access: Access) -> Iterator[bytes]:
    """The in-toto statements of a manifest, fetched if they are in a registry."""
    if place.reference is not None and place.transport == "docker":
        from arkwright.registry.client import open_registries
        from arkwright.registry.pull import fetch_blob, fetch_manifest

        registries = open_registries(access, place.reference)
        fetch_manifest(registries, artifact.digest, store.content)
        document = read_document(store.content, artifact)
        for layer in document.layers if isinstance(document, Manifest) else ():
            if layer.media_type == statement.STATEMENT_MEDIA_TYPE and layer.size <= _LIMIT:
                fetch_blob(registries, layer, store.content)
    if not store.content.has(artifact.digest):
        return
    document = read_document(store.content, artifact)
    for layer in document.layers if isinstance(document, Manifest) else ():
        if layer.media_type == statement.STATEMENT_MEDIA_TYPE and store.content.has(layer.digest):
            yield store.content.read(layer.digest, limit=_LIMIT)


def _speaks(data: bytes, digest: str) -> bool:
    """Whether a statement is provenance; of this image, or of one that stands in its index."""
    try:
        return statement.parse(data).predicate_type == PREDICATE
    except ArkwrightError:
        return False


def _fullest(found: Sequence[bytes]) -> bytes:
    """Of several, the one that tells most: `max` rather than `min`, the later rather than the earlier."""
    return max(enumerate(found), key=lambda pair: (b'"recipe"' in pair[1], pair[0]))[1]


def none(what: str, why: str) -> ArkwrightError:
    """`UserError` `no-provenance`."""
    return UserError.of(
        "no-provenance", f"nothing is known of how {what} was made: {why}",
        hint="build it with --provenance=mode=max, or verify a record of it: --record FILE",
    )  # fmt: skip
