"""The build request: all that a build needs to know, serialisable.

Secrets, agent sockets and credentials are not here: they belong to the session.
"""

from __future__ import annotations

import msgspec

from arkwright.exporters.base import Output
from arkwright.graph.ops import Ulimit
from arkwright.oci.platform import Platform


class BuildRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One `arkwright build`.

    `context` is a directory path, a URL, a git URL or `-`; `dockerfile` a path, a URL, `-`, or
    empty for the default in the context. `named_contexts` maps NAME (lower-cased, maybe with
    `::platform`) to what the user wrote. `isolation` is `oci` (the first
    runtime that works), `crun` or `runc`. `epoch` is None for "from the git context, else the
    constant". `jobs` 0 means one per CPU.
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
    isolation: str = "oci"
    jobs: int = 0
    scrub: str = "default"
    epoch: int | None = None
    compression: str = "gzip"


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What a build did. `digest` is that of the index or manifest; `exports` one per output;
    `profile` the compression profile; times in seconds; `steps` counts vertices."""

    build: str
    digest: str = ""
    config_digest: str = ""
    exports: tuple[msgspec.Raw, ...] = ()
    profile: str = ""
    duration_s: float = 0.0
    steps_run: int = 0
    steps_cached: int = 0
    tiers: tuple[str, ...] = ()
