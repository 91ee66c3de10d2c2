"""Slots and cancellation: who may run now, and how everything stops."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

POLL_S = 0.1


class Scheduler:
    """Runs tasks on threads: at most `jobs` that occupy a slot, and a few more that do not.

    `external` is a caller's cancellation (Ctrl-C): it is noticed within `POLL_S` seconds. Threads
    exist only between `__enter__` and `__exit__`, because nothing may fork after them.
    """

    def __init__(self, jobs: int = 0, external: threading.Event | None = None) -> None:
        self.jobs = jobs or os.cpu_count() or 1
        self.cancelled = threading.Event()
        self._external = external
        self._done: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def __enter__(self) -> Scheduler:
        self._steps = ThreadPoolExecutor(self.jobs, "step")
        self._others = ThreadPoolExecutor(self.jobs + 2, "work")
        return self

    def __exit__(self, *_: object) -> None:
        self._steps.shutdown(wait=True)
        self._others.shutdown(wait=True)

    def submit(self, slot: bool, work: Callable[[], Callable[[], None]]) -> None:
        """Run `work` on a thread; the callable that it returns runs in the thread of `wait`."""
        pool = self._steps if slot else self._others
        pool.submit(lambda: self._done.put(work()))

    def wait(self) -> None:
        """Block until one task is done and run its completion; notice outside cancellation."""
        while True:
            if self._external is not None and self._external.is_set():
                self.cancelled.set()
            try:
                completion = self._done.get(timeout=POLL_S)
            except queue.Empty:
                continue
            completion()
            return
