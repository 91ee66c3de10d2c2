"""The builds of a store, as their journals tell them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Literal

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.events.journal import is_written, journal_path, read_journal
from arkwright.events.types import (
    AnyEvent,
    CacheHit,
    Closed,
    Declared,
    Exported,
    Failed,
    Finished,
    Log,
    Opened,
    Started,
    Warning,
)

Status = Literal["running", "succeeded", "failed", "cancelled", "killed"]
# The last event of a journal fits, unless an error message is larger than any person reads.
_TAIL = 1 << 16


class BuildSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One build. `at` is its beginning in nanoseconds since the epoch, 0 when its journal does not
    tell; `duration_s` 0 for one that has no end."""

    build: str
    status: Status
    at: int = 0
    duration_s: float = 0.0
    context: str = ""
    dockerfile: str = ""
    targets: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    build_args: dict[str, str] = {}
    named_contexts: dict[str, str] = {}
    digest: str = ""
    code: str = ""
    message: str = ""
    steps_run: int = 0
    steps_cached: int = 0


class StepSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One step that began or was cached, in that order. `log_size` counts bytes."""

    vertex: str
    name: str
    status: Literal["running", "done", "cached", "failed", "cancelled", "stopped"]
    duration_s: float = 0.0
    tier: str = ""
    message: str = ""
    log_size: int = 0


class BuildDetail(msgspec.Struct, frozen=True, kw_only=True):
    """A build with its steps, outputs and the messages of its warnings."""

    summary: BuildSummary
    steps: tuple[StepSummary, ...]
    outputs: tuple[Exported, ...]
    warnings: tuple[str, ...]


def list_builds(root_path: str) -> list[BuildSummary]:
    """All builds with a journal, newest first; only the ends of the journals are read."""
    found = [summarise(root_path, build) for build in build_ids(root_path)]
    return sorted(found, key=lambda one: (one.at, one.build), reverse=True)


def build_ids(root_path: str) -> list[str]:
    """Builds with a journal, by name."""
    try:
        names = os.listdir(os.path.join(root_path, "history"))
    except FileNotFoundError:
        return []
    return sorted(name for name in names if os.path.isfile(journal_path(root_path, name)))


def summarise(root_path: str, build: str) -> BuildSummary:
    """What a journal's first and last event say."""
    path = journal_path(root_path, build)
    opened, closed = _ends(path)
    status: Status = closed.status if closed is not None else "running" if is_written(path) else "killed"
    if status == "killed":
        # It may have ended between the two looks.
        closed = _ends(path)[1]
        status = closed.status if closed is not None else status
    opened = opened or Opened(context="")
    closed = closed or Closed(status="failed")
    return BuildSummary(
        build=build, status=status, at=opened.at, duration_s=closed.duration_s, context=opened.context,
        dockerfile=opened.dockerfile, targets=opened.targets, platforms=opened.platforms,
        names=opened.names, build_args=opened.build_args, named_contexts=opened.named_contexts,
        digest=closed.digest, code=closed.code, message=closed.message,
        steps_run=closed.steps_run, steps_cached=closed.steps_cached,
    )  # fmt: skip


def detail(root_path: str, build: str) -> BuildDetail:
    """Everything but the logs. Raises `UserError` `missing-journal`, `corrupt-journal`."""
    steps: dict[str, StepSummary] = {}
    began: dict[str, int] = {}
    names: dict[str, str] = {}
    outputs: list[Exported] = []
    warnings: list[str] = []
    for event in read_journal(journal_path(root_path, build)):
        match event:
            case Declared():
                names[event.vertex] = event.name
            case Exported():
                outputs.append(event)
            case Warning():
                warnings.append(event.diagnostic.message)
            case Started() | CacheHit() | Log() | Finished() | Failed():
                began.setdefault(event.vertex, event.mono)
                known = steps.get(event.vertex) or StepSummary(
                    vertex=event.vertex, name=names.get(event.vertex, event.vertex), status="running"
                )
                steps[event.vertex] = _after(known, event, (event.mono - began[event.vertex]) / 1e9)
    summary = summarise(root_path, build)
    if summary.status != "running":
        for vertex, step in steps.items():
            if step.status == "running":
                steps[vertex] = msgspec.structs.replace(step, status="stopped")
    return BuildDetail(
        summary=summary, steps=tuple(steps.values()), outputs=tuple(outputs), warnings=tuple(warnings)
    )


def _after(
    step: StepSummary, event: Started | CacheHit | Log | Finished | Failed, duration_s: float
) -> StepSummary:
    match event:
        case Started():
            return msgspec.structs.replace(step, tier=event.tier)
        case CacheHit():
            return msgspec.structs.replace(step, status="cached")
        case Log():
            return msgspec.structs.replace(step, log_size=step.log_size + len(event.data))
        case Finished():
            if step.status == "cached":
                return step
            return msgspec.structs.replace(step, status="done", duration_s=duration_s)
        case Failed():
            status: Literal["failed", "cancelled"] = "cancelled" if event.cancelled else "failed"
            return msgspec.structs.replace(step, status=status, duration_s=duration_s, message=event.message)


def logs(root_path: str, build: str, step: str = "") -> Iterator[tuple[str, Log]]:
    """What steps printed, with their names. `step` is a part of a name or of a vertex digest; all
    by default.

    Raises `UserError` `unknown-step` when the build has none of that name.
    """
    names: dict[str, str] = {}
    known = False
    for event in read_journal(journal_path(root_path, build)):
        if isinstance(event, Declared):
            names[event.vertex] = event.name
            known = known or _is_step(step, event)
        elif isinstance(event, Log):
            name = names.get(event.vertex, event.vertex)
            if step in name or event.vertex.startswith((step, f"sha256:{step}")):
                yield name, event
    if step and not known:
        raise UserError.of(
            "unknown-step",
            f"build {build} has no step with {step!r} in its name",
            hint=f"see `arkwright history show {build}`",
        )


def _is_step(wanted: str, declared: Declared) -> bool:
    return wanted in declared.name or declared.vertex.startswith((wanted, f"sha256:{wanted}"))


def remove(root_path: str, builds: list[str]) -> int:
    """Delete the journals of builds, but for those that still run; how many went."""
    count = 0
    for build in builds:
        path = journal_path(root_path, build)
        if not is_written(path):
            shutil.rmtree(os.path.dirname(path), ignore_errors=True)
            count += not os.path.exists(path)
    return count


def _ends(path: str) -> tuple[Opened | None, Closed | None]:
    try:
        with open(path, "rb") as journal:
            first = journal.readline()
            journal.seek(max(0, os.fstat(journal.fileno()).st_size - _TAIL))
            last = journal.read().removesuffix(b"\n").rpartition(b"\n")[2]
    except OSError:
        return None, None
    opened, closed = _decoded(first), _decoded(last)
    return (
        opened if isinstance(opened, Opened) else None,
        closed if isinstance(closed, Closed) else None,
    )


def _decoded(line: bytes) -> AnyEvent | None:
    try:
        event: AnyEvent = msgspec.json.decode(line, type=AnyEvent)
    except msgspec.MsgspecError:
        return None
    return event
