"""The solver: a demand-driven walk over a definition.

For each vertex that a target needs: a definition key, which costs no execution; a record under
this key ends the search, and nothing below is looked at. Else the inputs are solved, and records
of the same operation on other inputs are compared by content, so that a step whose inputs were
re-made but came out equal stays cached (early cutoff). Else the operation runs.

The definition key of a vertex is not trusted when anything below it ignores the cache: what comes
out there is known only after it ran.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from arkwright.cache.records import Record, Records
from arkwright.diagnostics.errors import ArkwrightError, Cancelled, Label
from arkwright.events.stream import EventStream
from arkwright.events.types import CacheHit, Declared, Failed, Finished, Started, Waiting
from arkwright.graph.definition import Definition, Edge, Vertex, VertexMetadata
from arkwright.graph.inspect import describe_vertex
from arkwright.solver.dedupe import Claims
from arkwright.solver.result import Key, Operation, Resolver, Result
from arkwright.solver.scheduler import Scheduler

_SIBLINGS = 8


class Totals(msgspec.Struct):
    """How many vertices ran, and how many came from the cache."""

    run: int = 0
    cached: int = 0


class _State:
    """What is known of one vertex during a solve."""

    def __init__(self, digest: str, vertex: Vertex, metadata: VertexMetadata, operation: Operation) -> None:
        self.digest = digest
        self.vertex = vertex
        self.metadata = metadata
        self.operation = operation
        self.key: Key | None = None
        self.trusted = False
        self.results: Sequence[Result] | None = None
        self.users: list[_State] = []
        self.waiting_for = 0
        self.visited = False
        self.told = False


class Solver:
    """Solves edges of one or more definitions with one resolver and one cache.

    A solver keeps what it learned (keys, hits, results), so that asking first for what is cached
    and then for the rest computes no key twice.
    """

    def __init__(
        self,
        resolver: Resolver,
        records: Records,
        stream: EventStream,
        build: str,
        claims: Claims | None = None,
    ) -> None:
        self._resolver = resolver
        self._claims = claims
        self._records = records
        self._stream = stream
        self._build = build
        self._states: dict[str, _State] = {}
        self._declared: set[str] = set()
        self.totals = Totals()

    def rebind(self, resolver: Resolver, records: Records, stream: EventStream) -> None:
        """Go on with other means: after a fork, operations are made anew; keys and hits stay."""
        self._resolver, self._records, self._stream = resolver, records, stream
        for state in self._states.values():
            state.operation = resolver.operation(state.digest, state.vertex, state.metadata)

    def cached(self, definition: Definition) -> Result | None:
        """The target's result when it needs no work at all; single-threaded, runs nothing."""
        if definition.target is None:
            return None
        self._declare(definition, definition.target)
        state = self._load(definition, definition.target.vertex)
        self._look_up(state)
        return None if state.results is None else state.results[definition.target.index]

    def solve(self, definitions: Sequence[Definition], scheduler: Scheduler) -> list[Result | None]:
        """Solve the targets of all definitions together; None for a definition without target.

        Raises the first failure's error, with the span of its vertex, after every running
        sibling has stopped; `Cancelled` when the caller cancelled.
        """
        for definition in definitions:
            if definition.target is not None:
                self._declare(definition, definition.target)
        run = _Run(self, scheduler)
        for definition in definitions:
            if definition.target is not None:
                run.demand(self._load(definition, definition.target.vertex), definition)
        run.finish()
        return [self._result(definition.target) for definition in definitions]

    def _result(self, target: Edge | None) -> Result | None:
        if target is None:
            return None
        results = self._states[target.vertex].results
        assert results is not None
        return results[target.index]

    def _load(self, definition: Definition, digest: str) -> _State:
        """The vertex' state, with its key and those of everything below it."""
        if digest not in self._states:
            for below in msgspec.structs.replace(definition, target=Edge(digest)).walk():
                if below not in self._states:
                    self._states[below] = self._keyed(definition, below)
        return self._states[digest]

    def _keyed(self, definition: Definition, digest: str) -> _State:
        vertex, metadata = definition.vertices[digest], definition.describe(digest)
        state = _State(digest, vertex, metadata, self._resolver.operation(digest, vertex, metadata))
        inputs = [(self._states[edge.vertex], edge.index) for edge in vertex.inputs]
        with _placed(state):
            state.key = state.operation.definition_key(
                [f"{_key(given).digest}#{index}" for given, index in inputs]
            )
        state.trusted = not metadata.ignore_cache and all(given.trusted for given, _ in inputs)
        return state

    def _look_up(self, state: _State) -> None:
        """Fill in results from lazy sources or from a record under the definition key."""
        if state.results is not None:
            return
        state.results = state.operation.immediate()
        if state.results is None and state.trusted:
            record = self._records.find(_key(state).digest)
            if record is not None and self._adopt(state, record):
                self._hit(state, record, "definition")
                self._imply(state)

    def _imply(self, state: _State) -> None:
        """Say of what stands below a hit that it is cached too, though nobody will ask for it."""
        for edge in state.vertex.inputs:
            below = self._states[edge.vertex]
            if below.told or below.results is not None:
                continue
            below.told = True
            record = self._records.find(_key(below).digest)
            if record is not None:
                self._hit(below, record, "definition")
            self._imply(below)

    def _adopt(self, state: _State, record: Record) -> bool:
        results = [self._resolver.decode(data) for data in record.results]
        present = [result for result in results if result is not None]
        if not results or len(present) != len(results):
            return False
        state.results = present
        return True

    def _hit(self, state: _State, record: Record, by: str) -> None:
        state.told = True
        self.totals.cached += 1
        kind = "content" if by == "content" else "definition"
        self._stream.emit(CacheHit(vertex=state.digest, recorded_at=record.created_at, by=kind))  # type: ignore[arg-type]

    def _declare(self, definition: Definition, target: Edge) -> None:
        for digest in msgspec.structs.replace(definition, target=target).walk():
            if digest in self._declared:
                continue
            self._declared.add(digest)
            vertex, metadata = definition.vertices[digest], definition.describe(digest)
            self._stream.emit(
                Declared(
                    vertex=digest,
                    name=metadata.name or describe_vertex(vertex),
                    inputs=tuple(edge.vertex for edge in vertex.inputs),
                    group=metadata.group,
                )
            )

    def _work(self, state: _State, inputs: Sequence[Result], scheduler: Scheduler) -> None:
        """On a thread: find an equal sibling, else run and record."""
        if scheduler.cancelled.is_set():
            raise Cancelled.of("cancelled", "the build was cancelled")
        if state.metadata.ignore_cache:
            self._run(state, inputs, scheduler)
        elif not self._adopt_sibling(state, inputs):
            self._run_once(state, inputs, scheduler)

    def _run_once(self, state: _State, inputs: Sequence[Result], scheduler: Scheduler) -> None:
        """Run, unless another process is at it: then wait, and take what it recorded."""
        if self._claims is None or not state.trusted:
            self._run(state, inputs, scheduler)
            return

        def waiting(holder: str) -> None:
            self._stream.emit(Waiting(vertex=state.digest, holder=holder))

        with self._claims.hold(_key(state).digest, scheduler.cancelled, waiting):
            record = self._records.find(_key(state).digest)
            if record is not None and self._adopt(state, record):
                self._hit(state, record, "definition")
            else:
                self._run(state, inputs, scheduler)

    def _run(self, state: _State, inputs: Sequence[Result], scheduler: Scheduler) -> None:
        self._stream.emit(Started(vertex=state.digest))
        state.results = state.operation.run(inputs, scheduler.cancelled)
        self.totals.run += 1
        if state.operation.still_valid():
            self._record(state, inputs)

    def _adopt_sibling(self, state: _State, inputs: Sequence[Result]) -> bool:
        for record in self._records.siblings(state.operation.operation_key(), limit=_SIBLINGS):
            if self._equal_inputs(state, inputs, record) and self._adopt(state, record):
                self._record(state, inputs)
                self._hit(state, record, "content")
                return True
        return False

    def _equal_inputs(self, state: _State, inputs: Sequence[Result], record: Record) -> bool:
        if len(record.inputs) != len(inputs):
            return False
        for number, (have, data) in enumerate(zip(inputs, record.inputs, strict=True)):
            if have.encode() == data:
                continue
            other = self._resolver.decode(data)
            if other is None or not state.operation.same_content(number, have, other):
                return False
        return True

    def _record(self, state: _State, inputs: Sequence[Result]) -> None:
        key = _key(state)
        assert state.results is not None
        self._records.save(
            Record(
                key=key.digest,
                operation=state.operation.operation_key(),
                vertex=state.digest,
                inputs=tuple(result.encode() for result in inputs),
                results=tuple(result.encode() for result in state.results),
                created_at=time.time_ns(),
                build=self._build,
                fields=key.fields,
            )
        )


