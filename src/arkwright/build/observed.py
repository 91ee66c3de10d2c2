"""What a build observed: the facts that its provenance is made of.

The side of the fork that solves hands back what it pinned and read; which steps ran, and how, the events tell.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Container, Iterator, Mapping, Sequence

import msgspec

from arkwright import __version__
from arkwright.attest import kept
from arkwright.attest.provenance import LOCAL_BUILDER, TREE, BuildFacts, Image, Step
from arkwright.attest.statement import ResourceDescriptor, digest_set
from arkwright.build.closing import HIDDEN, opened
from arkwright.build.compile import Compiled
from arkwright.build.contexts import MAIN, Contexts
from arkwright.build.export import Outcome
from arkwright.build.recipe import LAYOUT, recipe_of
from arkwright.build.request import BuildRequest
from arkwright.build.session import SessionInputs
from arkwright.diagnostics.errors import Diagnostic, Severity
from arkwright.events.stream import EventStream
from arkwright.events.types import AnyEvent, CacheHit, Started, Warning
from arkwright.frontends.secret_names import is_secret_name
from arkwright.graph.inspect import describe_vertex
from arkwright.graph.ops import ExecOp
from arkwright.oci.platform import host_platform
from arkwright.ops.contexts import ContextReader
from arkwright.ops.source import Pins
from arkwright.sources.base import Pinned, PinnedImage

# A value as short as this is no secret, and would be found everywhere.
_SHORT = 3
# Their names hold no credentials, and look like URLs that do when they name a digest.
_IMAGES = ("docker-image://", "oci-layout://")


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What the side that solved pinned and read (names of contexts), and what ran its steps."""

    sources: tuple[ResourceDescriptor, ...] = ()
    contexts: tuple[str, ...] = ()
    runtime: str = ""
    # Digests of images by the places of layouts that they were found at, which are of this machine.
    layouts: dict[str, str] = {}


class Told:
    """A subscriber that remembers which vertices ran, in which tier, and where hits came from."""

    def __init__(self) -> None:
        self.tiers: dict[str, str] = {}
        self.origins: dict[str, str] = {}

    def __call__(self, event: AnyEvent) -> None:
        if isinstance(event, Started):
            self.tiers[event.vertex] = event.tier
        elif isinstance(event, CacheHit) and event.origin != "local":
            self.origins[event.vertex] = event.origin


def seen(pins: Pins, readers: Mapping[str, ContextReader], contexts: Contexts, runtime: str = "") -> Seen:
    """The pinned sources, and the contexts as far as they were read; sorted, each once."""
    found = [resource_of(one) for one in (*pins.images.values(), *pins.files.values())]
    found += [resource_of(one) for one in contexts.pinned.values()]
    read = {name: digest for name, reader in readers.items() if (digest := reader.read_digest())}
    found += [
        ResourceDescriptor(
            name=name if name == MAIN else f"context:{name}", digest={TREE: digest.partition(":")[2]}
        )
        for name, digest in read.items()
    ]
    return Seen(
        sources=_each(*found),
        contexts=tuple(sorted(read)),
        runtime=runtime,
        layouts={
            one.op.identifier.partition("@")[0]: one.digest
            for one in pins.images.values()
            if one.op.identifier.startswith(LAYOUT)
        },
    )


def _each(*found: ResourceDescriptor) -> tuple[ResourceDescriptor, ...]:
    """Sorted, each once."""
    unique = {msgspec.json.encode(one, order="deterministic"): one for one in found}
    return tuple(one for _, one in sorted(unique.items()))


def resource_of(one: Pinned) -> ResourceDescriptor:
    """What was pinned, as a dependency."""
    notes: dict[str, str] = {}
    if isinstance(one, PinnedImage) and one.manifest.digest != one.digest:
        # An index is what the name stands for; the build used one manifest of it.
        notes["manifest"] = one.manifest.digest
    # Only commits have it, and their module is not for a build without any.
    signed = getattr(one, "signed", None)
    if signed is not None:
        notes["signature"] = "unchecked" if signed else "none"
    return ResourceDescriptor(uri=one.uri, digest=digest_set(one.digest), annotations=notes)


def keep_facts(facts: BuildFacts, root_path: str, stream: EventStream) -> None:
    """Keep them in the store. A full disk costs the provenance, and no build that is done."""
    try:
        kept.keep(root_path, facts)
    except OSError as error:
        message = f"the build's provenance cannot be kept: {error.strerror}"
        stream.emit(
            Warning(
                diagnostic=Diagnostic(code="unwritable-journal", message=message, severity=Severity.WARNING)
            )
        )


