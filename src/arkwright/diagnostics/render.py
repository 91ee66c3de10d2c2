"""Diagnostics as text with caret excerpts, and as JSON.

error[unknown-stage]: COPY --from=bulder names no stage, image or context
  Dockerfile:12:13
12 │ COPY --from=bulder /out /app
   │             ^^^^^^ did you mean "builder" (line 3)?
  docs: docs/reference/errors/unknown-stage.md
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import msgspec

from arkwright.diagnostics.cells import escape
from arkwright.diagnostics.errors import Diagnostic, Label, Severity
from arkwright.diagnostics.excerpt import Mark, excerpt
from arkwright.diagnostics.spans import SourceFile

_COLORS = {Severity.ERROR: "1;31", Severity.WARNING: "1;33", Severity.NOTE: "1;36"}
_RESET = "\x1b[0m"
DEFAULT_WIDTH = 100


class Paint(msgspec.Struct, frozen=True):
    """Wraps text in SGR sequences when `color` is on."""

    color: bool

    def __call__(self, style: str, text: str) -> str:
        return f"\x1b[{style}m{text}{_RESET}" if self.color and text else text


def docs_page(code: str) -> str:
    """The documentation page of a diagnostic's code, relative to the repository."""
    return f"docs/reference/errors/{code}.md"


def render(diagnostics: Iterable[Diagnostic], *, color: bool = False, width: int = DEFAULT_WIDTH) -> str:
    """All diagnostics as text, each with its excerpts, hint and docs page; ends with a line end.

    `width` is the number of terminal cells that an excerpt may take.
    """
    paint = Paint(color)
    blocks = ["\n".join(_one(found, paint, width)) + "\n" for found in diagnostics]
    return "\n".join(blocks)


def _one(found: Diagnostic, paint: Paint, width: int) -> list[str]:
    style = _COLORS[found.severity]
    first, *rest = escape(found.message).split("\n")
    head = paint(style, f"{found.severity.value}[{found.code}]")
    lines = [f"{head}: {paint('1', first)}", *(f"  {line}" for line in rest)]
    lines += _excerpts(found.labels, paint, style, width)
    lines += [line for note in found.notes for line in _entry("note", note)]
    if found.hint:
        lines += _entry("hint", found.hint)
    lines.append(f"  docs: {docs_page(found.code)}")
    return lines


def _entry(name: str, text: str) -> list[str]:
    first, *rest = escape(text).split("\n")
    return [f"  {name}: {first}", *(f"{' ' * (len(name) + 4)}{line}" for line in rest)]


def _excerpts(labels: Sequence[Label], paint: Paint, style: str, width: int) -> list[str]:
    """One excerpt per file, the primary label's first; its labels are marked with `^`."""
    lines: list[str] = []
    for file, marks in _by_file(labels):
        lines.append(f"  {escape(str(marks[0].span))}")
        lines += excerpt(file, marks, paint=lambda kind, text: _style(paint, style, kind, text), width=width)
    return lines


def _by_file(labels: Sequence[Label]) -> list[tuple[SourceFile, list[Mark]]]:
    files: list[SourceFile] = []
    for label in labels:
        if label.span.file not in files:
            files.append(label.span.file)
    numbered = sorted(
        ((files.index(label.span.file), position, label) for position, label in enumerate(labels)),
        key=lambda item: item[:2],
    )
    return [
        (files[number], [Mark(label.span, label.text, primary=position == 0) for _, position, label in group])
        for number, group in groupby(numbered, key=lambda item: item[0])
    ]


def _style(paint: Paint, style: str, kind: str, text: str) -> str:
    return paint({"gutter": "34", "primary": style, "secondary": "1;34"}[kind], text)


def to_json(diagnostics: Iterable[Diagnostic]) -> list[dict[str, Any]]:
    """The diagnostics as JSON types, for tools: `code`, `severity`, `message`, `labels` (each
    with `path`, `start` and `end` as one-based `line` and `column` with a zero-based character
    `offset`, and `text`), `notes`, `hint` and `docs`. The sources' text is not included."""
    return [
        {
            "code": found.code,
            "severity": found.severity.value,
            "message": found.message,
            "labels": [_label_json(label) for label in found.labels],
            "notes": list(found.notes),
            "hint": found.hint,
            "docs": docs_page(found.code),
        }
        for found in diagnostics
    ]


def _label_json(label: Label) -> dict[str, Any]:
    def place(offset: int) -> dict[str, int]:
        line, column = label.span.file.position(offset)
        return {"line": line, "column": column, "offset": offset}

    return {
        "path": label.span.file.path,
        "start": place(label.span.start),
        "end": place(label.span.end),
        "text": label.text,
    }
