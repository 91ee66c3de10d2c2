"""Users and groups as a root file system knows them: its own /etc/passwd and /etc/group.

Sources: passwd(5), group(5); the rules for what is written in a Dockerfile are in
`sandbox.spec.StepSpec` and `graph.ops.Owner`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.layer import files
from arkwright.layer.rooted import Root

_READ_LIMIT = 16 << 20  # bytes of one file
_MAX_ID = (1 << 32) - 2


class User(msgspec.Struct, frozen=True):
    """Who a step runs as; `groups` are the supplementary ones."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"


class _Passwd(msgspec.Struct, frozen=True):
    name: str
    uid: int
    gid: int
    home: str


class _Group(msgspec.Struct, frozen=True):
    name: str
    gid: int
    members: tuple[str, ...]


def resolve_user(root: Root, text: str) -> User:
    """The user that `text` (`""`, `name`, `uid`, `name:group`, `uid:gid` …) means in `root`.

    Raises `UserError` (`unknown-user`, `unknown-group`).
    """
    wanted, colon, group = text.partition(":")
    passwd = _passwd_of(root)
    if not text:
        return User(0, 0, (), _home_of(passwd, 0))
    entry = _find_user(passwd, wanted or "0")
    gid = entry.gid
    groups: tuple[int, ...] = ()
    if colon and group:
        gid = _find_group(_groups_of(root), group)
    elif entry.name:
        groups = tuple(item.gid for item in _groups_of(root) if entry.name in item.members)
    return User(entry.uid, gid, groups, entry.home or "/")


def resolve_owner(root: Root, user: str, group: str) -> tuple[int, int]:
    """Uid and gid for files that belong to `user` and `group` (names or numbers, as written).

    Without a group: the primary group of a name, the same number for a number. Without a user: 0.
    Raises `UserError` (`unknown-user`, `unknown-group`).
    """
    uid = gid = 0
    if user:
        number = _number(user)
        if number is not None:
            uid = gid = number
        else:
            entry = _find_user(_passwd_of(root), user)
            uid, gid = entry.uid, entry.gid
    if group:
        number = _number(group)
        gid = _find_group(_groups_of(root), group) if number is None else number
    return uid, gid


def _find_user(passwd: list[_Passwd], wanted: str) -> _Passwd:
    number = _number(wanted)
    for entry in passwd:
        if entry.name == wanted or (number is not None and entry.uid == number):
            return entry
    if number is not None:
        return _Passwd("", number, 0, "/")
    raise _unknown("unknown-user", wanted, "/etc/passwd", (entry.name for entry in passwd))


def _find_group(groups: list[_Group], wanted: str) -> int:
    for entry in groups:
        if entry.name == wanted:
            return entry.gid
    number = _number(wanted)
    if number is not None:
        return number
    raise _unknown("unknown-group", wanted, "/etc/group", (entry.name for entry in groups))


def _home_of(passwd: list[_Passwd], uid: int) -> str:
    return next((entry.home for entry in passwd if entry.uid == uid and entry.home), "/")


def _unknown(code: str, wanted: str, path: str, names: Iterable[str]) -> UserError:
    import difflib

    close = difflib.get_close_matches(wanted, list(names), n=1)
    hint = f"did you mean {close[0]!r}?" if close else "create it in an earlier step, or use a number"
    kind = code.removeprefix("unknown-")
    found = UserError.of(code, f"{kind} {wanted!r} is not in the image's {path}", hint=hint)
    assert isinstance(found, UserError)
    return found


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdecimal()):
        return None
    number = int(text)
    return number if number <= _MAX_ID else None


def _passwd_of(root: Root) -> list[_Passwd]:
    found = []
    for line in _lines(root, "etc/passwd"):
        fields = line.split(":")
        if len(fields) >= 6 and (uid := _number(fields[2])) is not None:
            found.append(_Passwd(fields[0], uid, _number(fields[3]) or 0, fields[5]))
    return found


def _groups_of(root: Root) -> list[_Group]:
    found = []
    for line in _lines(root, "etc/group"):
        fields = line.split(":")
        if len(fields) >= 3 and (gid := _number(fields[2])) is not None:
            members = fields[3].split(",") if len(fields) > 3 else ()
            found.append(_Group(fields[0], gid, tuple(name for name in members if name)))
    return found


def _lines(root: Root, path: str) -> list[str]:
    """Lines of a text file of the root; none when it is missing or no regular file."""
    try:
        descriptor = root.open_file(root.resolve(path))
    except OSError:
        return []
    with files.fdopen(descriptor, "rb") as source:
        return source.read(_READ_LIMIT).decode("utf-8", "surrogateescape").splitlines()
