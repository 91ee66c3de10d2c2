"""Publishing records while the build goes on.

Each record is published when it is made, by threads of the worker: its layers' blobs first, which
an image shares, then the record. So a machine that is taken away has lost little, and little is
left to do at the end. A destination that fails is given up and reported; the build goes on.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from arkwright.cache.blobs import SOURCE_BLOB, LayerBlobs
from arkwright.cache.inventory import layers_of
from arkwright.cache.records import Record
from arkwright.cache.remote import CacheStore, PortableLayer, PortableRecord, encode
from arkwright.cache.remote_options import RemoteSpec
from arkwright.cache.remote_siblings import Sibling, publish_sibling
from arkwright.diagnostics.errors import ArkwrightError, Cancelled, Diagnostic, Severity, UserError
from arkwright.events.stream import EventStream
from arkwright.events.types import Declared, Failed, Finished, Progress, Started
from arkwright.layer.profile import Profile
from arkwright.oci.descriptor import Descriptor, plain
from arkwright.oci.digest import sha256
from arkwright.snapshot.layers import LayerRecords
from arkwright.store.content import ContentStore

GROUP = "cache export"
_THREADS = 2
_POLL_S = 0.1


class Destination:
    """One place to publish to. `replace` lists keys whose records there are known to be broken."""

    def __init__(self, spec: RemoteSpec, profile: Profile, open_store: Callable[[], CacheStore]) -> None:
        self.spec = spec
        self.profile = profile
        self.vertex = sha256(f"cache export {spec.name}".encode())
        self.replace: Callable[[str], bool] = lambda _: False
        self.failure: ArkwrightError | None = None
        self.offered: set[str] = set()
        self.done = 0
        self.sent: set[str] = set()
        self._open_store = open_store
        self._lock = threading.Lock()
        self._store: CacheStore | None = None

    @property
    def store(self) -> CacheStore:
        with self._lock:
            if self._store is None:
                self._store = self._open_store()
            return self._store

    def abort(self) -> None:
        with self._lock:
            if self._store is not None:
                self._store.abort()


class CacheExport:
    """The publications of one build. Threads live from the first record that is offered to `finish`."""

    def __init__(
        self,
        destinations: Sequence[Destination],
        layers: LayerRecords,
        blobs: LayerBlobs,
        content: ContentStore,
        stream: EventStream,
    ) -> None:
        self.destinations = destinations
        self._layers = layers
        self._blobs = blobs
        self._content = content
        self._stream = stream
        self._waiting: deque[tuple[Destination, Callable[[], None]]] = deque()
        self._busy = 0
        self._stopped = False
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []

    def offer(self, destination: Destination, record: Record, seen: Callable[[], tuple[str, ...]]) -> None:
        """Publish a record in the background; what was offered before is not looked at again.

        `seen` tells what its operation saw of its inputs (see `cache.remote_siblings`), empty for nothing
        that is worth to be known.
        """
        self.submit(destination, record.key, lambda: self._publish(destination, record, seen))

    def submit(self, destination: Destination, key: str, work: Callable[[], None]) -> None:
        """Do something for a destination in the background."""
        with self._changed:
            if self._stopped or key in destination.offered:
                return
            if not destination.offered:
                self._begin(destination)
            destination.offered.add(key)
            self._waiting.append((destination, work))
            if len(self._threads) < _THREADS:
                thread = threading.Thread(target=self._work, name="cache-export", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify()

    def finish(self, timeout_s: float, cancelled: threading.Event) -> list[tuple[Destination, Diagnostic]]:
        """Wait until all is published, at most so long; what went wrong, one finding a destination.

        Nothing of what is cut off can be seen at the destination.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._waiting or self._busy:
                if time.monotonic() >= deadline or cancelled.is_set():
                    break
                self._changed.wait(_POLL_S)
            self._stopped = True
            self._waiting.clear()
            self._changed.notify_all()
        late = [one for one in self.destinations if one.failure is None and one.done < len(one.offered)]
        for destination in late:
            destination.abort()
        return [
            (one, found)
            for one in self.destinations
            if (found := self._conclude(one, one in late, timeout_s))
        ]

    def _conclude(self, destination: Destination, late: bool, timeout_s: float) -> Diagnostic | None:
        if not destination.offered:
            return None
        name, left = destination.spec.name, len(destination.offered) - destination.done
        if late:
            message = (
                f"{name}: {left} of {len(destination.offered)} records were not published in {timeout_s:g}s"
            )
            found = _finding("cache-export-timeout", message, "raise --cache-export-timeout, or build again")
        elif destination.failure is not None:
            message = f"{name}: {destination.failure.diagnostics[0].message}"
            found = _finding("cache-export-failed", message, destination.failure.diagnostics[0].hint)
        else:
            self._stream.emit(Finished(vertex=destination.vertex))
            return None
        self._stream.emit(Failed(vertex=destination.vertex, message=found.message))
        return found

    def _begin(self, destination: Destination) -> None:
        name = f"exporting cache to {destination.spec.name}"
        self._stream.emit(Declared(vertex=destination.vertex, name=name, group=GROUP))
        self._stream.emit(Started(vertex=destination.vertex))

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._stopped:
                        return
                    self._changed.wait()
                destination, work = self._waiting.popleft()
                self._busy += 1
            try:
                if destination.failure is None:
                    work()
            except Exception as error:  # a thread has nobody to raise to: the destination is given up
                if not self._stopped:
                    destination.failure = _as_ours(error)
            finally:
                with self._changed:
                    self._busy -= 1
                    destination.done += destination.failure is None and not self._stopped
                    self._changed.notify_all()
            if not self._stopped:
                self._stream.emit(
                    Progress(
                        vertex=destination.vertex, item="records", done=destination.done,
                        total=len(destination.offered), unit="records",
                    )
                )  # fmt: skip

    def _publish(self, destination: Destination, record: Record, seen: Callable[[], tuple[str, ...]]) -> None:
        store = destination.store
        if not destination.replace(record.key) and store.has_record(record.key):
            return
        try:
            layers, blobs = self._portable(destination, record)
        except ArkwrightError as error:
            # A record of old whose layers this store can no longer give.
            if error.code == "missing-blob":
                return
            raise
        numbers = {layer_id: number for number, layer_id in enumerate(layers)}
        results = tuple(tuple(numbers[one] for one in layers_of((data,))) for data in record.results)
        made = PortableRecord(
            key=record.key, created_at=record.created_at, layers=tuple(layers.values()), results=results
        )
        store.put_record(record.key, encode(made), blobs)
        inputs = _looked_at(seen)
        if inputs:
            publish_sibling(store, record.operation, Sibling(inputs, record.key))

    def _portable(
        self, destination: Destination, record: Record
    ) -> tuple[dict[str, PortableLayer], list[Descriptor]]:
        """The layers of a record and all that they stand on, parents first; and their blobs, sent."""
        found: dict[str, PortableLayer] = {}
        blobs: list[Descriptor] = []
        numbers: dict[str, int] = {}
        pending = list(reversed(layers_of(record.results)))
        while pending:
            layer_id = pending[-1]
            layer = self._layers.get(layer_id)
            if layer is None:
                raise UserError.of("missing-blob", f"layer {layer_id} is gone")
            if layer_id in found:
                pending.pop()
                continue
            above = [one for one in layer.parents if one not in found]
            if above:
                pending.extend(reversed(above))
                continue
            pending.pop()
            numbers[layer_id] = len(found)
            parents = tuple(numbers[one] for one in layer.parents)
            source = layer.blobs.get(SOURCE_BLOB)
            if source is not None:
                found[layer_id] = PortableLayer(diff_id=layer.diff_id, parents=parents, base=source.digest)
                continue
            diff_id, blob = self._sent(destination, layer_id)
            blobs.append(blob)
            found[layer_id] = PortableLayer(
                diff_id=diff_id, parents=parents, profile=destination.profile.name, blob=blob
            )
        return found, blobs

    def _sent(self, destination: Destination, layer_id: str) -> tuple[str, Descriptor]:
        """DiffID and blob of a layer; the blob is at the destination."""
        layer = self._layers.get(layer_id)
        assert layer is not None
        blob = layer.blobs.get(destination.profile.name)
        known = blob is not None and layer.diff_id
        if known and blob is not None and self._is_there(destination, blob.digest):
            return layer.diff_id, plain(blob)
        diff_id, blob = self._blobs.get(layer_id, destination.profile)
        blob = plain(blob)
        if not self._is_there(destination, blob.digest):
            destination.store.put_blob(blob, partial(self._content.open, blob.digest))
            destination.sent.add(blob.digest)
        return diff_id, blob

    def _is_there(self, destination: Destination, digest: str) -> bool:
        if digest not in destination.sent and destination.store.has_blob(digest):
            destination.sent.add(digest)
        return digest in destination.sent


def prefixes(records: Iterable[Record], images: Iterable[Sequence[str]]) -> list[tuple[Record, int]]:
    """The records whose one result is the beginning of an image's layers, and how long it is."""
    wanted = [tuple(layers) for layers in images]
    found = []
    for record in records:
        layers = layers_of(record.results)
        if len(record.results) == 1 and any(layers == one[: len(layers)] for one in wanted):
            found.append((record, len(layers)))
    return found


def _looked_at(seen: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
    """Inputs of old may be gone: the record is of use without them."""
    try:
        return seen()
    except Cancelled:
        raise
    except ArkwrightError:
        return ()


def _finding(code: str, message: str, hint: str | None) -> Diagnostic:
    return Diagnostic(code=code, message=message, severity=Severity.WARNING, hint=hint)


def _as_ours(error: Exception) -> ArkwrightError:
    if isinstance(error, ArkwrightError) and not isinstance(error, Cancelled):
        return error
    return ArkwrightError.of("cache-export-failed", f"{type(error).__name__}: {error}")
