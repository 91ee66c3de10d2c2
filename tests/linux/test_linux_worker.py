"""The worker: what it is, what it can start, and how errors come back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from linux_harness import Started

Call = Callable[..., Any]


@pytest.fixture
def call(start: Callable[..., Started]) -> Call:
    def run(name: str, identity: str) -> Any:
        status, out = start("call", identity, name).finish()
        assert status == 0, out
        return json.loads(out)

    return run


def test_facts(call: Call, identity: str) -> None:
    assert call("facts", identity) == {
        "rootless": identity != "root",
        "single": identity == "single",
        "uid": 0,
        "maps": [True, identity != "single"],
        "threads": "2",  # main and the one that waits for the wish to stop
        "group": True,
        "mode": "0o700",
    }


def test_spawn(call: Call, identity: str) -> None:
    *said, signals = call("spawn", identity)
    assert said == [
        "a b|3",
        "/usr|0",
        "|-9",
        "/dev/null|0",
        "1|0",
    ]
    # posix_spawn(3) of glibc leaves its two internal signals, 32 and 33, ignored.
    assert signals.replace("0000000180000000", "0" * 16) == f"SigBlk:{'0' * 16}SigIgn:{'0' * 16}|0"


def test_steps_inherit_only_what_they_are_given(call: Call) -> None:
    # 3 is the directory that ls itself reads.
    assert call("leaks", "root") == "0 1 2 3|0"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("refusals", [2, 2]),
        ("many", True),
        ("large", 0),
        ("kill", ["", -9]),
        ("daemons", "clean|0"),
        ("locks", True),
    ],
)
def test_processes(call: Call, name: str, expected: object) -> None:
    assert call(name, "root") == expected


def test_mounts_of_the_worker_reach_steps(call: Call, identity: str) -> None:
    assert call("propagation", identity) == "seen|0"


def test_overlay_of_hundreds_of_layers(call: Call, identity: str) -> None:
    assert call("many_layers", identity) == [400, 399, 0, False]


def test_refused_overlay_is_the_hosts_fault(call: Call) -> None:
    found = call("overlay_refused", "root")
    assert found["code"] == "mount-refused"
    assert found["exit"] == 4
    assert found["details"]["fix"]


def test_errors_cross_the_process_boundary(call: Call) -> None:
    assert call("user_error", "root") == {"code": "some-code", "details": {"n": 1}, "exit": 1}


def test_a_bug_comes_with_its_traceback(call: Call) -> None:
    found = call("bug", "root")
    assert found["code"] == "internal-error"
    assert found["exit"] == 70
    assert "ZeroDivisionError" in found["details"]["traceback"]


def test_a_worker_that_vanishes(call: Call) -> None:
    found = call("exits", "root")
    assert found["code"] == "worker-died"
    assert found["details"] == {"status": 9, "signal": None}


def test_large_results(call: Call) -> None:
    assert len(call("big", "root")) == 5_000_000
