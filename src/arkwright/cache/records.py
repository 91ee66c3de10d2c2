"""Cache records: which results a key has given, and which operation gave them to what.

A record means the same on every machine: no host path, pid, uid map or store id is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

import msgspec

from arkwright.diagnostics.wire import ready
from arkwright.store.metadata import Metadata

RECORDS = "records"
SIBLINGS = "siblings"
# What digests in the fields of records stand for.
DETAILS = "details"
# Steps that ran and have no record, by `<build>/<key>`: they failed, say.
ATTEMPTS = "attempts"
_LISTED = 10_000


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a vertex gave under a key.

    `key` is the definition key; `operation` the key of the op without its inputs; `inputs` and
    `results` are opaque encodings of results (the ops that made them know their form), one per
    input edge and per output. `vertex` is the digest of the vertex, `created_at` nanoseconds
    since the epoch, `build` the id of the build that ran it. `fields` is what went into the key,
    by name, so that a later miss can be explained by the nearest record.
    """

    key: str
    operation: str
    vertex: str
    results: tuple[bytes, ...]
    inputs: tuple[bytes, ...] = ()
    created_at: int = 0
    build: str = ""
    fields: dict[str, str] = {}


ready(Record)


def digests_in(fields: Iterable[str]) -> set[str]:
    """The digests in the fields of a record."""
    words = (word.partition("#")[0] for field in fields for word in field.split())
    return {word for word in words if word.startswith("sha256:")}


class Records:
    """The records of a store. Thread-safe and shared between processes, as the metadata is."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    def find(self, key: str) -> Record | None:
        """The record of a key; None when there is none, or one that this version cannot read."""
        data = self._metadata.get(RECORDS, key)
        if data is None:
            return None
        try:
            return msgspec.json.decode(data, type=Record)
        except msgspec.MsgspecError:
            return None

    def siblings(self, operation: str, *, limit: int) -> list[Record]:
        """The newest records of an operation, whatever its inputs were."""
        rows = self._metadata.items(SIBLINGS, f"{operation}/")
        newest = sorted(rows, key=lambda row: int.from_bytes(row[1]), reverse=True)[:limit]
        found = (self.find(name.partition("/")[2]) for name, _ in newest)
        return [record for record in found if record is not None]

    def save(self, record: Record) -> None:
        """Keep a record in place of an earlier one of the same key."""
        with self._metadata.transaction():
            self._metadata.put(RECORDS, record.key, msgspec.json.encode(record))
            name = f"{record.operation}/{record.key}"
            self._metadata.put(SIBLINGS, name, record.created_at.to_bytes(8))

    def describe(self, digest: str, listed: Callable[[], Mapping[str, str]]) -> None:
        """Keep what a digest in a record's fields stands for, unless it is known or too long."""
        if self._metadata.get(DETAILS, digest) is not None:
            return
        found = listed()
        if len(found) <= _LISTED:
            import zlib

            self._metadata.put(DETAILS, digest, zlib.compress(msgspec.json.encode(found)))

    def described(self, digest: str) -> dict[str, str]:
        """What a digest stands for; empty when that was not kept."""
        data = self._metadata.get(DETAILS, digest)
        if data is None:
            return {}
        import zlib

        try:
            return msgspec.json.decode(zlib.decompress(data), type=dict[str, str])
        except (zlib.error, msgspec.MsgspecError):
            return {}

    def save_attempt(self, record: Record) -> None:
        """Keep what went into the key of a step that gave nothing to record, to explain why it ran."""
        self._metadata.put(ATTEMPTS, f"{record.build}/{record.key}", msgspec.json.encode(record))

    def attempts(self, build: str = "") -> list[Record]:
        """Those of a build, or all; what cannot be read is left out."""
        found = []
        for _, data in self._metadata.items(ATTEMPTS, f"{build}/" if build else ""):
            with suppress(msgspec.MsgspecError):
                found.append(msgspec.json.decode(data, type=Record))
        return found

    def forget(self, key: str) -> None:
        """Drop the record of a key; no error if there is none."""
        record = self.find(key)
        with self._metadata.transaction():
            self._metadata.delete(RECORDS, key)
            if record is not None:
                self._metadata.delete(SIBLINGS, f"{record.operation}/{key}")
