"""Why a step ran, or was cached: from the journal of a build and the records of the store.

A step that ran is compared with the earlier records: first those of the same operation, where
only inputs can differ, then those of the same kind, of which the one with the most equal fields
is the nearest. All records are read once; the search is linear in them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import msgspec

from arkwright.cache.inventory import layers_of, take_inventory
from arkwright.cache.listing import StepNames
from arkwright.cache.records import Record, Records
from arkwright.diagnostics.errors import UserError
from arkwright.events.journal import journal_path, read_journal
from arkwright.events.types import CacheHit, Declared, Failed, Started
from arkwright.store.store import Store

Reason = Literal[
    "cached", "no-earlier-record", "inputs-changed", "fields-changed", "not-asked", "not-recorded"
]
# Groups of what is no step: layers from remote caches, records to them.
_TRANSFERS = ("cache import", "cache export")
_CONTENT = ("content of ", "input ")


class Difference(msgspec.Struct, frozen=True):
    """One field that differs; empty where one side does not have it. `parts` are the paths that differ,
    where the field is a digest of files and both sides are known."""

    field: str
    old: str
    new: str
    parts: tuple[Difference, ...] = ()


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """One step. `build` and `recorded_at` (nanoseconds) are of the record that it was taken from, or
    that it is compared with; `nearest` is that record's step."""

    vertex: str
    name: str
    reason: Reason
    failed: bool = False
    by: str = ""
    origin: str = ""
    build: str = ""
    recorded_at: int = 0
    nearest: str = ""
    differences: tuple[Difference, ...] = ()


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """A build and its steps, each after those that it stands on."""

    build: str
    steps: tuple[Explained, ...]


def explain(store: Store, build: str = "", step: str = "") -> Explanation:
    """Explain a build, by its id or the beginning of it; the last one by default. `step` is a part of
    a step's name, or the beginning of a vertex digest; all steps by default.

    Raises `UserError` `unknown-build`, `unknown-step`, `corrupt-journal`.
    """
    found = find_build(store.root_path, build)
    steps = _Explainer(store, found).steps()
    wanted = [one for one in steps if step in one.name or one.vertex.startswith((step, f"sha256:{step}"))]
    if step and not wanted:
        raise UserError.of(
            "unknown-step",
            f"build {found} has no step with {step!r} in its name that ran or was cached",
            hint=f"see `arkwright history show {found}`",
        )
    return Explanation(build=found, steps=tuple(wanted))


def find_build(root_path: str, wanted: str) -> str:
    """The id of a build whose journal is kept. Raises `UserError` `unknown-build`."""
    history_path = os.path.join(root_path, "history")
    builds = sorted(
        name for name in os.listdir(history_path) if os.path.isfile(journal_path(root_path, name))
    )
    matching = [wanted] if wanted in builds else [name for name in builds if name.startswith(wanted)]
    if wanted and len(matching) == 1:
        return matching[0]
    if not wanted and builds:
        return max(builds, key=lambda name: (os.stat(journal_path(root_path, name)).st_mtime_ns, name))
    raise UserError.of(
        "unknown-build",
        f"{len(matching)} builds begin with {wanted!r}" if wanted else "the store has no journal of a build",
        hint="builds are named by their time, as 20250131-142501-1a2b3c4d"
        if wanted
        else "build something first",
    )


