"""How much disk a store takes, measured over and over for little, and the watch over its quota.

What counts is everything below the store's directory but `trash/`, which is being deleted, and
`run/`, which is memory.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec

from arkwright.cache.sizes import disk_size, written_to_mounts

_WALKED = ("work", "ingest", "cache-mounts", "sources", "history", "claims", "metadata.db", "metadata.db-wal")
_LOOK_S = 0.2
# A walk may take this part of the time at most; when the disk says that the quota may be crossed,
# a larger part, as it is then a matter of a second.
_SHARE, _URGENT_SHARE = 0.015, 0.2


class Meter:
    """Measures a store, by files that never change once. For one thread, that of the worker, who
    may read every directory."""

    def __init__(self, root_path: str) -> None:
        self._root_path = root_path
        self._blobs: dict[str, int] = {}
        self._layers: dict[str, tuple[int, int]] = {}

    def measure(self) -> int:
        """Bytes on disk."""
        size = self._of_blobs() + self._of_layers()
        size += sum(map(disk_size, written_to_mounts(self._root_path)))
        return size + sum(disk_size(os.path.join(self._root_path, name)) for name in _WALKED)

    def trees(self) -> dict[str, int]:
        """Bytes of the trees in the making, by directory, the largest first."""
        work_path = os.path.join(self._root_path, "work")
        found = {name: disk_size(os.path.join(work_path, name)) for name in os.listdir(work_path)}
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def _of_blobs(self) -> int:
        seen: dict[str, int] = {}
        base_path = os.path.join(self._root_path, "blobs")
        for algorithm in os.listdir(base_path):
            with os.scandir(os.path.join(base_path, algorithm)) as entries:
                for entry in entries:
                    known = self._blobs.get(entry.name)
                    seen[entry.name] = disk_size(entry.path) if known is None else known
        self._blobs = seen
        return sum(seen.values())

    def _of_layers(self) -> int:
        seen: dict[str, tuple[int, int]] = {}
        with os.scandir(os.path.join(self._root_path, "layers")) as entries:
            for entry in entries:
                # A directory gets its tree by a rename, which changes its time.
                with suppress(FileNotFoundError):
                    changed = entry.stat(follow_symlinks=False).st_mtime_ns
                    known = self._layers.get(entry.name)
                    same = known is not None and known[0] == changed
                    seen[entry.name] = known if known and same else (changed, disk_size(entry.path))
        self._layers = seen
        return sum(size for _, size in seen.values())


class Crossing(msgspec.Struct, frozen=True):
    """What the watch saw when the quota was crossed, in bytes; `grown` since the build began."""

    quota: int
    used: int
    grown: int


class QuotaWatch:
    """A context manager: a thread that looks after the store's size while the body runs.

    The disk's free space is asked five times a second; it costs nothing and bounds how much the store can
    have grown, as long as others do not free space at the same time. When the bound crosses
    the quota, or when it is time again, the store is walked, and only that counts: what others
    write to the same disk stops nobody. `crossed` is called once, from the thread, when the
    store is larger than its quota; `crossing` then says by how much.
    """

    def __init__(self, root_path: str, quota: int, crossed: Callable[[], None]) -> None:
        self._root_path = root_path
        self._quota = quota
        self._crossed = crossed
        self._meter = Meter(root_path)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="quota", daemon=True)
        self.crossing: Crossing | None = None

    def __enter__(self) -> QuotaWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        first, measured, cost_s = -1, 0, 0.0
        disk, walked_s = 0, 0.0
        while True:
            now_s = time.monotonic()
            grown = self._used_of_disk() - disk
            urgent = measured + max(0, grown) > self._quota
            pause_s = cost_s / (_URGENT_SHARE if urgent else _SHARE)
            if first < 0 or (now_s - walked_s >= pause_s and (urgent or grown)):
                disk = self._used_of_disk()
                measured = self._walk(measured)
                walked_s = time.monotonic()
                cost_s = walked_s - now_s
                first = measured if first < 0 else first
                if measured > self._quota:
                    self.crossing = Crossing(self._quota, measured, measured - first)
                    self._crossed()
                    return
            if self._ended.wait(_LOOK_S):
                return

    def _walk(self, before: int) -> int:
        # Files come and go meanwhile; what could not be measured now will be the next time.
        try:
            return self._meter.measure()
        except OSError:
            return before

    def _used_of_disk(self) -> int:
        disk = os.statvfs(self._root_path)
        return (disk.f_blocks - disk.f_bfree) * disk.f_frsize
