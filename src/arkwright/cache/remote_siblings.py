"""Which inputs an operation was run on elsewhere: early cutoff across machines.

A step whose inputs were made anew has another key, and finds nothing under it. So beside its
records, a remote has a small document for each operation: what the operation saw of its inputs, as
digests of content, and the keys of the records. It is read only for a step that is about to run,
and replaced as a whole: of two machines that write at once one is forgotten, which costs a hit.
"""

from __future__ import annotations

import msgspec

from arkwright.cache.keys import KeyBuilder
from arkwright.cache.remote import RECORD_LIMIT, CacheStore
from arkwright.diagnostics.errors import UserError
from arkwright.diagnostics.wire import ready
from arkwright.oci.digest import is_digest

_SIBLINGS = 8
_INPUTS = 1024


class Sibling(msgspec.Struct, frozen=True):
    """A record by its key, with a digest of what the operation saw of each input."""

    inputs: tuple[str, ...]
    record: str


class PortableSiblings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The newest records of an operation, newest first."""

    version: int = 1
    key: str
    siblings: tuple[Sibling, ...] = ()


ready(PortableSiblings)


def siblings_key(operation: str) -> str:
    """The key under which the records of an operation are listed."""
    return KeyBuilder("siblings").field("operation", operation).digest()


def decode_siblings(data: bytes, key: str) -> tuple[Sibling, ...]:
    """Read a list of records. Raises `UserError` `invalid-cache-record`."""
    try:
        found = msgspec.json.decode(data, type=PortableSiblings)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UserError.of("invalid-cache-record", f"the list {key} cannot be read: {error}") from error
    fits = len(data) <= RECORD_LIMIT and len(found.siblings) <= _SIBLINGS
    if not fits or found.version != 1 or found.key != key or not all(map(_is_sound, found.siblings)):
        raise UserError.of("invalid-cache-record", f"the list {key} was not written by this program")
    return found.siblings


def publish_sibling(remote: CacheStore, operation: str, sibling: Sibling) -> None:
    """Name a published record in the list of its operation, before all others."""
    key = siblings_key(operation)
    data = remote.get_record(key)
    try:
        known = decode_siblings(data, key) if data is not None else ()
    except UserError:
        # What nobody can read is replaced.
        known = ()
    if sibling in known:
        return
    others = tuple(one for one in known if one.inputs != sibling.inputs)
    made = PortableSiblings(key=key, siblings=(sibling, *others[: _SIBLINGS - 1]))
    remote.put_record(key, msgspec.json.encode(made, order="deterministic"), [])


def _is_sound(one: Sibling) -> bool:
    return is_digest(one.record) and len(one.inputs) <= _INPUTS and all(map(is_digest, one.inputs))
