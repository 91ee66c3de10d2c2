"""Running a command in an image, or in the tree that a failed step left behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import msgspec

from arkwright.build.means import Means, open_means
from arkwright.build.session import SessionInputs
from arkwright.diagnostics.errors import UserError
from arkwright.events.stream import EventStream
from arkwright.graph.ops import SourceOp
from arkwright.oci import config as image_config
from arkwright.oci.platform import Platform, host_platform
from arkwright.ops.exec import FAILED_BUCKET, FailedStep
from arkwright.sandbox.spec import StepSpec
from arkwright.sources.base import PinnedImage
from arkwright.store.leases import Lease


class RunRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One `arkwright run`. `command` replaces the image's; `entrypoint` None keeps the image's.

    With `failed_step` (the name that the failure showed) the image is not asked for.
    """

    image: str = ""
    failed_step: str = ""
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    cwd: str = ""
    user: str = ""
    network: str = "default"
    entrypoint: tuple[str, ...] | None = None
    interactive: bool = False
    terminal: bool = False
    platform: Platform | None = None


class _Start(msgspec.Struct, frozen=True):
    """Where and what to run, once it is known."""

    layers: tuple[str, ...]
    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: str


def run_image(request: RunRequest, store_root_path: str) -> int:
    """Run to the end and return the exit status; changes are thrown away.

    Raises `UserError` `no-command`, `unknown-image`, `unknown-failed-step`.
    """
    from arkwright.linux.worker import Worker, run_in_worker

    stream = EventStream("run")
    inputs = SessionInputs()
    with open_means(store_root_path, inputs, stream) as means:
        start = _failed_step(request, means) if request.failed_step else _image(request, means)
        for layer in start.layers:
            means.image_layers.fetch(layer, stream)
        with Lease(os.path.join(means.store.root_path, "lock")) as lease:
            lease.share()
            means.suspend()

            def body(worker: Worker) -> bytes:
                with open_means(store_root_path, inputs, stream, worker=worker) as inside:
                    return str(_run(request, start, inside)).encode()

            return int(run_in_worker(body, store_root_path=store_root_path))


def _run(request: RunRequest, start: _Start, means: Means) -> int:
    trees = means.trees
    trees.ensure(start.layers)
    active = trees.snapshotter.prepare(start.layers)
    try:
        spec = StepSpec(
            args=start.args, env=start.env, cwd=start.cwd or "/", user=start.user, terminal=request.terminal,
            network="none" if request.network == "none" else "host" if request.network == "host" else "default",
            hostname="arkwright",
        )  # fmt: skip
        with open(os.devnull, "rb") as nothing:
            stdin = sys.stdin.fileno() if request.interactive or request.terminal else nothing.fileno()
            stdio = (stdin, sys.stdout.fileno(), sys.stderr.fileno())
            return means.sandbox.run(spec, active.root, lambda fd, data: None, stdio=stdio).status
    finally:
        active.abort()


def _image(request: RunRequest, means: Means) -> _Start:
    pinned = _pin(request.image, request.platform or host_platform(), means)
    config = image_config.parse(pinned.config).config
    entrypoint = config.entrypoint or () if request.entrypoint is None else request.entrypoint
    default = config.cmd or () if request.entrypoint is None else ()
    args = (*entrypoint, *(request.command or default))
    if not args:
        raise UserError.of(
            "no-command",
            f"{request.image} names no command to start",
            hint="give one: arkwright run IMAGE COMMAND",
        )
    layers = means.image_layers.declare(pinned, "run").layers
    return _Start(
        layers=layers, args=args, env=_environment(config.env, request.env),
        cwd=request.cwd or config.working_dir, user=request.user or config.user,
    )  # fmt: skip


def _pin(text: str, platform: Platform, means: Means) -> PinnedImage:
    """The image in the local store under any spelling, else from where its name says."""
    from arkwright.images.graph import select_platform
    from arkwright.images.references import resolve

    source = SourceOp(identifier=f"docker-image://{text}")
    content = means.store.content
    try:
        found = resolve(means.store, text)
    except UserError as error:
        if error.code != "unknown-image":
            raise
        return means.images.pin(source, platform)
    descriptor, manifest = select_platform(content, found.descriptor, platform)
    config = content.read(manifest.config.digest)
    return PinnedImage(
        op=source, key=descriptor.digest, uri=text, digest=descriptor.digest, reference=found.name or text,
        manifest=descriptor, config=config, layers=manifest.layers,
        diff_ids=image_config.parse(config).rootfs.diff_ids,
    )  # fmt: skip


def _failed_step(request: RunRequest, means: Means) -> _Start:
    data = means.store.metadata.get(FAILED_BUCKET, request.failed_step)
    if data is None:
        raise UserError.of(
            "unknown-failed-step", f"the store has no failed step {request.failed_step!r}",
            hint="build again: the failure names the step",
        )  # fmt: skip
    step = msgspec.json.decode(data, type=FailedStep)
    return _Start(
        layers=step.layers, args=request.command or ("/bin/sh",), env=_environment(step.env, request.env),
        cwd=request.cwd or step.cwd, user=request.user or step.user,
    )  # fmt: skip


def _environment(env: tuple[str, ...], more: Mapping[str, str]) -> tuple[str, ...]:
    kept = tuple(item for item in env if item.partition("=")[0] not in more)
    return (*kept, *(f"{name}={value}" for name, value in more.items()))
