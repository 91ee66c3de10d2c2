"""`--provenance` and `--attest type=provenance`, as buildx has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec

from arkwright.cli import values
from arkwright.diagnostics.errors import UsageError

_ON, _OFF = ("true", "1", "t"), ("false", "0", "f")


class Provenance(msgspec.Struct, frozen=True):
    """What is asked for: `mode` is `min`, `max` or `none`; `builder_id` a URI, or empty."""

    mode: str = "min"
    builder_id: str = ""


def provenance_wanted(options: Mapping[str, Any]) -> Provenance:
    """The last of the options decides. Raises `UsageError` `invalid-option-value`, `not-built-yet`."""
    found = Provenance()
    for text in options["attest"]:
        fields = _fields("--attest", text)
        kind = fields.pop("type", "")
        if kind == "sbom" and fields.get("disabled") not in _ON:
            _pending("--attest type=sbom", "`arkwright sbom` makes one of an image")
        elif kind == "provenance":
            found = _parse("--attest", text, fields)
        elif kind != "sbom":
            values.invalid("--attest", text, f"no such type: {kind!r}", "write type=provenance")
    for text in options["provenance"]:
        folded = text.lower()
        if folded in _OFF:
            found = Provenance("none")
        elif folded in (*_ON, ""):
            found = Provenance()
        elif folded in ("min", "max"):
            found = Provenance(folded)
        else:
            found = _parse("--provenance", text, _fields("--provenance", text))
    return found


def _parse(option: str, text: str, fields: dict[str, str]) -> Provenance:
    if fields.pop("disabled", "false") in _ON:
        return Provenance("none")
    for name in ("inline", "inline-only"):
        if fields.pop(name, "false").lower() not in _OFF:
            _pending(f"{option} {name}", "attestations are kept beside the image, which they do not change")
    if fields.pop("version", "v1") != "v1":
        values.invalid(option, text, "only SLSA provenance of version v1 is made", "write version=v1")
    mode, builder_id = fields.pop("mode", "min"), fields.pop("builder-id", "")
    if mode not in ("min", "max"):
        values.invalid(option, text, f"no such mode: {mode!r}", "write mode=min or mode=max")
    if fields:
        values.invalid(option, text, f"unknown: {', '.join(sorted(fields))}", "known are mode and builder-id")
    return Provenance(mode, builder_id)


def _fields(option: str, text: str) -> dict[str, str]:
    """A name alone stands for true."""
    parts = [field.partition("=") for field in values.csv_fields(option, text)]
    return {name.strip().lower(): value if equals else "true" for name, equals, value in parts}


def _pending(what: str, instead: str) -> NoReturn:
    raise UsageError.of("not-built-yet", f"{what} is not built yet: {instead}", hint="leave it away for now")