def facts_of(
    build: str,
    request: BuildRequest,
    session: SessionInputs,
    compiled: Compiled,
    found: Seen,
    told: Told,
    outcomes: Sequence[Outcome],
    duration_s: float,
) -> BuildFacts:
    """All that is known of a build at its end."""
    contexts, finished = compiled.contexts, time.time_ns()
    hidden = _hidden_values(request)
    main = contexts.pinned.get(MAIN)
    container = compiled.sources is not None
    recipe, hidden_args = ({}, ()) if container else recipe_of(request, contexts, found.layouts)
    return BuildFacts(
        build=build,
        frontend="container" if container else "dockerfile",
        mode="max" if request.provenance == "max" else "min",
        builder=request.builder_id or LOCAL_BUILDER,
        started=finished - int(duration_s * 1e9),
        finished=finished,
        images=tuple(
            Image(target=part.target, names=part.names, digests=outcome.digests)
            for part, outcome in zip(request.parts(), outcomes, strict=True)
            if outcome.digests
        ),
        context_uri=main.uri if main is not None else "",
        context_digest=main.digest if main is not None else "",
        dockerfile_path="" if container else _shown_path(contexts.dockerfile_path),
        dockerfile=contexts.dockerfile,
        dockerfile_digest=""
        if container
        else "sha256:" + hashlib.sha256(contexts.dockerfile.encode()).hexdigest(),
        args=_arguments(request, contexts)
        | ({"policy": ",".join(compiled.policies)} if compiled.policies else {}),
        hidden=any(map(is_secret_name, request.build_args)),
        contexts=tuple(name for name in found.contexts if name not in contexts.pinned),
        # A container knows them from its commands, under the names that they had there.
        sources=tuple(
            msgspec.structs.replace(one, uri=_scrubbed(one.uri, hidden))
            for one in compiled.sources or found.sources
        ),
        steps=tuple(_steps(compiled, session, told, hidden)),
        platform=str(host_platform()),
        epoch=compiled.epoch,
        profile=outcomes[0].profile,
        versions=_versions(found.runtime),
        recipe=recipe,
        hidden_args=hidden_args,
    )


def _arguments(request: BuildRequest, contexts: Contexts) -> dict[str, str]:
    """The parameters under the names that BuildKit's Dockerfile front end has for them."""
    asked = opened(request)
    found = {
        "target": ",".join(asked.targets),
        "platform": ",".join(asked.platforms),
        "no-cache": ",".join(request.no_cache_filter),
        "force-network-mode": "none"
        if request.hermetic
        else request.network
        if request.network != "default"
        else "",
        "add-hosts": ",".join(f"{name}={address}" for name, address in request.extra_hosts),
        "ulimit": ",".join(f"{one.name}={one.soft}:{one.hard}" for one in request.ulimits),
        "shm-size": str(request.shm_size or ""),
        "image-resolve-mode": "pull" if request.pull else "",
        "allow": ",".join(request.allow),
        "scrub": request.scrub if request.scrub != "default" else "",
        "isolation": request.isolation if request.isolation != "auto" else "",
        "timestamps": request.timestamps if request.timestamps != "constant" else "",
        "hermetic": "true" if request.hermetic else "",
        "locked": "true" if request.lock == "must" else "",
    }
    found = {name: value for name, value in found.items() if value}
    if request.no_cache:
        found["no-cache"] = ""
    found |= {f"build-arg:{name}": value for name, value in asked.build_args.items()}
    found |= {f"label:{name}": value for name, value in request.labels.items()}
    for name, value in asked.named_contexts.items():
        pinned = contexts.pinned.get(name)
        # A path of this machine says nothing elsewhere.
        local = request.named_contexts[name] if value.startswith(_IMAGES) else "local"
        found[f"context:{name}"] = local if pinned is None else pinned.uri
    return dict(sorted(found.items()))


def _steps(compiled: Compiled, session: SessionInputs, told: Told, hidden: Sequence[str]) -> Iterator[Step]:
    known: set[str] = set()
    for definition in [image.definition for image in compiled.images]:
        for digest in definition.walk():
            if digest in known:
                continue
            known.add(digest)
            vertex = definition.vertices[digest]
            name = definition.describe(digest).name or describe_vertex(vertex)
            before = compiled.settled.get(digest)
            step = Step(
                vertex=digest,
                name=_scrubbed(name, hidden),
                kind=str(vertex.op.__struct_config__.tag),
                inputs=tuple(dict.fromkeys(edge.vertex for edge in vertex.inputs)),
                cached=digest not in told.tiers,
                origin=told.origins.get(digest, "") if before is None else before.origin,
                tier=told.tiers.get(digest, "") if before is None else before.tier,
            )
            if isinstance(vertex.op, ExecOp):
                secrets, agents = (
                    (session.secrets, session.ssh) if before is None else (before.secrets, before.ssh)
                )
                step = _with_command(step, vertex.op, secrets, agents)
            yield step


def _with_command(step: Step, op: ExecOp, secrets: Container[str], given_agents: Container[str]) -> Step:
    """What a command could use; secrets and agents only as far as there were any to use."""
    asked = [mount.secret_id for mount in op.mounts if mount.type == "secret"]
    asked += [one.secret_id for one in op.secret_env]
    agents = [mount.secret_id or "default" for mount in op.mounts if mount.type == "ssh"]
    return msgspec.structs.replace(
        step,
        network=op.network,
        insecure=op.security == "insecure",
        cache_mounts=any(mount.type == "cache" for mount in op.mounts),
        secrets=tuple(sorted(one for one in set(asked) if one in secrets)),
        ssh=tuple(sorted(one for one in set(agents) if one in given_agents)),
    )


def _versions(runtime: str) -> dict[str, str]:
    found = {"arkwright": __version__, "python": sys.version.partition(" ")[0]}
    name, _, version = runtime.partition(" ")
    return {**found, name: version} if version else found


def _hidden_values(request: BuildRequest) -> list[str]:
    values = [value for name, value in request.build_args.items() if is_secret_name(name)]
    return sorted((value for value in values if len(value) > _SHORT), key=len, reverse=True)


def _scrubbed(text: str, hidden: Sequence[str]) -> str:
    for value in hidden:
        text = text.replace(value, HIDDEN)
    return text


def _shown_path(path: str) -> str:
    """A path as it was given, unless that says where something is on this machine."""
    return path.rpartition("/")[2] if path.startswith("/") else path
