"""`--provenance`, `--sbom` and `--attest`, as buildx has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from arkwright.build.request import Attest
from arkwright.cli import values

_ON, _OFF = ("true", "1", "t"), ("false", "0", "f")


class Provenance(msgspec.Struct, frozen=True):
    """What is asked for: `mode` is `min`, `max` or `none`; `builder_id` a URI, or empty. `attach` says that it was
    asked for, rather than kept by default."""

    mode: str = "min"
    builder_id: str = ""
    attach: bool = False
    inline: bool = False


def provenance_wanted(options: Mapping[str, Any]) -> Provenance:
    """The last of the options decides. Raises `UsageError` `invalid-option-value`."""
    found, inline = Provenance(), False
    for text in options["attest"]:
        fields = _attestation(text)
        if fields["type"] == "provenance":
            found = _parse("--attest", text, fields)
            inline = inline or found.inline
    for text in options["provenance"]:
        folded = text.lower()
        if folded in _OFF:
            found = Provenance("none")
        elif folded in (*_ON, ""):
            found = Provenance(attach=True)
        elif folded in ("min", "max"):
            found = Provenance(folded, attach=True)
        else:
            found = _parse("--provenance", text, _fields("--provenance", text))
    return msgspec.structs.replace(found, inline=found.attach and (found.inline or inline))


def attest_wanted(options: Mapping[str, Any]) -> Attest:
    """What is attached to images. Raises `UsageError` `invalid-option-value`, `not-built-yet`."""
    provenance, sbom, inline = provenance_wanted(options), Attest(), False
    for text in options["attest"]:
        fields = _attestation(text)
        if fields["type"] == "sbom":
            sbom = _sbom("--attest", text, fields)
            inline = inline or sbom.inline
    for text in options["sbom"]:
        if text.lower() in (*_OFF, *_ON, ""):
            sbom = Attest(sbom=text.lower() not in _OFF)
        else:
            sbom = _sbom("--sbom", text, _fields("--sbom", text))
            inline = inline or sbom.inline
    return msgspec.structs.replace(sbom, provenance=provenance.attach, inline=inline or provenance.inline)


def _attestation(text: str) -> dict[str, str]:
    """The fields of one `--attest`; a lone `inline` is of the provenance."""
    fields = _fields("--attest", text)
    kind = fields.setdefault("type", "provenance" if list(fields) == ["inline"] else "")
    if kind not in ("provenance", "sbom"):
        values.invalid("--attest", text, f"no such type: {kind!r}", "write type=provenance or type=sbom")
    return fields


def _parse(option: str, text: str, fields: dict[str, str]) -> Provenance:
    rest = dict(fields)
    rest.pop("type", "")
    if rest.pop("disabled", "false").lower() in _ON:
        return Provenance("none")
    inline = _inline(rest)
    if rest.pop("version", "v1") != "v1":
        values.invalid(option, text, "only SLSA provenance of version v1 is made", "write version=v1")
    mode, builder_id = rest.pop("mode", "min"), rest.pop("builder-id", "")
    if mode not in ("min", "max"):
        values.invalid(option, text, f"no such mode: {mode!r}", "write mode=min or mode=max")
    if rest:
        known = "known are mode, builder-id and inline"
        values.invalid(option, text, f"unknown: {', '.join(sorted(rest))}", known)
    return Provenance(mode, builder_id, attach=True, inline=inline)


def _sbom(option: str, text: str, fields: dict[str, str]) -> Attest:
    """Whether a package list is wanted, inline, and by whom; what is not known here is for the generator."""
    rest = dict(fields)
    rest.pop("type", "")
    off, inline = rest.pop("disabled", "false").lower() in _ON, _inline(rest)
    generator = rest.pop("generator", "")
    if rest and not generator:
        values.invalid(option, text, f"unknown: {', '.join(sorted(rest))}", "known are generator and inline")
    if off:
        return Attest()
    return Attest(sbom=True, inline=inline, generator=generator, parameters=rest)


def _inline(fields: dict[str, str]) -> bool:
    """Whether statements go into the image's index. BuildKit's `inline-only` keeps them out of directories, where
    ours never are."""
    fields.pop("inline-only", "")
    return fields.pop("inline", "false").lower() not in _OFF


def _fields(option: str, text: str) -> dict[str, str]:
    """A name alone stands for true."""
    parts = [field.partition("=") for field in values.csv_fields(option, text)]
    return {name.strip().lower(): value if equals else "true" for name, equals, value in parts}
