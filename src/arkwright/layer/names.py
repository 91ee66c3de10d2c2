"""Names in layers: bytes and text, and the whiteout names (OCI image specification, layer.md)."""

from __future__ import annotations

import os
import sys

from arkwright.layer import faults
from arkwright.layer.entry import EntryType

WHITEOUT_PREFIX = b".wh."
OPAQUE_NAME = b".wh..wh..opq"
# Left by AUFS; holds nothing that belongs to an image.
_META_PREFIX = b".wh..wh."

_ENCODING = sys.getfilesystemencoding()


def encode(text: str) -> bytes:
    """The bytes of a name."""
    return text.encode() if text.isascii() else os.fsencode(text)


def decode(raw: bytes) -> str:
    """A name's text; bytes that are no text in the file system's encoding become surrogates."""
    return raw.decode(_ENCODING, "surrogateescape")


def clean(raw: bytes, what: str) -> bytes:
    """A stored name as a path beneath the root: no leading or trailing slash, no `.`.

    Raises `path-escapes-root` for `..`: a component that is followed by further ones, too.
    """
    if b"//" not in raw and b"/." not in raw and raw[:1] not in b"/." and raw[-1:] != b"/":
        return raw
    parts = [part for part in raw.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise faults.escapes(decode(raw), what)
    return b"/".join(parts)


def whiteout(path: bytes) -> tuple[bytes, EntryType] | None:
    """What a name that begins with `.wh.` deletes: path and entry type; None if it means nothing.

    Raises `path-escapes-root` for a whiteout of `.`, `..` or nothing.
    """
    parent, _, name = path.rpartition(b"/")
    if name == OPAQUE_NAME:
        return parent, "opaque"
    if name.startswith(_META_PREFIX):
        return None
    target = name[len(WHITEOUT_PREFIX) :]
    if target in (b"", b".", b".."):
        raise faults.escapes(decode(path), "the whiteout")
    return (parent + b"/" if parent else b"") + target, "whiteout"


def require_no_whiteout(path: bytes) -> None:
    """Raise `reserved-name` if a directory in the path is named like a whiteout."""
    if path.startswith(WHITEOUT_PREFIX) or b"/.wh." in path:
        raise faults.reserved(decode(path))
