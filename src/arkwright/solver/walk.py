"""One solve in progress: the coordinator's side, all in the calling thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from arkwright.diagnostics.errors import ArkwrightError, Cancelled, joined
from arkwright.events.types import Failed, Finished
from arkwright.graph.definition import Definition
from arkwright.solver.result import Result
from arkwright.solver.scheduler import Scheduler
from arkwright.solver.state import State, placed, results_of

if TYPE_CHECKING:
    from arkwright.solver.solver import Solver


class Walk:
    """Sets vertices in motion when their inputs are there, until nothing moves any more."""

    def __init__(self, solver: Solver, scheduler: Scheduler, *, keep_going: bool) -> None:
        self._solver = solver
        self._scheduler = scheduler
        self._keep_going = keep_going
        self._active = 0
        self._visited: list[State] = []
        self._failures: list[ArkwrightError] = []
        self._fault: BaseException | None = None
        self._stopped: Cancelled | None = None

    def demand(self, state: State, definition: Definition) -> None:
        """Find the vertex' result, or set everything in motion that it takes (no recursion)."""
        pending = [state]
        while pending:
            current = pending.pop()
            if current.visited:
                continue
            current.visited = True
            self._solver.look_up(current)
            if current.results is not None:
                # Another process may have recorded it since somebody here began to wait for it.
                self._arrived(current)
                continue
            self._visited.append(current)
            inputs = {edge.vertex for edge in current.vertex.inputs}
            needed = [self._solver.load(definition, digest) for digest in sorted(inputs)]
            for given in needed:
                if not given.visited:
                    self._solver.look_up(given)
                if given.results is None:
                    given.users.append(current)
                    current.waiting_for += 1
            pending.extend(needed)
            if current.waiting_for == 0:
                self._start(current)

    def finish(self) -> None:
        """Wait for everything in motion; raise what failed."""
        while self._active:
            self._scheduler.wait()
        if self._fault is not None:
            raise self._fault
        if self._failures:
            missing = sum(state.results is None for state in self._visited)
            skipped = missing - len(self._failures) if self._keep_going else 0
            raise joined(self._failures, skipped=skipped)
        if self._stopped is not None:
            # A step may hear of the interrupt before the scheduler does.
            raise self._stopped
        if self._scheduler.cancelled.is_set():
            raise Cancelled.of("cancelled", "the build was cancelled")

    def _start(self, state: State) -> None:
        states = self._solver.states
        given = [results_of(states[edge.vertex])[edge.index] for edge in state.vertex.inputs]
        self._active += 1
        self._scheduler.submit(lambda: self._task(state, given))

    def _task(self, state: State, inputs: Sequence[Result]) -> Callable[[], None]:
        try:
            with placed(state):
                self._solver.work(state, inputs, self._scheduler)
        except BaseException as error:  # handed to the coordinator, which raises it
            failure = error
            return lambda: self._failed(state, failure)
        return lambda: self._finished(state)

    def _finished(self, state: State) -> None:
        self._active -= 1
        self._solver.stream.emit(Finished(vertex=state.digest))
        self._arrived(state)

    def _arrived(self, state: State) -> None:
        """Start what waited for this result and for nothing else."""
        waiting, state.users = state.users, []
        for user in waiting:
            user.waiting_for -= 1
            if user.waiting_for == 0 and not self._scheduler.cancelled.is_set():
                self._start(user)

    def _failed(self, state: State, error: BaseException) -> None:
        """The first failure ends the walk, unless it is to go on; what siblings say while they are
        stopped is no cause of anything."""
        self._active -= 1
        cancelled = isinstance(error, Cancelled)
        self._solver.stream.emit(Failed(vertex=state.digest, message=str(error), cancelled=cancelled))
        if isinstance(error, Cancelled):
            self._stopped = self._stopped or error
            self._scheduler.cancelled.set()
            return
        if not isinstance(error, ArkwrightError):
            self._fault = self._fault or error
        elif self._keep_going or not self._failures:
            self._failures.append(error)
        if not self._keep_going or self._fault is not None:
            self._scheduler.cancelled.set()
