"""Ordered fan-out of events to subscribers.

`emit` may be called from any thread. Subscribers are called one event at a time, in order, on
the emitting thread: they must be quick. The journal subscribes first, so that nothing is shown
that is not recorded. A stream may be carried over a `fork`: both sides keep counting, and only
one side emits at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import msgspec

from arkwright.events.types import AnyEvent

Subscriber = Callable[[AnyEvent], None]


class EventStream:
    """The one place through which producers speak (`emit`)."""

    def __init__(self, build: str) -> None:
        self.build = build
        self._seq = 0
        self._lock = threading.RLock()
        self._subscribers: list[Subscriber] = []

    def subscribe(self, subscriber: Subscriber) -> None:
        """Add a subscriber; it sees the events emitted from now on."""
        self._subscribers.append(subscriber)

    def emit(self, event: AnyEvent) -> None:
        """Stamp the event (build, sequence number, clocks) and hand it to every subscriber."""
        with self._lock:
            self._seq += 1
            stamped = msgspec.structs.replace(
                event, build=self.build, seq=self._seq, at=time.time_ns(), mono=time.monotonic_ns()
            )
            for subscriber in self._subscribers:
                subscriber(stamped)


class Recorder:
    """A subscriber that keeps what it sees; `replay` passes it on to another stream."""

    def __init__(self) -> None:
        self.events: list[AnyEvent] = []

    def __call__(self, event: AnyEvent) -> None:
        self.events.append(event)

    def replay(self, stream: EventStream) -> None:
        """Emit every kept event into `stream`, with new stamps."""
        for event in self.events:
            stream.emit(event)
