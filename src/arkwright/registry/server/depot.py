"""The store of a server that may run for weeks.

An open store is never collected, so it is open only while there is something to do: it is closed some
seconds after the last request, and some minutes after the last one of a push, whose blobs nothing
leads to before its manifest is there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from arkwright.store.repositories import Repositories
from arkwright.store.store import Store

IDLE_S = 5.0
PUSH_IDLE_S = 300.0


class Depot:
    """Opens the store when it is asked for. Thread-safe."""

    def __init__(self, root_path: str, *, idle_s: float = IDLE_S, push_idle_s: float = PUSH_IDLE_S) -> None:
        """Raises as `Store.open`."""
        self._root_path = root_path
        self._idle_s = idle_s
        self._push_idle_s = push_idle_s
        self._lock = threading.Lock()
        self._users = 0
        self._until_s = 0.0
        self._pending: dict[str, float] = {}
        self._store: Store | None = Store.open(root_path)
        # Uploads that a killed server left behind: nobody can go on with them.
        self._store.clean()
        threading.Thread(target=self._store.empty_trash, name="trash", daemon=True).start()
        Repositories(self._store.metadata).forget_missing(self._store.content)

    @contextmanager
    def store(self) -> Iterator[Store]:
        """The store, open for the body. Raises as `Store.open`."""
        with self._lock:
            if self._store is None:
                self._store = Store.open(self._root_path)
            store = self._store
            self._users += 1
        try:
            yield store
        finally:
            with self._lock:
                self._users -= 1
                self._until_s = max(self._until_s, time.monotonic() + self._idle_s)

    def pushed(self, repository: str) -> None:
        """A blob came that no name leads to yet."""
        with self._lock:
            self._pending[repository] = time.monotonic() + self._push_idle_s

    def settled(self, repository: str) -> None:
        """A manifest came for the blobs of a repository."""
        with self._lock:
            self._pending.pop(repository, None)

    def rest(self, *, busy: bool = False) -> None:
        """Close the store if it has been left alone long enough; `busy`: uploads are under way."""
        with self._lock:
            now_s = time.monotonic()
            self._pending = {name: until_s for name, until_s in self._pending.items() if until_s > now_s}
            due = not busy and not self._users and not self._pending and now_s >= self._until_s
            if due and self._store is not None:
                self._store.close()
                self._store = None

    def close(self) -> None:
        """Close the store, whoever uses it."""
        with self._lock:
            if self._store is not None:
                self._store.close()
                self._store = None
