"""The patterns of `${name#pattern}` and friends: `*`, `?` and escapes, no brackets.

Matching never backtracks: a pattern is a list of segments between stars, and the shortest and the
longest match follow from the first and the last places where each can stand.
"""

from __future__ import annotations

import re

import msgspec


class Pattern(msgspec.Struct, frozen=True):
    """Segments between stars; in a segment None stands for any one character."""

    segments: tuple[tuple[str | None, ...], ...]


def parse(text: str) -> Pattern:
    """Read a pattern. Raises `ValueError` for an escape of anything but `* ? \\ } /`."""
    segments: list[tuple[str | None, ...]] = []
    current: list[str | None] = []
    index = 0
    while index < len(text):
        char = text[index]
        index += 1
        if char == "*":
            segments.append(tuple(current))
            current = []
        elif char == "?":
            current.append(None)
        elif char != "\\":
            current.append(char)
        else:
            escaped = text[index : index + 1]
            if not escaped or escaped not in "*?\\}/":
                raise ValueError(f"invalid escape '\\{escaped}'")
            current.append(escaped)
            index += 1
    segments.append(tuple(current))
    return Pattern(tuple(segments))


def trim_prefix(pattern: Pattern, value: str, greedy: bool) -> str:
    """`value` without the shortest (or longest) beginning that matches."""
    end = _match(_compile(pattern), value, 0, greedy)
    return value if end is None else value[end:]


def trim_suffix(pattern: Pattern, value: str, greedy: bool) -> str:
    """`value` without the shortest (or longest) end that matches."""
    mirrored = Pattern(tuple(segment[::-1] for segment in pattern.segments[::-1]))
    return trim_prefix(mirrored, value[::-1], greedy)[::-1]


def replace(pattern: Pattern, value: str, replacement: str, every: bool) -> str:
    """`value` with the first (or every) longest match replaced."""
    compiled = _compile(pattern)
    result: list[str] = []
    position = 0
    while (found := _search(compiled, value, position)) is not None:
        start, end = found
        result += [value[position:start], replacement]
        position = end
        if start == end:
            result.append(value[end : end + 1])
            position += 1
        if not every or position > len(value) or (end == len(value)):
            break
    result.append(value[position:])
    return "".join(result)


_Compiled = list[tuple[re.Pattern[str], int]]


def _compile(pattern: Pattern) -> _Compiled:
    return [
        (
            re.compile("".join("." if char is None else re.escape(char) for char in segment), re.DOTALL),
            len(segment),
        )
        for segment in pattern.segments
    ]


def _search(segments: _Compiled, value: str, position: int) -> tuple[int, int] | None:
    first = segments[0][0].search(value, position)
    if first is None:
        return None
    end = _match(segments, value, first.start(), True)
    return None if end is None else (first.start(), end)


def _match(segments: _Compiled, value: str, start: int, greedy: bool) -> int | None:
    """Where a match that begins at `start` ends: as late as it can if `greedy`."""
    if segments[0][0].match(value, start) is None:
        return None
    end = start + segments[0][1]
    rest = segments[1:]
    for number, (expression, length) in enumerate(rest):
        if greedy and number == len(rest) - 1:
            for place in range(len(value) - length, end - 1, -1):
                if expression.match(value, place):
                    return place + length
            return None
        found = expression.search(value, end)
        if found is None:
            return None
        end = found.end()
    return end
