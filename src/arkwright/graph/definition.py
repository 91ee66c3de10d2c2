"""Definitions: vertices keyed by digest, with everything that is not content kept apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import msgspec

from arkwright.diagnostics.spans import Span
from arkwright.graph.ops import Op
from arkwright.oci.platform import Platform


class Edge(msgspec.Struct, frozen=True):
    """One output of a vertex: what ops take as inputs and what a build asks for."""

    vertex: str
    index: int = 0


class Vertex(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An op with its inputs. The digest covers the op, inputs, platform and constraints."""

    op: Op
    inputs: tuple[Edge, ...] = ()
    platform: Platform | None = None
    constraints: tuple[str, ...] = ()

    def digest(self) -> str:
        """`sha256:…` over the canonical JSON of the vertex."""
        return "sha256:" + hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


class VertexMetadata(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What never enters a digest.

    `name` is for people. `ignore_cache` re-runs the vertex. `group` is the stage that it belongs
    to. `spans` are the places in the user's file, primary first. `label` names the kind for terse
    output ("RUN").
    """

    name: str = ""
    ignore_cache: bool = False
    group: str = ""
    spans: tuple[Span, ...] = ()
    label: str = ""


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """A graph and the edge that is asked for (`None`: nothing, as `FROM scratch` alone)."""

    vertices: dict[str, Vertex]
    target: Edge | None
    metadata: dict[str, VertexMetadata] = {}

    def describe(self, digest: str) -> VertexMetadata:
        """The metadata of a vertex; empty metadata when there is none."""
        return self.metadata.get(digest, VertexMetadata())

    def walk(self) -> Iterator[str]:
        """Digests of the vertices that the target needs, inputs before users, in stable order.

        Raises `ValueError` when an input is missing from the definition.
        """
        if self.target is None:
            return
        done: set[str] = set()
        stack: list[tuple[str, bool]] = [(self.target.vertex, False)]
        while stack:
            digest, expanded = stack.pop()
            if digest in done:
                continue
            if expanded:
                done.add(digest)
                yield digest
                continue
            if digest not in self.vertices:
                raise ValueError(f"vertex {digest} is not in the definition")
            stack.append((digest, True))
            stack.extend((edge.vertex, False) for edge in reversed(self.vertices[digest].inputs))


def merge_definitions(first: Definition, second: Definition) -> Definition:
    """Both graphs in one; the target is the second's."""
    return Definition(
        vertices={**first.vertices, **second.vertices},
        target=second.target,
        metadata={**first.metadata, **second.metadata},
    )
