"""The mounts of a step that failed in an earlier build, as far as they can be made again."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from arkwright.build.contexts import MAIN
from arkwright.build.means import Means
from arkwright.graph.ops import ExecOp, Mount
from arkwright.ops.contexts import ContextReader
from arkwright.ops.exec import FailedStep
from arkwright.ops.exec_mounts import MountPlan
from arkwright.ops.result import LayeredResult
from arkwright.sandbox.spec import StepMount
from arkwright.solver.result import Result
from arkwright.sources.base import HostTree
from arkwright.sources.local import LocalSession

_CONTEXT = b"context:"


@contextmanager
def mounted_again(
    step: FailedStep, context_path: str, means: Means
) -> Iterator[tuple[str, tuple[StepMount, ...]]]:
    """The writable root that a failed step left, and its mounts: trees of other steps, caches, memory,
    and the main context where that directory is still there. What is not mounted is said on standard
    error: secrets and agents were the session's, which is over."""
    assert step.op is not None
    assert means.worker is not None
    again = _Again(step.op, step.inputs, context_path, means)
    op = again.planned(LayeredResult(step.layers))
    for dest, why in again.missing:
        print(f"not mounted: {dest} ({why})", file=sys.stderr)
    cache_path = os.path.join(means.store.root_path, "cache-mounts")
    with MountPlan(
        op, again.inputs, again.readers, means.trees, LocalSession({}), cache_path, means.worker.cancelled
    ) as plan:
        yield plan.root, plan.mounts


class _Again:
    """Sorts the mounts of an op into those that can be made and those that cannot."""

    def __init__(self, op: ExecOp, inputs: tuple[bytes, ...], context_path: str, means: Means) -> None:
        self._op = op
        self._given = inputs
        self._context_path = context_path
        self._means = means
        self.inputs: list[Result] = []
        self.readers: list[ContextReader | None] = []
        self.missing: list[tuple[str, str]] = []

    def planned(self, root: LayeredResult) -> ExecOp:
        mounts = [Mount(dest="/", input=self._add(root, None), output=0)]
        for mount in self._op.mounts:
            if mount.dest == "/":
                continue
            if mount.type in ("secret", "ssh"):
                self.missing.append((mount.dest, f"a {mount.type} of the build"))
                continue
            number = self._input(mount)
            if number is not None:
                mounts.append(msgspec.structs.replace(mount, input=number, output=-1))
        return msgspec.structs.replace(self._op, mounts=tuple(mounts), secret_env=())

    def _add(self, result: Result, reader: ContextReader | None) -> int:
        self.inputs.append(result)
        self.readers.append(reader)
        return len(self.inputs) - 1

    def _input(self, mount: Mount) -> int | None:
        """The number of the mount's input here: -1 for none, None if it cannot be had."""
        if mount.input < 0:
            return -1
        data = self._given[mount.input]
        if data.startswith(_CONTEXT):
            if data != _CONTEXT + MAIN.encode() or not os.path.isdir(self._context_path):
                self.missing.append((mount.dest, "its context is not there any more"))
                return None
            reader = ContextReader(HostTree(root=self._context_path), self._means.stat_cache)
            return self._add(LayeredResult(()), reader)
        result = msgspec.json.decode(data, type=LayeredResult)
        if any(self._means.layers.get(layer) is None for layer in result.layers):
            self.missing.append((mount.dest, "its tree was deleted"))
            return None
        return self._add(result, None)
