"""The solver, with operations that are plain functions and a real cache of records."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from arkwright.cache.keys import KeyBuilder
from arkwright.cache.records import Record, Records
from arkwright.diagnostics.errors import ArkwrightError, Cancelled, UserError
from arkwright.diagnostics.spans import SourceFile, Span
from arkwright.events.stream import EventStream
from arkwright.events.types import AnyEvent, CacheHit, Failed, Finished, Started, Waiting
from arkwright.graph.definition import Definition, Edge, Vertex, VertexMetadata
from arkwright.graph.ops import ExecOp
from arkwright.solver.dedupe import Claims
from arkwright.solver.result import Details, Key, Operation, Result
from arkwright.solver.scheduler import Scheduler
from arkwright.solver.solver import Solver
from arkwright.store.metadata import Metadata


class Text:
    """A result: some text. Equal content under different names tests early cutoff."""

    def __init__(self, name: str, content: str) -> None:
        self.name, self.content = name, content

    def encode(self) -> bytes:
        return f"{self.name}={self.content}".encode()


Body = Callable[[list[str], threading.Event], str]


class Step:
    """An operation: a key of its own, a function of its inputs' contents."""

    slot = True
    made = 0

    def __init__(self, name: str, body: Body, *, lazy: bool = False) -> None:
        self.name, self.body, self.lazy = name, body, lazy

    def immediate(self) -> Sequence[Result] | None:
        return [Text(self.name, self.body([], threading.Event()))] if self.lazy else None

    def definition_key(self, inputs: Sequence[str]) -> Key:
        builder = KeyBuilder("step").field("name", self.name)
        if self.lazy:
            builder.field("content", self.body([], threading.Event()))
        builder.field("inputs", *inputs)
        return Key(builder.digest(), builder.fields)

    def operation_key(self) -> str:
        return KeyBuilder("step").field("name", self.name).digest()

    def same_content(self, number: int, have: Result, other: Result) -> bool:
        assert isinstance(have, Text)
        assert isinstance(other, Text)
        return have.content == other.content

    def content_of(self, number: int, have: Result) -> str | None:
        assert isinstance(have, Text)
        return have.content

    def run(self, inputs: Sequence[Result], cancelled: threading.Event) -> Sequence[Result]:
        Step.made += 1
        contents = [result.content for result in inputs if isinstance(result, Text)]
        return [Text(f"{self.name}-{Step.made}", self.body(contents, cancelled))]

    def still_valid(self) -> bool:
        return True

    def details(self) -> Details:
        return {}


class Table:
    """A resolver over named steps."""

    def __init__(self) -> None:
        self.steps: dict[str, Step] = {}

    def operation(self, digest: str, vertex: Vertex, metadata: VertexMetadata) -> Operation:
        assert isinstance(vertex.op, ExecOp)
        return self.steps[vertex.op.args[0]]

    def decode(self, data: bytes) -> Result | None:
        name, _, content = data.decode().partition("=")
        return Text(name, content)


