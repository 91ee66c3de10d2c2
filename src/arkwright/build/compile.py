"""From a request to graphs: contexts, ignore files, front end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from arkwright.build.bridge import BuildBridge
from arkwright.build.contexts import MAIN, ContextLoader, Contexts
from arkwright.build.means import Means
from arkwright.build.request import BuildRequest
from arkwright.events.types import Warning
from arkwright.frontends.base import FrontendImage, FrontendRequest
from arkwright.frontends.table import load
from arkwright.layer.profile import CONSTANT_EPOCH
from arkwright.oci.platform import host_platform

if TYPE_CHECKING:
    from arkwright.frontends.dockerfile.calls import CheckReport, Outline, Target


class Compiled(msgspec.Struct, frozen=True, kw_only=True):
    """What the front end made, with the contexts that its sources name. `epoch` is the time that
    goes into the image config, in seconds; `step_env` reaches steps but no key and no config."""

    images: tuple[FrontendImage, ...]
    contexts: Contexts
    epoch: int
    step_env: tuple[str, ...] = ()


def compile_request(request: BuildRequest, means: Means) -> Compiled:
    """Load the contexts and run the front end; runs no step and fetches no layer."""
    contexts, bridge, asked = _ask(request, means)
    made = load("dockerfile")(bridge, asked)
    proxies = msgspec.json.decode(made.metadata.get("proxy-env", "[]"), type=tuple[str, ...])
    return Compiled(images=made.images, contexts=contexts, epoch=_epoch(request, contexts), step_env=proxies)


def check_request(request: BuildRequest, means: Means) -> CheckReport:
    """Run the front end's checks, and nothing else."""
    from arkwright.frontends.dockerfile.calls import check

    _, bridge, asked = _ask(request, means)
    return check(bridge, asked)


def request_targets(request: BuildRequest, means: Means) -> tuple[Target, ...]:
    """The targets of the request's Dockerfile. Raises `UserError`."""
    from arkwright.frontends.dockerfile.calls import targets

    _, bridge, asked = _ask(request, means)
    return targets(bridge, asked)


def request_outline(request: BuildRequest, means: Means) -> Outline:
    """What the request's target takes. Raises `UserError`."""
    from arkwright.frontends.dockerfile.calls import outline

    _, bridge, asked = _ask(request, means)
    return outline(bridge, asked)


def _ask(request: BuildRequest, means: Means) -> tuple[Contexts, BuildBridge, FrontendRequest]:
    loader = ContextLoader(means.scratch, means.file_source)
    contexts = loader.load(request)
    bridge = BuildBridge(
        trees=contexts.trees,
        inputs=contexts.inputs,
        images=means.images,
        resolve_mode="pull" if request.pull else "default",
        warn=lambda diagnostic: means.stream.emit(Warning(diagnostic=diagnostic)),
    )
    host = host_platform()
    asked = FrontendRequest(
        filename=contexts.dockerfile_path,
        source=contexts.dockerfile,
        context_exclude=tuple(contexts.trees[MAIN].exclude),
        target=request.target,
        build_args=request.build_args,
        labels=request.labels,
        platforms=request.platforms or (host,),
        build_platform=host,
        no_cache=request.no_cache,
        no_cache_filter=request.no_cache_filter,
        network=request.network,
        extra_hosts=request.extra_hosts,
        ulimits=request.ulimits,
        shm_size=request.shm_size,
        resolve_mode="pull" if request.pull else "default",
        epoch=CONSTANT_EPOCH,
    )
    return contexts, bridge, asked


def _epoch(request: BuildRequest, contexts: Contexts) -> int:
    if request.epoch is not None:
        return request.epoch
    stated = os.environ.get("SOURCE_DATE_EPOCH", "")
    if stated.isdigit():
        return int(stated)
    return contexts.commit_epoch if contexts.commit_epoch is not None else CONSTANT_EPOCH