class _Run:
    """One solve in progress: the coordinator's side, all in the calling thread."""

    def __init__(self, solver: Solver, scheduler: Scheduler) -> None:
        self._solver = solver
        self._scheduler = scheduler
        self._active = 0
        self._failure: ArkwrightError | BaseException | None = None

    def demand(self, state: _State, definition: Definition) -> None:
        """Find the vertex' result, or set everything in motion that it takes (no recursion)."""
        pending = [state]
        while pending:
            current = pending.pop()
            if current.visited:
                continue
            current.visited = True
            self._solver._look_up(current)
            if current.results is not None:
                continue
            inputs = {edge.vertex for edge in current.vertex.inputs}
            needed = [self._solver._load(definition, digest) for digest in sorted(inputs)]
            for given in needed:
                if not given.visited:
                    self._solver._look_up(given)
                if given.results is None:
                    given.users.append(current)
                    current.waiting_for += 1
            pending.extend(needed)
            if current.waiting_for == 0:
                self._start(current)

    def finish(self) -> None:
        """Wait for everything in motion; raise the first failure."""
        while self._active:
            self._scheduler.wait()
        if self._failure is not None:
            raise self._failure
        if self._scheduler.cancelled.is_set():
            raise Cancelled.of("cancelled", "the build was cancelled")

    def _start(self, state: _State) -> None:
        inputs = self._solver._states
        given = [_results(inputs[edge.vertex])[edge.index] for edge in state.vertex.inputs]
        self._active += 1
        self._scheduler.submit(state.operation.slot, lambda: self._task(state, given))

    def _task(self, state: _State, inputs: Sequence[Result]) -> Callable[[], None]:
        try:
            with _placed(state):
                self._solver._work(state, inputs, self._scheduler)
        except BaseException as error:  # handed to the coordinator, which raises it
            failure = error
            return lambda: self._failed(state, failure)
        return lambda: self._finished(state)

    def _finished(self, state: _State) -> None:
        self._active -= 1
        self._solver._stream.emit(Finished(vertex=state.digest))
        for user in state.users:
            user.waiting_for -= 1
            if user.waiting_for == 0 and self._failure is None and not self._scheduler.cancelled.is_set():
                self._start(user)

    def _failed(self, state: _State, error: BaseException) -> None:
        self._active -= 1
        cancelled = isinstance(error, Cancelled)
        self._solver._stream.emit(Failed(vertex=state.digest, message=str(error), cancelled=cancelled))
        if self._failure is None or (isinstance(self._failure, Cancelled) and not cancelled):
            self._failure = error
        self._scheduler.cancelled.set()


class _placed:  # noqa: N801 - reads as a verb: with _placed(state)
    """Gives errors without a place the span of the vertex that they come from."""

    def __init__(self, state: _State) -> None:
        self._state = state

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        spans = self._state.metadata.spans
        if (
            spans
            and isinstance(error, ArkwrightError)
            and any(not found.labels for found in error.diagnostics)
        ):
            raise error.with_label(Label(spans[0])) from error


def _key(state: _State) -> Key:
    assert state.key is not None
    return state.key


def _results(state: _State) -> Sequence[Result]:
    assert state.results is not None
    return state.results
