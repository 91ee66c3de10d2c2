"""Running a command in an image, or in the tree that a failed step left behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec

from arkwright.build.means import Means, open_means
from arkwright.build.session import SessionInputs
from arkwright.diagnostics.errors import UserError
from arkwright.events.stream import EventStream
from arkwright.graph.ops import SourceOp
from arkwright.oci import config as image_config
from arkwright.oci.platform import Platform, host_platform
from arkwright.ops.exec import FAILED_BUCKET, FailedStep
from arkwright.sandbox.spec import StepMount, StepSpec
from arkwright.sources.base import PinnedImage
from arkwright.store.leases import Lease

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class RunRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One `arkwright run`. `command` replaces the image's; `entrypoint` None keeps the image's.

    The image is not asked for with `failed_step` (the name that the failure showed), nor with `step`,
    a step of `build` (the last build by default) by its name. With `debug` that step is one that
    failed, any by default, and its mounts are there too, but for secrets and agents.
    """

    image: str = ""
    failed_step: str = ""
    step: str = ""
    build: str = ""
    debug: bool = False
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
    failed: FailedStep | None = None
    context: str = ""


def run_image(request: RunRequest, store_root_path: str) -> int:
    """Run to the end and return the exit status; changes are thrown away.

    Raises `UserError` `no-command`, `unknown-image`, `unknown-failed-step`, `unknown-build`,
    `unknown-step`, `ambiguous-step`, `step-not-kept`.
    """
    from arkwright.linux.worker import Worker, run_in_worker

    stream = EventStream("run")
    inputs = SessionInputs()
    with open_means(store_root_path, inputs, stream) as means:
        start = _chosen(request, means)
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
    spec = StepSpec(
        args=start.args, env=start.env, cwd=start.cwd or "/", user=start.user, terminal=request.terminal,
        network="none" if request.network == "none" else "host" if request.network == "host" else "default",
        hostname="arkwright",
    )  # fmt: skip
    with _tree(start, means) as (root, mounts), open(os.devnull, "rb") as nothing:
        stdin = sys.stdin.fileno() if request.interactive or request.terminal else nothing.fileno()
        stdio = (stdin, sys.stdout.fileno(), sys.stderr.fileno())
        spec = msgspec.structs.replace(spec, mounts=mounts)
        return means.sandbox.run(spec, root, lambda fd, data: None, stdio=stdio).status


@contextmanager
def _tree(start: _Start, means: Means) -> Iterator[tuple[str, tuple[StepMount, ...]]]:
    """A writable root whose changes are thrown away, and what is mounted in it."""
    if start.failed is not None and start.failed.op is not None:
        from arkwright.build.debug import mounted_again

        with mounted_again(start.failed, start.context, means) as found:
            yield found
        return
    means.trees.ensure(start.layers)
    active = means.trees.snapshotter.prepare(start.layers)
    try:
        yield active.root, ()
    finally:
        active.abort()


def _chosen(request: RunRequest, means: Means) -> _Start:
    if request.failed_step:
        return _failed_step(request, means, request.failed_step)
    if not request.step and not request.debug:
        return _image(request, means)
    from arkwright.cache.steps import find_step, tree_of

    step = find_step(means.store.root_path, request.build, request.step)
    if request.debug and step.failed:
        found = _failed_step(request, means, step.vertex.partition(":")[2][:12])
        if found.failed is not None and found.failed.build == step.build:
            return msgspec.structs.replace(found, context=step.context)
        raise UserError.of(
            "step-not-kept", f"the tree of the step {step.name!r} is not in the store: it failed again since",
            hint="leave the build away to look at the last failure",
        )  # fmt: skip
    return _Start(
        layers=tree_of(means.store, step), args=request.command or ("/bin/sh",),
        env=_environment((_PATH,), request.env), cwd=request.cwd, user=request.user,
    )  # fmt: skip


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


def _failed_step(request: RunRequest, means: Means, name: str) -> _Start:
    data = means.store.metadata.get(FAILED_BUCKET, name)
    if data is None:
        raise UserError.of(
            "unknown-failed-step", f"the store has no failed step {name!r}",
            hint="build again: the failure names the step",
        )  # fmt: skip
    step = msgspec.json.decode(data, type=FailedStep)
    return _Start(
        layers=step.layers, args=request.command or ("/bin/sh",), env=_environment(step.env, request.env),
        cwd=request.cwd or step.cwd, user=request.user or step.user, failed=step if request.debug else None,
    )  # fmt: skip


def _environment(env: tuple[str, ...], more: Mapping[str, str]) -> tuple[str, ...]:
    kept = tuple(item for item in env if item.partition("=")[0] not in more)
    return (*kept, *(f"{name}={value}" for name, value in more.items()))
