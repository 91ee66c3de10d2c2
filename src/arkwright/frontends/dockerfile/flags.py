"""The `--name[=value]` words between an instruction's keyword and its arguments."""

from __future__ import annotations

from typing import Literal

import msgspec

from arkwright.diagnostics.errors import Diagnostic, Label
from arkwright.diagnostics.spans import Span
from arkwright.frontends.dockerfile.suggest import did_you_mean
from arkwright.frontends.dockerfile.tokens import SPACE, Line, Token, problem

Kind = Literal["text", "bool", "list"]

KNOWN: dict[str, dict[str, Kind]] = {
    "FROM": {"platform": "text"},
    "RUN": {"mount": "list", "network": "text", "security": "text", "device": "list"},
    "COPY": {
        "from": "text", "chown": "text", "chmod": "text", "link": "bool", "parents": "bool", "exclude": "list",
    },
    "ADD": {
        "chown": "text", "chmod": "text", "link": "bool", "exclude": "list", "checksum": "text",
        "keep-git-dir": "bool", "unpack": "bool",
    },
    "HEALTHCHECK": {
        "interval": "text", "timeout": "text", "start-period": "text", "start-interval": "text",
        "retries": "text",
    },
}  # fmt: skip


class Flag(msgspec.Struct, frozen=True):
    """One flag as written; `value` is None without `=`."""

    name: Token
    value: Token | None
    span: Span


class Flags:
    """The flags of one instruction, checked against those that it knows."""

    def __init__(self, values: dict[str, list[Token | bool]]) -> None:
        self._values = values

    def __bool__(self) -> bool:
        return bool(self._values)

    def text(self, name: str) -> Token | None:
        found = self._values.get(name)
        return found[0] if found and isinstance(found[0], Token) else None

    def texts(self, name: str) -> tuple[Token, ...]:
        return tuple(value for value in self._values.get(name, ()) if isinstance(value, Token))

    def boolean(self, name: str) -> bool | None:
        found = self._values.get(name)
        return found[0] if found and isinstance(found[0], bool) else None


def extract(line: Line, start: int, end: int) -> tuple[list[Flag], int]:
    """The flags that stand at `start`, and the offset at which the arguments begin.

    Quotes and backslashes are honoured and removed, whatever the escape directive says; a lone
    `--` ends the flags.
    """
    flags: list[Flag] = []
    position = start
    while True:
        while position < end and line.text[position] in SPACE:
            position += 1
        if not line.text.startswith("--", position, end):
            return flags, position
        word, sources, stop = _read_word(line.text, position, end)
        if word == "--":
            return flags, stop
        flags.append(_flag(line, word, sources, position, stop))
        position = stop


def _read_word(text: str, position: int, end: int) -> tuple[str, list[int], int]:
    chars: list[str] = []
    sources: list[int] = []
    quote = ""
    while position < end:
        char = text[position]
        if not quote and char in SPACE:
            break
        if char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        else:
            if char == "\\":
                position += 1
                if position == end:
                    break
                char = text[position]
            chars.append(char)
            sources.append(position)
        position += 1
    return "".join(chars), sources, min(position, end)


def _flag(line: Line, word: str, sources: list[int], start: int, stop: int) -> Flag:
    span = line.span(start, stop)
    name, equals, value = word[2:].partition("=")
    name_token = Token(name, line.span(sources[2], sources[1 + len(name)] + 1) if name else span)
    if not equals:
        return Flag(name_token, None, span)
    begin = sources[2 + len(name)] + 1
    if value:
        begin, stop = sources[3 + len(name)], sources[-1] + 1
    return Flag(name_token, Token(value, line.span(begin, stop)), span)


def check(instruction: str, flags: list[Flag]) -> tuple[Flags, list[Diagnostic]]:
    """Sort flags by name; everything that the instruction does not know is a problem."""
    known = KNOWN.get(instruction, {})
    values: dict[str, list[Token | bool]] = {}
    first: dict[str, Flag] = {}
    problems: list[Diagnostic] = []
    for flag in flags:
        name = flag.name.text
        kind = known.get(name)
        if kind is None:
            problems.append(_unknown(instruction, flag, known))
        elif name in first and kind != "list":
            problems.append(_duplicate(instruction, flag, first[name]))
        else:
            first[name] = flag
            _take(instruction, flag, kind, values.setdefault(name, []), problems)
    return Flags(values), problems


def _take(
    instruction: str, flag: Flag, kind: Kind, values: list[Token | bool], problems: list[Diagnostic]
) -> None:
    name = flag.name.text
    if kind == "bool":
        given = flag.value.text.lower() if flag.value is not None else "true"
        if given in ("true", "false"):
            values.append(given == "true")
            return
        place = flag.span if flag.value is None or not flag.value.text else flag.value.span
        problems.append(
            problem("invalid-flag-value", f"--{name} of {instruction} is true or false, not {given!r}", place)
        )
    elif flag.value is None:
        problems.append(
            problem(
                "flag-needs-value",
                f"--{name} of {instruction} needs a value",
                flag.span,
                hint=f"write --{name}=VALUE",
            )
        )
    else:
        values.append(flag.value)


def _unknown(instruction: str, flag: Flag, known: dict[str, Kind]) -> Diagnostic:
    name = flag.name.text
    hint = did_you_mean(f"--{name}", [f"--{option}" for option in known])
    if hint is None and known:
        hint = f"{instruction} knows " + ", ".join(f"--{option}" for option in known)
    if not known:
        hint = f"{instruction} takes no flags"
    owners = [other for other, options in KNOWN.items() if name in options and other != instruction]
    if owners:
        hint = f"--{name} is a flag of {' and '.join(owners)}"
    return problem("unknown-flag", f"{instruction} has no flag --{name}", flag.span, hint=hint)


def _duplicate(instruction: str, flag: Flag, first: Flag) -> Diagnostic:
    return problem(
        "duplicate-flag",
        f"--{flag.name.text} of {instruction} is given twice",
        flag.span,
        Label(first.span, "first given here"),
    )
