"""The build request: all that a build needs to know, serialisable.

Secrets, agent sockets and credentials are not here: they belong to the session.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from arkwright.cache.remote_options import RemoteSpec
from arkwright.exporters.base import Output
from arkwright.graph.ops import Ulimit
from arkwright.oci.platform import Platform
from arkwright.sandbox.spec import StepLimits


class BuildTarget(msgspec.Struct, frozen=True, kw_only=True):
    """One of several targets of a build: a stage (empty: the last one), and what becomes of it."""

    target: str
    names: tuple[str, ...] = ()
    outputs: tuple[Output, ...] = ()


class StepWeight(msgspec.Struct, frozen=True, kw_only=True):
    """What a step takes of the host while it runs: CPUs, and memory in bytes."""

    cpus: float = 1.0
    memory: int = 0


class Attest(msgspec.Struct, frozen=True, kw_only=True):
    """What is attached to an image that is pushed: its provenance, the packages that it is made of. `inline` puts
    them into an index with the image, as BuildKit does, instead of beside it. `generator` is an image that lists
    the packages, with `parameters` of its own; without, they are listed without another program."""

    provenance: bool = False
    sbom: bool = False
    inline: bool = False
    generator: str = ""
    parameters: dict[str, str] = {}


class BuildRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One `arkwright build`.

    `target`, `names` and `outputs` are of a build with one target; `targets` stand in their place
    when there are several, which are solved together (see `parts`). `step_weights` are by stage
    (lower-cased), with `""` for all others; `memory` is what steps may fill together, in bytes (0:
    the host's). With `keep_going` a failed step stops only the steps that need it.

    `context` is a directory path, a URL, a git URL or `-`; `dockerfile` a path, a URL, `-`, or
    empty for the default in the context. `named_contexts` maps NAME (lower-cased, maybe with
    `::platform`) to what the user wrote. `isolation` is one of `sandbox.choice.ISOLATIONS`:
    `auto` is the strongest that works. `limits` is what one step may take. `allow` lists the entitlements of steps (`network.host`, `security.insecure`). `on_error` `shell` opens a shell where a step
    failed, on the caller's terminal. `epoch` is None for "from the git context, else the
    constant"; `timestamps` is the rule for times in layers (see `layer.stamps`). `hermetic` takes the network
    from every step (see `build.hermetic`). `policies` are paths of files that all have to allow what comes in.
    `lock` says whether a lock file is used when there is one, must have everything, or is not looked at; `lock_file`
    is its path, empty for the one beside the Dockerfile. `jobs` 0 means one per CPU. `provenance` is `min`, `max`, or `none` to keep no facts of the
    build; `builder_id` names the builder in it, as a URI.
    """

    context: str
    dockerfile: str = ""
    names: tuple[str, ...] = ()
    target: str = ""
    build_args: dict[str, str] = {}
    named_contexts: dict[str, str] = {}
    platforms: tuple[Platform, ...] = ()
    outputs: tuple[Output, ...] = ()
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    no_cache: bool = False
    no_cache_filter: tuple[str, ...] = ()
    network: str = "default"
    extra_hosts: tuple[tuple[str, str], ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    shm_size: int = 0
    pull: bool = False
    isolation: str = "auto"
    limits: StepLimits = StepLimits()
    allow: tuple[str, ...] = ()
    jobs: int = 0
    memory: int = 0
    step_weights: dict[str, StepWeight] = {}
    keep_going: bool = False
    on_error: str = ""
    targets: tuple[BuildTarget, ...] = ()
    scrub: str = "default"
    epoch: int | None = None
    timestamps: Literal["constant", "clamp", "source", "keep"] = "constant"
    hermetic: bool = False
    policies: tuple[str, ...] = ()
    lock: Literal["use", "must", "ignore"] = "use"
    lock_file: str = ""
    provenance: str = "min"
    builder_id: str = ""
    attest: Attest = Attest()
    compression: str = "gzip"
    cache_from: tuple[RemoteSpec, ...] = ()
    cache_to: tuple[RemoteSpec, ...] = ()
    cache_export_timeout_s: float = 300.0

    def publishes(self) -> bool:
        """Whether the build has something to write to a remote cache, for which it needs the worker."""
        return any(spec.type != "inline" for spec in self.cache_to)

    def parts(self) -> tuple[BuildRequest, ...]:
        """One request per target; the request itself when it has but one."""
        return tuple(
            msgspec.structs.replace(self, target=one.target, names=one.names, outputs=one.outputs, targets=())
            for one in self.targets
        ) or (self,)


class TargetReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one target: as the fields of that name of `Receipt`."""

    target: str
    names: tuple[str, ...] = ()
    digest: str = ""
    config_digest: str = ""
    exports: tuple[msgspec.Raw, ...] = ()


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What a build did. `digest` is that of the index or manifest; `exports` one per output;
    `profile` the compression profile; times in seconds; `steps` counts vertices. `targets` has one
    entry per target; with several, the fields above them are of the first."""

    build: str
    digest: str = ""
    config_digest: str = ""
    exports: tuple[msgspec.Raw, ...] = ()
    profile: str = ""
    duration_s: float = 0.0
    steps_run: int = 0
    steps_cached: int = 0
    tiers: tuple[str, ...] = ()
    targets: tuple[TargetReceipt, ...] = ()
