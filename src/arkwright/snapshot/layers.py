"""Layer records, layer ids and layer directories.

A layer is visible when its record says `unpacked`, and then its directory is there, complete.
A directory without such a record is garbage.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from arkwright.oci.digest import sha256
from arkwright.snapshot.base import Layer
from arkwright.store.metadata import Metadata

BUCKET = "layers"
# By layer id: the times of the entries of its tar, which says one constant for all of them.
TIMES = "layer-times"
# Below a layer's directory: its tree, and what it may need to stand on (see `publish`).
FS = "/fs"
FLOOR = "/floor"
# Directory names stand in mount options: nothing but hex digits.
_NAME = re.compile(r"[0-9a-f]{16,128}")


class LayerRecords:
    """The metadata bucket `layers`. Thread-safe."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    def get(self, layer_id: str) -> Layer | None:
        """The layer's record, or `None`."""
        data = self._metadata.get(BUCKET, layer_id)
        return None if data is None else msgspec.json.decode(data, type=Layer)

    def put(self, layer: Layer) -> None:
        """Write a record, over what was there."""
        self._metadata.put(BUCKET, layer.id, msgspec.json.encode(layer))

    def put_new(self, layers: Sequence[Layer]) -> None:
        """Write the records of imported layers, except over those that were fetched meanwhile."""
        with self._metadata.transaction():
            for layer in layers:
                known = self.get(layer.id)
                if known is None or known.remote:
                    self.put(layer)

    def put_times(self, layer_id: str, times_ns: Sequence[int]) -> None:
        """Keep the times of a layer that has no tree on disk, in the order of its tar."""
        import zlib

        data = struct.pack(f"<{len(times_ns)}q", *times_ns)
        self._metadata.put(TIMES, layer_id, zlib.compress(data, 1))

    def times(self, layer_id: str) -> tuple[int, ...]:
        """What `put_times` kept; empty for layers whose tar says it."""
        data = self._metadata.get(TIMES, layer_id)
        if data is None:
            return ()
        import zlib

        plain = zlib.decompress(data)
        return struct.unpack(f"<{len(plain) // 8}q", plain)

    def update(self, layer_id: str, **changes: Any) -> Layer:
        """Change some fields of a record, atomically. Raises `KeyError` when there is none."""
        with self._metadata.transaction():
            layer = self.get(layer_id)
            if layer is None:
                raise KeyError(layer_id)
            changed = msgspec.structs.replace(layer, **changes)
            self.put(changed)
        return changed

    def forget_tree(self, layer_id: str) -> None:
        """Say that the layer's directory is gone: it lives on as a blob, if there is one."""
        with self._metadata.transaction():
            layer = self.get(layer_id)
            if layer is not None and layer.blobs:
                self.put(msgspec.structs.replace(layer, unpacked=False))
            else:
                self._metadata.delete(BUCKET, layer_id)
                self._metadata.delete(TIMES, layer_id)

    def all(self) -> list[Layer]:
        """Every record."""
        return [msgspec.json.decode(data, type=Layer) for _, data in self._metadata.items(BUCKET)]


def chain_id(diff_ids: Sequence[str]) -> str:
    """The ChainID of layers, lowest first (OCI image specification, config.md, "Layer ChainID")."""
    if not diff_ids:
        raise ValueError("no layers, no ChainID")
    chain = diff_ids[0]
    for diff_id in diff_ids[1:]:
        chain = sha256(f"{chain} {diff_id}".encode())
    return chain


def new_id() -> str:
    """A random id for an executed layer."""
    return os.urandom(16).hex()


def directory_path(root_path: str, layer_id: str) -> str:
    """The directory of the store that belongs to a layer.

    Ids are hex digits, or a sha256 digest such as a ChainID; anything else is a `ValueError`.
    """
    name = layer_id.removeprefix("sha256:")
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a layer id: {layer_id!r}")
    return os.path.join(root_path, "layers", name)


def tree_path(root_path: str, layer_id: str) -> str:
    """The directory that holds the layer's own entries and whiteouts."""
    return directory_path(root_path, layer_id) + FS
