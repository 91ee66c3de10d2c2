"""Excerpts of a source file with marks beneath the places that matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from arkwright.diagnostics.cells import escape, layout
from arkwright.diagnostics.spans import SourceFile, Span

# A longer span shows its first and last lines only.
_WHOLE_SPAN = 6
_HEAD, _TAIL = 3, 2
# The cells that stay visible before and after a span when a long line is cut.
_MARGIN = 16
_MIN_TEXT = 24
_CUT = "…"

Painter = Callable[[str, str], str]
"""Styles text; the kind is `gutter`, `primary` or `secondary`."""


class Mark(msgspec.Struct, frozen=True):
    """A span to be marked, with the words beside it."""

    span: Span
    text: str
    primary: bool


class _Row(msgspec.Struct, frozen=True):
    """One row of marks beneath a line: `[begin, end)` in characters of that line."""

    begin: int
    end: int
    text: str
    primary: bool


class _Cells(msgspec.Struct, frozen=True):
    """A laid-out line: what is printed per character, and the cell at which each begins."""

    texts: tuple[str, ...]
    starts: tuple[int, ...]

    @property
    def total(self) -> int:
        return self.starts[-1]


class _View(msgspec.Struct, frozen=True):
    """The characters `[begin, end)` of a line that fit."""

    cells: _Cells
    begin: int
    end: int

    @property
    def text(self) -> str:
        before = _CUT if self.begin else ""
        after = _CUT if self.end < len(self.cells.texts) else ""
        return before + "".join(self.cells.texts[self.begin : self.end]) + after

    def cell(self, position: int) -> int:
        """The cell at which a character is shown; what is cut away lies at the cut."""
        starts = self.cells.starts
        inside = min(max(position, self.begin), self.end)
        return starts[inside] - starts[self.begin] + (len(_CUT) if self.begin else 0)


def excerpt(file: SourceFile, marks: Sequence[Mark], *, paint: Painter, width: int) -> list[str]:
    """The marked lines of a file with a gutter of line numbers, in file order."""
    rows: dict[int, list[_Row]] = {}
    for mark in marks:
        for number, row in _rows(file, mark):
            rows.setdefault(number, []).append(row)
    numbers = sorted(rows)
    gutter = len(str(numbers[-1]))
    room = max(_MIN_TEXT, width - gutter - 3)
    lines: list[str] = []
    previous = numbers[0]
    for number in numbers:
        if number == previous + 2:
            lines += _block(file, previous + 1, [], room=room, paint=_gutter(gutter, paint))
        elif number > previous + 2:
            lines.append(_gutter(gutter, paint)("gutter", _CUT))
        lines += _block(file, number, rows[number], room=room, paint=_gutter(gutter, paint))
        previous = number
    return lines


def _rows(file: SourceFile, mark: Mark) -> Iterator[tuple[int, _Row]]:
    """The mark cut into lines; its text stands beside the last of them."""
    first, column = file.position(mark.span.start)
    last, end_column = file.position(max(mark.span.end, mark.span.start))
    if last > first and end_column == 1:
        last -= 1
        end_column = len(file.line(last)) + 1
    if first == last:
        yield first, _Row(column - 1, end_column - 1, mark.text, mark.primary)
        return
    numbers = list(range(first, last + 1))
    if len(numbers) > _WHOLE_SPAN:
        numbers = numbers[:_HEAD] + numbers[-_TAIL:]
    for number in numbers:
        line = file.line(number)
        begin = column - 1 if number == first else len(line) - len(line.lstrip())
        end = end_column - 1 if number == last else len(line.rstrip())
        if number != last and begin >= end:
            continue
        yield number, _Row(begin, max(begin, end), mark.text if number == last else "", mark.primary)


def _gutter(cells: int, paint: Painter) -> Painter:
    """Paints `gutter` texts right-aligned, with the bar."""
    return lambda kind, text: paint(kind, f"{text:>{cells}} │" if kind == "gutter" else text)


def _block(file: SourceFile, number: int, rows: list[_Row], *, room: int, paint: Painter) -> list[str]:
    view = _view(_lay(file.line(number)), rows, room)
    bar = paint("gutter", str(number))
    lines = [f"{bar} {view.text}" if view.text else bar]
    return lines + [f"{paint('gutter', '')} {_marks(view, row, paint)}" for row in rows]


def _lay(line: str) -> _Cells:
    texts: list[str] = []
    starts = [0]
    for text, cells in layout(line):
        texts.append(text)
        starts.append(starts[-1] + cells)
    return _Cells(tuple(texts), tuple(starts))


def _view(cells: _Cells, rows: list[_Row], room: int) -> _View:
    """The whole line, or what fits around the beginning of its first row."""
    count, starts = len(cells.texts), cells.starts
    if cells.total <= room:
        return _View(cells, 0, count)
    wanted = min(rows[0].begin, count) if rows else 0
    begin = wanted
    while begin > 0 and starts[wanted] - starts[begin - 1] <= _MARGIN:
        begin -= 1
    if starts[begin] <= len(_CUT):
        begin = 0
    space = room - (len(_CUT) if begin else 0)
    if cells.total - starts[begin] <= space:
        return _View(cells, begin, count)
    end = begin
    while starts[end + 1] - starts[begin] <= space - len(_CUT):
        end += 1
    return _View(cells, begin, end)


def _marks(view: _View, row: _Row, paint: Painter) -> str:
    kind = "primary" if row.primary else "secondary"
    start = view.cell(row.begin)
    count = max(1, view.cell(row.end) - start)
    drawn = paint(kind, ("^" if row.primary else "-") * count)
    words = paint(kind, escape(row.text).replace("\n", " "))
    return " " * start + drawn + (f" {words}" if row.text else "")
