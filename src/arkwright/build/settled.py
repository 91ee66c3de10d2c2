"""Vertices whose results are known for good: those of a working container's earlier commands.

They keep the keys that they had, so that what is built on them is found in the cache under the
same key as in any other build; but nothing of them is looked up, read or run again, whatever
has become of the files and records that they were made from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from arkwright.attest.statement import ResourceDescriptor
from arkwright.diagnostics.errors import UserError
from arkwright.graph.definition import Vertex, VertexMetadata
from arkwright.ops.result import LayeredResult
from arkwright.ops.source import GivenOperation
from arkwright.solver.result import Key, Operation, Resolver, Result

if TYPE_CHECKING:
    from arkwright.images.containers import Settled


class Outcomes(msgspec.Struct, frozen=True):
    """What a build knows at its end: the cache keys of its vertices, the layers of each target, and what
    it pinned and read."""

    keys: dict[str, str]
    layers: tuple[tuple[str, ...], ...]
    sources: tuple[ResourceDescriptor, ...] = ()


class SettledOperation(GivenOperation):
    """One vertex that has its result."""

    def __init__(self, settled: Settled) -> None:
        self._settled = settled

    def immediate(self) -> Sequence[Result]:
        return [LayeredResult(self._settled.layers)]

    def definition_key(self, inputs: Sequence[str]) -> Key:
        return Key(self._settled.key)


class SettledResolver:
    """Another resolver for all but the settled vertices.

    Raises `UserError` `container-content-lost` when a layer of a settled vertex is not in the store.
    """

    def __init__(self, resolver: Resolver, settled: Mapping[str, Settled]) -> None:
        self._resolver = resolver
        self._settled = settled

    def operation(self, digest: str, vertex: Vertex, metadata: VertexMetadata) -> Operation:
        settled = self._settled.get(digest)
        if settled is None:
            return self._resolver.operation(digest, vertex, metadata)
        if settled.layers and self.decode(LayeredResult(settled.layers).encode()) is None:
            raise UserError.of(
                "container-content-lost",
                f"the store has lost what {metadata.name or digest} made",
                hint="remove the container, and run the script again",
            )
        return SettledOperation(settled)

    def decode(self, data: bytes) -> Result | None:
        return self._resolver.decode(data)
