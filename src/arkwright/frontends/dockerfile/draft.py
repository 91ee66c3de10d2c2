"""A graph under construction, whose sources may still learn which of their paths are needed.

Vertices are numbered while instructions are converted; digests are taken at the end, when the
`paths` of local sources are known.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

import msgspec

from arkwright.graph.definition import Definition, Edge, Vertex, VertexMetadata
from arkwright.graph.ops import Op, SourceOp
from arkwright.oci.platform import Platform

Ref = int


class _Node(msgspec.Struct):
    op: Op
    inputs: tuple[Ref, ...]
    platform: Platform | None
    metadata: VertexMetadata
    paths: set[str] | None = None


class Inputs:
    """The inputs of a vertex as they are named; each tree gets one number."""

    def __init__(self) -> None:
        self.refs: list[Ref] = []

    def index(self, ref: Ref | None) -> int:
        """The input number of a tree; -1 for the empty one."""
        if ref is None:
            return -1
        if ref not in self.refs:
            self.refs.append(ref)
        return self.refs.index(ref)


class Draft:
    """Vertices by number; references are made before digests are known."""

    def __init__(self) -> None:
        self._nodes: list[_Node] = []
        self._locals: dict[str, Ref] = {}

    def add(
        self,
        op: Op,
        inputs: Sequence[Ref] = (),
        *,
        platform: Platform | None = None,
        metadata: VertexMetadata = VertexMetadata(),  # noqa: B008 - frozen
    ) -> Ref:
        self._nodes.append(_Node(op, tuple(inputs), platform, metadata))
        return len(self._nodes) - 1

    def local(self, identifier: str, metadata: VertexMetadata) -> Ref:
        """The one vertex of a `local://` source; `use` tells it the paths."""
        if identifier not in self._locals:
            ref = self.add(SourceOp(identifier=identifier), metadata=metadata)
            self._nodes[ref].paths = set()
            self._locals[identifier] = ref
        return self._locals[identifier]

    def is_local(self, ref: Ref) -> bool:
        """Whether a vertex is a `local://` source."""
        return self._nodes[ref].paths is not None

    def use(self, ref: Ref | None, path: str) -> None:
        """Note that a path of a tree is needed, when the tree is a local source."""
        if ref is None:
            return
        paths = self._nodes[ref].paths
        if paths is not None:
            paths.add(literal_prefix(path))

    def finish(self, target: Ref | None) -> Definition:
        """The definition of what the target needs."""
        digests: list[str] = []
        vertices: dict[str, Vertex] = {}
        metadata: dict[str, VertexMetadata] = {}
        needed = self._needed(target)
        for number, node in enumerate(self._nodes):
            if number not in needed:
                digests.append("")
                continue
            vertex = Vertex(
                op=_with_paths(node),
                inputs=tuple(Edge(digests[ref]) for ref in node.inputs),
                platform=node.platform,
            )
            digest = vertex.digest()
            digests.append(digest)
            vertices[digest] = vertex
            metadata[digest] = _joined(metadata.get(digest), node.metadata)
        edge = None if target is None else Edge(digests[target])
        return Definition(vertices=vertices, target=edge, metadata=metadata)

    def _needed(self, target: Ref | None) -> set[Ref]:
        needed: set[Ref] = set()
        stack = [] if target is None else [target]
        while stack:
            ref = stack.pop()
            if ref not in needed:
                needed.add(ref)
                stack.extend(self._nodes[ref].inputs)
        return needed


def _joined(first: VertexMetadata | None, second: VertexMetadata) -> VertexMetadata:
    if first is None:
        return second
    if second.ignore_cache and not first.ignore_cache:
        return msgspec.structs.replace(first, ignore_cache=True)
    return first


def _with_paths(node: _Node) -> Op:
    if node.paths is None or not isinstance(node.op, SourceOp):
        return node.op
    paths = minimal(node.paths)
    return msgspec.structs.replace(node.op, attrs=(("paths", msgspec.json.encode(paths).decode()),))


def minimal(paths: set[str]) -> list[str]:
    """The paths without those below another of them, sorted; "" stands for everything."""
    if "" in paths:
        return [""]
    kept: list[str] = []
    for path in sorted(paths, key=lambda path: path.split("/")):
        if not kept or not path.startswith(kept[-1] + "/"):
            kept.append(path)
    return sorted(kept)


def literal_prefix(path: str) -> str:
    """A path relative to the root, cut before its first component with a wildcard or an escape."""
    components: list[str] = []
    for component in clean(path).split("/"):
        if any(char in component for char in "*?[\\"):
            break
        components.append(component)
    return "/".join(components).strip("/")


def clean(path: str) -> str:
    """The absolute path with `.`, `..` and doubled slashes resolved; it never leaves the root."""
    return posixpath.normpath("/" + path.lstrip("/"))


def join(directory: str, path: str) -> str:
    """`path` below `directory` unless it is absolute; absolute and clean."""
    return clean(path if path.startswith("/") else posixpath.join(directory or "/", path))
