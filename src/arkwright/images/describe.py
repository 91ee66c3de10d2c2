"""All there is to know of an image but its files: `arkwright inspect`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import msgspec

from arkwright.diagnostics.errors import ArkwrightError
from arkwright.images.graph import DOCUMENT_LIMIT, manifests, platform_of_manifest, read_document
from arkwright.images.local import platforms, size_of
from arkwright.images.opened import OpenedImage
from arkwright.images.steps import Step, diff_ids, match_steps, step_of_layer
from arkwright.oci.descriptor import MANIFESTS, REFERENCE_DIGEST, REFERENCE_TYPE, Descriptor
from arkwright.oci.layout import Layout
from arkwright.oci.manifest import Index, Manifest, parse
from arkwright.registry.access import Access
from arkwright.store.content import ContentStore
from arkwright.store.store import Store


class LayerDetails(msgspec.Struct, frozen=True, kw_only=True):
    """A layer: what it is, and the step that made it, empty when the history does not say."""

    digest: str
    diff_id: str
    media_type: str
    size: int
    created_by: str
    annotations: dict[str, str] = {}


class HistoryLine(msgspec.Struct, frozen=True, kw_only=True):
    """A step, with the digest and size in bytes of the layer that it made."""

    created: str
    created_by: str
    author: str
    comment: str
    empty_layer: bool
    layer: str | None
    size: int


class Referrer(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest that says of itself that it belongs to the image (signature, SBOM, provenance)."""

    digest: str
    media_type: str
    artifact_type: str
    size: int
    subject: str
    annotations: dict[str, str] = {}


class ImageDetails(msgspec.Struct, frozen=True, kw_only=True):
    """`config`, `manifest` and `index` are the documents as they are. `size` is the bytes of config
    and layers, compressed."""

    place: str
    names: tuple[str, ...]
    digest: str
    media_type: str
    manifest_digest: str
    config_digest: str
    artifact_type: str
    platform: str
    platforms: tuple[str, ...]
    size: int
    created: str
    annotations: dict[str, str]
    subject: str
    layers: tuple[LayerDetails, ...]
    history: tuple[HistoryLine, ...]
    referrers: tuple[Referrer, ...]
    config: dict[str, Any]
    manifest: dict[str, Any]
    index: dict[str, Any] | None = None


def describe_image(store: Store, image: OpenedImage, *, access: Access | None = None) -> ImageDetails:
    """Everything of one image. Raises as the documents' readers, and `RemoteError`."""
    content, manifest, config = store.content, image.manifest, image.config
    platform = platform_of_manifest(content, image.chosen, manifest)
    is_index = image.chosen.digest != image.root.digest
    created = config.get("created")
    return ImageDetails(
        place=image.place.text if image.place.transport == "store" else _spelled(image),
        names=tuple(name for name, one in store.names.list() if one.digest == image.root.digest),
        digest=image.root.digest,
        media_type=image.root.media_type,
        manifest_digest=image.chosen.digest,
        config_digest=manifest.config.digest,
        artifact_type=manifest.artifact_type,
        platform=str(platform or ""),
        platforms=_platforms(content, image),
        size=size_of(manifest),
        created=created if isinstance(created, str) else "",
        annotations=dict(manifest.annotations),
        subject=manifest.subject.digest if manifest.subject is not None else "",
        layers=tuple(_layers(manifest, config)),
        history=tuple(_line(step, manifest) for step in match_steps(config, len(manifest.layers))),
        referrers=tuple(_referrers(store, image, access)),
        config=config,
        manifest=_raw(content, image.chosen),
        index=_raw(content, image.root) if is_index else None,
    )


def _spelled(image: OpenedImage) -> str:
    place = image.place
    return f"docker://{place.reference}" if place.transport == "docker" else place.text


def _raw(content: ContentStore, descriptor: Descriptor) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.json.decode(content.read(descriptor.digest, limit=DOCUMENT_LIMIT))
    return document


def _platforms(content: ContentStore, image: OpenedImage) -> tuple[str, ...]:
    """Those that are there; of an image in a registry, all that its index names."""
    root = read_document(content, image.root)
    if image.place.transport != "docker" or isinstance(root, Manifest):
        return platforms(content, image.root)
    named = (child.platform for child in root.manifests if child.platform is not None)
    return tuple(str(platform) for platform in named if platform.os != "unknown")


