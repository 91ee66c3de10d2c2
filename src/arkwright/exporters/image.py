"""Image assembly: layers and configs of one build become blobs, manifests and maybe an index.

In the supervising process this needs no file tree: a layer that has its blob is only named. A
layer without one is exported through the snapshotter, inside the worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from arkwright.cache.blobs import SOURCE_BLOB, LayerBlobs, present_blob
from arkwright.diagnostics.errors import UserError
from arkwright.exporters.annotations import Annotations, split_annotations
from arkwright.exporters.base import AssembledImage, BuiltImage
from arkwright.layer.profile import Profile
from arkwright.oci import config as image_config
from arkwright.oci import descriptor as media
from arkwright.oci import manifest as image_manifest
from arkwright.oci.config import History, ImageConfig, RootFS
from arkwright.oci.config import rfc3339 as rfc3339  # noqa: PLC0414
from arkwright.oci.descriptor import Descriptor
from arkwright.snapshot.base import Layer, Snapshotter
from arkwright.snapshot.layers import LayerRecords
from arkwright.store.content import ContentStore

_OCI_NAMES = {
    media.DOCKER_LAYER_TAR: media.LAYER_TAR,
    media.DOCKER_LAYER_GZIP: media.LAYER_GZIP,
    media.DOCKER_LAYER_ZSTD: media.LAYER_ZSTD,
}

Fetch = Callable[[str], None]
Restamp = Callable[[str, Descriptor, Profile], tuple[str, Descriptor]]


def missing_layers(
    built: tuple[BuiltImage, ...], layers: LayerRecords, content: ContentStore, profile: Profile
) -> list[str]:
    """Ids of the layers that `assemble` would have to write or fetch; none: no worker is needed."""
    wanted = dict.fromkeys(layer_id for image in built for layer_id in image.layers)
    return [
        layer_id for layer_id in wanted if present_blob(_record(layers, layer_id), content, profile) is None
    ]


def assemble(
    built: tuple[BuiltImage, ...],
    *,
    layers: LayerRecords,
    content: ContentStore,
    snapshotter: Snapshotter | None,
    profile: Profile,
    epoch: int,
    annotations: Mapping[str, str] | None = None,
    force_index: bool = False,
    fetch: Fetch | None = None,
    blobs: LayerBlobs | None = None,
    restamp: Restamp | None = None,
) -> AssembledImage:
    """Make every blob of the image present in `content`, and return what leads to them.

    Base layers keep their bytes; only their media types get OCI names. `epoch` (seconds) becomes
    the config's `created` and that of history entries without one. `annotations` are as `--annotation`
    takes them (see `split_annotations`). `snapshotter` may be None when `missing_layers` is empty;
    `fetch(layer_id)` brings a base layer's blob that is not here yet. `blobs` stands in their place
    when others make blobs of the same layers at the same time. `restamp(diff_id, blob, profile)` gives
    a layer of ours the times that it leaves with.

    Raises `UserError` `missing-blob`, `invalid-annotation`, `index-annotation`.
    """
    wanted = split_annotations(annotations or {})
    as_index = force_index or len(built) > 1
    if (wanted.index or wanted.index_descriptor) and not as_index:
        raise UserError.of(
            "index-annotation",
            "an annotation is for the image's index, but an image of one platform has none",
            hint="leave `index:` away, or build for several platforms",
        )
    made = blobs or LayerBlobs(layers, content, lambda: snapshotter, fetch)

    def blob(layer_id: str) -> tuple[str, Descriptor]:
        diff_id, found = made.get(layer_id, profile)
        if SOURCE_BLOB in _record(layers, layer_id).blobs:
            return diff_id, _as_oci(found)
        return (diff_id, found) if restamp is None else restamp(diff_id, found, profile)

    manifests = []
    for image in built:
        found = [blob(layer_id) for layer_id in image.layers]
        config = _complete(image.config, tuple(diff_id for diff_id, _ in found), epoch)
        if image.cache:
            from arkwright.cache.inline import inline_cache, with_inline_cache

            below = [_record(layers, layer_id) for layer_id in image.layers]
            config = with_inline_cache(config, inline_cache(below, image.cache, profile.name))
        manifests.append(_manifest(image, config, [one for _, one in found], content, wanted))
    if not as_index:
        root = msgspec.structs.replace(manifests[0], platform=None)
        return AssembledImage(root=root, manifests=(root,))
    index = image_manifest.Index(
        schema_version=2, media_type=media.INDEX, manifests=tuple(manifests), annotations=wanted.index
    )
    root = _write(content, media.INDEX, image_manifest.encode(index))
    root = msgspec.structs.replace(root, annotations=wanted.index_descriptor)
    return AssembledImage(root=root, manifests=tuple(manifests))


def _record(layers: LayerRecords, layer_id: str) -> Layer:
    layer = layers.get(layer_id)
    assert layer is not None, f"layer {layer_id} has no record"
    return layer


def _as_oci(found: Descriptor) -> Descriptor:
    return Descriptor(
        media_type=_OCI_NAMES.get(found.media_type, found.media_type),
        digest=found.digest,
        size=found.size,
        annotations=found.annotations,
    )


def _manifest(
    image: BuiltImage,
    config: ImageConfig,
    layers: list[Descriptor],
    content: ContentStore,
    wanted: Annotations,
) -> Descriptor:
    document = image_manifest.Manifest(
        schema_version=2,
        media_type=media.MANIFEST,
        config=_write(content, media.CONFIG, image_config.encode(config)),
        layers=tuple(layers),
        annotations=wanted.of_manifest(image.platform),
    )
    descriptor = _write(content, media.MANIFEST, image_manifest.encode(document))
    return msgspec.structs.replace(
        descriptor, platform=image.platform, annotations=wanted.of_manifest_descriptor(image.platform)
    )


def _write(content: ContentStore, media_type: str, data: bytes) -> Descriptor:
    return Descriptor(media_type=media_type, digest=content.write(data), size=len(data))


def _complete(config: ImageConfig, diff_ids: tuple[str, ...], epoch: int) -> ImageConfig:
    """The config with its rootfs, its time, and a history that has one entry per layer."""
    created = rfc3339(epoch)
    return msgspec.structs.replace(
        config,
        created=created,
        rootfs=RootFS(diff_ids=diff_ids),
        cache=None,
        history=_history(config.history, len(diff_ids), created),
    )


def _history(history: tuple[History, ...], layers: int, created: str) -> tuple[History, ...]:
    """One non-empty entry per layer (image specification, config.md, "history").

    Readers pair entries with layers from the front, so surplus entries at the end are marked as
    empty, and layers without an entry get one.
    """
    found: list[History] = []
    used = 0
    for entry in history:
        used += not entry.empty_layer
        found.append(
            msgspec.structs.replace(
                entry,
                created=entry.created or created,
                empty_layer=entry.empty_layer or used > layers,
            )
        )
    found += [History(created=created, created_by="arkwright")] * max(0, layers - used)
    return tuple(found)
