"""Threads, room and cancellation: who may run now, and how everything stops.

A step weighs CPUs and memory, and the host has so much of both. Steps are let in by the order in
which they ask: a heavy one is not overtaken for ever by light ones. Who waits for another process
(see `dedupe`) occupies no room.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress

import msgspec

from arkwright.diagnostics.errors import Cancelled
from arkwright.solver.threads import Threads

POLL_S = 0.1
# Besides those that have room there are threads that wait: for room, or for another process.
_THREADS = 64
# Steps sleep, download and wait for disks: with one for each CPU some of these had nothing to do.
_STEPS_PER_CPU, _LEAST_STEPS = 4, 16
# memory.max of a cgroup of version 2, and the same of version 1 (kernel: admin-guide/cgroup-v2).
_MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class Weight(msgspec.Struct, frozen=True):
    """What one step takes of the host: CPUs, and memory in bytes. It bounds how many steps run at
    once, and is no limit on the step."""

    cpus: float = 1.0
    memory: int = 0


class Room:
    """An amount of CPUs and memory, given out in the order of asking. Thread-safe.

    What weighs more than there is gets everything: it runs alone.
    """

    def __init__(self, cpus: float, memory: int, cancelled: threading.Event) -> None:
        self._total = self._free = (_milli(cpus), memory)
        self._cancelled = cancelled
        self._line: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def of(self, weight: Weight) -> Iterator[None]:
        """Hold the weight for the body. Raises `Cancelled` when the build is, while waiting."""
        cpus, memory = min(_milli(weight.cpus), self._total[0]), min(weight.memory, self._total[1])
        ticket = object()
        with self._changed:
            self._line.append(ticket)
            try:
                while self._line[0] is not ticket or cpus > self._free[0] or memory > self._free[1]:
                    if self._cancelled.is_set():
                        raise Cancelled.of("cancelled", "the build was cancelled")
                    self._changed.wait(POLL_S)
                self._free = (self._free[0] - cpus, self._free[1] - memory)
            finally:
                self._line.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free = (self._free[0] + cpus, self._free[1] + memory)
                self._changed.notify_all()


class Scheduler:
    """Runs tasks on threads, which ask for room when they have something to run.

    `jobs` is the number of CPUs that steps may fill (0: those of the host), `memory` the bytes (0:
    those of the host). `weights` are those of steps by their group, with `""` for all others; a
    step without any weighs one CPU. `external` is a caller's cancellation (Ctrl-C): it is noticed
    within `POLL_S` seconds. Threads exist only between `__enter__` and `__exit__`, because nothing
    may fork after them.
    """

    def __init__(
        self,
        jobs: int = 0,
        external: threading.Event | None = None,
        *,
        memory: int = 0,
        weights: Mapping[str, Weight] | None = None,
    ) -> None:
        cpus = os.cpu_count() or 1
        # Who weighs steps means real CPUs.
        self.jobs = jobs or (cpus if weights else max(_STEPS_PER_CPU * cpus, _LEAST_STEPS))
        self.cancelled = threading.Event()
        self._weights = weights or {}
        self._steps = Room(self.jobs, memory or host_memory(), self.cancelled)
        self._others = Room((jobs or cpus) + 2, 0, self.cancelled)
        self._external = external
        self._done: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def __enter__(self) -> Scheduler:
        self._threads = Threads(self.jobs + _THREADS, "solve")
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.join()

    def step_room(self, group: str) -> AbstractContextManager[None]:
        """Room for a command of a group (a stage)."""
        weight = self._weights.get(group.lower()) or self._weights.get("") or Weight()
        return self._steps.of(weight)

    def other_room(self) -> AbstractContextManager[None]:
        """Room for work on files: copies, comparisons."""
        return self._others.of(Weight())

    def submit(self, work: Callable[[], Callable[[], None]]) -> None:
        """Run `work` on a thread; the callable that it returns runs in the thread of `wait`."""
        self._threads.submit(lambda: self._done.put(work()))

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


def host_memory() -> int:
    """The bytes that this host, or the control group that it shows us, has."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in _MEMORY_LIMITS:
        with suppress(OSError, ValueError), open(path) as file:
            found = min(found, int(file.read()))
    return found


def _milli(cpus: float) -> int:
    return round(cpus * 1000)
