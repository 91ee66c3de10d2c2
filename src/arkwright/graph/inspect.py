"""Looking at definitions: one line a vertex, and DOT for drawings."""

from __future__ import annotations

from arkwright.graph.definition import Definition, Vertex
from arkwright.graph.ops import ExecOp, FileOp, SourceOp


def describe_vertex(vertex: Vertex) -> str:
    """A short name for people, from the op alone."""
    op = vertex.op
    if isinstance(op, SourceOp):
        return op.identifier
    if isinstance(op, ExecOp):
        return " ".join(op.args)
    if isinstance(op, FileOp):
        return ", ".join(action.__struct_config__.tag or "" for action in op.actions)  # type: ignore[misc]
    return str(op.__struct_config__.tag)


def to_text(definition: Definition) -> str:
    """The vertices that the target needs, inputs first: short digest, name, inputs."""
    lines = []
    for digest in definition.walk():
        vertex = definition.vertices[digest]
        name = definition.describe(digest).name or describe_vertex(vertex)
        inputs = " ".join(edge.vertex[7:19] for edge in vertex.inputs)
        lines.append(f"{digest[7:19]} {name}" + (f" <- {inputs}" if inputs else ""))
    return "\n".join(lines)


def to_dot(definition: Definition) -> str:
    """A DOT digraph of the vertices that the target needs."""
    lines = ["digraph build {", "  rankdir=BT;", "  node [shape=box];"]
    for digest in definition.walk():
        vertex = definition.vertices[digest]
        name = definition.describe(digest).name or describe_vertex(vertex)
        label = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        lines.append(f'  "{digest[7:19]}" [label="{label}"];')
        lines += [f'  "{edge.vertex[7:19]}" -> "{digest[7:19]}";' for edge in vertex.inputs]
    return "\n".join([*lines, "}"])
