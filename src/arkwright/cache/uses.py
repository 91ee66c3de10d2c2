"""When records were last used: noted once at the end of a build, for all of its hits together."""

from __future__ import annotations

import time

import msgspec

from arkwright.cache.records import Record
from arkwright.events.types import AnyEvent, CacheHit
from arkwright.store.metadata import Metadata

USES = "uses"


class Use(msgspec.Struct, frozen=True):
    """The last time that a record was taken instead of running its step (nanoseconds since the
    epoch), and by which build."""

    at: int = 0
    build: str = ""


class UseNotes:
    """A subscriber of a build's stream that remembers which records were hit."""

    def __init__(self) -> None:
        self._keys: set[str] = set()

    def __call__(self, event: AnyEvent) -> None:
        if isinstance(event, CacheHit) and event.key:
            self._keys.add(event.key)

    def write(self, metadata: Metadata, build: str) -> None:
        """Note them all, in one transaction; nothing when there was no hit."""
        note = msgspec.json.encode(Use(time.time_ns(), build))
        metadata.put_many(USES, [(key, note) for key in sorted(self._keys)])


def read_uses(metadata: Metadata) -> dict[str, Use]:
    """All notes, by the key of the record; what cannot be read is left out."""
    found = {}
    for key, data in metadata.items(USES):
        try:
            found[key] = msgspec.json.decode(data, type=Use)
        except msgspec.MsgspecError:
            continue
    return found


def last_use(record: Record, uses: dict[str, Use]) -> Use:
    """The latest of a record's making and its hits."""
    made = Use(record.created_at, record.build)
    noted = uses.get(record.key, made)
    return noted if noted.at > made.at else made
