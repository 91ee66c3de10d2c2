"""Physical lines become logical lines that know where each of their characters stands.

A logical line is what an instruction is written on: continuations joined, comment lines and blank
lines inside of them dropped. `Line.span` maps any range of it back to the file. Everything here
is one pass over the text: a file of n characters costs O(n).

The rules (directives, continuation, heredoc bodies) are those of BuildKit's Dockerfile parser;
they are told in the Dockerfile reference under "Parser directives", "Format" and "Here-Documents".
"""

from __future__ import annotations

import re
from bisect import bisect_right

import msgspec

from arkwright.diagnostics.errors import Diagnostic, Label, Severity
from arkwright.diagnostics.spans import SourceFile, Span

# What Go's unicode.IsSpace accepts; Python's own idea of blanks has four control characters more.
SPACE = (
    " \t\n\v\f\r\x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
)

LINE_LIMIT = 64 * 1024 - 1
_DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*\Z")
_DIRECTIVES = ("syntax", "escape", "check")


class Token(msgspec.Struct, frozen=True):
    """A piece of the file: its text after joining of lines, and where it stands."""

    text: str
    span: Span

    def part(self, start: int, end: int) -> Span:
        """Where the characters `[start, end)` of the text stand; the whole token's place when the
        text is not written in one piece."""
        if self.span.end - self.span.start != len(self.text):
            return self.span
        return Span(self.span.file, self.span.start + start, self.span.start + max(start, end))


class Directive(msgspec.Struct, frozen=True):
    """A parser directive: `name` in lower case, `value` as written."""

    name: str
    value: Token
    span: Span


class Line:
    """A logical line: `text`, the `comments` directly above it, and the way back to the file."""

    __slots__ = ("_logical", "_physical", "blank_continuation", "comments", "file", "text")

    def __init__(self, file: SourceFile, pieces: list[tuple[int, str]]) -> None:
        self.file = file
        self.text = "".join(text for _, text in pieces)
        self.comments: tuple[Token, ...] = ()
        self.blank_continuation: Span | None = None
        self._logical: list[int] = []
        self._physical: list[int] = []
        position = 0
        for start, text in pieces:
            self._logical.append(position)
            self._physical.append(start)
            position += len(text)

    def place(self, offset: int) -> int:
        """The file's offset of one character of the line."""
        index = max(0, bisect_right(self._logical, offset) - 1)
        return self._physical[index] + offset - self._logical[index]

    def span(self, start: int, end: int) -> Span:
        """Where `[start, end)` stands; a range over several physical lines covers all of them."""
        first = self.place(start)
        return Span(self.file, first, self.place(end - 1) + 1 if end > start else first)

    def token(self, start: int, end: int) -> Token:
        return Token(self.text[start:end], self.span(start, end))


