"""What is known of one vertex during a solve."""

from __future__ import annotations

from collections.abc import Sequence

from arkwright.diagnostics.errors import ArkwrightError, Label
from arkwright.graph.definition import Vertex, VertexMetadata
from arkwright.solver.result import Key, Operation, Result


class State:
    """One vertex; shared by all definitions that have it."""

    def __init__(self, digest: str, vertex: Vertex, metadata: VertexMetadata, operation: Operation) -> None:
        self.digest = digest
        self.vertex = vertex
        self.metadata = metadata
        self.operation = operation
        self.key: Key | None = None
        self.trusted = False
        self.results: Sequence[Result] | None = None
        self.users: list[State] = []
        self.waiting_for = 0
        self.visited = False
        # Whether other caches were asked for it.
        self.asked = False
        # Whether its hit was told, and whether those below it were looked at to tell theirs.
        self.told = False
        self.implied = False

    def forget(self) -> None:
        """As before the solve, except for what was told of it."""
        self.results = None
        self.users = []
        self.waiting_for = 0
        self.visited = self.asked = False


class placed:  # noqa: N801 - reads as a verb: with placed(state)
    """Gives errors without a place the span of the vertex that they come from."""

    def __init__(self, state: State) -> None:
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


def key_of(state: State) -> Key:
    assert state.key is not None
    return state.key


def results_of(state: State) -> Sequence[Result]:
    assert state.results is not None
    return state.results
