"""Wildcard patterns: Go's `path/filepath.Match`, and moby's `**`, translated to regular expressions.

Differences from the originals: `[…]` follows `filepath.Match` in both dialects (moby hands it to
its regular expressions, where a `*` inside means something else), and a backslash makes any
character literal.
"""

from __future__ import annotations

import functools
import re


class BadPattern(ValueError):
    """The pattern is malformed; the message says how."""


def has_wildcard(pattern: str) -> bool:
    """Whether the pattern has an unescaped `*`, `?` or `[`: only then is it a pattern to `COPY`."""
    if not any(char in pattern for char in "*?["):
        return False
    return re.search(r"(?:^|[^\\])(?:\\\\)*[*?\[]", pattern) is not None


def match_component(pattern: str, name: str) -> bool:
    """Whether one path component matches: `*`, `?`, `[…]` and `\\`, as `filepath.Match`.

    Raises `BadPattern`.
    """
    return _compiled(pattern, False).fullmatch(name) is not None


def match_path(pattern: str, path: str) -> bool:
    """Whether a whole relative path matches, `**` crossing directories. Raises `BadPattern`."""
    return _compiled(pattern, True).fullmatch(path) is not None


@functools.lru_cache(maxsize=512)
def _compiled(pattern: str, globstar: bool) -> re.Pattern[str]:
    return re.compile(translate(pattern, globstar=globstar), re.DOTALL)


def translate(pattern: str, *, globstar: bool) -> str:
    """A regular expression for a cleaned pattern, without anchors, for `re.DOTALL`.

    With `globstar`, `**` stands for any number of directories, and for everything at the end.
    Raises `BadPattern`.
    """
    if (
        globstar
        and pattern.startswith("**")
        and pattern[2:3] not in ("", "/")
        and not any(char in pattern[2:] for char in "*?[]\\")
    ):
        # moby: `**` before plain text is "ends with", the only place where it stops inside a name.
        return ".*" + re.escape(pattern[2:])
    parts: list[str] = []
    position = 0
    while position < len(pattern):
        piece, position = _translate_at(pattern, position, globstar)
        # `**/**/` means no more than `**/`, and costs the matcher exponential time.
        if not (piece == "(?:.*/)?" and parts[-1:] == [piece]):
            parts.append(piece)
    return "".join(parts)


def _translate_at(pattern: str, position: int, globstar: bool) -> tuple[str, int]:
    char = pattern[position]
    if char == "*":
        return _star(pattern, position, globstar)
    if char == "?":
        return "[^/]", position + 1
    if char == "[":
        return _character_class(pattern, position + 1)
    if char == "\\":
        if position + 1 == len(pattern):
            raise BadPattern("a backslash at its end has nothing to escape")
        return re.escape(pattern[position + 1]), position + 2
    return re.escape(char), position + 1


def _star(pattern: str, position: int, globstar: bool) -> tuple[str, int]:
    if not globstar or not pattern.startswith("**", position):
        return "[^/]*", position + 1
    position += 2
    if pattern[position : position + 1] == "/":
        position += 1
    return (".*" if position == len(pattern) else "(?:.*/)?"), position


def _character_class(pattern: str, position: int) -> tuple[str, int]:
    negated = pattern[position : position + 1] == "^"
    position += negated
    ranges: list[str] = []
    count = 0
    while pattern[position : position + 1] != "]" or not count:
        low, position = _class_member(pattern, position)
        high = low
        if pattern[position : position + 1] == "-":
            high, position = _class_member(pattern, position + 1)
        if low <= high:
            ranges.append(re.escape(low) + "-" + re.escape(high))
        count += 1
    if not ranges:
        return ("." if negated else "(?!)"), position + 1
    return f"[{'^' * negated}{''.join(ranges)}]", position + 1


def _class_member(pattern: str, position: int) -> tuple[str, int]:
    char = pattern[position : position + 1]
    if char in ("-", "]"):
        raise BadPattern(f"{char!r} cannot stand there in [...]; write it with a backslash")
    if char == "\\":
        position += 1
        char = pattern[position : position + 1]
    if not char or position + 1 == len(pattern):
        raise BadPattern("a [ is never closed")
    return char, position + 1
