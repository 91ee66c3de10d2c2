"""How much disk things of the store take; for the worker, who may read every directory."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from arkwright.snapshot.layers import directory_path
from arkwright.store.store import Store

BUCKET = "layer-sizes"
_BLOCK = 512


def disk_size(path: str) -> int:
    """Bytes on disk of a file, or of a directory with all below; each inode once, links not
    followed; 0 when there is nothing."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return 0
    total = status.st_blocks * _BLOCK
    if not stat.S_ISDIR(status.st_mode):
        return total
    seen: set[tuple[int, int]] = set()
    pending = [path]
    while pending:
        with suppress(FileNotFoundError, PermissionError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                total += _entry(entry, seen, pending)
    return total


def _entry(entry: os.DirEntry[str], seen: set[tuple[int, int]], pending: list[str]) -> int:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return 0
    if stat.S_ISDIR(status.st_mode):
        pending.append(entry.path)
    elif status.st_nlink > 1:
        if (status.st_dev, status.st_ino) in seen:
            return 0
        seen.add((status.st_dev, status.st_ino))
    return status.st_blocks * _BLOCK


def written_to_mounts(root_path: str) -> list[str]:
    """What was written to mounts of working containers, as directories; not what is mounted there."""
    path = os.path.join(root_path, "mounts")
    names = sorted(os.listdir(path)) if os.path.isdir(path) else []
    return [os.path.join(path, name, "fs") for name in names]


class LayerSizes:
    """Sizes of layer directories, measured once: a layer never changes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known = {key: int(value) for key, value in store.metadata.items(BUCKET)}
        self._fresh: dict[str, int] = {}

    def of(self, layer_id: str) -> int:
        """Bytes on disk of the layer's directory."""
        if layer_id not in self._known:
            size = disk_size(directory_path(self._store.root_path, layer_id))
            self._known[layer_id] = self._fresh[layer_id] = size
        return self._known[layer_id]

    def remember(self) -> None:
        """Keep what was measured."""
        self._store.metadata.put_many(BUCKET, [(key, b"%d" % size) for key, size in self._fresh.items()])
        self._fresh.clear()
