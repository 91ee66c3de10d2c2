"""Shell-like expansion of words: variables with all modifiers, quotes, escapes.

The semantics are those of BuildKit's Dockerfile shell lexer, which follows POSIX (Shell Command
Language, 2.6.2 "Parameter Expansion") as far as the Dockerfile reference documents it under
"Environment replacement".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.frontends.dockerfile import globs
from arkwright.frontends.dockerfile.tokens import SPACE, Token

_SPECIAL_PARAMETERS = "@*#?-$!0"
_MAX_DEPTH = 64
_BLANKS = re.compile(f"[{re.escape(SPACE)}]+")


class Expanded(msgspec.Struct, frozen=True):
    """The outcome: one `text`, the same split into `words`, and the variables that were looked
    up: those that were set and those that were not (`unset` leaves out lookups with a default)."""

    text: str
    words: tuple[str, ...]
    used: frozenset[str]
    unset: dict[str, tuple[int, int]]


class Rules(msgspec.Struct, frozen=True):
    """How to read a word. `raw_quotes` and `raw_escapes` keep them in the result; `literal_quotes`
    gives quotes no meaning; `keep_unset` leaves a variable that is not set as it is written."""

    escape: str = "\\"
    raw_quotes: bool = False
    raw_escapes: bool = False
    literal_quotes: bool = False
    keep_unset: bool = False


PLAIN = Rules()


class WordError(Exception):
    """A word that cannot be read; `offset` says where in it."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


def expand(word: str, env: Mapping[str, str], rules: Rules = PLAIN) -> Expanded:
    """Expand one text. Raises `WordError`."""
    reader = _Reader(word, env, rules)
    pieces = reader.read("", rules.raw_escapes)
    text = "".join(piece for piece, _ in pieces)
    return Expanded(text, tuple(_split(pieces)), frozenset(reader.used), reader.unset)


def expand_token(word: Token, env: Mapping[str, str], rules: Rules = PLAIN) -> Expanded:
    """`expand` for a token of a file. Raises `UserError` `invalid-expansion` with its place."""
    try:
        return expand(word.text, env, rules)
    except WordError as error:
        place = word.part(error.offset, len(word.text))
        raise UserError.of(
            "invalid-expansion", f"cannot expand {_shorten(word.text)!r}: {error}", place
        ) from error


def process_word(word: Token, env: Mapping[str, str], rules: Rules = PLAIN) -> Token:
    """One word in, one word out; the span stays that of the original."""
    return Token(expand_token(word, env, rules).text, word.span)


def process_words(word: Token, env: Mapping[str, str], rules: Rules = PLAIN) -> tuple[Token, ...]:
    """The expansion split at blanks that are not quoted; each word has the original's span."""
    return tuple(Token(text, word.span) for text in expand_token(word, env, rules).words)


_Pieces = list[tuple[str, bool]]


def _split(pieces: _Pieces) -> list[str]:
    words: list[str] = []
    current: list[str] = []
    for text, quoted in pieces:
        if quoted:
            current.append(text)
            continue
        parts = _BLANKS.split(text)
        current.append(parts[0])
        for part in parts[1:]:
            words.append("".join(current))
            current = [part]
    words.append("".join(current))
    return [word for word in words if word]


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


