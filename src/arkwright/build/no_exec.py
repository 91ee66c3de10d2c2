"""Builds whose uncached part runs nothing: done by the process that the user started.

No worker, no namespace, no mount, no file of another owner: trees are virtual (`snapshot.virtual`), and
what is made of them is known by its blob. So COPY, ADD, WORKDIR and all outputs work for a user without any
privilege, and give what they give to root.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from arkwright.build.means import Means
from arkwright.graph.definition import Definition, Vertex
from arkwright.graph.ops import ExecOp
from arkwright.ops.result import LayeredResult
from arkwright.solver.solver import Solver

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def runs_nothing(definitions: Sequence[Definition], solver: Solver, means: Means) -> bool:
    """Whether what is not cached is without steps, and stands on layers that can be read as blobs.

    A step's layer that was never exported exists only as a tree, which the worker reads. Where the worker
    has unpacked layers already, it is faster to let it go on, if it can make files of several owners.
    """
    if next(iter(solver.misses(definitions, _is_step)), None) is not None:
        return False
    layers = {
        layer
        for state in solver.states.values()
        for result in state.results or ()
        if isinstance(result, LayeredResult)
        for layer in result.layers
    }
    if not all(map(means.readable, layers)):
        return False
    unpacked = any(record.unpacked for name in layers if (record := means.layers.get(name)) is not None)
    return not (unpacked and _has_ids())


def _has_ids() -> bool:
    """Whether a worker of this user would have more than one user id."""
    uid = os.geteuid()
    if uid == 0:
        return True
    import pwd

    try:
        names = {str(uid), pwd.getpwuid(uid).pw_name}
    except KeyError:
        names = {str(uid)}
    try:
        with open("/etc/subuid", encoding="utf-8", errors="replace") as ranges:
            return any(line.split(":")[0] in names for line in ranges)
    except OSError:
        return False


def _is_step(vertex: Vertex) -> bool:
    return isinstance(vertex.op, ExecOp)


@contextmanager
def cancellable() -> Iterator[threading.Event]:
    """An event that the first SIGINT, SIGTERM or SIGHUP sets; the next one interrupts at once."""
    cancelled = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if cancelled.is_set():
            raise KeyboardInterrupt
        cancelled.set()

    previous = {}
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            previous[number] = signal.signal(number, on_signal)
    try:
        yield cancelled
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
