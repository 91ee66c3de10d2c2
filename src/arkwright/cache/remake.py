"""A lost blob of a layer, made again from the layer's tree: the same bytes, or nothing."""

from __future__ import annotations

from typing import cast

from arkwright.diagnostics.errors import ArkwrightError
from arkwright.layer.profile import Codec, profile_for
from arkwright.layer.stamps import Stamps
from arkwright.oci.descriptor import layer_codec
from arkwright.snapshot.base import Layer, Snapshotter
from arkwright.store.content import ContentStore

# The rules of `--timestamps` that need nothing but the tree.
_RULES = (Stamps(), Stamps(rule="keep"))


def remake(content: ContentStore, layer: Layer, profile_name: str, snapshotter: Snapshotter) -> bool:
    """Write the blob that `layer` has under a profile; whether it is there now, with its old digest.

    Only of a layer that a step made: the tree of one that came as a blob does not tell its bytes. Nothing is
    kept that has another digest, as of a tree that has changed, or of a rule for times that nobody knows.
    """
    if layer.origin != "executed" or not layer.unpacked or layer.remote:
        return False
    return any(_written(content, layer, profile_name, snapshotter, stamps) for stamps in _RULES)


def _written(
    content: ContentStore, layer: Layer, profile_name: str, snapshotter: Snapshotter, stamps: Stamps
) -> bool:
    from arkwright.layer.codec import compressor
    from arkwright.layer.tar_write import write_tar

    blob = layer.blobs[profile_name]
    try:
        profile = profile_for(cast(Codec, layer_codec(blob.media_type)))
        # Another version of the library gives other bytes.
        if profile.name != profile_name:
            return False
        with content.ingest(expected=blob.digest) as ingest:
            packed = compressor(profile, ingest.write)
            write_tar(snapshotter.diff(layer), packed.write, stamp=stamps.of)
            packed.close()
            ingest.commit()
    except (ArkwrightError, OSError):
        return False
    return True
