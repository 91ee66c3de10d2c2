"""From a request to graphs: contexts, ignore files, front end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from arkwright.attest.statement import ResourceDescriptor
from arkwright.build.bridge import BuildBridge
from arkwright.build.contexts import MAIN, ContextLoader, Contexts
from arkwright.build.gate import Gate
from arkwright.build.means import Means
from arkwright.build.opening import check_contexts, open_gate
from arkwright.build.policing import check_graph
from arkwright.build.request import BuildRequest
from arkwright.build.scans import Scan
from arkwright.diagnostics.errors import Diagnostic, Severity
from arkwright.events.types import Warning
from arkwright.frontends.base import FrontendImage, FrontendRequest, FrontendResult
from arkwright.frontends.table import load
from arkwright.layer.profile import CONSTANT_EPOCH
from arkwright.layer.stamps import Stamps
from arkwright.oci.platform import Platform, host_platform

_EPOCH = "SOURCE_DATE_EPOCH"

if TYPE_CHECKING:
    from arkwright.build.settled import Outcomes
    from arkwright.frontends.dockerfile.calls import CheckReport, Outline, Target
    from arkwright.graph.ops import SourceOp
    from arkwright.images.containers import Settled
    from arkwright.sources.base import PinnedImage


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
    stamps: Stamps = Stamps()
    # Digests of the files that allowed it.
    policies: tuple[str, ...] = ()
    # Trees that are looked at for package lists: behind those of the targets, `images` has one for each.
    scans: tuple[Scan, ...] = ()
    # Of working containers: what vertices gave earlier, whether only trees are wanted, and who takes
    # note of what came out, with the store open.
    settled: Mapping[str, Settled] = {}
    # Of a commit: what the commands that made the container pinned and read.
    sources: tuple[ResourceDescriptor, ...] | None = None
    only_trees: bool = False
    done: Callable[[Means, Outcomes], None] = lambda means, outcomes: None


def compile_request(request: BuildRequest, means: Means) -> Compiled:
    """Load the contexts and run the front end; runs no step and fetches no layer."""
    gate = open_gate(request, means, warner(means))
    contexts, bridge, asked = _ask(request, means, gate)
    frontend = load("dockerfile")
    targets = [msgspec.structs.replace(asked, target=one.target) for one in request.parts()]
    made = [frontend(bridge, target) for target in targets]
    check_graph(gate.policies, [image for one in made for image in one.images])
    if request.hermetic:
        from arkwright.build.hermetic import check_hermetic

        check_hermetic([image.definition for one in made for image in one.images])
    scans, looked_at = _scans(request, list(zip(targets, made, strict=True)), means)
    check_graph(gate.policies, looked_at, are_results=False)
    # What comes of build arguments and of the environment is the same for all targets.
    metadata = made[0].metadata
    proxies = msgspec.json.decode(metadata.get("proxy-env", "[]"), type=tuple[str, ...])
    stated = metadata.get("epoch")
    epoch = _default_epoch(request, contexts) if stated is None else int(stated)
    return Compiled(
        images=(*(image for one in made for image in one.images), *looked_at),
        counts=tuple(len(one.images) for one in made),
        scans=scans,
        contexts=contexts,
        epoch=epoch,
        stamps=_stamps(request, epoch, means),
        policies=tuple(policy.digest for policy in gate.policies),
        step_env=proxies,
        as_index="multi-platform" in metadata,
    )


def _scans(
    request: BuildRequest, targets: Sequence[tuple[FrontendRequest, FrontendResult]], means: Means
) -> tuple[tuple[Scan, ...], tuple[FrontendImage, ...]]:
    if not request.attest.sbom:
        return (), ()
    from arkwright.build.scan_targets import scans_of

    return scans_of(request.attest, targets, means)


def _default_epoch(request: BuildRequest, contexts: Contexts) -> int:
    if contexts.commit_epoch is not None:
        return contexts.commit_epoch
    # Who keeps the times of files does not want an image of the year 2000 around them.
    return int(time.time()) if request.timestamps == "keep" else CONSTANT_EPOCH


def _stamps(request: BuildRequest, epoch: int, means: Means) -> Stamps:
    if request.timestamps == "clamp" and epoch > time.time():
        message = f"SOURCE_DATE_EPOCH is {epoch}, which is yet to come: --timestamps=clamp leaves the times of files made now"
        hint = "the image differs from build to build; name a time of the past"
        diagnostic = Diagnostic(code="epoch-in-future", message=message, hint=hint, severity=Severity.WARNING)
        means.stream.emit(Warning(diagnostic=diagnostic))
    return Stamps(rule=request.timestamps, epoch=epoch)


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


def _ask(
    request: BuildRequest, means: Means, gate: Gate | None = None
) -> tuple[Contexts, BuildBridge, FrontendRequest]:
    request = msgspec.structs.replace(request, build_args=with_epoch(request))
    # A build with lists of packages does what the front end knows nothing of.
    warn = warner(means, ("no-attestations",) if request.attest.sbom else ())
    gate = gate or open_gate(request, means, warn)
    loader = ContextLoader(means.scratch, means.file_source)
    contexts = loader.load(request)
    check_contexts(gate, request, contexts)
    bridge = BuildBridge(
        trees=contexts.trees,
        inputs=contexts.inputs,
        images=means.images,
        resolve_mode="pull" if request.pull else "default",
        warn=warn,
        times=contexts.times,
        file_source=means.file_source,
        pin_together=None if gate.recording else partial(_pin_together, means),
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
        network="none" if request.hermetic else request.network,
        extra_hosts=request.extra_hosts,
        ulimits=request.ulimits,
        shm_size=request.shm_size,
        resolve_mode="pull" if request.pull else "default",
        epoch=CONSTANT_EPOCH,
        allow=request.allow,
    )
    return contexts, bridge, asked


def _pin_together(means: Means, asked: Sequence[tuple[SourceOp, Platform]]) -> list[PinnedImage | None]:
    from arkwright.build.ahead import pin_behind

    return pin_behind(means.door, means.store, asked, tls_verify=means.tls_verify)


def every_image(request: BuildRequest, means: Means, gate: Gate) -> Iterator[FrontendImage]:
    """What the request's targets are, for each platform; with no target, every stage. Runs no step.

    Raises what the front end raises.
    """
    from arkwright.frontends.dockerfile.calls import targets

    _, bridge, asked = _ask(request, means, gate)
    frontend = load("dockerfile")
    named = tuple(one.target for one in request.targets) or ((request.target,) if request.target else ())
    stages = named or tuple(str(number) for number, _ in enumerate(targets(bridge, asked)))
    for stage in stages:
        yield from frontend(bridge, msgspec.structs.replace(asked, target=stage)).images


def warner(means: Means, beside: Sequence[str] = ()) -> Callable[[Diagnostic], None]:
    """Tells each finding once: several targets have findings in common. Codes in `beside` are not told."""
    warned: set[Diagnostic] = set()

    def warn(diagnostic: Diagnostic) -> None:
        if diagnostic not in warned and diagnostic.code not in beside:
            warned.add(diagnostic)
            means.stream.emit(Warning(diagnostic=diagnostic))

    return warn


def _ordered(platforms: tuple[Platform, ...]) -> tuple[Platform, ...]:
    """Each platform once, in an order that does not depend on how the user listed them: the index
    is the same either way."""
    return tuple(sorted(dict.fromkeys(platforms), key=str))


def with_epoch(request: BuildRequest) -> dict[str, str]:
    """The build arguments with SOURCE_DATE_EPOCH: of the option, else as given, else, as buildx
    does, of the environment."""
    stated = os.environ.get(_EPOCH, "")
    if request.epoch is not None:
        return {**request.build_args, _EPOCH: str(request.epoch)}
    if stated and _EPOCH not in request.build_args:
        return {**request.build_args, _EPOCH: stated}
    return request.build_args
