"""How an instruction's arguments are cut into tokens: blanks, shell words, JSON, heredocs."""

from __future__ import annotations

import re
from typing import Any

from arkwright.frontends.dockerfile.syntax import KeyValue
from arkwright.frontends.dockerfile.tokens import SPACE, Line, Token
from arkwright.frontends.dockerfile.words import Rules, WordError, expand

_BLANKS = re.compile(r"[\t\v\f\r ]+")
_WORD = re.compile(r"[^\t\v\f\r ]+")
_JSON_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"')
_JSON_BLANK = re.compile(r"[ \t\r\n]*")
_HEREDOC = re.compile(r"(\d*)<<(-?)\s*([^<]*)\Z", re.ASCII)


class ArgumentError(Exception):
    """Arguments that cannot be read; `start` and `end` are offsets in the line."""

    def __init__(self, message: str, start: int, end: int, *, code: str = "dockerfile-syntax") -> None:
        super().__init__(message)
        self.start = start
        self.end = end
        self.code = code


def trim(line: Line, start: int, end: int) -> tuple[int, int]:
    """The range without blanks at its ends."""
    text = line.text
    while start < end and text[start] in SPACE:
        start += 1
    while end > start and text[end - 1] in SPACE:
        end -= 1
    return start, end


def split_blanks(line: Line, start: int, end: int) -> tuple[Token, ...]:
    """Words between blanks; quotes mean nothing."""
    return tuple(line.token(*match.span()) for match in _WORD.finditer(line.text, start, end))


def split_words(line: Line, start: int, end: int, escape: str) -> tuple[Token, ...]:
    """Words between blanks that are not quoted or escaped; quotes and escapes stay in the text."""
    words: list[Token] = []
    text, position = line.text, start
    while True:
        while position < end and text[position] in SPACE:
            position += 1
        if position >= end:
            return tuple(words)
        begin, quote = position, ""
        while position < end and (quote or text[position] not in SPACE):
            char = text[position]
            if char == escape and quote != "'":
                position += 1
            elif char == quote:
                quote = ""
            elif not quote and char in "'\"":
                quote = char
            position += 1
        position = min(position, end)
        words.append(_without_last_escape(line, begin, position, end, escape))


def _without_last_escape(line: Line, begin: int, stop: int, end: int, escape: str) -> Token:
    # An escape character with nothing behind it escapes nothing and is dropped.
    text = line.text[begin:stop]
    trailing = len(text) - len(text.rstrip(escape))
    if stop == end and trailing % 2 == 1 and "'" not in text[-trailing - 1 : -trailing]:
        return line.token(begin, stop - 1)
    return line.token(begin, stop)


def key_values(line: Line, start: int, end: int, escape: str, instruction: str) -> tuple[KeyValue, ...]:
    """`k=v ...`, or the legacy `k v`. Raises `ArgumentError`."""
    words = split_words(line, start, end, escape)
    if not words:
        raise ArgumentError(f"{instruction} needs at least one argument", start, end, code="missing-argument")
    if "=" not in words[0].text:
        gap = _BLANKS.search(line.text, start, end)
        if gap is None:
            raise ArgumentError(f"{instruction} must have two arguments", start, end, code="missing-argument")
        return (KeyValue(line.token(start, gap.start()), line.token(gap.end(), end), True),)
    pairs: list[KeyValue] = []
    for word in words:
        key, equals, value = word.text.partition("=")
        if not equals:
            raise _PlacedError(f"can't find = in {word.text!r}: write name=value", word)
        if not key:
            raise _PlacedError(f"names of {instruction} can not be blank", word)
        middle = len(key)
        pairs.append(
            KeyValue(Token(key, word.part(0, middle)), Token(value, word.part(middle + 1, len(word.text))))
        )
    return tuple(pairs)


class _PlacedError(ArgumentError):
    def __init__(self, message: str, token: Token) -> None:
        super().__init__(message, 0, 0)
        self.token = token


def json_strings(line: Line, start: int, end: int) -> tuple[Token, ...] | None:
    """The strings of a JSON array; None when the text is not JSON.

    Raises `ArgumentError` when it is an array with something else than strings.
    """
    text = line.text
    if not text.startswith("[", start):
        return None
    tokens = _string_array(line, start + 1, end)
    if tokens is not None:
        return tokens
    try:
        value = _json(text[start:end])
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, list):
        return None
    raise ArgumentError("a JSON array here may hold only strings", start, end, code="json-not-strings")


