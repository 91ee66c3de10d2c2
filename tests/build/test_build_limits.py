"""Limits of a step, enforced by control groups where they can be written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from building import Builder, Context, MakeBuilder

GROUPS = Path("/sys/fs/cgroup")


@pytest.fixture
def root_builder(make_builder: MakeBuilder) -> Builder:
    """Root, where control groups can be made; afterwards none is left."""
    if os.geteuid() != 0 or not os.access(GROUPS / "memory", os.W_OK):
        pytest.skip("needs-cgroups: writable control groups of version 1")
    return make_builder("root")


def left() -> list[Path]:
    return list(GROUPS.glob("*/arkwright-*"))


@pytest.mark.parametrize("isolation", ["crun", "runc", "bubblewrap", "chroot"])
def test_out_of_memory_is_reported(root_builder: Builder, context: Context, isolation: str) -> None:
    text = "FROM busybox\nRUN head -c 300m /dev/zero | tail > /dev/null\n"
    before = left()
    done = root_builder.run(
        "build", "-m", "24m", "--isolation", isolation, "--progress=plain", str(context({"Dockerfile": text})),
        status=1,
    )  # fmt: skip
    assert "error[step-failed]" in done.err
    assert "out of memory" in done.err
    assert left() == before


def test_processes_are_limited(root_builder: Builder, context: Context) -> None:
    text = "FROM busybox\nRUN for i in $(seq 30); do sleep 100 & done; wait\n"
    before = left()
    done = root_builder.run("build", "--pids-limit", "20", str(context({"Dockerfile": text})), status=1)
    assert "can't fork" in done.err
    assert left() == before


def test_groups_hold_what_was_asked_for(root_builder: Builder, context: Context) -> None:
    text = "FROM busybox\nRUN grep -E '^Cpus_allowed_list' /proc/self/status > /cpus\n"
    out = root_builder.home / "out"
    root = context({"Dockerfile": text})
    root_builder.run(
        "build", "--cpuset-cpus", "0", "--cpus", "0.5", "-c", "512", "-m", "64m", "--memory-swap", "64m",
        "-o", str(out), str(root),
    )  # fmt: skip
    assert (out / "cpus").read_text().split() == ["Cpus_allowed_list:", "0"]
    assert left() == []


@pytest.mark.parametrize("isolation", ["crun", "bubblewrap"])
def test_the_steps_of_a_build_share_its_limits(
    root_builder: Builder, context: Context, isolation: str
) -> None:
    """Three steps at once, each below the limit and together above it, with swap as well."""
    fill = "dd if=/dev/zero of=/t/f bs=1M count=70 2>/dev/null && sleep 5"
    stages = "".join(
        f"FROM busybox AS s{n}\nRUN --mount=type=tmpfs,target=/t {fill} # {n}\n" for n in range(3)
    )
    copies = "".join(f"COPY --from=s{n} /bin/true /{n}\n" for n in range(3))
    before = left()
    root = context({"Dockerfile": f"{stages}FROM scratch\n{copies}"})
    options = ("--isolation", isolation, "--build-memory", "80m", "--jobs", "3", "--progress=plain")
    assert "out of memory" in root_builder.run("build", *options, str(root), status=1).err
    assert left() == before


def test_processes_of_a_build_are_limited(root_builder: Builder, context: Context) -> None:
    text = "FROM busybox\nRUN for i in $(seq 30); do sleep 100 & done; wait\n"
    before = left()
    root = context({"Dockerfile": text})
    done = root_builder.run("build", "--build-pids-limit", "20", "--pids-limit", "100", str(root), status=1)
    assert "can't fork" in done.err
    assert left() == before


def test_limits_enter_no_key(builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": "FROM busybox\nRUN echo x > /f\n"})
    first = builder.build(root)
    again = builder.build(
        root, "-m", "1g", "--pids-limit", "100", "--step-timeout", "1h", "--cpuset-cpus", "0"
    )
    assert again.ran == []
    assert again.digest == first.digest


def test_a_user_is_told_what_has_no_effect(make_builder: MakeBuilder, context: Context) -> None:
    """Without delegated groups memory is limited by rlimits; the rest is named."""
    if os.geteuid() != 0 or not (GROUPS / "memory").is_dir():
        pytest.skip("needs-cgroups: groups that a user may not write")
    root = context({"Dockerfile": "FROM busybox\nRUN ulimit -d\n"})
    done = make_builder("subids").run(
        "build", "-m", "64m", "--pids-limit", "9", "--progress=plain", str(root)
    )
    assert "no control group can be made" in done.err
    assert "processes have no effect" in done.err
    assert " 65536" in done.err


@pytest.mark.parametrize(
    ("option", "value", "command", "code"),
    [
        ("--step-timeout", "1s", "sleep 1000", "step-timeout"),
        ("--max-output", "64k", "yes 0123456789012345678901234567890123456789", "step-output-limit"),
    ],
)
def test_what_ends_a_step(
    builder: Builder, context: Context, option: str, value: str, command: str, code: str
) -> None:
    root = context({"Dockerfile": f"FROM busybox\nRUN {command}\n"})
    done = builder.run("build", option, value, str(root), status=1)
    assert f"error[{code}]" in done.err
    assert "Dockerfile:2" in done.err


@pytest.mark.parametrize(
    "options",
    [
        ("-m", "1k"),
        ("--memory-swap", "64m"),
        ("-m", "64m", "--memory-swap", "32m"),
        ("--cpus", "1", "--cpu-quota", "5000"),
        ("--cpus", "-1"),
        ("--cpuset-cpus", "a"),
        ("--cpuset-cpus", "65000"),
        ("--build-memory", "1k"),
        ("--build-cpus", "-1"),
    ],
)
def test_values_without_sense(builder: Builder, context: Context, options: tuple[str, ...]) -> None:
    done = builder.run("build", *options, str(context({"Dockerfile": "FROM scratch\n"})), status=2)
    assert "error[invalid-option-value]" in done.err
