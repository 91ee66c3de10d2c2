"""A policy file, read strictly: what is not understood is an error with its line."""

from __future__ import annotations

import os
import re
import tomllib
from typing import Any, TypeVar, get_type_hints

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, UserError
from arkwright.diagnostics.spans import SourceFile, Span
from arkwright.diagnostics.suggest import nearest
from arkwright.policy.instructions import parse_forbidden
from arkwright.policy.model import Policy, Rules, SignatureRule
from arkwright.policy.places import Path, key_places

_Struct = TypeVar("_Struct", bound=msgspec.Struct)
_LIMIT = 1 << 20
_UNITS = {"h": 3600, "d": 86400, "w": 604800, "y": 31536000}
_AGE = re.compile(r"([0-9]{1,6})([hdwy])")
_POSITION = re.compile(r"\(at line (\d+), column (\d+)\)")


def load(path: str) -> Policy:
    """Read a file. Raises `UserError` `unreadable-policy`, and as `parse`."""
    try:
        with open(path, "rb") as file:
            data = file.read(_LIMIT + 1)
    except OSError as error:
        raise UserError.of("unreadable-policy", f"cannot read the policy {path}: {error.strerror}") from error
    if len(data) > _LIMIT:
        raise UserError.of("unreadable-policy", f"the policy {path} has more than {_LIMIT} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UserError.of("unreadable-policy", f"the policy {path} is not UTF-8 text") from error
    return parse(text, path)


def parse(text: str, path: str) -> Policy:
    """Read a policy; keys that it names count from the directory of `path`.

    Raises `UserError` `invalid-policy` with the place.
    """
    file = SourceFile(path, text)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _invalid(str(error), _position(file, str(error))) from error
    except RecursionError as error:
        raise _invalid("it is nested too deeply", None) from error
    places = key_places(file)
    _check_keys(document, Rules, (), places)
    listed = document.get("signatures")
    for number, rule in enumerate(listed if isinstance(listed, list) else ()):
        # The decoder does not say which one it means.
        _convert(rule, SignatureRule, ("signatures", number), places)
    rules = _convert(document, Rules, (), places)
    return Policy(rules=_with_paths(rules, path), file=file, places=places, max_age_s=_checked(rules, places))


def _convert(found: Any, kind: type[_Struct], path: Path, places: dict[Path, Span]) -> _Struct:
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at ")
        raise _invalid(message, _nearest_place((*path, *_path(where)), places)) from error


def _check_keys(found: Any, kind: Any, path: Path, places: dict[Path, Span]) -> None:
    """Refuse keys that nothing reads, with their places."""
    if isinstance(found, list):
        for number, item in enumerate(found):
            _check_keys(item, kind, (*path, number), places)
    if not isinstance(found, dict):
        return
    fields = {one.encode_name: one.name for one in msgspec.structs.fields(kind)}
    types = get_type_hints(kind)
    for name, value in found.items():
        here = (*path, name)
        if name not in fields:
            near = nearest(name, fields)
            hint = f"did you mean {near}?" if near else "known are " + ", ".join(fields)
            raise _invalid(f"nothing reads the key {name!r}", _nearest_place(here, places), hint)
        inner = SignatureRule if here == ("signatures",) else types[fields[name]]
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            _check_keys(value, inner, here, places)


def _checked(rules: Rules, places: dict[Path, Span]) -> int:
    """Values that types alone do not check; the greatest age in seconds."""
    for number, text in enumerate(rules.instructions.forbid):
        if parse_forbidden(text) is None:
            place = _nearest_place(("instructions", "forbid", number), places)
            raise _invalid(
                f"{text!r} is no instruction with flags", place, "write NAME, or NAME --flag=VALUE"
            )
    for number, rule in enumerate(rules.signatures):
        if not rule.keys or not rule.names:
            raise _invalid("names and keys must not be empty", places.get(("signatures", number)))
    if not rules.images.max_age:
        return 0
    age = _AGE.fullmatch(rules.images.max_age)
    if age is None:
        place = places.get(("images", "max-age"))
        raise _invalid(
            f"{rules.images.max_age!r} is no age", place, "write a number with h, d, w or y, such as 90d"
        )
    return int(age[1]) * _UNITS[age[2]]


def _with_paths(rules: Rules, path: str) -> Rules:
    base = os.path.dirname(path)
    signatures = tuple(
        msgspec.structs.replace(rule, keys=tuple(os.path.join(base, key) for key in rule.keys))
        for rule in rules.signatures
    )
    return msgspec.structs.replace(rules, signatures=signatures)


def _path(where: str) -> Path:
    """`$.images.allow[...]` of the decoder as a path."""
    return tuple(part.partition("[")[0] for part in where.strip("`").split(".")[1:])


def _nearest_place(path: Path, places: dict[Path, Span]) -> Span | None:
    while path:
        if path in places:
            return places[path]
        path = path[:-1]
    return None


def _position(file: SourceFile, message: str) -> Span | None:
    found = _POSITION.search(message)
    if found is None:
        return None
    starts = file.line_starts()
    start = starts[min(int(found[1]), len(starts)) - 1] + int(found[2]) - 1
    return Span(file, min(start, len(file.text)), min(start + 1, len(file.text)))


def _invalid(why: str, span: Span | None, hint: str | None = None) -> ArkwrightError:
    return UserError.of("invalid-policy", f"the policy cannot be used: {why}", span, hint=hint)
