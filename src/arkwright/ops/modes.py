"""File modes as `--chmod` takes them: octal numbers and the symbolic form of chmod(1)."""

from __future__ import annotations

import re
from collections.abc import Callable

from arkwright.diagnostics.errors import UserError

ModeChange = Callable[[int, bool], int]

_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[ugo]|[rwxXst]*))+)")
_ACTION = re.compile(r"([-+=])([ugo]|[rwxXst]*)")
_SHIFT = {"u": 6, "g": 3, "o": 0}
_SPECIAL = {"u": 0o4000, "g": 0o2000, "o": 0o1000}
_BITS = {"r": 4, "w": 2, "x": 1}


def parse_mode(text: str) -> ModeChange | None:
    """A function from (mode, is a directory) to the new mode; None for an empty text.

    Symbolic modes follow POSIX chmod with an umask of 0. Raises `UserError` `invalid-mode`.
    """
    if not text:
        return None
    if re.fullmatch(r"0*[0-7]{1,4}", text):
        number = int(text, 8)
        return lambda mode, is_dir: number
    clauses = [_CLAUSE.fullmatch(part) for part in text.split(",")]
    if not all(clauses):
        raise UserError.of(
            "invalid-mode",
            f"{text!r} is not a file mode",
            hint="write an octal number such as 755, or u=rw,go=r",
        )
    steps = [
        (who or "a", sign, what)
        for clause in clauses
        if clause
        for who, actions in [clause.groups()]
        for sign, what in _ACTION.findall(actions)
    ]

    def change(mode: int, is_dir: bool) -> int:
        for who, sign, what in steps:
            mode = _apply(mode, is_dir, who, sign, what)
        return mode

    return change


def _apply(mode: int, is_dir: bool, who: str, sign: str, what: str) -> int:
    classes = "ugo" if "a" in who else "".join(sorted(set(who)))
    affected = sum((0o7 << _SHIFT[name]) | _SPECIAL[name] for name in classes)
    bits = sum(_class_bits(mode, is_dir, what) << _SHIFT[name] for name in classes)
    if "s" in what:
        bits |= 0o6000
    if "t" in what:
        bits |= 0o1000
    bits &= affected
    if sign == "+":
        return mode | bits
    if sign == "-":
        return mode & ~bits
    # chmod(1) leaves a directory's set-id bits alone unless they are named.
    kept = mode & 0o6000 if is_dir and "s" not in what else 0
    return (mode & ~affected) | bits | kept


def _class_bits(mode: int, is_dir: bool, what: str) -> int:
    if what in ("u", "g", "o"):
        return (mode >> _SHIFT[what]) & 0o7
    bits = sum(_BITS[letter] for letter in set(what) & set(_BITS))
    return bits | (1 if "X" in what and (is_dir or mode & 0o111) else 0)
