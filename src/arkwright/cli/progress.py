"""Choosing how progress is shown."""

from __future__ import annotations

import os
import sys
from typing import IO, Protocol

from arkwright.cli.invocation import wants_color
from arkwright.events import types


class ProgressView(Protocol):
    """A subscriber that shows events; `finish` leaves the output in order."""

    def __call__(self, event: types.AnyEvent) -> None: ...

    def finish(self) -> None:
        """The build is over, well or not; a second call does nothing."""
        ...


def progress_view(mode: str, out: IO[str] | None = None) -> ProgressView:
    """The view for a `--progress` mode; it writes to `out`, by default standard error.

    `auto`, and `tty` too, fall back to plain where `out` is not a terminal that can redraw.
    """
    out = sys.stderr if out is None else out
    if mode in ("quiet", "none"):
        from arkwright.cli.quiet import QuietProgress

        return QuietProgress()
    if mode == "rawjson":
        from arkwright.cli.rawjson import RawJsonProgress

        return RawJsonProgress(out)
    if mode in ("auto", "tty") and out.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return DeferredTty(out)
    from arkwright.cli.plain import PlainProgress

    return PlainProgress(out, safe=out.isatty(), color=wants_color(out))


class DeferredTty:
    """The terminal view until something really runs: a cached build never loads rich."""

    def __init__(self, out: IO[str]) -> None:
        from arkwright.cli.board import Board

        self._out = out
        self._board = Board()
        self._view: ProgressView | None = None

    def __call__(self, event: types.AnyEvent) -> None:
        if self._view is None and isinstance(event, types.Started):
            self._view = self._load()
        if self._view is not None:
            self._view(event)
            return
        self._board.apply(event)
        self._show(event)
        self._out.flush()

    def finish(self) -> None:
        """Leave the terminal as it was."""
        if self._view is not None:
            self._view.finish()

    def _load(self) -> ProgressView:
        try:
            from arkwright.cli.tty import TtyProgress
        except ImportError:
            from arkwright.cli.plain import PlainProgress

            return PlainProgress(self._out, color=wants_color(self._out), board=self._board)
        return TtyProgress(self._out, self._board, color=wants_color(self._out))

    def _show(self, event: types.AnyEvent) -> None:
        from arkwright.cli.board import exported_text
        from arkwright.diagnostics.cells import escape

        match event:
            case types.CacheHit():
                self._out.write(f" => CACHED {escape(self._board.step(event.vertex).name)}\n")
            case types.Failed():
                self._out.write(f" => ERROR {escape(self._board.step(event.vertex).name)}\n")
            case types.Warning():
                from arkwright.diagnostics.render import render

                self._out.write(render([event.diagnostic], color=wants_color(self._out)))
            case types.Exported():
                self._out.write(f" => {escape(exported_text(event))}\n")