class World:
    """A graph under construction, a table of steps, and one cache over many solves."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.table = Table()
        self.vertices: dict[str, Vertex] = {}
        self.metadata: dict[str, VertexMetadata] = {}
        self.events: list[AnyEvent] = []
        self.names: dict[str, str] = {}

    def step(
        self, name: str, *inputs: Edge, body: Body | None = None, lazy: bool = False, span: Span | None = None,
        ignore_cache: bool = False,
    ) -> Edge:  # fmt: skip
        self.table.steps[name] = Step(name, body or (lambda given, _: name + "".join(given)), lazy=lazy)
        vertex = Vertex(op=ExecOp(args=(name,)), inputs=inputs)
        digest = vertex.digest()
        self.vertices[digest], self.names[digest] = vertex, name
        self.metadata[digest] = VertexMetadata(spans=(span,) if span else (), ignore_cache=ignore_cache)
        return Edge(digest)

    def definition(self, target: Edge) -> Definition:
        return Definition(vertices=self.vertices, target=target, metadata=self.metadata)

    def solver(self) -> Solver:
        stream = EventStream("test")
        self.events = []
        stream.subscribe(self.events.append)
        return Solver(self.table, self.records, stream, "test")

    def solve(self, *targets: Edge, jobs: int = 4) -> list[str]:
        solver = self.solver()
        with Scheduler(jobs) as scheduler:
            results = solver.solve([self.definition(target) for target in targets], scheduler)
        return [result.content for result in results if isinstance(result, Text)]

    def ran(self) -> list[str]:
        return [self.names[event.vertex] for event in self.events if isinstance(event, Started)]

    def hits(self) -> dict[str, str]:
        return {self.names[event.vertex]: event.by for event in self.events if isinstance(event, CacheHit)}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    metadata = Metadata(str(tmp_path / "metadata.db"))
    yield World(Records(metadata))
    metadata.close()


def test_runs_what_the_target_needs_once_and_nothing_else(world: World) -> None:
    base = world.step("base")
    world.step("unused", base, body=lambda given, _: pytest.fail("not needed"))
    left, right = world.step("left", base), world.step("right", base)
    assert world.solve(world.step("top", left, right)) == ["topleftbaserightbase"]
    assert sorted(world.ran()) == ["base", "left", "right", "top"]


def test_a_second_solve_runs_nothing_and_needs_no_threads(world: World) -> None:
    top = world.step("top", world.step("base"))
    world.solve(top)
    threads = threading.active_count()
    solver = world.solver()
    cached = solver.cached(world.definition(top))
    assert isinstance(cached, Text)
    assert cached.content == "topbase"
    assert world.hits() == {"top": "definition", "base": "definition"}
    assert threading.active_count() == threads


def test_a_miss_is_told_apart_without_running(world: World) -> None:
    assert world.solver().cached(world.definition(world.step("top"))) is None
    assert world.ran() == []


class LateRecords:
    """Records that another process writes a moment after the first look for each of them."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._asked: set[str] = set()

    def find(self, key: str) -> Record | None:
        first = key not in self._asked
        self._asked.add(key)
        return None if first else self._records.find(key)

    def __getattr__(self, name: str) -> object:
        return getattr(self._records, name)


def test_what_another_process_records_between_two_looks_is_taken(world: World) -> None:
    base = world.step("base")
    world.solve(base)
    world.records = LateRecords(world.records)  # type: ignore[assignment]
    assert world.solve(world.step("top", base)) == ["topbase"]
    assert world.ran() == ["top"]
    assert world.hits() == {"base": "definition"}


def test_a_step_that_hears_of_the_interrupt_first_ends_the_solve(world: World) -> None:
    def stopped(given: list[str], _: threading.Event) -> str:
        raise Cancelled.of("cancelled", "the step was stopped")

    top = world.step("top", world.step("base", body=stopped))
    with pytest.raises(Cancelled):
        world.solve(top)
    assert world.ran() == ["base"]


def test_independent_steps_overlap(world: World) -> None:
    meeting = threading.Barrier(2, timeout=60)

    def meet(given: list[str], _: threading.Event) -> str:
        meeting.wait()
        return "met"

    assert world.solve(world.step("top", world.step("a", body=meet), world.step("b", body=meet))) == [
        "topmetmet"
    ]


def test_jobs_bound_the_steps_in_flight(world: World) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def count(given: list[str], cancelled: threading.Event) -> str:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        cancelled.wait(0.02)
        with lock:
            running -= 1
        return ""

    steps = [world.step(f"s{number}", body=count) for number in range(6)]
    world.solve(world.step("top", *steps), jobs=2)
    assert most == 2


def test_early_cutoff(world: World) -> None:
    source = "one"
    world.step("source", lazy=True, body=lambda given, _: source)
    middle = world.step(
        "middle", world.step("source", lazy=True, body=lambda given, _: source), body=lambda *_: "same"
    )
    top = world.step("top", middle)
    world.solve(top)
    source = "two"
    assert world.solve(top) == ["topsame"]
    assert world.ran() == ["middle"]
    assert world.hits() == {"top": "content"}
    world.solve(top)
    assert world.ran() == []


def test_a_changed_input_re_runs_what_depends_on_it(world: World) -> None:
    content = "one"
    source = world.step("source", lazy=True, body=lambda given, _: content)
    other = world.step("other")
    top = world.step("top", world.step("middle", source), other)
    world.solve(top)
    content = "two"
    assert world.solve(top) == ["topmiddletwoother"]
    assert world.ran() == ["middle", "top"]


