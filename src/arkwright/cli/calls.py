"""`--call` and `--check`: what `arkwright build` does instead of building."""

from __future__ import annotations

import msgspec

from arkwright.cli.values import invalid
from arkwright.diagnostics.errors import UsageError
from arkwright.diagnostics.suggest import nearest

_FORMATS = {
    "build": ("text",),
    "check": ("text", "json", "sarif"),
    "targets": ("text", "json"),
    "outline": ("text", "json"),
}
_ALIASES = {"lint": "check"}


class Call(msgspec.Struct, frozen=True):
    """What to do, and how to show it."""

    method: str
    format: str = "text"


def parse_call(text: str, *, check: bool = False) -> Call:
    """Read `METHOD[,format=FORMAT]`. Raises `UsageError`."""
    method, *fields = [field.strip() for field in text.split(",")]
    method = _ALIASES.get(method, method)
    if method not in _FORMATS:
        found = nearest(method, _FORMATS)
        hint = f"did you mean {found}?" if found else None
        invalid("--call", text, f"the methods are {', '.join(_FORMATS)}", hint)
    chosen = "text"
    for field in fields:
        key, _, chosen = field.partition("=")
        if key != "format" or chosen not in _FORMATS[method]:
            invalid("--call", text, f"{method} knows format={'|'.join(_FORMATS[method])}")
    if check:
        if method not in ("build", "check"):
            raise UsageError.of("conflicting-options", f"--check and --call {method} exclude each other")
        return Call("check", chosen)
    return Call(method, chosen)
