"""The blob of a layer, made once: for an image, for a remote cache, whoever asks first."""

from __future__ import annotations

import hashlib
import threading
from collections import defaultdict
from collections.abc import Callable

from arkwright.diagnostics.errors import UserError
from arkwright.layer.profile import Profile, media_type
from arkwright.layer.stamps import Stamps
from arkwright.oci.descriptor import Descriptor, layer_codec
from arkwright.snapshot.base import Layer, Snapshotter
from arkwright.snapshot.layers import LayerRecords
from arkwright.store.content import ContentStore

SOURCE_BLOB = "source"
_COPY = 1 << 20
# As much as a layer may unpack to (see `layer.tar_read`).
_UNPACKED_LIMIT = 64 << 30


def present_blob(layer: Layer, content: ContentStore, profile: Profile) -> Descriptor | None:
    """The blob that stands for the layer: a base's own, else the one written under the profile.

    What a remote said of a layer is not believed before its blob was fetched and looked at.
    """
    found = layer.blobs.get(SOURCE_BLOB) or layer.blobs.get(profile.name)
    if found is None or layer.remote or not layer.diff_id or not content.has(found.digest):
        return None
    return found


class LayerBlobs:
    """Finds or makes blobs of layers. Thread-safe: two who ask for one layer wait for each other.

    `snapshotter` gives None outside the worker. `fetch(layer_id)` brings the blob of a layer that
    is known only as one. `stamps` is the rule under which the layers are made.
    """

    def __init__(
        self,
        layers: LayerRecords,
        content: ContentStore,
        snapshotter: Callable[[], Snapshotter | None],
        fetch: Callable[[str], None] | None = None,
        stamps: Stamps = Stamps(),  # noqa: B008 - frozen
    ) -> None:
        self._layers = layers
        self._content = content
        self._stamps = stamps
        self._snapshotter = snapshotter
        self._fetch = fetch
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)

    def get(self, layer_id: str, profile: Profile) -> tuple[str, Descriptor]:
        """DiffID and descriptor of a layer. Raises `UserError` `missing-blob`, and what `fetch` raises."""
        with self._guard:
            lock = self._locks[layer_id]
        with lock:
            return self._get(layer_id, profile)

    def _get(self, layer_id: str, profile: Profile) -> tuple[str, Descriptor]:
        layer = self._record(layer_id)
        found = present_blob(layer, self._content, profile)
        if found is None and self._fetch is not None and (SOURCE_BLOB in layer.blobs or layer.remote):
            self._fetch(layer_id)
            layer = self._record(layer_id)
            found = present_blob(layer, self._content, profile)
        if found is not None:
            return layer.diff_id, found
        packed = self._packed(layer)
        return self._repack(layer, packed, profile) if packed is not None else self._export(layer, profile)

    def _record(self, layer_id: str) -> Layer:
        layer = self._layers.get(layer_id)
        assert layer is not None, f"layer {layer_id} has no record"
        return layer

    def _packed(self, layer: Layer) -> Descriptor | None:
        """The blob under another profile, of a layer that came as one: its tree has lost the times
        that say which entries there were."""
        if layer.origin == "executed" or layer.remote or not layer.diff_id or SOURCE_BLOB in layer.blobs:
            return None
        return next((blob for blob in layer.blobs.values() if self._content.has(blob.digest)), None)

    def _repack(self, layer: Layer, packed: Descriptor, profile: Profile) -> tuple[str, Descriptor]:
        from arkwright.layer.codec import compressor, decompress

        with self._content.open(packed.digest) as blob, self._content.ingest() as ingest:
            target = compressor(profile, ingest.write)
            with decompress(blob, layer_codec(packed.media_type)) as tar:
                while data := tar.read(_COPY):
                    target.write(data)
            target.close()
            size, digest = ingest.offset, ingest.commit()
        return self._keep(
            layer,
            layer.diff_id,
            profile,
            Descriptor(media_type=media_type(profile), digest=digest, size=size),
        )

    def _export(self, layer: Layer, profile: Profile) -> tuple[str, Descriptor]:
        snapshotter = self._snapshotter()
        if snapshotter is None or SOURCE_BLOB in layer.blobs or not layer.unpacked:
            raise UserError.of(
                "missing-blob",
                f"the store does not have the blob of layer {layer.diff_id or layer.id}",
                hint="build with --pull, or pull the base image again",
                details={"layer": layer.id},
            )
        from arkwright.layer.export import export_layer

        changes = snapshotter.diff(layer)
        diff_id, descriptor = export_layer(changes, self._content, profile, stamp=self._stamps.of)
        return self._keep(layer, diff_id, profile, descriptor)

    def _keep(self, layer: Layer, diff_id: str, profile: Profile, blob: Descriptor) -> tuple[str, Descriptor]:
        self._layers.update(layer.id, diff_id=diff_id, blobs={**layer.blobs, profile.name: blob})
        return diff_id, blob


def is_whole(content: ContentStore, blob: Descriptor, diff_id: str) -> bool:
    """Whether what a blob unpacks to has this diffID. Raises `UserError` `corrupt-archive`."""
    from arkwright.layer.codec import decompress

    hasher, size = hashlib.sha256(), 0
    with content.open(blob.digest) as packed, decompress(packed, layer_codec(blob.media_type)) as tar:
        while size <= _UNPACKED_LIMIT and (data := tar.read(_COPY)):
            hasher.update(data)
            size += len(data)
    return diff_id == "sha256:" + hasher.hexdigest()