class _Explainer:
    def __init__(self, store: Store, build: str) -> None:
        self._build = build
        self._names = StepNames(store.root_path)
        self._details = Records(store.metadata)
        self._records = [
            record for record in take_inventory(store.metadata).records.values() if record.fields
        ]
        self._attempts = {record.vertex: record for record in self._details.attempts(build)}
        self._by_key = {record.key: record for record in self._records}
        # To the nanosecond; a step whose inputs came out equal has its record under another vertex.
        self._by_time = {record.created_at: record for record in self._records}
        self._by_vertex: dict[str, list[Record]] = {}
        self._by_kind: dict[str, list[Record]] = {}
        for record in self._records:
            self._by_vertex.setdefault(record.vertex, []).append(record)
            self._by_kind.setdefault(_kind(record), []).append(record)
        self._declared: dict[str, Declared] = {}
        self._outcomes: dict[str, Started | CacheHit] = {}
        self._failed: set[str] = set()
        self._transfers: set[str] = set()
        for event in read_journal(journal_path(store.root_path, build)):
            if isinstance(event, Declared):
                self._declared[event.vertex] = event
                if event.group in _TRANSFERS:
                    self._transfers.add(event.vertex)
            elif isinstance(event, Started | CacheHit) and event.vertex not in self._transfers:
                self._outcomes[event.vertex] = event
            elif isinstance(event, Failed):
                self._failed.add(event.vertex)

    def steps(self) -> Sequence[Explained]:
        place = {vertex: number for number, vertex in enumerate(self._declared)}
        return [
            self._cached(event) if isinstance(event, CacheHit) else self._ran(event)
            for event in sorted(self._outcomes.values(), key=lambda event: place.get(event.vertex, -1))
        ]

    def _name(self, vertex: str) -> str:
        declared = self._declared.get(vertex)
        return declared.name if declared is not None else vertex

    def _cached(self, event: CacheHit) -> Explained:
        known = self._by_time.get(event.recorded_at)
        return Explained(
            vertex=event.vertex, name=self._name(event.vertex), reason="cached", by=event.by,
            origin=event.origin, build=known.build if known is not None else "",
            recorded_at=event.recorded_at,
        )  # fmt: skip

    def _ran(self, event: Started) -> Explained:
        vertex = event.vertex
        name, failed = self._name(vertex), vertex in self._failed
        recorded = (one for one in self._by_vertex.get(vertex, ()) if one.build == self._build)
        mine = next(recorded, self._attempts.get(vertex))
        if not event.asked:
            return Explained(vertex=vertex, name=name, reason="not-asked", failed=failed)
        if mine is None:
            return Explained(vertex=vertex, name=name, reason="not-recorded", failed=failed)
        earlier = [
            one
            for one in self._by_kind.get(_kind(mine), ())
            if one.created_at < mine.created_at and one.build != self._build
        ]
        # A record from a remote cache does not say what its inputs were.
        same = [
            one for one in earlier if one.operation == mine.operation and len(one.inputs) == len(mine.inputs)
        ]
        if same:
            other = max(same, key=lambda one: (_shared(mine, one), one.created_at))
            differences, reason = self._inputs(mine, other), "inputs-changed"
            if not differences:
                reason = "not-asked"
        elif earlier:
            other = max(earlier, key=lambda one: (_shared(mine, one), one.created_at))
            differences, reason = self._fields(mine, other), "fields-changed"
        else:
            return Explained(vertex=vertex, name=name, reason="no-earlier-record", failed=failed)
        return Explained(
            vertex=vertex, name=name, reason=reason, failed=failed, build=other.build,  # type: ignore[arg-type]
            recorded_at=other.created_at, nearest=self._names.of(other.build, other.vertex),
            differences=tuple(differences),
        )  # fmt: skip

    def _inputs(self, mine: Record, other: Record) -> list[Difference]:
        """The inputs that are not what they were, by the names of the steps that made them."""
        declared = self._declared.get(mine.vertex)
        above = declared.inputs if declared is not None else ()
        # Of sources more is known than the trees that they give.
        sources = {
            field
            for field, value in mine.fields.items()
            if field.startswith("input ") and self._source_of(value)
        }
        found = [one for one in self._fields(mine, other) if one.field in sources]
        for number, (new, old) in enumerate(zip(mine.inputs, other.inputs, strict=False)):
            if found and number < len(above) and above[number] not in self._by_vertex:
                continue
            if new != old:
                name = self._name(above[number]) if number < len(above) else f"input {number}"
                found.append(Difference(name, _tree(old), _tree(new)))
        return found

    def _fields(self, mine: Record, other: Record) -> list[Difference]:
        found = []
        for field in sorted(mine.fields.keys() | other.fields.keys(), key=_weight):
            new, old = mine.fields.get(field, ""), other.fields.get(field, "")
            if new == old and (field in mine.fields) == (field in other.fields):
                continue
            if field == "action":
                old, new = self._names.of(other.build, other.vertex), self._name(mine.vertex)
            elif field.startswith("input "):
                old, new = self._step_of(old, other), self._step_of(new, mine)
            elif field == "env":
                old, new = _changed_words(old, new)
            elif field == "key":
                old, new = self._source_of(old) or old, self._source_of(new) or new
            parts = self._files(old, new) if field.startswith("content of ") else ()
            found.append(Difference(field, old, new, parts))
        return found

    def _step_of(self, input_key: str, user: Record) -> str:
        """What gave an input, for people; `input_key` is `<definition key>#<output>`."""
        key = input_key.partition("#")[0]
        source = self._source_of(key)
        if source:
            return source
        record = self._by_key.get(key)
        name = self._names.of(user.build, record.vertex) if record is not None else ""
        short = key.partition(":")[2][:12]
        return f"{name} ({short})" if name else short

    def _source_of(self, key: str) -> str:
        """Where a source's content comes from, and the digest that it had; empty for other keys."""
        key = key.partition("#")[0]
        found = self._details.described(key) if key.startswith("sha256:") else {}
        named = [uri if uri.endswith(digest) else f"{uri}@{digest}" for uri, digest in found.items()]
        return " ".join(one for one in named if "://" in one)

    def _files(self, old: str, new: str) -> tuple[Difference, ...]:
        """The paths that differ between two selections; none when one of them was not kept."""
        before, after = self._listed(old), self._listed(new)
        if not before or not after:
            return ()
        paths = sorted(path for path in before.keys() | after if before.get(path) != after.get(path))
        return tuple(Difference(path, before.get(path, ""), after.get(path, "")) for path in paths)

    def _listed(self, digests: str) -> dict[str, str]:
        parts = [self._details.described(digest) for digest in digests.split()]
        return {path: facts for part in parts for path, facts in part.items()} if all(parts) else {}


def _kind(record: Record) -> str:
    """The kind of op, by the fields that only it has."""
    for field in ("args", "action", "key"):
        if field in record.fields:
            return field
    return ""


def _shared(mine: Record, other: Record) -> int:
    """How many fields are equal; those that name inputs or contents count double, as few steps have
    the same."""
    theirs = other.fields
    return sum(
        2 if field.startswith(_CONTENT) else 1
        for field, value in mine.fields.items()
        if theirs.get(field) == value
    )


def _weight(field: str) -> tuple[bool, str]:
    """What people wrote before what follows from it."""
    return field.startswith("input "), field


def _tree(data: bytes) -> str:
    layers = layers_of((data,))
    return f"{len(layers)} layers up to {layers[-1][:12]}" if layers else "another tree"


def _changed_words(old: str, new: str) -> tuple[str, str]:
    before, after = old.split(" "), new.split(" ")
    return (
        " ".join(word for word in before if word not in after),
        " ".join(word for word in after if word not in before),
    )