def _json(text: str) -> Any:
    # Rarely needed, and 3 ms to import.
    import json

    return json.loads(text, parse_constant=_refuse, parse_int=str, parse_float=str)


def _refuse(name: str) -> None:
    raise ValueError(name)


def _string_array(line: Line, position: int, end: int) -> tuple[Token, ...] | None:
    text, tokens = line.text, list[Token]()
    position = _skip(text, position, end)
    if text.startswith("]", position, end):
        return () if _skip(text, position + 1, end) == end else None
    while True:
        match = _JSON_STRING.match(text, position, end)
        if match is None:
            return None
        value = match[0][1:-1] if "\\" not in match[0] else _json(match[0])
        inner = line.span(match.start() + 1, match.end() - 1)
        tokens.append(Token(_without_surrogates(value), inner))
        position = _skip(text, match.end(), end)
        if text.startswith("]", position, end):
            return tuple(tokens) if _skip(text, position + 1, end) == end else None
        if not text.startswith(",", position, end):
            return None
        position = _skip(text, position + 1, end)


def _skip(text: str, position: int, end: int) -> int:
    match = _JSON_BLANK.match(text, position, end)
    assert match is not None
    return match.end()


def _without_surrogates(text: str) -> str:
    # Half a surrogate pair becomes the replacement character, as in Go.
    if text.isascii():
        return text
    return "".join("\ufffd" if 0xD800 <= ord(char) <= 0xDFFF else char for char in text)


class HeredocWord:
    """A `[fd]<<[-]WORD` as it was read."""

    __slots__ = ("chomp", "descriptor", "expand", "name")

    def __init__(self, name: str, expand: bool, chomp: bool, descriptor: int) -> None:
        self.name = name
        self.expand = expand
        self.chomp = chomp
        self.descriptor = descriptor


def parse_heredoc_word(text: str) -> HeredocWord | None:
    """Read one word as the start of a heredoc; None when it is something else."""
    match = _HEREDOC.match(text)
    if match is None or not match[3]:
        return None
    try:
        bare = expand(match[3], {}, Rules(keep_unset=True)).words
        quoted = expand(match[3], {}, Rules(keep_unset=True, raw_quotes=True)).words
    except WordError:
        return None
    if len(bare) != 1 or len(quoted) != 1:
        return None
    as_is = _quotes(bare[0]) == _quotes(quoted[0])
    return HeredocWord(bare[0], as_is, match[2] == "-", int(match[1][:9] or "0"))


def _quotes(text: str) -> int:
    return text.count("'") + text.count('"')


def find_heredocs(line: Line, start: int, end: int) -> list[tuple[HeredocWord, Token]]:
    """The heredoc words of a range, in order.

    Blanks after `<<` belong to the word. A quote that is never closed means that the shell could
    not read the line either: then there are none.
    """
    found: list[tuple[HeredocWord, Token]] = []
    text, position = line.text, start
    if text.find("<<", start, end) < 0:
        return []
    while True:
        while position < end and text[position] in SPACE:
            position += 1
        if position >= end:
            return found
        begin = position
        stop = _shell_word_end(text, position, end)
        if stop is None:
            return []
        word = parse_heredoc_word(text[begin:stop])
        if word is not None:
            found.append((word, line.token(begin, stop)))
        position = stop


def _shell_word_end(text: str, position: int, end: int) -> int | None:
    while position < end and text[position] not in SPACE:
        char = text[position]
        if char == "\\":
            position += 2
        elif char in "'\"":
            closing = _closing_quote(text, position, end)
            if closing is None:
                return None
            position = closing + 1
        elif text.startswith("<<", position, end):
            position += 2
            while position < end and text[position] in SPACE:
                position += 1
        else:
            position += 1
    return min(position, end)


def _closing_quote(text: str, position: int, end: int) -> int | None:
    quote = text[position]
    position += 1
    while position < end:
        if text[position] == quote:
            return position
        position += 2 if text[position] == "\\" and quote == '"' else 1
    return None