def _layers(manifest: Manifest, config: dict[str, Any]) -> Iterator[LayerDetails]:
    ids = diff_ids(config)
    made = step_of_layer(config, len(manifest.layers))
    for number, layer in enumerate(manifest.layers):
        yield LayerDetails(
            digest=layer.digest,
            diff_id=ids[number] if number < len(ids) else "",
            media_type=layer.media_type,
            size=layer.size,
            created_by=made[number],
            annotations=layer.annotations,
        )


def _line(step: Step, manifest: Manifest) -> HistoryLine:
    layer = None if step.layer is None else manifest.layers[step.layer]
    return HistoryLine(
        created=step.created,
        created_by=step.created_by,
        author=step.author,
        comment=step.comment,
        empty_layer=step.empty_layer,
        layer=None if layer is None else layer.digest,
        size=0 if layer is None else layer.size,
    )


def _referrers(store: Store, image: OpenedImage, access: Access | None) -> Iterator[Referrer]:
    """Of the root and of the chosen manifest: attached by a `subject`, or as BuildKit does it."""
    subjects = {image.root.digest, image.chosen.digest}
    found: dict[str, Referrer] = {}
    for referrer in _attested(store.content, image, subjects):
        found.setdefault(referrer.digest, referrer)
    if image.place.transport == "docker":
        others = _in_registry(image, subjects, access)
    else:
        others = chain(_in_layout(image, subjects), _in_store(store, subjects))
    for referrer in others:
        found.setdefault(referrer.digest, referrer)
    yield from found.values()


def _attested(content: ContentStore, image: OpenedImage, subjects: set[str]) -> Iterator[Referrer]:
    root = read_document(content, image.root)
    for child in root.manifests if isinstance(root, Index) else ():
        subject = child.annotations.get(REFERENCE_DIGEST, "")
        if REFERENCE_TYPE in child.annotations and subject in subjects:
            yield _referrer(child, subject, child.artifact_type or child.annotations[REFERENCE_TYPE])


def _in_store(store: Store, subjects: set[str]) -> Iterator[Referrer]:
    """Manifests below names of the store. A damaged image must not hide the others."""
    for _, root in store.names.list():
        try:
            below = manifests(store.content, root)
        except ArkwrightError:
            continue
        for descriptor, manifest in below:
            if manifest.subject is not None and manifest.subject.digest in subjects:
                kind = manifest.artifact_type or manifest.config.media_type
                yield _referrer(descriptor, manifest.subject.digest, kind, manifest.annotations)


def _in_layout(image: OpenedImage, subjects: set[str]) -> Iterator[Referrer]:
    """Entries of the layout's own index."""
    if image.place.transport != "oci":
        return
    layout = Layout.open(image.place.path)
    for entry in layout.index().manifests:
        if entry.media_type not in MANIFESTS:
            continue
        try:
            manifest = parse(layout.read(entry.digest), entry.media_type)
        except ArkwrightError:
            continue
        subject = manifest.subject.digest if manifest.subject is not None else ""
        if isinstance(manifest, Manifest) and subject in subjects:
            kind = manifest.artifact_type or manifest.config.media_type
            yield _referrer(entry, subject, kind, manifest.annotations)


def _in_registry(image: OpenedImage, subjects: set[str], access: Access | None) -> Iterator[Referrer]:
    from arkwright.registry.client import open_registries
    from arkwright.registry.referrers import list_referrers

    reference = image.place.reference
    assert reference is not None and access is not None
    # The last place is the registry itself: mirrors know no referrers.
    registry = open_registries(access, reference)[-1]
    for subject in sorted(subjects):
        for descriptor in list_referrers(registry, subject):
            yield _referrer(descriptor, subject, descriptor.artifact_type)


def _referrer(
    descriptor: Descriptor, subject: str, artifact_type: str, annotations: dict[str, str] | None = None
) -> Referrer:
    return Referrer(
        digest=descriptor.digest,
        media_type=descriptor.media_type,
        artifact_type=artifact_type,
        size=descriptor.size,
        subject=subject,
        annotations=annotations or descriptor.annotations,
    )
