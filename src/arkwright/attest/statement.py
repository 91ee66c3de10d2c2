"""in-toto statements (Attestation Framework, statement.md v1): what is claimed of which content."""

from __future__ import annotations

from typing import Any

import msgspec

from arkwright.diagnostics.errors import UserError

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
STATEMENT_MEDIA_TYPE = "application/vnd.in-toto+json"


class ResourceDescriptor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A thing that a statement speaks of (resource_descriptor.md). `digest` maps an algorithm's name
    to hex digits, without the algorithm in front."""

    name: str = ""
    uri: str = ""
    digest: dict[str, str] = {}
    content: str = ""
    download_location: str = ""
    media_type: str = ""
    annotations: dict[str, Any] = {}


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """A predicate about subjects."""

    type: str = msgspec.field(name="_type", default=STATEMENT_TYPE)
    subject: tuple[ResourceDescriptor, ...]
    predicate_type: str = msgspec.field(name="predicateType")
    predicate: Any


def digest_set(digest: str) -> dict[str, str]:
    """`sha256:…` as statements write it."""
    algorithm, _, value = digest.partition(":")
    return {algorithm: value}


def encode(statement: Statement) -> bytes:
    """The canonical bytes: JSON, maps sorted, no spaces."""
    return msgspec.json.encode(statement, order="deterministic")


def parse(data: bytes) -> Statement:
    """Read a statement of version 1. Raises `UserError` `invalid-statement`."""
    try:
        found = msgspec.json.decode(data, type=Statement)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UserError.of("invalid-statement", f"not an in-toto statement: {error}") from error
    if found.type != STATEMENT_TYPE:
        raise UserError.of("invalid-statement", f"a statement of type {found.type!r}, not {STATEMENT_TYPE}")
    return found


def speaks_of(statement: Statement, digest: str) -> bool:
    """Whether a subject of the statement has the digest."""
    wanted = digest_set(digest)
    return any(wanted.items() <= one.digest.items() for one in statement.subject)
