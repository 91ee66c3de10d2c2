"""A fluent builder of definitions: the public way to write a graph by hand.

base = image("docker.io/library/debian:bookworm")
built = base.run(["make"], cwd="/src", binds={"/src": local("context")})
definition = scratch().copy(built, "/src/app", "/app").marshal()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from arkwright.graph.definition import Definition, Edge, Vertex, VertexMetadata
from arkwright.graph.ops import CopyAction, DiffOp, ExecOp, FileAction, FileOp, MergeOp, Mount, Op, SourceOp
from arkwright.oci.platform import Platform


class State(msgspec.Struct, frozen=True, kw_only=True):
    """One edge with the graph behind it; `edge` is None for an empty tree."""

    edge: Edge | None = None
    vertices: dict[str, Vertex] = {}
    metadata: dict[str, VertexMetadata] = {}

    def marshal(self) -> Definition:
        """The definition whose target is this state."""
        return Definition(vertices=dict(self.vertices), target=self.edge, metadata=dict(self.metadata))

    def run(
        self,
        args: Sequence[str],
        *,
        env: Sequence[str] = (),
        cwd: str = "/",
        user: str = "",
        binds: Mapping[str, State] | None = None,
        name: str = "",
        ignore_cache: bool = False,
    ) -> State:
        """Run a command in this tree; `binds` are read-only trees by mount point."""
        others = list((binds or {}).items())
        mounts = [Mount(dest="/", input=0 if self.edge else -1, output=0)]
        first = 1 if self.edge else 0
        mounts += [
            Mount(dest=dest, input=first + number, readonly=True) for number, (dest, _) in enumerate(others)
        ]
        op = ExecOp(args=tuple(args), env=tuple(env), cwd=cwd, user=user, mounts=tuple(mounts))
        return _combine(op, [self, *(state for _, state in others)], name=name, ignore_cache=ignore_cache)

    def copy(self, source: State, src: str, dest: str, *, name: str = "") -> State:
        """Copy a path of another tree into this one, as COPY does."""
        base = 0 if self.edge else -1
        action = CopyAction(
            input=base, secondary_input=base + 1, output=0, src=src, dest=dest, follow_symlink=True,
            dir_copy_contents=True, create_dest_path=True, allow_wildcard=True, allow_empty_wildcard=True,
        )  # fmt: skip
        return _combine(FileOp(actions=(action,)), [self, source], name=name)

    def file(self, *actions: FileAction, name: str = "") -> State:
        """Apply file actions whose base input is this tree (input 0, or -1 when it is empty)."""
        return _combine(FileOp(actions=actions), [self], name=name)


def scratch() -> State:
    """The empty tree."""
    return State()


def source(identifier: str, *, platform: Platform | None = None, **attrs: str) -> State:
    """Any source by its identifier (see `graph.ops.SourceOp`); `_` in attribute names means `-`."""
    pairs = tuple(sorted((key.replace("_", "-"), value) for key, value in attrs.items()))
    return _combine(SourceOp(identifier=identifier, attrs=pairs), [], platform=platform)


def image(reference: str, *, platform: Platform | None = None) -> State:
    """An image by name."""
    return source(f"docker-image://{reference}", platform=platform)


def local(context: str) -> State:
    """A context of the session."""
    return source(f"local://{context}")


def merge(states: Sequence[State], *, name: str = "") -> State:
    """The trees overlaid, later ones above."""
    return _combine(MergeOp(), list(states), name=name)


def diff(lower: State, upper: State) -> State:
    """What turns `lower` into `upper`."""
    lower_input = 0 if lower.edge else -1
    upper_input = lower_input + 1 if upper.edge else -1
    return _combine(DiffOp(lower=lower_input, upper=upper_input), [lower, upper])


def _combine(
    op: Op,
    inputs: list[State],
    *,
    name: str = "",
    ignore_cache: bool = False,
    platform: Platform | None = None,
) -> State:
    edges = tuple(state.edge for state in inputs if state.edge is not None)
    vertex = Vertex(op=op, inputs=edges, platform=platform)
    digest = vertex.digest()
    vertices: dict[str, Vertex] = {}
    metadata: dict[str, VertexMetadata] = {}
    for state in inputs:
        vertices.update(state.vertices)
        metadata.update(state.metadata)
    vertices[digest] = vertex
    if name or ignore_cache:
        metadata[digest] = VertexMetadata(name=name, ignore_cache=ignore_cache)
    return State(edge=Edge(digest), vertices=vertices, metadata=metadata)
