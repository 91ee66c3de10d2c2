"""Plain progress: one line per fact, as docker's `--progress=plain`.

#3 [builder 2/4] RUN gcc -o app app.c
#3 0.512 app.c: In function 'main':
#3 DONE 1.2s

#4 [builder 3/4] COPY . .
#4 CACHED
"""

from __future__ import annotations

from typing import IO

from arkwright.cli.board import Board, Step, amount, exported_text
from arkwright.cli.steplog import neutralise
from arkwright.diagnostics.cells import escape
from arkwright.diagnostics.render import render
from arkwright.events import types

# An unfinished download is mentioned at most this often.
_PAUSE_NS = 2_000_000_000


class PlainProgress:
    """Writes as the events come; depends on nothing but them.

    `safe` neutralises what steps print, for output that ends on a terminal; elsewhere (a CI log)
    colours are left to the viewer. `board` is what another view has seen before.
    """

    def __init__(
        self, out: IO[str], *, safe: bool = True, color: bool = False, board: Board | None = None
    ) -> None:
        self._out = out
        self._safe = safe
        self._color = color
        self._board = board or Board()
        self._mentioned: dict[tuple[str, str], int] = {}
        self._spaced = True

    def __call__(self, event: types.AnyEvent) -> None:
        self._board.apply(event)
        self._show(event)
        self._out.flush()

    def finish(self) -> None:
        """Nothing is pending between events."""
        self._out.flush()

    def _show(self, event: types.AnyEvent) -> None:
        match event:
            case types.Started():
                self._head(self._board.step(event.vertex))
            case types.Waiting():
                self._gap()
                name = escape(self._board.step(event.vertex).name)
                holder = f"build {event.holder} (pid {event.pid})" if event.holder else "another build"
                self._write(f"{name}: waiting for {holder}, which runs the same step")
                self._gap()
            case types.CacheHit():
                step = self._board.step(event.vertex)
                self._head(step)
                self._end(step, "CACHED")
            case types.Log():
                step = self._board.step(event.vertex)
                self._lines(step, step.lines(event), event.mono)
            case types.Progress():
                self._progress(event)
            case types.Finished():
                step = self._board.step(event.vertex)
                if step.state == "done":
                    self._lines(step, step.last_lines(), event.mono)
                    self._end(step, f"DONE {step.seconds(event.mono):.1f}s")
            case types.Failed():
                step = self._board.step(event.vertex)
                self._lines(step, step.last_lines(), event.mono)
                self._end(step, "CANCELED" if event.cancelled else _failed(event.message))
            case types.Warning():
                self._gap()
                self._write(render([event.diagnostic], color=self._color).removesuffix("\n"))
                self._gap()
            case types.Exported():
                self._write(exported_text(event))
            case types.Declared():
                pass

    def _head(self, step: Step) -> None:
        self._gap()
        self._write(f"#{step.number} {escape(step.name)}")

    def _end(self, step: Step, text: str) -> None:
        self._write(f"#{step.number} {text}")
        self._gap()

    def _lines(self, step: Step, lines: list[str], mono: int) -> None:
        for line in lines:
            text = neutralise(line) if self._safe else line
            self._write(f"#{step.number} {step.seconds(mono):.3f} {text}")

    def _progress(self, event: types.Progress) -> None:
        """The first mention of an item, its end, and now and then between."""
        key = (event.vertex, event.item)
        ended = event.total > 0 and event.done >= event.total
        last = self._mentioned.get(key, 0)
        if last < 0 or (not ended and last and event.mono - last < _PAUSE_NS):
            return
        self._mentioned[key] = -1 if ended else max(event.mono, 1)
        step = self._board.step(event.vertex)
        self._write(f"#{step.number} {escape(event.item)} {amount(event)}" + (" done" if ended else ""))

    def _write(self, text: str) -> None:
        self._out.write(text + "\n")
        self._spaced = False

    def _gap(self) -> None:
        if not self._spaced:
            self._out.write("\n")
            self._spaced = True


def _failed(message: str) -> str:
    return f"ERROR: {escape(message)}" if message else "ERROR"
