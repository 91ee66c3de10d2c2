"""Threads that are made when there is work for them.

`concurrent.futures` does the same with results and exceptions, and costs a cached build, which has
little to do, 3 ms of imports (logging among them).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

Work = Callable[[], None]


class Threads:
    """Runs work in the order of `submit`, on at most `limit` threads. Work must not raise."""

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._work: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []

    def submit(self, work: Work) -> None:
        """Called by one thread only."""
        self._work.put(work)
        if not self._idle.acquire(blocking=False) and len(self._threads) < self._limit:
            thread = threading.Thread(target=self._run, name=f"{self._name}-{len(self._threads)}")
            self._threads.append(thread)
            thread.start()

    def join(self) -> None:
        """Let all work that was submitted end."""
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            # A closure may hold a store's files: it ends here, and not with the next piece of work.
            del work
            self._idle.release()