class _Reader:
    """A recursive-descent reader; pieces are (text, quoted)."""

    def __init__(self, text: str, env: Mapping[str, str], rules: Rules) -> None:
        self.text = text
        self.env = env
        self.rules = rules
        self.position = 0
        self.depth = 0
        self.used: set[str] = set()
        self.unset: dict[str, tuple[int, int]] = {}
        quotes = "" if rules.literal_quotes else "'\""
        self.plain = {
            stop: re.compile(f"[^{re.escape('$' + quotes + rules.escape + stop)}]+")
            for stop in ("", "}", "/")
        }

    def peek(self) -> str:
        return self.text[self.position : self.position + 1]

    def take(self) -> str:
        char = self.peek()
        self.position += 1
        return char

    def read(self, stop: str, raw_escapes: bool) -> _Pieces:
        """Read up to the character `stop`, or to the end when there is none."""
        start = self.position
        pieces: _Pieces = []
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise WordError(f"expansions are nested more than {_MAX_DEPTH} deep", start)
        while self.position < len(self.text):
            char = self.peek()
            if stop and char == stop:
                self.position += 1
                self.depth -= 1
                return pieces
            if (run := self.plain[stop].match(self.text, self.position)) is not None:
                self.position = run.end()
                pieces.append((run[0], False))
            elif char == "$":
                pieces.append((self.dollar(raw_escapes), False))
            elif char == self.rules.escape:
                self.escaped(pieces, raw_escapes)
            elif char == "'":
                pieces.append((self.single_quoted(), True))
            else:
                pieces.append((self.double_quoted(raw_escapes), True))
        if stop:
            message = "missing '}'" if stop == "}" else "missing '/' in ${}"
            raise WordError(message, max(0, start - 1))
        self.depth -= 1
        return pieces

    def escaped(self, pieces: _Pieces, raw: bool) -> None:
        self.position += 1
        if raw:
            pieces.append((self.rules.escape, True))
        if self.position < len(self.text):
            pieces.append((self.take(), True))

    def single_quoted(self) -> str:
        end = self.text.find("'", self.position + 1)
        if end < 0:
            raise WordError("the single quote is never closed", self.position)
        raw = self.text[self.position : end + 1]
        self.position = end + 1
        return raw if self.rules.raw_quotes else raw[1:-1]

    def double_quoted(self, raw_escapes: bool) -> str:
        start = self.position
        self.position += 1
        result: list[str] = ['"'] if self.rules.raw_quotes else []
        while self.position < len(self.text):
            char = self.peek()
            if char == '"':
                self.position += 1
                if self.rules.raw_quotes:
                    result.append('"')
                return "".join(result)
            if char == "$":
                result.append(self.dollar(raw_escapes))
                continue
            self.position += 1
            if char != self.rules.escape:
                run = re.compile(rf'[^"${re.escape(self.rules.escape)}]*').match(self.text, self.position)
                assert run is not None
                self.position = run.end()
                result.append(char + run[0])
                continue
            result.extend(self._escaped_in_quotes(char, raw_escapes))
        raise WordError("the double quote is never closed", start)

    def _escaped_in_quotes(self, char: str, raw: bool) -> list[str]:
        result = [char] if raw else []
        following = self.peek()
        if following and following in ('"', "$", self.rules.escape):
            result.append(self.take())
        elif following:
            # Any other character is not escaped by it: both stay.
            result.append(char)
        return result

    def dollar(self, raw_escapes: bool) -> str:
        start = self.position
        self.position += 1
        if self.peek() == "{":
            return self.braced(start)
        name = self.variable_name()
        if not name:
            return "$"
        value = self.lookup(name, start)
        if value is None:
            return "$" + name if self.rules.keep_unset else ""
        return value

    def variable_name(self) -> str:
        start = self.position
        first = self.peek()
        if first.isdecimal():
            while self.peek().isdecimal():
                self.position += 1
        elif first and first in _SPECIAL_PARAMETERS:
            self.position += 1
        else:
            while (char := self.peek()) and (char.isalpha() or char.isdecimal() or char == "_"):
                self.position += 1
        return self.text[start : self.position]

    def lookup(self, name: str, start: int, *, quiet: bool = False) -> str | None:
        value = self.env.get(name)
        if value is not None:
            self.used.add(name)
        elif not quiet:
            self.unset.setdefault(name, (start, self.position))
        return value

    def braced(self, start: int) -> str:
        self.position += 1
        if self.position >= len(self.text):
            raise WordError("missing '}'", start)
        if self.peek() in "{}:":
            raise WordError("bad substitution", start)
        name = self.variable_name()
        modifier = self.take()
        if modifier == "}":
            value = self.lookup(name, start)
            if value is None:
                return self.text[start : self.position] if self.rules.keep_unset else ""
            return value
        if modifier == "/":
            return self.replaced(name, start)
        null_counts = modifier == ":"
        if null_counts:
            modifier = self.take()
        if not modifier or modifier not in "+-?#%" or (null_counts and modifier in "#%"):
            if not modifier:
                raise WordError("missing '}'", start)
            written = (":" if null_counts else "") + modifier
            raise WordError(f"unsupported modifier ({written}) in substitution", start)
        word = "".join(piece for piece, _ in self.read("}", modifier in "#%"))
        value = self.lookup(name, start, quiet=modifier in "+-?")
        if value is None and self.rules.keep_unset:
            return self.text[start : self.position]
        if modifier in "#%":
            return self.trimmed(modifier, word, value or "", start)
        return self.chosen(modifier, name, word, value, null_counts, start)

    def chosen(
        self, modifier: str, name: str, word: str, value: str | None, null_counts: bool, start: int
    ) -> str:
        missing = value is None or (null_counts and value == "")
        if modifier == "+":
            return "" if missing else word
        if modifier == "-":
            return word if missing else value or ""
        if missing:
            reason = "unset" if value is None else "empty"
            raise WordError(f"{name}: {word or f'is not allowed to be {reason}'}", start)
        return value or ""

    def trimmed(self, modifier: str, pattern: str, value: str, start: int) -> str:
        greedy = pattern.startswith(modifier)
        try:
            compiled = globs.parse(pattern[1:] if greedy else pattern)
        except ValueError as error:
            raise WordError(f"invalid pattern {pattern!r}: {error}", start) from error
        return (globs.trim_prefix if modifier == "#" else globs.trim_suffix)(compiled, value, greedy)

    def replaced(self, name: str, start: int) -> str:
        every = self.peek() == "/"
        if every:
            self.position += 1
        pattern = "".join(piece for piece, _ in self.read("/", True))
        replacement = "".join(piece for piece, _ in self.read("}", True))
        value = self.lookup(name, start)
        if value is None:
            return self.text[start : self.position] if self.rules.keep_unset else ""
        try:
            return globs.replace(globs.parse(pattern), value, replacement, every)
        except ValueError as error:
            raise WordError(f"invalid pattern {pattern!r}: {error}", start) from error
