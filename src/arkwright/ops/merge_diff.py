"""Merge, diff and passthrough: lists of layers, joined and split without copying."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from arkwright.cache.keys import KeyBuilder
from arkwright.diagnostics.errors import UserError
from arkwright.graph.ops import DiffOp, MergeOp, PassthroughOp
from arkwright.layer.diff import diff
from arkwright.layer.rooted import Root
from arkwright.layer.stamps import Stamps
from arkwright.layer.tar_write import write_tar
from arkwright.ops.result import LayeredResult
from arkwright.ops.trees import Trees
from arkwright.snapshot.base import Layer
from arkwright.solver.result import Details, Key, Result


class JoinOperation:
    """MergeOp, DiffOp and PassthroughOp."""

    slot = False

    def __init__(
        self, op: MergeOp | DiffOp | PassthroughOp, trees: Callable[[], Trees],
        stamps: Stamps = Stamps(),  # noqa: B008 - frozen
    ) -> None:  # fmt: skip
        self._op = op
        self._stamps = stamps
        self._trees = trees

    def immediate(self) -> Sequence[Result] | None:
        return None

    def definition_key(self, inputs: Sequence[str]) -> Key:
        builder = self._builder().field("inputs", *inputs)
        return Key(builder.digest(), builder.fields)

    def operation_key(self) -> str:
        return self._builder().digest()

    def same_content(self, number: int, have: Result, other: Result) -> bool:
        # Joining is cheaper than comparing.
        return False

    def content_of(self, number: int, have: Result) -> str | None:
        return None

    def still_valid(self) -> bool:
        return True

    def details(self) -> Details:
        return {}

    def run(self, inputs: Sequence[Result], cancelled: threading.Event) -> Sequence[Result]:
        layered = [_layered(result) for result in inputs]
        if isinstance(self._op, MergeOp):
            return [LayeredResult(tuple(layer for result in layered for layer in result.layers))]
        if isinstance(self._op, PassthroughOp):
            return [layered[index] for index in self._op.outputs or range(len(layered))]
        empty = LayeredResult()
        lower = layered[self._op.lower] if self._op.lower >= 0 else empty
        upper = layered[self._op.upper] if self._op.upper >= 0 else empty
        if upper.layers[: len(lower.layers)] == lower.layers:
            return [LayeredResult(upper.layers[len(lower.layers) :])]
        return [self._compare(lower, upper)]

    def _builder(self) -> KeyBuilder:
        builder = KeyBuilder("join").field("op", str(self._op.__struct_config__.tag))
        if self._stamps.key:
            builder.field("timestamps", *self._stamps.key)
        if isinstance(self._op, DiffOp):
            return builder.field("sides", self._op.lower, self._op.upper)
        return builder.field("outputs", *getattr(self._op, "outputs", ()))

    def _compare(self, lower: LayeredResult, upper: LayeredResult) -> LayeredResult:
        import secrets
        import tempfile

        trees = self._trees()
        with tempfile.TemporaryFile() as spool:
            with trees.view(lower) as lower_path, trees.view(upper) as upper_path:
                with Root(lower_path) as below, Root(upper_path) as above:
                    changes = diff(below, above, stamp=self._stamps.made.of)
                    write_tar(changes, spool.write, mtime_ns=None)
            spool.seek(0)
            layer = Layer(id=secrets.token_hex(16), origin="applied")
            return LayeredResult((trees.snapshotter.apply((), layer, spool).id,))


def _layered(result: Result) -> LayeredResult:
    if not isinstance(result, LayeredResult):
        raise UserError.of(
            "context-as-layer", "a context cannot be merged or compared; copy it into a tree first"
        )
    return result
