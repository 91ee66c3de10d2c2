"""The local image store's names."""

from __future__ import annotations

import msgspec

from arkwright.oci.descriptor import Descriptor
from arkwright.store.metadata import Metadata

_BUCKET = "names"


class ImageNames:
    """Full names (`docker.io/library/debian:bookworm`) to descriptors of manifests or indexes."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    def get(self, name: str) -> Descriptor | None:
        """What the name stands for, or `None`."""
        data = self._metadata.get(_BUCKET, name)
        return None if data is None else msgspec.json.decode(data, type=Descriptor)

    def set(self, name: str, descriptor: Descriptor) -> None:
        """Let the name stand for an image, instead of what it stood for."""
        self._metadata.put(_BUCKET, name, msgspec.json.encode(descriptor))

    def remove(self, name: str) -> bool:
        """Forget the name; whether it was known."""
        with self._metadata.transaction():
            known = self._metadata.get(_BUCKET, name) is not None
            self._metadata.delete(_BUCKET, name)
        return known

    def list(self, prefix: str = "") -> list[tuple[str, Descriptor]]:
        """All names that begin with `prefix`, sorted."""
        return [
            (name, msgspec.json.decode(data, type=Descriptor))
            for name, data in self._metadata.items(_BUCKET, prefix)
        ]