class LineReader:
    """Reads a file's logical lines, and the heredoc bodies between them."""

    def __init__(self, file: SourceFile, start: int = 0, escape: str = "\\") -> None:
        self.file = file
        self.escape = escape
        self.problems: list[Diagnostic] = []
        self._position = start

    def next(self) -> Line | None:
        """The next logical line; None at the end of the file."""
        comments: list[Token] = []
        while (bounds := self._physical()) is not None:
            text = self.file.text[bounds[0] : bounds[1]]
            body = text.lstrip(SPACE)
            start = bounds[0] + len(text) - len(body)
            if body.startswith("#"):
                self._keep_comment(comments, start, body)
            elif body:
                line = self._join(start, body)
                if line.text.strip(SPACE):
                    line.comments = tuple(comments)
                    return line
                comments.clear()
            else:
                comments.clear()
        return None

    def heredoc(self, terminator: str, chomp: bool) -> Token | None:
        """The lines up to one that is `terminator` (leading tabs stripped if `chomp`), line ends
        as written; None when there is no such line: then nothing was read."""
        begin = position = self._position
        while (bounds := self._physical()) is not None:
            candidate = self.file.text[bounds[0] : bounds[1]]
            if (candidate.lstrip("\t") if chomp else candidate) == terminator:
                return Token(self.file.text[begin:position], Span(self.file, begin, position))
            position = self._position
        self._position = begin
        return None

    def skip_rest(self) -> None:
        """Go to the end of the file."""
        self._position = len(self.file.text)

    def _physical(self) -> tuple[int, int] | None:
        begin, text = self._position, self.file.text
        if begin >= len(text):
            return None
        newline = text.find("\n", begin)
        end = len(text) if newline < 0 else newline
        self._position = len(text) if newline < 0 else newline + 1
        if (end - begin) * 4 > LINE_LIMIT and len(text[begin:end].encode()) > LINE_LIMIT:
            self.problems.append(
                problem(
                    "line-too-long",
                    f"the line is longer than {LINE_LIMIT} bytes",
                    Span(self.file, begin, begin + 40),
                    hint="break it with a continuation",
                )
            )
        while end > begin and text[end - 1] == "\r":
            end -= 1
        return begin, end

    def _keep_comment(self, comments: list[Token], start: int, body: str) -> None:
        text = body[1:].strip(SPACE)
        if not text:
            comments.clear()
            return
        offset = start + body.index(text, 1)
        comments.append(Token(text, Span(self.file, offset, offset + len(text))))

    def _join(self, start: int, body: str) -> Line:
        pieces: list[tuple[int, str]] = []
        blank: Span | None = None
        text, more = self._trim(body)
        pieces.append((start, text))
        while more and (bounds := self._physical()) is not None:
            raw = self.file.text[bounds[0] : bounds[1]]
            stripped = raw.lstrip(SPACE)
            if stripped.startswith("#"):
                continue
            if not stripped:
                blank = blank or Span(self.file, *bounds)
                continue
            text, more = self._trim(raw)
            pieces.append((bounds[0], text))
        line = Line(self.file, pieces)
        line.blank_continuation = blank
        return line

    def _trim(self, text: str) -> tuple[str, bool]:
        body = text.rstrip(" \t")
        if body.endswith(self.escape) and not body[:-1].endswith(self.escape):
            return body[:-1], True
        return text, False


def problem(
    code: str, message: str, *spans: Span | Label, hint: str | None = None, notes: tuple[str, ...] = ()
) -> Diagnostic:
    """A diagnostic of severity error."""
    labels = tuple(item if isinstance(item, Label) else Label(item) for item in spans)
    return Diagnostic(code=code, message=message, labels=labels, hint=hint, notes=notes)


def warning(code: str, message: str, *spans: Span | Label, hint: str | None = None) -> Diagnostic:
    """A diagnostic of severity warning."""
    return msgspec.structs.replace(problem(code, message, *spans, hint=hint), severity=Severity.WARNING)


def read_directives(file: SourceFile) -> tuple[list[Directive], int, list[Diagnostic]]:
    """The directives at the top of the file, the offset behind them, and what is wrong with them.

    The first line that is not a directive ends the scan, be it a comment, blank or unknown.
    """
    found: dict[str, Directive] = {}
    problems: list[Diagnostic] = []
    position = 0
    while position < len(file.text):
        newline = file.text.find("\n", position)
        end = len(file.text) if newline < 0 else newline
        raw = file.text[position : min(end, position + LINE_LIMIT)]
        offset = position + len(raw) - len(raw.lstrip(SPACE))
        match = _DIRECTIVE.match(raw.strip(SPACE))
        if match is None or match[1].lower() not in _DIRECTIVES:
            break
        name = match[1].lower()
        value = Token(match[2], Span(file, offset + match.start(2), offset + match.end(2)))
        if name in found:
            problems.append(
                problem("duplicate-directive", f"only one {name} directive can be used", value.span)
            )
        elif name == "escape" and match[2] not in ("\\", "`"):
            problems.append(
                problem("invalid-escape", f"the escape character is \\ or `, not {match[2]!r}", value.span)
            )
        else:
            found[name] = Directive(name, value, Span(file, offset, offset + match.end()))
        position = len(file.text) if newline < 0 else newline + 1
    return list(found.values()), position, problems
