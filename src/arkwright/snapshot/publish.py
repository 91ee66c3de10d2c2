"""Making a finished work directory a layer: atomically, durably, once.

The order is: rename into place, sync, record. Only the record makes a layer visible, so a crash
before it leaves a directory that nobody knows of; it is replaced by the next who makes the layer.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import msgspec

from arkwright.layer.rooted import Root
from arkwright.snapshot.attributes import make_directory
from arkwright.snapshot.base import Layer
from arkwright.snapshot.layers import FLOOR, FS, LayerRecords, directory_path
from arkwright.store.leases import Claim
from arkwright.store.space import space_needed
from arkwright.store.store import Store


class Publisher:
    """Layer directories of a store. Thread-safe.

    `sync` makes what was written to the store's file system durable.
    """

    def __init__(self, store: Store, sync: Callable[[], None] = os.sync) -> None:
        self._store = store
        self._sync = sync
        self.records = LayerRecords(store.metadata)

    @contextmanager
    def making(self, layer_id: str) -> Iterator[Layer | None]:
        """Be the only one, in all processes, who makes this layer; waits for another.

        The value is its record, if there is one.
        """
        path = directory_path(self._store.root_path, layer_id)
        with space_needed(path, f"layer {layer_id}"):
            self._make_directory(path)
        directory_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory_fd, fcntl.LOCK_EX)
            yield self.records.get(layer_id)
        finally:
            os.close(directory_fd)

    def publish(self, fs_path: str, layer: Layer, whiteouts: Sequence[str] = ()) -> Layer:
        """Take the tree at `fs_path` as the layer's; inside `making`, unless its id is new.

        `whiteouts` are the directories in it that hold whiteouts, parents first.
        """
        path = directory_path(self._store.root_path, layer.id)
        with space_needed(path, f"layer {layer.id}"):
            self._make_directory(path)
            for name in os.listdir(path):
                self._store.trash(f"{path}/{name}")
            if whiteouts:
                _make_floor(path + FLOOR, whiteouts)
            os.rename(fs_path, path + FS)
            self._sync()
        with self._store.metadata.transaction():
            known = self.records.get(layer.id)
            made = msgspec.structs.replace(
                layer,
                unpacked=True,
                diff_id=layer.diff_id or (known.diff_id if known else ""),
                blobs={**(known.blobs if known else {}), **layer.blobs},
                created_at=int(time.time()),
            )
            self.records.put(made)
        return made

    @staticmethod
    def _make_directory(path: str) -> None:
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
            os.chmod(path, 0o700)

    def remove(self, layer_id: str) -> None:
        """Forget the layer's directory, and move it to the trash; under the exclusive lease."""
        self.records.forget_tree(layer_id)
        self._store.trash(directory_path(self._store.root_path, layer_id))


def _make_floor(floor_path: str, directories: Sequence[str]) -> None:
    """Make the bare directories of a layer that hold whiteouts.

    Where a layer stands on layers without such a directory, the floor stands in for them: overlayfs
    hides whiteouts only in directories that it merges, and lists them as names of nothing elsewhere.
    """
    make_work_directory(floor_path)
    with Root(floor_path) as floor:
        for path in directories:
            parts = [part for part in path.split("/") if part]
            fd, _ = floor.open_directories(
                parts, create=lambda parent_fd, name, _: make_directory(parent_fd, name)
            )
            os.close(fd)


def discard_unrecorded(store: Store) -> None:
    """Trash the directories in `layers/` that no record speaks of; only under the store's
    exclusive lease, as others have such a directory while they make a layer."""
    layers_path = os.path.join(store.root_path, "layers")
    known = {
        directory_path(store.root_path, layer.id)
        for layer in LayerRecords(store.metadata).all()
        if layer.unpacked
    }
    for name in os.listdir(layers_path):
        if os.path.join(layers_path, name) not in known:
            store.trash(os.path.join(layers_path, name))


def make_work_directory(path: str) -> None:
    """Make a directory with the mode that roots of trees have, whatever the umask."""
    os.mkdir(path)
    os.chmod(path, 0o755)


def discard(store: Store, claim: Claim) -> None:
    """Move what is left of a work directory to the trash."""
    store.trash(claim.path)
    claim.close()
