"""File ops: actions on one tree, in their order (see `ops.file_actions`)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import msgspec

from arkwright.cache.keys import KeyBuilder
from arkwright.diagnostics.errors import Cancelled, UserError
from arkwright.graph.definition import Vertex
from arkwright.graph.ops import CopyAction, FileAction, FileOp
from arkwright.layer.rooted import Root
from arkwright.layer.stamps import Stamps
from arkwright.ops.contexts import ContextReader, ReaderOf
from arkwright.ops.result import HostResult, LayeredResult
from arkwright.ops.trees import Trees
from arkwright.solver.result import Details, Key, Result


class FileOperation:
    """One COPY, ADD or WORKDIR: all actions on one writable tree, which is output 0.

    Actions form a chain: the first starts from an input (or the empty tree), each later one from
    the result of the one before. Other shapes of LLB are refused.
    """

    slot = False

    def __init__(
        self, vertex: Vertex, reader_of: ReaderOf, trees: Callable[[], Trees],
        stamps: Stamps = Stamps(),  # noqa: B008 - frozen
    ) -> None:  # fmt: skip
        assert isinstance(vertex.op, FileOp)
        self._stamps = stamps
        self._actions = vertex.op.actions
        self._count = len(vertex.inputs)
        self._readers = [reader_of(edge.vertex) for edge in vertex.inputs]
        self._trees = trees
        self._check_chain()

    def _check_chain(self) -> None:
        for number, action in enumerate(self._actions):
            follows = action.input == self._count + number - 1 if number else action.input < self._count
            if not follows or (action.output >= 0) != (number == len(self._actions) - 1):
                raise UserError.of(
                    "unsupported-graph", "a file op whose actions are not one chain cannot be solved"
                )

    def immediate(self) -> Sequence[Result] | None:
        return None

    def definition_key(self, inputs: Sequence[str]) -> Key:
        builder = self._builder()
        for number, key in enumerate(inputs):
            if self._readers[number] is None:
                builder.field(f"input {number}", key)
        return Key(builder.digest(), builder.fields)

    def operation_key(self) -> str:
        return self._builder().digest()

    def same_content(self, number: int, have: Result, other: Result) -> bool:
        return self._trees().same(have, other, self._seen(number))

    def content_of(self, number: int, have: Result) -> str | None:
        return self._trees().content(have, self._seen(number))

    def _seen(self, number: int) -> list[CopyAction] | None:
        """What the actions take of an input; None for all of it."""
        if self._actions[0].input == number:
            return None
        return [action for action in self._copies() if action.secondary_input == number]

    def still_valid(self) -> bool:
        return all(
            reader.selection(action) == reader.fresh_selection(action)
            for action in self._copies()
            if (reader := self._reader(action)) is not None
        )

    def details(self) -> Details:
        found = [(self._reader(action), action) for action in self._copies()]
        return {
            reader.selection(action): partial(reader.listing, action)
            for reader, action in found
            if reader is not None
        }

    def _copies(self) -> list[CopyAction]:
        return [action for action in self._actions if isinstance(action, CopyAction)]

    def _reader(self, action: CopyAction) -> ContextReader | None:
        return self._readers[action.secondary_input] if 0 <= action.secondary_input < self._count else None

    def _builder(self) -> KeyBuilder:
        builder = KeyBuilder("file")
        for action in self._actions:
            builder.field("action", msgspec.json.encode(action, order="sorted"))
            if isinstance(action, CopyAction):
                reader = self._reader(action)
                if reader is not None:
                    builder.field(f"content of {action.src}", reader.selection(action))
        if self._stamps.key:
            builder.field("timestamps", *self._stamps.key)
        return builder

    def run(self, inputs: Sequence[Result], cancelled: threading.Event) -> Sequence[Result]:
        from arkwright.ops.file_actions import explained

        trees = self._trees()
        first = self._actions[0].input
        base = inputs[first] if first >= 0 else LayeredResult()
        assert isinstance(base, LayeredResult)
        trees.ensure(base.layers)
        active = trees.snapshotter.prepare(base.layers)
        try:
            with explained(active.root), Root(active.root) as root:
                for action in self._actions:
                    if cancelled.is_set():
                        raise Cancelled.of("cancelled", "the build was cancelled")
                    self._apply(action, root, inputs)
        except BaseException:
            active.abort()
            raise
        return [LayeredResult((*base.layers, active.commit().id))]

    def _apply(self, action: FileAction, root: Root, inputs: Sequence[Result]) -> None:
        from arkwright.ops.file_actions import copy, perform

        if isinstance(action, CopyAction):
            with self._source(action, inputs) as source:
                copy(action, source, root, self._reader(action), self._stamps)
        else:
            perform(action, root)

    @contextmanager
    def _source(self, action: CopyAction, inputs: Sequence[Result]) -> Iterator[Root]:
        number = action.secondary_input
        result = inputs[number] if 0 <= number < self._count else LayeredResult()
        if isinstance(result, HostResult):
            with Root(result.tree.root, widen=result.tree.own) as root:
                yield root
        else:
            assert isinstance(result, LayeredResult)
            with self._trees().view(result) as path, Root(path) as root:
                yield root
