"""What the sources share when they pin: keys, attributes, checksums."""

from __future__ import annotations

import hashlib

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.graph.ops import SourceOp


def pin_key(kind: str, **fields: str) -> str:
    """A key over named fields; no two different sets of fields have the same."""
    data = msgspec.json.encode(["arkwright-pin/1;sha256", kind, sorted(fields.items())])
    return "sha256:" + hashlib.sha256(data).hexdigest()


def attributes(op: SourceOp, known: frozenset[str]) -> dict[str, str]:
    """The attributes of a source op. Raises `UserError` `unknown-source-attribute`."""
    found = dict(op.attrs)
    unknown = sorted(found.keys() - known)
    if unknown:
        raise UserError.of(
            "unknown-source-attribute", f"a source of this kind has no attribute {', '.join(unknown)}"
        )
    return found


def checksum_mismatch(what: str, wanted: str, found: str) -> UserError:
    """`checksum-mismatch`, naming both."""
    error = UserError.of(
        "checksum-mismatch",
        f"{what} has the checksum {found}, but {wanted} is asked for",
        hint="the content has changed, or the checksum is of another version",
        details={"wanted": wanted, "found": found},
    )
    assert isinstance(error, UserError)
    return error
