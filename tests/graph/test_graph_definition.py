"""Definitions: digests, walking, the builder, and how graphs are shown."""

import pytest

from arkwright.graph.definition import Definition, Edge, Vertex, VertexMetadata, merge_definitions
from arkwright.graph.inspect import to_dot, to_text
from arkwright.graph.ops import ExecOp, FileOp, MkFileAction, SourceOp
from arkwright.graph.state import diff, image, local, merge, scratch
from arkwright.oci.platform import Platform


def test_a_digest_covers_op_inputs_and_platform() -> None:
    source = Vertex(op=SourceOp(identifier="docker-image://a"))
    other = Vertex(op=SourceOp(identifier="docker-image://b"))
    arm = Vertex(op=source.op, platform=Platform("linux", "arm64"))
    run = Vertex(op=ExecOp(args=("true",)), inputs=(Edge(source.digest()),))
    second_output = Vertex(op=run.op, inputs=(Edge(source.digest(), 1),))
    digests = {vertex.digest() for vertex in (source, other, arm, run, second_output)}
    assert len(digests) == 5
    assert source.digest() == Vertex(op=SourceOp(identifier="docker-image://a")).digest()


def test_metadata_is_not_part_of_a_digest() -> None:
    named = image("a").run(["true"], name="one").marshal()
    other = image("a").run(["true"], name="two", ignore_cache=True).marshal()
    assert named.target == other.target
    assert named.target is not None
    assert named.describe(named.target.vertex) == VertexMetadata(name="one")


def test_walk_gives_inputs_before_users_and_only_what_the_target_needs() -> None:
    base = image("base")
    unused = image("unused").run(["false"])
    left, right = base.run(["left"]), base.run(["right"])
    definition = merge_definitions(unused.marshal(), merge([left, right]).marshal())
    walked = list(definition.walk())
    assert len(walked) == 4
    place = {digest: number for number, digest in enumerate(walked)}
    for digest in walked:
        assert all(place[edge.vertex] < place[digest] for edge in definition.vertices[digest].inputs)


def test_walk_is_not_recursive() -> None:
    state = image("base")
    for number in range(3000):
        state = state.run([str(number)])
    assert len(list(state.marshal().walk())) == 3001


def test_walk_names_a_missing_vertex() -> None:
    definition = Definition(vertices={}, target=Edge("sha256:gone"))
    with pytest.raises(ValueError, match="sha256:gone"):
        list(definition.walk())


def test_an_empty_tree_has_no_vertex() -> None:
    assert scratch().marshal().target is None
    copied = scratch().copy(local("context"), "a", "/a").marshal()
    assert copied.target is not None
    action = copied.vertices[copied.target.vertex].op.actions[0]  # type: ignore[union-attr]
    assert (action.input, action.secondary_input) == (-1, 0)


def test_diff_against_nothing() -> None:
    vertex = list(diff(scratch(), image("a")).marshal().vertices.values())[-1]
    assert (vertex.op.lower, vertex.op.upper) == (-1, 0)  # type: ignore[union-attr]


def test_graphs_are_shown() -> None:
    definition = image("base").file(MkFileAction(input=0, output=0, path="/x"), name='say "x"').marshal()
    text = to_text(definition)
    assert text.splitlines()[0].endswith("docker-image://base")
    assert 'say "x" <- ' in text
    dot = to_dot(definition)
    assert dot.startswith("digraph build {")
    assert '\\"x\\"' in dot
    assert isinstance(next(iter(definition.vertices.values())).op, SourceOp | FileOp)
