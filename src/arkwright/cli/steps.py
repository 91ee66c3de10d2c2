"""The output of one command in a working container, byte for byte; of a cached one, what it wrote then."""

from __future__ import annotations

import os
import sys

from arkwright.cli.invocation import wants_color
from arkwright.events import types


class StepOutput:
    """A progress view that shows what the last command of the graph writes, where it writes it, and
    nothing else but warnings."""

    def __init__(self, root_path: str) -> None:
        self._root_path = root_path
        self._key = ""
        self._ran = False

    def __call__(self, event: types.AnyEvent) -> None:
        match event:
            case types.Log():
                self._ran = True
                _write(event.fd, event.data)
            case types.Started():
                self._ran = True
            case types.CacheHit():
                # The last command's hit is told first: what stands below it comes after.
                self._key = self._key or event.key
            case types.Warning():
                from arkwright.diagnostics.render import render

                sys.stderr.write(render([event.diagnostic], color=wants_color(sys.stderr)))
            case types.Waiting():
                sys.stderr.write(f"waiting for {event.holder} (pid {event.pid})\n")
            case _:
                pass

    def finish(self) -> None:
        """Say again what a cached command said when it ran, if its journal is still there."""
        key, self._key = self._key, ""
        if not key or self._ran:
            return
        from arkwright.cache.records import Records
        from arkwright.events.journal import journal_path, read_journal
        from arkwright.store.store import Store

        with Store.open(self._root_path) as store:
            record = Records(store.metadata).find(key)
        path = journal_path(self._root_path, record.build) if record is not None and record.build else ""
        if record is None or not os.path.exists(path):
            return
        for event in read_journal(path):
            if isinstance(event, types.Log) and event.vertex == record.vertex:
                _write(event.fd, event.data)


def _write(fd: int, data: bytes) -> None:
    stream = sys.stdout.buffer if fd == 1 else sys.stderr.buffer
    stream.write(data)
    stream.flush()
