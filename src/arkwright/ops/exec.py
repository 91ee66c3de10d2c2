"""Exec ops: a command in a sandbox, over a writable tree."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from arkwright.cache.keys import KeyBuilder
from arkwright.diagnostics.errors import ArkwrightError, Cancelled, StepFailed
from arkwright.events.stream import EventStream
from arkwright.events.types import Log
from arkwright.graph.definition import Vertex
from arkwright.graph.ops import CopyAction, ExecOp, Mount
from arkwright.layer.stamps import Stamps
from arkwright.ops.contexts import ReaderOf
from arkwright.ops.trees import Trees
from arkwright.sandbox.spec import (
    DEFAULT_HOSTNAME,
    DEFAULT_SHM_SIZE,
    Rlimit,
    Sandbox,
    StepLimits,
    StepSpec,
    StepStatus,
)
from arkwright.solver.result import Details, Key, Result
from arkwright.sources.base import Session
from arkwright.store.metadata import Metadata

if TYPE_CHECKING:
    from arkwright.linux.emulation import Emulation
    from arkwright.ops.exec_mounts import MountPlan
    from arkwright.ops.redact import Redactor

TAIL_LINES = 20
FAILED_BUCKET = "failed-steps"


class FailedStep(msgspec.Struct, frozen=True, kw_only=True):
    """What it takes to open a shell where a step failed; kept under the vertex' short digest.

    `inputs` are the encoded results that the mounts of `op` are taken from.
    """

    layers: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: str
    command: str
    build: str = ""
    op: ExecOp | None = None
    inputs: tuple[bytes, ...] = ()


class ExecMeans(msgspec.Struct, frozen=True):
    """What the worker offers to exec ops. `env` is for every step and enters no key (proxies);
    what a step sets itself wins. `emulations` tells of architectures that are not the host's.
    `fill_cache_mount(id, path)` makes a missing cache mount from a remote cache, and says whether
    it did. `tiers` collects the isolation that steps had; `stopped_by` says why steps are being stopped, when
    it is neither the user's wish nor a sibling's failure. `on_error` `shell` opens one where a step
    failed, on the standard descriptors."""

    trees: Trees
    sandbox: Sandbox
    session: Session
    metadata: Metadata
    stream: EventStream
    cache_mounts_path: str
    epoch: int
    env: tuple[str, ...] = ()
    emulations: dict[str, Emulation] = {}
    fill_cache_mount: Callable[[str, str], bool] = lambda cache_id, path: False
    tiers: set[str] = msgspec.field(default_factory=set)
    limits: StepLimits = StepLimits()
    stopped_by: Callable[[], ArkwrightError | None] = lambda: None
    on_error: str = ""


class ExecOperation:
    """One RUN."""

    slot = True

    def __init__(
        self,
        digest: str,
        vertex: Vertex,
        reader_of: ReaderOf,
        means: Callable[[], ExecMeans],
        scrub: tuple[str, ...],
        stamps: Stamps = Stamps(),  # noqa: B008 - frozen
    ) -> None:
        assert isinstance(vertex.op, ExecOp)
        self._stamps = stamps
        self._digest = digest
        self._vertex = vertex
        self._op = vertex.op
        self._readers = [reader_of(edge.vertex) for edge in vertex.inputs]
        self._means = means
        self._scrub = scrub

    @property
    def tier(self) -> str:
        """How the command is isolated; for the journal. Raises as `Sandbox.tier`."""
        return self._means().sandbox.tier

    def immediate(self) -> Sequence[Result] | None:
        return None

    def definition_key(self, inputs: Sequence[str]) -> Key:
        builder = self._builder()
        for mount in self._op.mounts:
            if mount.input >= 0 and self._readers[mount.input] is None:
                builder.field(f"input of {mount.dest}", inputs[mount.input])
        return Key(builder.digest(), builder.fields)

    def operation_key(self) -> str:
        return self._builder().digest()

    def same_content(self, number: int, have: Result, other: Result) -> bool:
        return self._means().trees.same(have, other, self._seen(number))

    def content_of(self, number: int, have: Result) -> str | None:
        return self._means().trees.content(have, self._seen(number))

    def _seen(self, number: int) -> list[CopyAction] | None:
        """What the command can look at of an input; None for all of it."""
        mounts = [mount for mount in self._op.mounts if mount.input == number]
        if any(mount.output >= 0 or not mount.readonly or mount.dest == "/" for mount in mounts):
            return None
        return [CopyAction(input=-1, secondary_input=0, src=mount.selector, dest="/") for mount in mounts]

    def still_valid(self) -> bool:
        return all(
            reader.tree_selection(mount.selector) == reader.fresh_tree_selection(mount.selector)
            for mount in self._op.mounts
            if mount.input >= 0 and (reader := self._readers[mount.input]) is not None
        )

    def details(self) -> Details:
        found = [
            (reader, mount.selector)
            for mount in self._op.mounts
            if mount.input >= 0 and (reader := self._readers[mount.input]) is not None
        ]
        return {
            reader.tree_selection(selector): partial(reader.tree_listing, selector)
            for reader, selector in found
        }

    def _builder(self) -> KeyBuilder:
        op = self._op
        builder = KeyBuilder("exec")
        builder.field("platform", str(self._vertex.platform or ""))
        builder.field("args", *op.args).field("env", *op.env).field("cwd", op.cwd).field("user", op.user)
        builder.field("network", op.network).field("security", op.security).field("hostname", op.hostname)
        builder.field("hosts", *(name for name, _ in op.extra_hosts))
        builder.field(
            "limits", *(f"{limit.name}={limit.soft}:{limit.hard}" for limit in op.ulimits), op.shm_size
        )
        builder.field("secrets", *(f"{secret.name}={secret.secret_id}" for secret in op.secret_env))
        builder.field("exit codes", *op.valid_exit_codes).field("scrub", *self._scrub)
        if self._stamps.key:
            builder.field("timestamps", *self._stamps.key)
        for mount in op.mounts:
            builder.field(f"mount {mount.dest}", *_mount_fields(mount))
            reader = self._readers[mount.input] if mount.input >= 0 else None
            if reader is not None:
                builder.field(f"content of {mount.dest}", reader.tree_selection(mount.selector))
        return builder

    def run(self, inputs: Sequence[Result], cancelled: threading.Event) -> Sequence[Result]:
        from arkwright.ops.exec_mounts import MountPlan
        from arkwright.ops.redact import Redactor

        means = self._means()
        self._check_platform(means)
        with MountPlan(
            self._op, inputs, self._readers, means.trees, means.session, means.cache_mounts_path, cancelled,
            means.fill_cache_mount, means.stream.build,
        ) as plan:  # fmt: skip
            spec = self._spec(plan, means)
            _ensure_directory(plan.root, self._op.cwd)
            tail: deque[bytes] = deque(maxlen=200)
            redactor = Redactor(plan.secrets, self._output(means.stream, tail))
            status = _run(means, spec, plan.root, redactor, cancelled)
            redactor.flush()
            means.tiers.add(status.tier)
            if status.status not in self._op.valid_exit_codes:
                if means.on_error == "shell":
                    _open_shell(means, spec, plan.root, status)
                given = tuple(result.encode() for result in inputs)
                raise self._failure(status, tail, plan.keep_root(), means, given)
            return plan.commit(self._scrub)

    def _check_platform(self, means: ExecMeans) -> None:
        """Refuse what `build.emulation` could not rule out before: the cache might have had it."""
        platform = self._vertex.platform
        if platform is None or not means.emulations:
            return
        from arkwright.linux.emulation import emulation_key, no_emulation

        found = means.emulations.get(emulation_key(platform))
        if found is not None and not found.ok:
            raise no_emulation(str(platform), found)

    def _spec(self, plan: MountPlan, means: ExecMeans) -> StepSpec:
        op = self._op
        own = {item.partition("=")[0] for item in op.env}
        env = (*op.env, *(item for item in means.env if item.partition("=")[0] not in own))
        if not any(item.startswith("SOURCE_DATE_EPOCH=") for item in env):
            env = (*env, f"SOURCE_DATE_EPOCH={means.epoch}")
        return StepSpec(
            args=op.args, env=env, cwd=op.cwd, user=op.user, mounts=plan.mounts, network=op.network,
            security=op.security, extra_hosts=op.extra_hosts, secret_env=plan.secret_env,
            rlimits=tuple(Rlimit(limit.name, limit.soft, limit.hard) for limit in op.ulimits),
            readonly_root=plan.readonly_root, hostname=op.hostname or DEFAULT_HOSTNAME,
            shm_size=op.shm_size or DEFAULT_SHM_SIZE, limits=means.limits,
        )  # fmt: skip

    def _output(self, stream: EventStream, tail: deque[bytes]) -> Callable[[int, bytes], None]:
        def output(fd: int, data: bytes) -> None:
            tail.append(data)
            stream.emit(Log(vertex=self._digest, fd=fd, data=data))

        return output

    def _failure(
        self,
        status: StepStatus,
        tail: deque[bytes],
        layers: tuple[str, ...] | None,
        means: ExecMeans,
        inputs: tuple[bytes, ...],
    ) -> StepFailed:
        command = " ".join(self._op.args)
        shell = None if layers is None else self._remember(layers, command, means, inputs)
        lines = b"".join(tail).decode(errors="replace").splitlines()[-TAIL_LINES:]
        ending = (
            f"was killed by signal {status.signal}"
            if status.signal
            else f"exited with status {status.status}"
        )
        error = StepFailed.of(
            "step-failed",
            f"the command {ending}{oom_words(status)}",
            details={
                "vertex": self._digest, "command": command, "status": status.status, "signal": status.signal,
                "oom": status.oom, "tail": lines, "shell": shell,
            },
        )  # fmt: skip
        assert isinstance(error, StepFailed)
        return error

    def _remember(
        self, layers: tuple[str, ...], command: str, means: ExecMeans, inputs: tuple[bytes, ...]
    ) -> str:
        """Keep what it takes to look at the failed step; the command that does."""
        name = self._digest.partition(":")[2][:12]
        op = self._op
        step = FailedStep(
            layers=layers, env=op.env, cwd=op.cwd, user=op.user, command=command,
            build=means.stream.build, op=op, inputs=inputs,
        )  # fmt: skip
        means.metadata.put(FAILED_BUCKET, name, msgspec.json.encode(step))
        return f"arkwright run --failed-step {name}"


_KILLED = 128 + 9


def oom_words(status: StepStatus) -> str:
    """What a failure adds when memory ran out: it may not have been the command itself that was killed."""
    if not status.oom:
        return ""
    return (
        ": out of memory"
        if status.status == _KILLED
        else ", after the kernel had killed a process of it: out of memory"
    )


def _run(
    means: ExecMeans, spec: StepSpec, root: str, output: Redactor, cancelled: threading.Event
) -> StepStatus:
    from arkwright.ops.exec_watch import StepWatch

    watch = StepWatch(cancelled, spec.limits)
    try:
        return means.sandbox.run(spec, root, watch.counted(output), cancelled=watch)
    except Cancelled as error:
        cause = watch.cause or means.stopped_by()
        if cause is None:
            raise
        raise cause from error


def _open_shell(means: ExecMeans, spec: StepSpec, root: str, status: StepStatus) -> None:
    """A shell in the state that a failed step left, with its mounts, until the user leaves it.

    Nothing else of the build is told meanwhile: the terminal belongs to the shell.
    """
    shell = msgspec.structs.replace(spec, args=("/bin/sh",), terminal=True)
    with means.stream.held():
        os.write(2, f"\nthe step failed with status {status.status}; this is a shell in its state\n".encode())
        ended = means.sandbox.run(shell, root, lambda fd, data: None, stdio=(0, 1, 2)).status
        if ended in (126, 127):
            os.write(2, b"no shell: /bin/sh cannot be run there\n")


def _mount_fields(mount: Mount) -> tuple[str | int, ...]:
    sharing = () if mount.type == "cache" else (mount.cache_id,)
    return (
        mount.type, mount.selector, int(mount.readonly), mount.output, mount.tmpfs_size, mount.secret_id,
        int(mount.required), mount.mode, mount.uid, mount.gid, *sharing,
    )  # fmt: skip


def _ensure_directory(root_path: str, path: str) -> None:
    from arkwright.layer.rooted import Root
    from arkwright.ops.file_copy import Copier

    with Root(root_path) as root, contextlib.suppress(FileExistsError):
        if root.lstat(root.resolve(path)) is None:
            Copier(root, root).make_dirs(path)
