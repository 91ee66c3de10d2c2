"""Nothing survives: steps and mounts end with any process of ours, whatever kills it."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from linux_harness import Started, eventually, processes_with

from building import host_mounts

Start = Callable[..., Started]


def _marker() -> str:
    """A number that `sleep` accepts as one more argument, and no other process has."""
    return f"0.{random.randrange(10**15):015d}"


def _init_of(worker_pid: int) -> int:
    children = Path(f"/proc/{worker_pid}/task/{worker_pid}/children").read_text().split()
    assert len(children) == 1
    return int(children[0])


@pytest.mark.parametrize("victim", ["supervisor", "worker", "init"])
def test_kill(start: Start, identity: str, victim: str) -> None:
    marker, mounts = _marker(), host_mounts()
    script = start("steps", identity, marker)
    supervisor, worker = map(int, script.line().split())
    pids = {"supervisor": supervisor, "worker": worker, "init": _init_of(worker)}
    assert eventually(lambda: len(processes_with(marker)) >= 4)
    os.kill(pids[victim], signal.SIGKILL)
    assert eventually(lambda: not processes_with(marker)), processes_with(marker)
    assert host_mounts() == mounts
    status, out = script.finish()
    if victim == "supervisor":
        assert status == -signal.SIGKILL
    else:
        assert out.split()[0] == {"worker": "worker-died", "init": "init-died"}[victim]
    # The store serves the next worker.
    again = start("call", identity, "facts")
    assert again.finish()[0] == 0


@pytest.mark.parametrize("delay", range(12))
def test_kill_of_the_supervisor_at_any_moment(start: Start, delay: int) -> None:
    """Swept over the start of a worker: before, during and after its namespaces are made."""
    marker = _marker()
    script = start("steps", "root", marker)
    seen = f"/proc/{script.process.pid}/task/{script.process.pid}/children"
    eventually(lambda: bool(Path(seen).read_text().strip()))
    for _ in range(delay * delay * 200):
        pass
    script.process.kill()
    assert eventually(lambda: not processes_with(marker)), processes_with(marker)


def test_the_first_signal_asks(start: Start, identity: str) -> None:
    marker = _marker()
    script = start("steps", identity, marker)
    script.line()
    script.process.send_signal(signal.SIGINT)
    assert script.line() == "cancelled"
    status, out = script.finish()
    assert (status, out.strip()) == (0, "stopped")
    # The worker waited for its steps' end before it reported.
    assert processes_with(marker) == []


def test_the_second_signal_kills(start: Start) -> None:
    marker = _marker()
    script = start("steps", "root", marker, "stubborn")
    script.line()
    script.process.send_signal(signal.SIGTERM)
    assert script.line() == "cancelled"
    script.process.send_signal(signal.SIGINT)
    _, out = script.finish()
    assert out.split()[0] == "cancelled"
    assert processes_with(marker) == []


def test_a_terminated_worker_is_reported(start: Start) -> None:
    marker = _marker()
    script = start("steps", "root", marker)
    worker = int(script.line().split()[1])
    os.kill(worker, signal.SIGTERM)
    _, out = script.finish()
    assert out.split() == ["worker-died", str(int(signal.SIGTERM))]
    assert processes_with(marker) == []