def test_ignore_cache_runs_again_and_content_decides_above_it(world: World) -> None:
    base = world.step("base")
    world.solve(world.step("top", base))
    again = world.step("base", ignore_cache=True)
    assert again == base
    world.solve(world.step("top", base))
    assert world.ran() == ["base"]
    assert world.hits() == {"top": "content"}


def test_a_failure_cancels_siblings_and_is_reported_with_its_span(world: World) -> None:
    span = Span(SourceFile("Dockerfile", "RUN false\n"), 0, 9)
    started = threading.Event()

    def wait(given: list[str], cancelled: threading.Event) -> str:
        started.set()
        assert cancelled.wait(60)
        raise Cancelled.of("cancelled", "stopped")

    def fail(given: list[str], cancelled: threading.Event) -> str:
        assert started.wait(60)
        raise UserError.of("broken", "it broke")

    top = world.step("top", world.step("slow", body=wait), world.step("bad", body=fail, span=span))
    with pytest.raises(ArkwrightError) as caught:
        world.solve(top)
    assert caught.value.code == "broken"
    assert caught.value.diagnostics[0].labels[0].span == span
    failures = {
        world.names[event.vertex]: event.cancelled for event in world.events if isinstance(event, Failed)
    }
    assert failures == {"slow": True, "bad": False}
    assert not [event for event in world.events if isinstance(event, Finished)]


def test_a_failed_step_leaves_no_record(world: World) -> None:
    def fail(given: list[str], cancelled: threading.Event) -> str:
        raise UserError.of("broken", "it broke")

    bad = world.step("bad", body=fail)
    with pytest.raises(UserError):
        world.solve(bad)
    assert world.solve(world.step("bad")) == ["bad"]


def test_outside_cancellation_stops_a_solve(world: World) -> None:
    external = threading.Event()

    def wait(given: list[str], cancelled: threading.Event) -> str:
        external.set()
        assert cancelled.wait(60)
        raise Cancelled.of("cancelled", "stopped")

    top = world.step("top", world.step("slow", body=wait))
    with pytest.raises(Cancelled), Scheduler(2, external) as scheduler:
        world.solver().solve([world.definition(top)], scheduler)
    assert world.names[top.vertex] not in world.ran()


def test_several_targets_share_their_prefix(world: World) -> None:
    base = world.step("base")
    assert world.solve(world.step("a", base), world.step("b", base)) == ["abase", "bbase"]
    assert sorted(world.ran()) == ["a", "b", "base"]


def test_equal_vertices_in_flight_run_once(world: World, tmp_path: Path) -> None:
    """Two solvers as two builds: one runs the step, the other waits and takes its record."""
    claims = tmp_path / "claims"
    claims.mkdir()
    inside, let_go, awaited = threading.Event(), threading.Event(), threading.Event()

    def slow(given: list[str], cancelled: threading.Event) -> str:
        inside.set()
        assert let_go.wait(60)
        return "made once"

    top = world.step("top", body=slow)
    contents: list[str] = []

    def build(name: str, on_event: Callable[[AnyEvent], None]) -> None:
        stream = EventStream(name)
        stream.subscribe(on_event)
        solver = Solver(world.table, world.records, stream, name, Claims(str(claims), name))
        with Scheduler(1) as scheduler:
            (result,) = solver.solve([world.definition(top)], scheduler)
        assert isinstance(result, Text)
        contents.append(result.content)

    def second(event: AnyEvent) -> None:
        assert not isinstance(event, Started)
        if isinstance(event, Waiting):
            assert event.holder == "first"
            awaited.set()

    one = threading.Thread(target=build, args=("first", lambda event: None))
    one.start()
    assert inside.wait(60)
    other = threading.Thread(target=build, args=("second", second))
    other.start()
    assert awaited.wait(60)
    let_go.set()
    one.join()
    other.join()
    assert contents == ["made once", "made once"]
    assert list(claims.iterdir()) == []


def test_a_failure_is_not_shared(world: World, tmp_path: Path) -> None:
    claims = Claims(str(tmp_path), "build")
    runs: list[int] = []

    def fail(given: list[str], cancelled: threading.Event) -> str:
        runs.append(1)
        raise UserError.of("broken", "it broke")

    top = world.step("top", body=fail)
    for _ in range(2):
        with pytest.raises(UserError), Scheduler(1) as scheduler:
            Solver(world.table, world.records, EventStream("x"), "x", claims).solve(
                [world.definition(top)], scheduler
            )
    assert len(runs) == 2
