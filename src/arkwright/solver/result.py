"""What the solver knows of operations and results: nothing but keys, bytes and equality.

The solver is generic: it walks vertices and asks a `Resolver` for `Operation`s. Which containers,
trees or registries stand behind them is the business of `ops`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from arkwright.graph.definition import Vertex, VertexMetadata

# What stands behind digests of a key's fields, so that a later miss can name it: for each digest a
# function that lists it, path by path.
Details = Mapping[str, Callable[[], Mapping[str, str]]]


class Key(msgspec.Struct, frozen=True):
    """A cache key with the fields that went into it, by name, so that a miss can be explained."""

    digest: str
    fields: dict[str, str] = {}


class Result(Protocol):
    """One output of a vertex."""

    def encode(self) -> bytes:
        """A portable form for cache records; equal bytes mean equal results."""
        ...


class Operation(Protocol):
    """One vertex, ready to be keyed and run. Methods are called from one thread at a time."""

    @property
    def slot(self) -> bool:
        """Whether the work occupies one of the build's job slots (it runs a command)."""
        ...

    def immediate(self) -> Sequence[Result] | None:
        """The outputs, when naming them is all that there is to do (lazy sources)."""
        ...

    def definition_key(self, inputs: Sequence[str]) -> Key:
        """The key from the op and its inputs' definition keys, without running anything."""
        ...

    def operation_key(self) -> str:
        """The op alone, without inputs: equal for vertices that do the same to other inputs."""
        ...

    def same_content(self, number: int, have: Result, other: Result) -> bool:
        """Whether two results are equal as far as this op looks at its input `number`."""
        ...

    def content_of(self, number: int, have: Result) -> str | None:
        """What this op sees of its input `number`, as a digest that is the same on every machine;
        None for an op whose inputs are never compared."""
        ...

    def run(self, inputs: Sequence[Result], cancelled: threading.Event) -> Sequence[Result]:
        """Do the work. Raises an `ArkwrightError`; `Cancelled` once `cancelled` is set."""
        ...

    def still_valid(self) -> bool:
        """Asked after `run`: whether what the definition key was computed from is unchanged."""
        ...

    def details(self) -> Details:
        """Asked when a record is kept of it, or of an operation on it."""
        ...


class Resolver(Protocol):
    """Gives the operation of a vertex, and reads recorded results back."""

    def operation(self, digest: str, vertex: Vertex, metadata: VertexMetadata) -> Operation: ...

    def decode(self, data: bytes) -> Result | None:
        """The recorded result, None when its content is no longer in the store."""
        ...


class Found(Protocol):
    """A record that another machine made."""

    @property
    def results(self) -> tuple[bytes, ...]:
        """Encoded results, whose content is known to the store from now on."""
        ...

    @property
    def created_at(self) -> int:
        """Nanoseconds since the epoch."""
        ...

    @property
    def origin(self) -> str:
        """The name of the remote."""
        ...


class Sibling(Protocol):
    """A record on a remote, of an operation on other inputs."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the operation saw of each (see `Operation.content_of`)."""
        ...

    @property
    def record(self) -> str:
        """The definition key."""
        ...


class Remotes(Protocol):
    """Caches beside that of the store. `find` and `siblings` may wait for a network."""

    def ask(self, keys: Iterable[str]) -> None:
        """Begin to look for records that may be wanted."""
        ...

    def find(self, key: str) -> Found | None: ...

    def siblings(self, operation: str) -> Sequence[Sibling]:
        """The newest records of an operation, by its key without inputs."""
        ...
