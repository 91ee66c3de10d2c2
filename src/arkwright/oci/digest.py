"""Content digests, `algorithm:hex` (OCI image specification, descriptor.md, "Digests")."""

from __future__ import annotations

import hashlib
import re

from arkwright.diagnostics.errors import UserError

_DIGEST = re.compile(r"sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}")


def sha256(data: bytes) -> str:
    """The sha256 digest of `data`, as `sha256:<64 hex digits>`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def is_digest(text: str) -> bool:
    """Whether `text` is a well-formed digest of a registered algorithm."""
    return _DIGEST.fullmatch(text) is not None


def parse_digest(text: str) -> tuple[str, str]:
    """Split into algorithm and hex digits.

    Raises `UserError` `invalid-digest`.
    """
    if not is_digest(text):
        raise UserError.of("invalid-digest", f"{text!r} is not a digest such as sha256:<64 hex digits>")
    algorithm, _, encoded = text.partition(":")
    return algorithm, encoded
