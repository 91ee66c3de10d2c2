"""From a request to graphs: contexts, ignore files, front end."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from arkwright.build.ahead import pin_together
from arkwright.build.bridge import BuildBridge
from arkwright.build.contexts import MAIN, ContextLoader, Contexts
from arkwright.build.means import Means
from arkwright.build.request import BuildRequest
from arkwright.build.settled import Outcomes
from arkwright.diagnostics.errors import Diagnostic
from arkwright.events.types import Warning
from arkwright.frontends.base import FrontendImage, FrontendRequest
from arkwright.frontends.table import load
from arkwright.images.containers import Settled
from arkwright.layer.profile import CONSTANT_EPOCH
from arkwright.oci.platform import Platform, host_platform

_EPOCH = "SOURCE_DATE_EPOCH"

if TYPE_CHECKING:
    from arkwright.frontends.dockerfile.calls import CheckReport, Outline, Target


class Compiled(msgspec.Struct, frozen=True, kw_only=True):
    """What the front end made, with the contexts that its sources name. `epoch` is the time that
    goes into the image config, in seconds; `step_env` reaches steps but no key and no config;
    `as_index` asks for an index even around one platform. `images` are those of all targets, one
    after the other; `counts` says how many are of each."""

    images: tuple[FrontendImage, ...]
    counts: tuple[int, ...]
    contexts: Contexts
    epoch: int
    step_env: tuple[str, ...] = ()
    as_index: bool = False
    # Of working containers: what vertices gave earlier, whether only trees are wanted, and who takes
    # note of what came out, with the store open.
    settled: Mapping[str, Settled] = {}
    only_trees: bool = False
    done: Callable[[Means, Outcomes], None] = lambda means, outcomes: None


def compile_request(request: BuildRequest, means: Means) -> Compiled:
    """Load the contexts and run the front end; runs no step and fetches no layer."""
    contexts, bridge, asked = _ask(request, means)
    frontend = load("dockerfile")
    made = [frontend(bridge, msgspec.structs.replace(asked, target=one.target)) for one in request.parts()]
    # What comes of build arguments and of the environment is the same for all targets.
    metadata = made[0].metadata
    proxies = msgspec.json.decode(metadata.get("proxy-env", "[]"), type=tuple[str, ...])
    stated = metadata.get("epoch")
    default = contexts.commit_epoch if contexts.commit_epoch is not None else CONSTANT_EPOCH
    return Compiled(
        images=tuple(image for one in made for image in one.images),
        counts=tuple(len(one.images) for one in made),
        contexts=contexts,
        epoch=default if stated is None else int(stated),
        step_env=proxies,
        as_index="multi-platform" in metadata,
    )


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
    request = msgspec.structs.replace(request, build_args=_with_epoch(request))
    loader = ContextLoader(means.scratch, means.file_source)
    contexts = loader.load(request)
    warned: set[Diagnostic] = set()

    def warn(diagnostic: Diagnostic) -> None:
        # Several targets have findings in common.
        if diagnostic not in warned:
            warned.add(diagnostic)
            means.stream.emit(Warning(diagnostic=diagnostic))

    bridge = BuildBridge(
        trees=contexts.trees,
        inputs=contexts.inputs,
        images=means.images,
        resolve_mode="pull" if request.pull else "default",
        warn=warn,
        times=contexts.times,
        file_source=means.file_source,
        pin_together=lambda asked: pin_together(means.store, asked, tls_verify=means.tls_verify),
    )
    host = host_platform()
    asked = FrontendRequest(
        filename=contexts.dockerfile_path,
        source=contexts.dockerfile,
        context_exclude=tuple(contexts.trees[MAIN].exclude),
        target=request.target,
        build_args=request.build_args,
        labels=request.labels,
        platforms=_ordered(request.platforms) or (host,),
        build_platform=host,
        no_cache=request.no_cache,
        no_cache_filter=request.no_cache_filter,
        network=request.network,
        extra_hosts=request.extra_hosts,
        ulimits=request.ulimits,
        shm_size=request.shm_size,
        resolve_mode="pull" if request.pull else "default",
        epoch=CONSTANT_EPOCH,
        allow=request.allow,
    )
    return contexts, bridge, asked


def _ordered(platforms: tuple[Platform, ...]) -> tuple[Platform, ...]:
    """Each platform once, in an order that does not depend on how the user listed them: the index
    is the same either way."""
    return tuple(sorted(dict.fromkeys(platforms), key=str))


def _with_epoch(request: BuildRequest) -> dict[str, str]:
    """The build arguments with SOURCE_DATE_EPOCH: of the option, else as given, else, as buildx
    does, of the environment."""
    stated = os.environ.get(_EPOCH, "")
    if request.epoch is not None:
        return {**request.build_args, _EPOCH: str(request.epoch)}
    if stated and _EPOCH not in request.build_args:
        return {**request.build_args, _EPOCH: stated}
    return request.build_args
