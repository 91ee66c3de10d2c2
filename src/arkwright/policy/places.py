"""Where the keys of a TOML document stand (toml.io, v1.0.0): the parser of the standard library does not say.

Only for text that `tomllib` has read: what is not valid is not looked for.
"""

from __future__ import annotations

import re

from arkwright.diagnostics.spans import SourceFile, Span

Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_INLINE_BLANK = re.compile(r"[ \t]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRINGS = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'', re.DOTALL
)


def key_places(file: SourceFile) -> dict[Path, Span]:
    """The span of every `key = value` and of every header of a table, by path; members of an array of
    tables are counted. Inside of inline tables and arrays nothing is told apart."""
    return _Scan(file).run()


class _Scan:
    def __init__(self, file: SourceFile) -> None:
        self._file = file
        self._text = file.text
        self._at = 0
        self._table: Path = ()
        self._counts: dict[Path, int] = {}
        self._found: dict[Path, Span] = {}

    def run(self) -> dict[Path, Span]:
        while self._skip(_BLANK) < len(self._text):
            start = self._at
            if self._text[start] == "[":
                self._header(start)
            else:
                path = (*self._table, *self._key())
                self._value()
                self._note(path, start)
        return self._found

    def _header(self, start: int) -> None:
        several = self._text.startswith("[[", start)
        self._at += 2 if several else 1
        path = self._resolved(self._key())
        self._at += 2 if several else 1
        if several:
            number = self._counts.get(path, 0)
            self._counts[path] = number + 1
            path = (*path, number)
        self._table = path
        self._note(path, start)

    def _resolved(self, names: list[str]) -> Path:
        """Names of a header, below the last member of each array of tables on the way."""
        path: Path = ()
        for number, name in enumerate(names):
            path = (*path, name)
            if number < len(names) - 1 and path in self._counts:
                path = (*path, self._counts[path] - 1)
        return path

    def _key(self) -> list[str]:
        names: list[str] = []
        while True:
            self._skip(_INLINE_BLANK)
            bare = _BARE.match(self._text, self._at)
            found = bare or _STRINGS.match(self._text, self._at)
            if found is None:
                return names
            self._at = found.end()
            names.append(found[0] if bare else _unquoted(found[0]))
            self._skip(_INLINE_BLANK)
            if self._text[self._at : self._at + 1] != ".":
                return names
            self._at += 1

    def _value(self) -> None:
        """To the end of a value: strings and comments hold no brackets, and brackets hold lines."""
        self._at += 1  # the equals sign
        depth = 0
        while self._at < len(self._text):
            letter = self._text[self._at]
            string = _STRINGS.match(self._text, self._at)
            if string is not None:
                self._at = string.end()
                continue
            if letter in "#\n":
                if not depth:
                    return
                self._skip(_BLANK)
                continue
            depth += (letter in "[{") - (letter in "]}")
            self._at += 1

    def _note(self, path: Path, start: int) -> None:
        end = start + len(self._text[start : self._at].rstrip())
        self._found.setdefault(path, Span(self._file, start, end))

    def _skip(self, pattern: re.Pattern[str]) -> int:
        found = pattern.match(self._text, self._at)
        self._at = found.end() if found is not None else self._at
        return self._at


def _unquoted(text: str) -> str:
    import tomllib

    return str(tomllib.loads(f"k={text}")["k"])
