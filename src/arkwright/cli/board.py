"""The state of a build as its events tell it: the fold that every view of progress shares.

Nothing here reads a clock or writes anywhere: equal events give an equal board. A drawing thread may
read while events come: queries work on copies that CPython makes in one step.
"""

from __future__ import annotations

from collections import deque

from arkwright.cli.steplog import Lines
from arkwright.diagnostics.amounts import bytes_text
from arkwright.events import types

_TAIL = 12
_NS = 1_000_000_000


class Step:
    """One vertex. `number` counts in the order of first appearance; times are monotonic
    nanoseconds; `state` is waiting, running, done, cached, failed or cancelled."""

    def __init__(self, vertex: str, name: str) -> None:
        self.vertex = vertex
        self.name = name
        self.number = 0
        self.state = "waiting"
        self.started = 0
        self.ended = 0
        self.message = ""
        self.tail: deque[str] = deque(maxlen=_TAIL)
        self.items: dict[str, types.Progress] = {}
        self._streams = {1: Lines(), 2: Lines()}

    def lines(self, event: types.Log) -> list[str]:
        """The log lines that the event completes; they also go to `tail`."""
        found = self._streams.setdefault(event.fd, Lines()).feed(event.data)
        self.tail.extend(found)
        return found

    def last_lines(self) -> list[str]:
        """What the step wrote last without a line end."""
        found = [line for stream in self._streams.values() for line in stream.finish()]
        self.tail.extend(found)
        return found

    def seconds(self, mono: int) -> float:
        """From the start to `mono`."""
        return max(0, mono - self.started) / _NS if self.started else 0.0


class Board:
    """All steps of one build."""

    def __init__(self) -> None:
        self.steps: dict[str, Step] = {}
        self.warnings: list[types.Warning] = []
        self.exports: list[types.Exported] = []
        self.began = 0
        self.now = 0
        self._numbered = 0

    def count(self, state: str) -> int:
        """How many steps are in a state."""
        return sum(step.state == state for step in list(self.steps.values()))

    def running(self) -> list[Step]:
        """The running steps, in the order in which they started."""
        return sorted(
            (step for step in list(self.steps.values()) if step.state == "running"),
            key=lambda step: step.number,
        )

    def step(self, vertex: str) -> Step:
        """A step by vertex digest; one that was never declared is named by its digest."""
        if vertex not in self.steps:
            self.steps[vertex] = Step(vertex, vertex[:19])
        return self.steps[vertex]

    def apply(self, event: types.AnyEvent) -> None:
        """Fold one event in; log lines are taken from `Step.lines` by the view itself."""
        self.began = self.began or event.mono
        self.now = max(self.now, event.mono)
        match event:
            case types.Declared():
                self.step(event.vertex).name = _title(event)
            case types.Started():
                step = self._numbered_step(event.vertex)
                step.state, step.started = "running", event.mono
            case types.CacheHit():
                step = self._numbered_step(event.vertex)
                step.state, step.ended = "cached", event.mono
            case types.Finished():
                step = self._numbered_step(event.vertex)
                step.ended = event.mono
                step.state = step.state if step.state == "cached" else "done"
            case types.Failed():
                step = self._numbered_step(event.vertex)
                step.state, step.ended = "cancelled" if event.cancelled else "failed", event.mono
                step.message = event.message
            case types.Progress():
                self.step(event.vertex).items[event.item] = event
            case types.Warning():
                self.warnings.append(event)
            case types.Exported():
                self.exports.append(event)
            case types.Log() | types.Waiting():
                pass

    def _numbered_step(self, vertex: str) -> Step:
        step = self.step(vertex)
        if not step.number:
            self._numbered += 1
            step.number = self._numbered
        return step


def _title(event: types.Declared) -> str:
    name = " ".join(event.name.split())
    return f"[{event.group}] {name}" if event.group and not name.startswith("[") else name


def amount(event: types.Progress) -> str:
    """Progress for people: `3.1MB / 10.0MB`, `4 / 7 files`."""
    if event.unit == "bytes":
        total = f" / {bytes_text(event.total)}" if event.total else ""
        return bytes_text(event.done) + total
    return f"{event.done}" + (f" / {event.total}" if event.total else "") + f" {event.unit}"


def exported_text(event: types.Exported) -> str:
    """One line on what an exporter did."""
    parts = [f"exported {event.kind}"]
    if event.destination:
        parts.append(f"to {event.destination}")
    if event.digest:
        parts.append(event.digest)
    if event.names:
        parts.append("as " + ", ".join(event.names))
    return " ".join(parts)
