"""Instructions that a policy forbids, by name and flags."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from arkwright.policy.patterns import matches_value

_NAME = re.compile(r"[A-Z]+")
_FLAG = re.compile(r"--([a-z][a-z0-9-]*)(?:=(.+))?")
_KINDS = ("URL", "GIT")


class Forbidden(msgspec.Struct, frozen=True, kw_only=True):
    """`kind` is `URL` or `GIT` for sources of ADD; a flag without a value is forbidden with any."""

    name: str
    flags: tuple[tuple[str, str], ...] = ()
    kind: str = ""


class Instruction(msgspec.Struct, frozen=True, kw_only=True):
    """What is written: the name in capitals, and the flags with their values."""

    name: str
    flags: tuple[tuple[str, str], ...] = ()


def parse_forbidden(text: str) -> Forbidden | None:
    """Read `NAME`, `NAME --flag[=VALUE] …`, `ADD URL` or `ADD GIT`; None if it is none of them."""
    words = text.split()
    if not words or not _NAME.fullmatch(words[0]):
        return None
    if words[0] == "ADD" and len(words) == 2 and words[1] in _KINDS:
        return Forbidden(name="ADD", kind=words[1])
    flags = [_FLAG.fullmatch(word) for word in words[1:]]
    found = tuple((flag[1], flag[2] or "") for flag in flags if flag is not None)
    return Forbidden(name=words[0], flags=found) if len(found) == len(flags) else None


def parse_instruction(source: str) -> Instruction:
    """The name and the flags of a logical line; those of the instruction behind an ONBUILD."""
    words = source.split()
    if len(words) > 1 and words[0].upper() == "ONBUILD":
        words = words[1:]
    flags = []
    for word in words[1:]:
        if not word.startswith("--"):
            break
        name, _, value = word[2:].partition("=")
        flags.append((name, value))
    return Instruction(name=words[0].upper() if words else "", flags=tuple(flags))


def forbids(rule: Forbidden, found: Instruction) -> bool:
    """Whether the rule forbids the instruction; a variable in a flag may be anything."""
    if rule.kind or rule.name != found.name:
        return False
    return all(_has_flag(found.flags, name, wanted) for name, wanted in rule.flags)


def _has_flag(flags: Sequence[tuple[str, str]], name: str, wanted: str) -> bool:
    for given, value in flags:
        if given == name and (not wanted or "$" in value or _fits(wanted, value)):
            return True
    return False


def _fits(wanted: str, value: str) -> bool:
    """Every field of the rule is one of the flag's, which may have more (`type=ssh` of a mount)."""
    fields = value.strip("\"'").split(",")
    return all(any(matches_value(one, field) for field in fields) for one in wanted.split(","))
