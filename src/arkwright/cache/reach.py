"""What images consist of, as far as the store has it: the roots of clean-up and check."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from arkwright.diagnostics.errors import ArkwrightError
from arkwright.oci import manifest as image_manifest
from arkwright.oci.descriptor import INDEXES, MANIFESTS, Descriptor
from arkwright.oci.manifest import Manifest
from arkwright.store.content import ContentStore
from arkwright.store.repositories import Repositories
from arkwright.store.store import Store

_DOCUMENT_LIMIT = 8 << 20


class Reached(msgspec.Struct):
    """Digests below some roots. `present` are blobs of the store and `missing` those that it lacks;
    children of an index that were never fetched are in neither. `documents` are the manifests,
    indexes and configs among the present ones, `layers` the layer digests of manifests that are
    there, present or not."""

    present: set[str] = msgspec.field(default_factory=set)
    missing: set[str] = msgspec.field(default_factory=set)
    documents: set[str] = msgspec.field(default_factory=set)
    layers: set[str] = msgspec.field(default_factory=set)


def reach(content: ContentStore, roots: Iterable[Descriptor]) -> Reached:
    """Everything below manifests and indexes. A document that cannot be read counts as missing."""
    found = Reached()
    pending = list(roots)
    while pending:
        descriptor = pending.pop()
        if descriptor.digest in found.documents or not _note(content, descriptor, found):
            continue
        found.documents.add(descriptor.digest)
        try:
            data = content.read(descriptor.digest, limit=_DOCUMENT_LIMIT)
            document = image_manifest.parse(data, descriptor.media_type)
        except ArkwrightError:
            found.missing.add(descriptor.digest)
            continue
        if isinstance(document, Manifest):
            _parts(content, document, found)
            continue
        for child in document.manifests:
            if not content.has(child.digest):
                continue
            if child.media_type in MANIFESTS | INDEXES:
                pending.append(child)
            else:
                _note(content, child, found)
    return found


def with_referrers(store: Store, found: Reached, roots: list[Descriptor]) -> Reached:
    """With the manifests that refer to something found (signatures, attestations), and to those: they live
    as long as their subject."""
    waiting = Repositories(store.metadata).all_referrers()
    while True:
        attached = [one.descriptor for one in waiting if one.subject_digest in found.documents]
        if not attached:
            return found
        waiting = [one for one in waiting if one.subject_digest not in found.documents]
        roots = [*roots, *attached]
        found = reach(store.content, roots)


def _parts(content: ContentStore, manifest: Manifest, found: Reached) -> None:
    if _note(content, manifest.config, found):
        found.documents.add(manifest.config.digest)
    for layer in manifest.layers:
        found.layers.add(layer.digest)
        _note(content, layer, found)


def _note(content: ContentStore, blob: Descriptor, found: Reached) -> bool:
    present = content.has(blob.digest)
    (found.present if present else found.missing).add(blob.digest)
    return present
