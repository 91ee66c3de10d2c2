"""Progress on a terminal: finished steps scroll by, running ones are redrawn below them.

The only module that knows rich. Its drawing thread lives only while a step runs, so that a process
that forks between steps is single-threaded then, and so that whichever process reports the end of
the last running step leaves the terminal as it was.
"""

from __future__ import annotations

import threading
import time
from typing import IO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from arkwright.cli.board import Board, Step, amount, exported_text
from arkwright.cli.steplog import neutralise
from arkwright.diagnostics.cells import escape
from arkwright.diagnostics.render import render
from arkwright.events import types

_LOG_LINES = 6
_PAUSE_S = 0.125
_STYLES = {"CACHED": "blue", "ERROR": "bold red", "CANCELED": "yellow"}


class TtyProgress:
    """Takes over a board that may already hold cached steps; see `progress.DeferredTty`."""

    def __init__(self, out: IO[str], board: Board, *, color: bool = True) -> None:
        self._console = Console(
            file=out, highlight=False, markup=False, emoji=False, no_color=not color, force_terminal=True
        )
        self._board = board
        self._live: Live | None = None
        self._drawer: threading.Thread | None = None
        self._stopping = threading.Event()

    def __call__(self, event: types.AnyEvent) -> None:
        if isinstance(event, types.Log):
            self._board.step(event.vertex).lines(event)
        self._board.apply(event)
        self._settle(event)

    def finish(self) -> None:
        """Stop drawing, whatever still runs; the cursor is visible again even if another process,
        which drew, was killed."""
        self._stop()
        self._console.show_cursor(True)

    def _settle(self, event: types.AnyEvent) -> None:
        """Print what is final above the live part, which is there while something runs."""
        running = bool(self._board.running())
        if not running:
            self._stop()
        whole = isinstance(event, types.Exported | types.Warning)
        for text in final_lines(self._board, event):
            self._console.print(
                text, soft_wrap=whole, no_wrap=True, overflow="ignore" if whole else "ellipsis"
            )
        if running and self._live is None:
            self._start()

    def _start(self) -> None:
        self._live = Live(
            get_renderable=self._draw, console=self._console, auto_refresh=False, transient=True,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip
        self._live.start(refresh=True)
        self._stopping = threading.Event()
        self._drawer = threading.Thread(target=self._redraw, args=(self._live, self._stopping), daemon=True)
        self._drawer.start()

    def _stop(self) -> None:
        live, self._live = self._live, None
        if live is None or self._drawer is None:
            return
        # Rich's own refresh thread is not joined by `Live.stop`; ours is, so that none is left.
        self._stopping.set()
        self._drawer.join()
        self._drawer = None
        live.stop()

    def _redraw(self, live: Live, stopping: threading.Event) -> None:
        while not stopping.wait(_PAUSE_S):
            live.refresh()

    def _draw(self) -> RenderableType:
        return Group(*live_lines(self._board, time.monotonic_ns(), self._console.width))


def final_lines(board: Board, event: types.AnyEvent) -> list[Text]:
    """The lines that scroll by for an event which the board already holds."""
    match event:
        case types.CacheHit():
            return [_line("CACHED ", board.step(event.vertex), 0.0)]
        case types.Finished():
            step = board.step(event.vertex)
            return [_line("", step, step.seconds(event.mono))] if step.state == "done" else []
        case types.Failed():
            step = board.step(event.vertex)
            return [_line("CANCELED " if event.cancelled else "ERROR ", step, step.seconds(event.mono))]
        case types.Warning():
            return [Text(line) for line in render([event.diagnostic]).splitlines()]
        case types.Exported():
            return [Text(f" => {escape(exported_text(event))}")]
    return []


def live_lines(board: Board, mono: int, width: int) -> list[Text]:
    """What is drawn while steps run: the totals, and each running step with its last lines."""
    counts = [
        (board.count("done"), "done"),
        (board.count("cached"), "cached"),
        (len(board.running()), "running"),
    ]
    total = " · ".join(f"{count} {name}" for count, name in counts if count)
    lines = [_cut(f"[+] {max(0, mono - board.began) / 1e9:.1f}s  {total}", width)]
    for step in board.running():
        lines.append(_line("", step, step.seconds(mono)))
        lines += [
            _cut(f"    {escape(item.item)} {amount(item)}", width)
            for item in list(step.items.values())
            if not item.total or item.done < item.total
        ][:_LOG_LINES]
        lines += [_cut(f"    {neutralise(text)}", width, "dim") for text in list(step.tail)[-_LOG_LINES:]]
    return lines


def _line(mark: str, step: Step, seconds: float) -> Text:
    text = Text(" => ", no_wrap=True, overflow="ellipsis")
    text.append(mark, _STYLES.get(mark.strip(), ""))
    text.append(escape(step.name))
    if seconds:
        text.append(f" {seconds:.1f}s", "dim")
    return text


def _cut(text: str, width: int, style: str = "") -> Text:
    made = Text(text, style, no_wrap=True, overflow="ellipsis")
    made.truncate(max(20, width - 1), overflow="ellipsis")
    return made
