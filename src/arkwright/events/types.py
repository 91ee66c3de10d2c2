"""The events of one build: immutable facts, in order, from which every view is folded.

Times: `at` is wall time in nanoseconds since the epoch, `mono` the monotonic clock in
nanoseconds; both are read by `EventStream.emit`. `vertex` is a vertex digest (`sha256:…`).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from arkwright.diagnostics.errors import Diagnostic


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", omit_defaults=True):
    """Common to all events; `build`, `seq`, `at` and `mono` are filled in by the stream."""

    build: str = ""
    seq: int = 0
    at: int = 0
    mono: int = 0


class Opened(Event, frozen=True, kw_only=True, tag="opened"):
    """A build began: what was asked for. Credentials in URLs and the values of arguments with names
    of secrets are left out."""

    context: str
    dockerfile: str = ""
    targets: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    build_args: dict[str, str] = {}
    named_contexts: dict[str, str] = {}


class Closed(Event, frozen=True, kw_only=True, tag="closed"):
    """A build ended. A journal without this is of a build that runs, or was killed.

    `digest` is that of the index or manifest; `steps` count vertices; `code` is the error's."""

    status: Literal["succeeded", "failed", "cancelled"]
    digest: str = ""
    code: str = ""
    message: str = ""
    duration_s: float = 0.0
    steps_run: int = 0
    steps_cached: int = 0


class Declared(Event, frozen=True, kw_only=True, tag="declared"):
    """A vertex is part of this build. `name` is for people; `inputs` are vertex digests;
    `group` names the stage or platform that it belongs to."""

    vertex: str
    name: str
    inputs: tuple[str, ...] = ()
    group: str = ""


class Started(Event, frozen=True, kw_only=True, tag="started"):
    """Work on the vertex began. `tier` names the isolation when the vertex runs a command; `key` is
    the cache key (`sha256:…`) that had no record; `asked` whether the cache was looked at for it."""

    vertex: str
    tier: str = ""
    key: str = ""
    asked: bool = True


class Waiting(Event, frozen=True, kw_only=True, tag="waiting"):
    """Another build runs the same vertex, and its result is awaited; `holder` is that build's id,
    `pid` the process that the user started for it (0 when unknown)."""

    vertex: str
    holder: str = ""
    pid: int = 0


class CacheHit(Event, frozen=True, kw_only=True, tag="cache-hit"):
    """The vertex' result was already there. `origin` says from where (`local`, or a remote's
    name), `recorded_at` when (nanoseconds), `by` which key matched; `key` is the vertex' own cache
    key (`sha256:…`), empty for a lazy source."""

    vertex: str
    origin: str = "local"
    recorded_at: int = 0
    by: Literal["definition", "content"] = "definition"
    key: str = ""


class Progress(Event, frozen=True, kw_only=True, tag="progress"):
    """`done` of `total` units of a named piece of work; `total` 0 when unknown. Coalesced."""

    vertex: str
    item: str
    done: int
    total: int = 0
    unit: str = "bytes"


class Log(Event, frozen=True, kw_only=True, tag="log"):
    """Output of a step: `fd` 1 or 2. Never dropped, never cut within one write."""

    vertex: str
    fd: int
    data: bytes


class Warning(Event, frozen=True, kw_only=True, tag="warning"):
    """A diagnostic that does not fail the build."""

    diagnostic: Diagnostic
    vertex: str = ""


class Finished(Event, frozen=True, kw_only=True, tag="finished"):
    """The vertex has its result."""

    vertex: str


class Failed(Event, frozen=True, kw_only=True, tag="failed"):
    """The vertex has no result; `cancelled` when a sibling's failure or the user stopped it."""

    vertex: str
    message: str
    cancelled: bool = False


class Exported(Event, frozen=True, kw_only=True, tag="exported"):
    """An exporter is done: `kind` of output, where it went, and the digest of what it wrote."""

    kind: str
    destination: str
    digest: str = ""
    names: tuple[str, ...] = ()


AnyEvent = (
    Opened
    | Declared
    | Waiting
    | Started
    | CacheHit
    | Progress
    | Log
    | Warning
    | Finished
    | Failed
    | Exported
    | Closed
)
