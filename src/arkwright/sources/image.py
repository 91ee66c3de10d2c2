"""Images from the local store (placeholder under construction)."""
from __future__ import annotations
from arkwright.graph.ops import SourceOp
from arkwright.oci import config as image_config
from arkwright.oci import manifest as image_manifest
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.platform import Platform
from arkwright.oci.reference import parse_reference
from arkwright.sources.base import PinnedImage, Progress
from arkwright.store.store import Store


class StoreImageSource:
    def __init__(self, store: Store, *, tls_verify: bool | None = None) -> None:
        self._store = store

    def pin(self, op: SourceOp, platform: Platform) -> PinnedImage:
        ref = parse_reference(op.identifier.partition("://")[2])
        d = self._store.names.get(f"{ref.name}:{ref.tag}") or self._store.names.get(f"{ref.name}:latest")
        assert d is not None, op
        m = image_manifest.parse(self._store.content.read(d.digest))
        assert isinstance(m, image_manifest.Manifest)
        c = self._store.content.read(m.config.digest)
        return PinnedImage(op=op, key=d.digest, uri=str(ref), digest=d.digest, reference=f"{ref.name}:{ref.tag or 'latest'}", manifest=d, config=c, layers=m.layers, diff_ids=image_config.parse(c).rootfs.diff_ids)

    def fetch(self, image: PinnedImage, layer: Descriptor, progress: Progress | None = None) -> None:
        return None
