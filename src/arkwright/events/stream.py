"""Ordered fan-out of events to subscribers.

`emit` may be called from any thread. Subscribers are called one event at a time, in order, on
the emitting thread: they must be quick. The journal subscribes first, so that nothing is shown
that is not recorded. The worker process has a stream of its own, whose only subscriber sends the
events to the stream of the process that the user started; that one shows and records them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from arkwright.events.types import AnyEvent, Progress

Subscriber = Callable[[AnyEvent], None]
PROGRESS_PAUSE_NS = 100_000_000


class EventStream:
    """The one place through which producers speak (`emit`)."""

    def __init__(self, build: str) -> None:
        self.build = build
        self._seq = 0
        self._lock = threading.RLock()
        self._subscribers: list[Subscriber] = []
        self._shown: dict[tuple[str, str], int] = {}

    def subscribe(self, subscriber: Subscriber, *, first: bool = False) -> None:
        """Add a subscriber; it sees the events emitted from now on, `first` before all others."""
        self._subscribers.insert(0 if first else len(self._subscribers), subscriber)

    def emit(self, event: AnyEvent) -> None:
        """Stamp the event (build, sequence number, clocks) and hand it to every subscriber.

        Progress is coalesced: of one item at most ten a second, and its end.
        """
        with self._lock:
            if isinstance(event, Progress) and not self._is_due(event):
                return
            now = msgspec.structs.replace(event, at=time.time_ns(), mono=time.monotonic_ns())
            self._deliver(now)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let nobody but the calling thread speak while the body runs; the others wait."""
        with self._lock:
            yield

    def _is_due(self, event: Progress) -> bool:
        now = time.monotonic_ns()
        key = (event.vertex, event.item)
        if event.done != event.total and now - self._shown.get(key, 0) < PROGRESS_PAUSE_NS:
            return False
        self._shown[key] = now
        return True

    def relay(self, data: bytes) -> None:
        """Pass on an event that another process of this build emitted, as msgpack, with its times.

        Raises `msgspec.DecodeError` for anything else.
        """
        event = msgspec.msgpack.decode(data, type=AnyEvent)
        with self._lock:
            self._deliver(event)

    def _deliver(self, event: AnyEvent) -> None:
        self._seq += 1
        stamped = msgspec.structs.replace(event, build=self.build, seq=self._seq)
        for subscriber in self._subscribers:
            subscriber(stamped)
