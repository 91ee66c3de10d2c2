"""Claims between real processes: who waits for whom, takes over, and does not join at all."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from arkwright.cache.mounts import mount_name
from arkwright.events.journal import read_journal
from arkwright.events.types import AnyEvent, CacheHit, Started, Waiting
from building import Builder, Context, MakeBuilder, processes_with, wait_until_gone


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def journals(builder: Builder) -> dict[str, list[AnyEvent]]:
    return {
        path.parent.name: list(read_journal(str(path)))
        for path in (builder.store / "history").glob("*/journal.jsonl")
    }


def having(builder: Builder, kind: type) -> dict[str, list[AnyEvent]]:
    found = {
        build: [event for event in events if isinstance(event, kind)]
        for build, events in journals(builder).items()
    }
    return {build: events for build, events in found.items() if events}


def gated(context: Context, marker: str) -> Path:
    """A context with a step that lasts until its gate is open, and that can be found by its marker."""
    step = f"until test -e /gate/open; do sleep 0.02; done; : {marker}; echo x > /x"
    return context(
        {"Dockerfile": f"FROM busybox\nRUN --mount=type=cache,id=gate,target=/gate {step}\n"}, marker
    )


def open_gate(builder: Builder) -> None:
    (builder.store / "cache-mounts" / mount_name("gate") / "shared" / "open").touch()


def test_who_waits_sees_for_whom_and_takes_the_result(builder: Builder, context: Context) -> None:
    marker = f"waited-{os.getpid()}-{builder.identity}"
    root = gated(context, marker)
    first = builder.start("build", "-q", str(root))
    until(lambda: processes_with(f": {marker}"))
    second = builder.start("build", "--progress", "plain", str(root))
    until(lambda: having(builder, Waiting))
    open_gate(builder)
    one, two = first.communicate(timeout=120), second.communicate(timeout=120)
    assert (first.returncode, second.returncode) == (0, 0), one + two
    ((holder, _),) = having(builder, Started).items()
    ((_, (waiting,)),) = having(builder, Waiting).items()
    assert isinstance(waiting, Waiting)
    assert (waiting.holder, waiting.pid) == (holder, first.pid)
    assert f"waiting for build {holder} (pid {first.pid})" in two[1]
    assert len(having(builder, CacheHit)) == 1


def test_the_claim_of_a_killed_builder_is_taken_over(builder: Builder, context: Context) -> None:
    marker = f"taken-{os.getpid()}-{builder.identity}"
    root = gated(context, marker)
    first = builder.start("build", "-q", str(root))
    until(lambda: processes_with(f": {marker}"))
    second = builder.start("build", "-q", str(root))
    until(lambda: having(builder, Waiting))
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=120)
    open_gate(builder)
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    assert len(having(builder, Started)) == 2
    wait_until_gone(marker)
    assert builder.build(root).digest == out.strip()
    assert list((builder.store / "claims").iterdir()) == []


def test_a_build_without_cache_neither_joins_nor_is_joined(
    make_builder: MakeBuilder, context: Context
) -> None:
    builder = make_builder("root")
    marker = f"alone-{os.getpid()}"
    root = gated(context, marker)
    first = builder.start("build", "-q", "--no-cache", str(root))
    until(lambda: len(processes_with(f": {marker}")) == 1)
    others = [builder.start("build", "-q", *more, str(root)) for more in (["--no-cache"], [])]
    until(lambda: len(having(builder, Started)) == 3)
    open_gate(builder)
    outputs = [process.communicate(timeout=120) for process in (first, *others)]
    assert having(builder, Waiting) == {}
    assert len({out for out, _ in outputs}) == 1


def test_claims_that_killed_builders_left_are_cleared_away(
    make_builder: MakeBuilder, context: Context
) -> None:
    builder = make_builder("root")
    left = builder.store / "claims" / ("0" * 64)
    left.write_text("a build that was killed")
    builder.build(context({"Dockerfile": "FROM busybox\nRUN true\n"}))
    assert not left.exists()
