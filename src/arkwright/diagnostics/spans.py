"""Source files and spans: where in the user's input something stands."""

from __future__ import annotations

from bisect import bisect_right

import msgspec


class SourceFile(msgspec.Struct, frozen=True):
    """A named text that diagnostics can quote.

    `path` is what the user typed or what names the text best (`Dockerfile`, `<stdin>`).
    """

    path: str
    text: str

    def line_starts(self) -> list[int]:
        """Offsets, in characters, at which each line begins (LF, and CRLF, end a line)."""
        starts = [0]
        position = self.text.find("\n")
        while position >= 0:
            starts.append(position + 1)
            position = self.text.find("\n", position + 1)
        return starts

    def position(self, offset: int) -> tuple[int, int]:
        """One-based line and column of a character offset."""
        starts = self.line_starts()
        line = bisect_right(starts, offset)
        return line, offset - starts[line - 1] + 1

    def line(self, number: int) -> str:
        """The text of a one-based line, without its line end."""
        starts = self.line_starts()
        begin = starts[number - 1]
        end = self.text.find("\n", begin)
        return (self.text[begin:] if end < 0 else self.text[begin:end]).rstrip("\r")


class Span(msgspec.Struct, frozen=True):
    """A half-open range `[start, end)` of characters in a source file."""

    file: SourceFile
    start: int
    end: int

    @property
    def line(self) -> int:
        return self.file.position(self.start)[0]

    @property
    def column(self) -> int:
        return self.file.position(self.start)[1]

    @property
    def text(self) -> str:
        return self.file.text[self.start : self.end]

    def to(self, other: Span) -> Span:
        """The smallest span that covers both; both must be of one file."""
        return Span(self.file, min(self.start, other.start), max(self.end, other.end))

    def __str__(self) -> str:
        line, column = self.file.position(self.start)
        return f"{self.file.path}:{line}:{column}"
