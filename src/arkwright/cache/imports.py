"""Records and layers that remote caches have, for one session.

A record that is found becomes a record of this store, and its layers become layers that are known
but not here: their blobs are fetched when a step or an output needs them. A remote that fails is
left out for the rest of the session, and said so once; then what only it has counts as missing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from arkwright.cache.blobs import is_whole
from arkwright.diagnostics.errors import ArkwrightError, Cancelled, Diagnostic, RemoteError, Severity
from arkwright.snapshot.base import Layer
from arkwright.snapshot.layers import LayerRecords
from arkwright.store.content import ContentStore

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    from arkwright.cache.remote import CacheStore, PortableRecord, Report
    from arkwright.cache.remote_options import RemoteSpec
    from arkwright.cache.remote_siblings import Sibling

    OpenRemote = Callable[[RemoteSpec], CacheStore]

# The group of the vertices that stand for transfers: steps of the build have others.
IMPORT_GROUP = "cache import"
_AT_ONCE = 8
_POLL_S = 0.1

_T = TypeVar("_T")


class Found(msgspec.Struct, frozen=True):
    """A record from a remote: encoded results, when it was made (nanoseconds), the remote's name."""

    results: tuple[bytes, ...]
    created_at: int
    origin: str


class Imports:
    """The remotes of a session, in the order in which they are asked. Thread-safe.

    Before the fork nothing but `usable` is called, and no remote is opened.
    """

    def __init__(
        self,
        layers: LayerRecords,
        content: ContentStore,
        specs: Sequence[RemoteSpec] = (),
        *,
        open_remote: OpenRemote | None = None,
        warn: Callable[[Diagnostic], None] = lambda _: None,
        cancelled: threading.Event | None = None,
    ) -> None:
        self._layers = layers
        self._content = content
        self._specs = {spec.name: spec for spec in specs}
        self._open_remote = open_remote
        self._warn = warn
        self._cancelled = cancelled or threading.Event()
        self._lock = threading.RLock()
        self._open: dict[str, CacheStore] = {}
        self._left_out: set[str] = set()
        self._asked: dict[str, Future[tuple[str, PortableRecord] | None]] = {}
        self._listed: dict[str, Future[tuple[Sibling, ...]]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._lost = False
        self.broken: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._specs)

    def usable(self, layer: Layer) -> bool:
        """Whether the layer is here, or can be had from a remote of this session."""
        if layer.origin != "imported" or layer.unpacked:
            return True
        if layer.remote:
            return layer.remote in self._specs and layer.remote not in self._left_out
        return any(self._content.has(blob.digest) for blob in layer.blobs.values())

    def ask(self, keys: Iterable[str]) -> None:
        """Begin to look for records, side by side; a key that was asked for is not asked again."""
        with self._lock:
            for key in keys:
                if key not in self._asked and self._live():
                    self._asked[key] = self._threads().submit(self._search, key)

    def find(self, key: str) -> Found | None:
        """The record of a key, whose layers are now known to the store; None when no remote has it."""
        self.ask((key,))
        found = self._answer(self._asked.get(key))
        return None if found is None or found[0] in self._left_out else self._adopt(*found)

    def siblings(self, operation: str) -> tuple[Sibling, ...]:
        """What all remotes know of an operation on other inputs (see `cache.remote_siblings`)."""
        from arkwright.cache.remote_siblings import siblings_key

        with self._lock:
            if operation not in self._listed and self._live():
                self._listed[operation] = self._threads().submit(self._list, siblings_key(operation))
        return self._answer(self._listed.get(operation)) or ()

    def _answer(self, future: Future[_T] | None) -> _T | None:
        """What a thread finds; None when the build is cancelled before."""
        from concurrent.futures import wait

        while future is not None and not self._cancelled.is_set():
            if wait((future,), _POLL_S).done:
                return future.result()
        return None

    def _threads(self) -> ThreadPoolExecutor:
        from concurrent.futures import ThreadPoolExecutor

        if self._pool is None:
            self._pool = ThreadPoolExecutor(_AT_ONCE, "cache-import")
        return self._pool

    def fetch(self, layer_id: str, report: Report) -> None:
        """Bring the blob of a layer that a remote has, and look at it; nothing to do for others.

        Raises `RemoteError` `cache-import-failed` when no remote gives it. Then the solve can begin
        anew (see `take_lost`).
        """
        layer = self._layers.get(layer_id)
        if layer is None or not layer.remote:
            return
        blob = next(iter(layer.blobs.values()))
        failure: ArkwrightError | None = None
        for name in sorted(self._live(), key=lambda name: name != layer.remote):
            try:
                self._store(name).fetch_blob(blob, self._content, report)
                if is_whole(self._content, blob, layer.diff_id):
                    self._layers.update(layer_id, remote="")
                    return
                # Whoever has the blob, it is not that layer.
                self._layers.update(layer_id, remote="", blobs={})
                failure = _failed(name, f"{blob.digest} does not unpack to {layer.diff_id}")
            except Cancelled:
                raise
            except ArkwrightError as error:
                failure = error
            self._leave_out(name, failure)
        self._lost = True
        why = failure.diagnostics[0].message if failure is not None else "no remote of this build has it"
        raise _failed(layer.remote, f"layer {layer.diff_id} cannot be fetched: {why}")

    def take_lost(self) -> bool:
        """Whether a layer of a record that was found could not be had; asked and answered once.

        After that, what only the failed remotes have counts as missing: a new solve will work.
        """
        with self._lock:
            lost, self._lost = self._lost, False
            if lost:
                self._asked.clear()
                self._listed.clear()
            return lost

    def stores(self) -> list[tuple[RemoteSpec, CacheStore]]:
        """The remotes that still answer, opened."""
        found = []
        for name in self._live():
            try:
                found.append((self._specs[name], self._store(name)))
            except ArkwrightError as error:
                self._leave_out(name, error)
        return found

    def report(self, name: str, error: ArkwrightError) -> None:
        """Tell of what failed at a remote; one that cannot be asked at all is left out."""
        if isinstance(error, RemoteError):
            self._leave_out(name, error)
        else:
            self._tell("cache-import-failed", f"{name}: {error.diagnostics[0].message}")

    def close(self) -> None:
        """End what is under way; nothing is asked any more."""
        with self._lock:
            self._left_out |= self._specs.keys()
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=True)
            for store in self._open.values():
                store.abort()

    def _live(self) -> list[str]:
        return [name for name in self._specs if name not in self._left_out]

    def _store(self, name: str) -> CacheStore:
        with self._lock:
            if name not in self._open:
                assert self._open_remote is not None, "remotes are asked in the worker only"
                self._open[name] = self._open_remote(self._specs[name])
            return self._open[name]

    def _search(self, key: str) -> tuple[str, PortableRecord] | None:
        from arkwright.cache.remote import decode

        return next(self._read(key, decode), None)

    def _list(self, key: str) -> tuple[Sibling, ...]:
        from arkwright.cache.remote_siblings import decode_siblings

        return tuple(one for _, known in self._read(key, decode_siblings) for one in known)

    def _read(self, key: str, decoded: Callable[[bytes, str], _T]) -> Iterator[tuple[str, _T]]:
        """The documents that the remotes have under a key, each with the remote's name."""
        for name in self._live():
            try:
                data = self._store(name).get_record(key)
                if data is None:
                    continue
                found = decoded(data, key)
            except Cancelled:
                return
            except ArkwrightError as error:
                if error.code == "invalid-cache-record":
                    self.broken.add(key)
                    self._tell("invalid-cache-record", f"{name}: {error.diagnostics[0].message}")
                else:
                    self._leave_out(name, error)
                continue
            yield name, found

    def _adopt(self, name: str, record: PortableRecord) -> Found | None:
        """Make the layers known. None when a base is not one of this build, or a blob was no layer."""
        from arkwright.cache.inventory import Layered
        from arkwright.cache.remote import layer_ids

        ids = layer_ids(record)
        made: list[Layer] = []
        for layer_id, layer in zip(ids, record.layers, strict=True):
            known = self._layers.get(layer_id)
            if layer.base:
                if known is None:
                    return None
                continue
            if known is not None and not known.remote:
                if not self.usable(known):
                    return None
                continue
            assert layer.blob is not None
            made.append(
                Layer(
                    id=layer_id, parents=tuple(ids[number] for number in layer.parents), origin="imported",
                    unpacked=False, diff_id=layer.diff_id, blobs={layer.profile: layer.blob}, remote=name,
                )
            )  # fmt: skip
        self._layers.put_new(made)
        trees = (Layered(tuple(ids[number] for number in result)) for result in record.results)
        return Found(tuple(msgspec.json.encode(tree) for tree in trees), record.created_at, name)

    def _leave_out(self, name: str, error: ArkwrightError) -> None:
        with self._lock:
            if name in self._left_out:
                return
            self._left_out.add(name)
        if not self._cancelled.is_set():
            why = error.diagnostics[0].message
            self._tell("cache-import-failed", f"{name} is left out: {why}")

    def _tell(self, code: str, message: str) -> None:
        self._warn(Diagnostic(code=code, message=message, severity=Severity.WARNING))


def _failed(name: str, message: str) -> RemoteError:
    error = RemoteError.of(
        "cache-import-failed",
        f"{name}: {message}",
        hint="build again: what the cache does not give is made anew",
        details={"method": "", "url": "", "status": 0, "remote_code": "", "retryable": False, "attempts": 1},
    )
    assert isinstance(error, RemoteError)
    return error
