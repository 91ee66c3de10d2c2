"""The lock file: what each name of a Dockerfile stood for. JSON, sorted, one source after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from arkwright.diagnostics.errors import UserError

VERSION = 1
# Bytes of a file.
LIMIT = 8 << 20

Kind = Literal["frontend", "git", "image", "url"]
Name = tuple[Kind, str]


class Locked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One source. `name` is an image's full name, a URL, `REPOSITORY#REF`, or a front end as the file has it,
    which alone has no digest: it is built in. `digest` is of the index or manifest, of the content, or
    `sha1:COMMIT`; `platforms` are the manifests that were used of an index."""

    kind: Kind
    name: str
    digest: str = ""
    platforms: dict[str, str] = {}


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int
    sources: tuple[Locked, ...]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one source; an empty digest on one side: it is new, or gone."""

    kind: Kind
    name: str
    before: str = ""
    after: str = ""


Lock = Mapping[Name, Locked]


def parse(data: bytes, path: str) -> dict[Name, Locked]:
    """Read a lock file. Raises `UserError` `invalid-lock`."""
    try:
        if len(data) > LIMIT:
            raise ValueError(f"it has more than {LIMIT} bytes")
        version = msgspec.json.decode(data, type=dict[str, msgspec.Raw]).get("version")
        if version is not None and bytes(version) != str(VERSION).encode():
            raise ValueError(f"its version is {bytes(version).decode()}, and {VERSION} is known here")
        found = msgspec.json.decode(data, type=_File)
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise UserError.of(
            "invalid-lock", f"{path} is not a lock file: {error}", hint="make it anew with `arkwright lock`"
        ) from error
    return {(one.kind, one.name): one for one in found.sources}


def encode(sources: Iterable[Locked]) -> bytes:
    """The file: the same sources give the same bytes."""
    ordered = tuple(sorted(sources, key=lambda one: (one.kind, one.name)))
    data = msgspec.json.encode(_File(version=VERSION, sources=ordered), order="deterministic")
    return msgspec.json.format(data, indent=2) + b"\n"


def changes(before: Lock, after: Lock) -> list[Change]:
    """What differs, sorted. A source of other platforms only has equal digests on both sides."""
    found = []
    for kind, name in sorted({*before, *after}):
        old, new = before.get((kind, name)), after.get((kind, name))
        if old != new:
            found.append(Change(kind=kind, name=name, before=_digest(old), after=_digest(new)))
    return found


def _digest(one: Locked | None) -> str:
    """A front end has its name only."""
    return "" if one is None else one.digest or "built in"
