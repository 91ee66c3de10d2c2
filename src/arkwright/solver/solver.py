"""The solver: a demand-driven walk over a definition.

For each vertex that a target needs: a definition key, which costs no execution; a record under
this key ends the search, and nothing below is looked at. Else the inputs are solved, and records
of the same operation on other inputs are compared by content, so that a step whose inputs were
re-made but came out equal stays cached (early cutoff). Else the operation runs.

The definition key of a vertex is not trusted when anything below it ignores the cache: what comes
out there is known only after it ran.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from arkwright.cache.records import Record, Records
from arkwright.diagnostics.errors import ArkwrightError, Cancelled, StepFailed
from arkwright.events.stream import EventStream
from arkwright.events.types import CacheHit, Declared, Started, Waiting
from arkwright.graph.definition import Definition, Edge, Vertex, VertexMetadata
from arkwright.graph.inspect import describe_vertex
from arkwright.solver.dedupe import Claims, Holder
from arkwright.solver.result import Found, Remotes, Resolver, Result
from arkwright.solver.state import State, key_of, placed, results_of

if TYPE_CHECKING:
    from arkwright.solver.scheduler import Scheduler

_SIBLINGS = 8


class Totals(msgspec.Struct):
    """How many vertices ran, and how many came from the cache."""

    run: int = 0
    cached: int = 0


class Miss(msgspec.Struct, frozen=True):
    """A vertex that a solve will have to work on. `certain`: it will run, whatever its inputs turn
    out to be; otherwise it may still be found by the content of its inputs."""

    vertex: Vertex
    metadata: VertexMetadata
    certain: bool


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
        self.stream = stream
        self._build = build
        self.states: dict[str, State] = {}
        # Other caches are asked, and told of what was made, only after the fork.
        self.remotes: Remotes | None = None
        self.on_record: Callable[[State, Record], None] = lambda state, record: None
        self._declared: set[str] = set()
        self.totals = Totals()
        self._counting = threading.Lock()

    def rebind(self, resolver: Resolver, records: Records, stream: EventStream) -> None:
        """Go on with other means: after a fork, operations are made anew; keys and hits stay."""
        self._resolver, self._records, self.stream = resolver, records, stream
        for state in self.states.values():
            state.operation = resolver.operation(state.digest, state.vertex, state.metadata)

    def restart(self) -> None:
        """Forget results, not keys: what a remote cache had promised cannot be had."""
        for state in self.states.values():
            state.forget()

    def known(self) -> Iterator[tuple[State, Record]]:
        """The records of all vertices that were looked at, or stand below one that was found."""
        for state in self.states.values():
            if state.trusted or state.results is not None:
                record = self._records.find(key_of(state).digest)
                if record is not None:
                    yield state, record

    def cached(self, definition: Definition) -> Result | None:
        """The target's result when it needs no work at all; single-threaded, runs nothing."""
        if definition.target is None:
            return None
        self._declare(definition, definition.target)
        state = self.load(definition, definition.target.vertex)
        self.look_up(state)
        return None if state.results is None else state.results[definition.target.index]

    def misses(self, definitions: Sequence[Definition], wanted: Callable[[Vertex], bool]) -> Iterator[Miss]:
        """The wanted vertices that a solve of all definitions would work on; runs nothing."""
        seen: set[str] = set()
        for definition in definitions:
            if definition.target is None:
                continue
            self._declare(definition, definition.target)
            pending = [definition.target.vertex]
            while pending:
                digest = pending.pop()
                if digest in seen:
                    continue
                seen.add(digest)
                state = self.load(definition, digest)
                self.look_up(state)
                if state.results is not None:
                    continue
                pending.extend(edge.vertex for edge in state.vertex.inputs)
                if wanted(state.vertex):
                    yield Miss(state.vertex, state.metadata, self._runs_anyway(state))

    def _runs_anyway(self, state: State) -> bool:
        return state.metadata.ignore_cache or not self._records.siblings(
            state.operation.operation_key(), limit=1
        )

    def solve(
        self, definitions: Sequence[Definition], scheduler: Scheduler, *, keep_going: bool = False
    ) -> list[Result | None]:
        """Solve the targets of all definitions together; None for a definition without target.

        Raises the first failure's error, with the span of its vertex, after every running
        sibling has stopped; `Cancelled` when the caller cancelled. With `keep_going` a failure
        stops only what needs its vertex, and all failures are raised together (see
        `diagnostics.errors.joined`).
        """
        from arkwright.solver.walk import Walk

        wanted = [(one, one.target) for one in definitions if one.target is not None]
        for definition, target in wanted:
            self._declare(definition, target)
        # All keys first: what is wrong with one of them is told before anything runs.
        states = [self.load(definition, target.vertex) for definition, target in wanted]
        walk = Walk(self, scheduler, keep_going=keep_going)
        for state, (definition, _) in zip(states, wanted, strict=True):
            walk.demand(state, definition)
        walk.finish()
        return [self._result(definition.target) for definition in definitions]

    def _result(self, target: Edge | None) -> Result | None:
        if target is None:
            return None
        results = self.states[target.vertex].results
        assert results is not None
        return results[target.index]

    def load(self, definition: Definition, digest: str) -> State:
        """The vertex' state, with its key and those of everything below it."""
        if digest not in self.states:
            for below in msgspec.structs.replace(definition, target=Edge(digest)).walk():
                if below not in self.states:
                    self.states[below] = self._keyed(definition, below)
        return self.states[digest]

    def _keyed(self, definition: Definition, digest: str) -> State:
        vertex, metadata = definition.vertices[digest], definition.describe(digest)
        state = State(digest, vertex, metadata, self._resolver.operation(digest, vertex, metadata))
        inputs = [(self.states[edge.vertex], edge.index) for edge in vertex.inputs]
        with placed(state):
            state.key = state.operation.definition_key(
                [f"{key_of(given).digest}#{index}" for given, index in inputs]
            )
        state.trusted = not metadata.ignore_cache and all(given.trusted for given, _ in inputs)
        return state

    def look_up(self, state: State) -> None:
        """Fill in results from lazy sources or from a record under the definition key."""
        if state.results is not None:
            return
        state.results = state.operation.immediate()
        if state.results is None and state.trusted:
            record = self._records.find(key_of(state).digest)
            if record is not None and self._adopt(state, record):
                self._hit(state, record, "definition")
                self._imply(state)
            elif self.remotes is not None and not state.asked:
                self._look_up_remotely(state, self.remotes)

    def contents(self, state: State, record: Record) -> tuple[str, ...]:
        """What the operation of a record saw of its inputs; empty when they are not to be had, or when
        its key says as much."""
        edges = state.vertex.inputs
        if len(record.inputs) != len(edges) or not self._stands_on_steps(state):
            return ()
        given = []
        for edge, data in zip(edges, record.inputs, strict=True):
            named = self.states[edge.vertex].operation.immediate()
            have = named[edge.index] if named is not None else self._resolver.decode(data)
            if have is None:
                return ()
            given.append(have)
        return self._seen(state, given)

    def _seen(self, state: State, inputs: Sequence[Result]) -> tuple[str, ...]:
        seen = [state.operation.content_of(number, have) for number, have in enumerate(inputs)]
        known = tuple(one for one in seen if one is not None)
        return known if len(known) == len(seen) else ()

    def _stands_on_steps(self, state: State) -> bool:
        """Whether inputs are made by steps; what only stands on sources is known by their names."""
        below = (self.states[edge.vertex].operation for edge in state.vertex.inputs)
        return any(operation.immediate() is None for operation in below)

    def _look_up_remotely(self, state: State, remotes: Remotes) -> None:
        """Ask other caches; the first miss begins the search for all keys that may be wanted next."""
        state.asked = True
        found = remotes.find(key_of(state).digest)
        if found is None:
            remotes.ask(
                key_of(other).digest
                for other in self.states.values()
                if other.trusted and other.results is None and other.operation.immediate() is None
                and self._records.find(key_of(other).digest) is None
            )  # fmt: skip
            return
        record = _imported(state, found)
        if self._adopt(state, record):
            self._records.save(record)
            self._describe(state)
            self._hit(state, record, "definition", found.origin)
            self._imply(state)

    def _imply(self, state: State) -> None:
        """Say of what stands below a hit that it is cached too, though nobody will ask for it."""
        for edge in state.vertex.inputs:
            below = self.states[edge.vertex]
            if below.implied or below.results is not None:
                continue
            below.implied = True
            record = self._records.find(key_of(below).digest)
            if record is not None:
                self._hit(below, record, "definition")
            self._imply(below)

    def _adopt(self, state: State, record: Record) -> bool:
        results = [self._resolver.decode(data) for data in record.results]
        present = [result for result in results if result is not None]
        if not results or len(present) != len(results):
            return False
        state.results = present
        return True

    def _hit(self, state: State, record: Record, by: str, origin: str = "local") -> None:
        if state.told:
            return
        state.told = True
        with self._counting:
            self.totals.cached += 1
        kind = "content" if by == "content" else "definition"
        self.stream.emit(
            CacheHit(
                vertex=state.digest, recorded_at=record.created_at, by=kind, key=key_of(state).digest,  # type: ignore[arg-type]
                origin=origin,
            )
        )  # fmt: skip

    def _declare(self, definition: Definition, target: Edge) -> None:
        for digest in msgspec.structs.replace(definition, target=target).walk():
            if digest in self._declared:
                continue
            self._declared.add(digest)
            vertex, metadata = definition.vertices[digest], definition.describe(digest)
            self.stream.emit(
                Declared(
                    vertex=digest,
                    name=metadata.name or describe_vertex(vertex),
                    inputs=tuple(edge.vertex for edge in vertex.inputs),
                    group=metadata.group,
                )
            )

    def work(self, state: State, inputs: Sequence[Result], scheduler: Scheduler) -> None:
        """On a thread: find an equal sibling, else run and record."""
        if scheduler.cancelled.is_set():
            raise Cancelled.of("cancelled", "the build was cancelled")
        if state.metadata.ignore_cache:
            self._run(state, inputs, scheduler)
            return
        with scheduler.other_room():
            found = self._adopt_sibling(state, inputs)
        if not found and not self._adopt_remote_sibling(state, inputs, scheduler):
            self._run_once(state, inputs, scheduler)

    def _run_once(self, state: State, inputs: Sequence[Result], scheduler: Scheduler) -> None:
        """Run, unless another process is at it: then wait, and take what it recorded."""
        if self._claims is None or not state.trusted:
            self._run(state, inputs, scheduler)
            return

        def waiting(holder: Holder) -> None:
            self.stream.emit(Waiting(vertex=state.digest, holder=holder.build, pid=holder.pid))

        with self._claims.hold(key_of(state).digest, scheduler.cancelled, waiting):
            record = self._records.find(key_of(state).digest)
            if record is not None and self._adopt(state, record):
                self._hit(state, record, "definition")
            else:
                self._run(state, inputs, scheduler)

    def _run(self, state: State, inputs: Sequence[Result], scheduler: Scheduler) -> None:
        # Room is asked for with the claim in hand: who has room never waits for a claim.
        room = scheduler.step_room(state.metadata.group) if state.operation.slot else scheduler.other_room()
        with room:
            # Only an operation that runs a command has one.
            tier = str(getattr(state.operation, "tier", ""))
            asked = not state.metadata.ignore_cache
            self.stream.emit(Started(vertex=state.digest, key=key_of(state).digest, tier=tier, asked=asked))
            try:
                state.results = state.operation.run(inputs, scheduler.cancelled)
            except StepFailed:
                self._note_attempt(state, inputs)
                raise
            with self._counting:
                self.totals.run += 1
            if state.operation.still_valid():
                self._record(state, inputs)
            else:
                self._note_attempt(state, inputs)

    def _adopt_sibling(self, state: State, inputs: Sequence[Result]) -> bool:
        for record in self._records.siblings(state.operation.operation_key(), limit=_SIBLINGS):
            if self._equal_inputs(state, inputs, record) and self._adopt(state, record):
                self._record(state, inputs, record)
                self._hit(state, record, "content")
                return True
        return False

    def _adopt_remote_sibling(self, state: State, inputs: Sequence[Result], scheduler: Scheduler) -> bool:
        """The same with the records of other machines; what inputs look like is computed only when a
        remote knows the operation."""
        if self.remotes is None or not self._stands_on_steps(state):
            return False
        known = self.remotes.siblings(state.operation.operation_key())
        if not known:
            return False
        with scheduler.other_room():
            seen = self._seen(state, inputs)
        for one in known:
            found = self.remotes.find(one.record) if seen and one.inputs == seen else None
            if found is not None and self._adopt(state, _imported(state, found)):
                self._record(state, inputs, _imported(state, found))
                self._hit(state, _imported(state, found), "content", found.origin)
                return True
        return False

    def _equal_inputs(self, state: State, inputs: Sequence[Result], record: Record) -> bool:
        if len(record.inputs) != len(inputs):
            return False
        for number, (have, data) in enumerate(zip(inputs, record.inputs, strict=True)):
            if have.encode() == data:
                continue
            other = self._resolver.decode(data)
            if other is None or not state.operation.same_content(number, have, other):
                return False
        return True

    def _record(self, state: State, inputs: Sequence[Result], origin: Record | None = None) -> None:
        """Keep what came out; `origin` is the record that it was taken from."""
        record = self._describing(state, inputs, results_of(state))
        if origin is not None:
            record = msgspec.structs.replace(record, created_at=origin.created_at, build=origin.build)
        self._records.save(record)
        self._describe(state)
        self.on_record(state, record)

    def _note_attempt(self, state: State, inputs: Sequence[Result]) -> None:
        """Keep what explains why a step ran that has no record; a full disk makes no other failure of it."""
        with suppress(ArkwrightError):
            self._records.save_attempt(self._describing(state, inputs, ()))
            self._describe(state)

    def _describing(self, state: State, inputs: Sequence[Result], results: Sequence[Result]) -> Record:
        key = key_of(state)
        return Record(
            key=key.digest,
            operation=state.operation.operation_key(),
            vertex=state.digest,
            inputs=tuple(result.encode() for result in inputs),
            results=tuple(result.encode() for result in results),
            created_at=time.time_ns(),
            build=self._build,
            fields=key.fields,
        )

    def _describe(self, state: State) -> None:
        """Keep what the digests in a key's fields stand for; sources have no record of their own."""
        below = (self.states[edge.vertex].operation for edge in state.vertex.inputs)
        # Files that went meanwhile, or a full disk, cost an explanation and no build.
        with suppress(ArkwrightError):
            for operation in (state.operation, *(one for one in below if one.immediate() is not None)):
                for digest, listed in operation.details().items():
                    self._records.describe(digest, listed)


def _imported(state: State, found: Found) -> Record:
    """A record from elsewhere under the key of a vertex here; what its inputs were is not known."""
    key = key_of(state)
    return Record(
        key=key.digest, operation=state.operation.operation_key(), vertex=state.digest,
        results=found.results, created_at=found.created_at, fields=key.fields,
    )  # fmt: skip
