"""Limits of a whole build in time and output, parents of steps' control groups, and what is no lack of memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from arkwright.linux.groups import StepGroups
from arkwright.ops.exec import oom_words
from arkwright.sandbox.spec import StepStatus
from building import Builder, Context, MakeBuilder

GROUPS = Path("/sys/fs/cgroup")
MakeGroup = Callable[..., str]


def own_group(kind: str) -> str:
    """The group of this process, and so of a builder that it starts."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if kind in names.split(","):
            return path.strip("/")
    raise AssertionError(kind)


@contextmanager
def group(path: Path, **values: str) -> Iterator[None]:
    """A control group for the time of a test; `_in_` of a file's name stays."""
    path.mkdir()
    try:
        for name, text in values.items():
            (path / name.replace("__", ".")).write_text(text)
        yield
        assert [entry.name for entry in path.iterdir() if entry.is_dir()] == []
    finally:
        path.rmdir()


@pytest.fixture
def root_builder(make_builder: MakeBuilder) -> Builder:
    if os.geteuid() != 0 or not all(os.access(GROUPS / kind, os.W_OK) for kind in ("memory", "pids")):
        pytest.skip("needs-cgroups: writable control groups of version 1")
    return make_builder("root")


def test_a_build_that_takes_too_long(builder: Builder, context: Context) -> None:
    """It is stopped in its second step; the first one is cached."""
    root = context({"Dockerfile": "FROM busybox\nRUN echo one > /one\nRUN sleep 1000\n"})
    done = builder.run("build", "--build-timeout", "10s", str(root), status=1)
    assert "error[build-timeout]" in done.err
    assert "Dockerfile:3" in done.err
    again = context({"Dockerfile": "FROM busybox\nRUN echo one > /one\n"})
    assert builder.build(again).ran == []


def test_a_step_that_takes_too_long_comes_first(builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": "FROM busybox\nRUN sleep 1000\n"})
    done = builder.run("build", "--build-timeout", "1h", "--step-timeout", "1s", str(root), status=1)
    assert "error[step-timeout]" in done.err


def test_a_build_in_time_is_not_touched(builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": "FROM busybox\nRUN echo fine\n"})
    options = ("--build-timeout", "1h", "--build-max-output", "1m")
    limited = builder.build(root, *options)
    assert limited.digest == builder.build(root, "--no-cache").digest


def test_the_output_of_steps_together(builder: Builder, context: Context) -> None:
    """Each step is below both limits, the two together are not."""
    say = "RUN yes 0123456789012345678901234567890123456789 | head -n 1200 # {}\n"
    root = context({"Dockerfile": f"FROM busybox\n{say.format(1)}{say.format(2)}"})
    options = ("--max-output", "60k", "--build-max-output", "60k")
    done = builder.run("build", *options, str(root), status=1)
    assert "error[build-output-limit]" in done.err
    assert "Dockerfile:3" in done.err


@pytest.mark.parametrize("absolute", [True, False])
def test_steps_are_in_the_parents_group(root_builder: Builder, context: Context, absolute: bool) -> None:
    """The parent's limits hold for steps without limits of their own, and the lack of memory is told."""
    name = f"arktest-{os.urandom(4).hex()}"
    parent = f"/{name}" if absolute else name
    above = GROUPS / "memory" / ("" if absolute else own_group("memory"))
    root = context({"Dockerfile": "FROM busybox\nRUN head -c 300m /dev/zero | tail > /dev/null\n"})
    with group(above / name, memory__limit_in_bytes="24m", memory__memsw__limit_in_bytes="24m"):
        done = root_builder.run("build", "--cgroup-parent", parent, str(root), status=1)
    assert "error[step-failed]" in done.err
    assert "out of memory" in done.err


def test_a_step_can_take_less_than_its_parent_gives(root_builder: Builder, context: Context) -> None:
    name = f"arktest-{os.urandom(4).hex()}"
    root = context({"Dockerfile": "FROM busybox\nRUN for i in $(seq 30); do sleep 100 & done; wait\n"})
    options = ("--cgroup-parent", f"/{name}", "--build-pids-limit", "60", "--pids-limit", "20")
    with group(GROUPS / "pids" / name, pids__max="100"):
        done = root_builder.run("build", *options, str(root), status=1)
    assert "can't fork" in done.err


@pytest.mark.parametrize("parent", ["/no/such/group", "no-such-group"])
def test_a_parent_that_is_not_there(builder: Builder, context: Context, parent: str) -> None:
    root = context({"Dockerfile": "FROM busybox\nRUN true\n"})
    done = builder.run("build", "--cgroup-parent", parent, str(root), status=4)
    assert "error[no-cgroup-parent]" in done.err


@pytest.mark.parametrize("parent", ["../up", "/a/../b"])
def test_a_parent_that_leads_elsewhere(builder: Builder, context: Context, parent: str) -> None:
    root = context({"Dockerfile": "FROM busybox\nRUN true\n"})
    done = builder.run("build", "--cgroup-parent", parent, str(root), status=2)
    assert "error[invalid-option-value]" in done.err


def test_a_parent_of_version_2() -> None:
    """The hierarchy of version 2 of a hybrid host has no controllers, but its groups are made and entered."""
    unified = GROUPS / "unified"
    if not os.access(unified / "cgroup.controllers", os.R_OK) or not os.access(unified, os.W_OK):
        pytest.skip("needs-cgroups: a writable hierarchy of version 2")
    name = f"arktest-{os.urandom(4).hex()}"
    root_fd = os.open(unified, os.O_PATH | os.O_DIRECTORY)
    try:
        with group(unified / name), StepGroups(root_fd, {}, parent=f"/{name}") as groups:
            (entry_fd,) = groups.procs_fds
            pid = os.fork()
            if pid == 0:
                os.write(entry_fd, b"0")
                entered = f"/{name}/arkwright-" in Path("/proc/self/cgroup").read_text()
                os._exit(0 if entered else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert not groups.out_of_memory()
        with pytest.raises(FileNotFoundError), StepGroups(root_fd, {}, parent="/no-such-group"):
            pass
    finally:
        os.close(root_fd)


@pytest.mark.parametrize("command", ["exit 137", "sh -c 'kill -9 $$'; exit 3"])
def test_what_is_killed_is_not_out_of_memory(root_builder: Builder, context: Context, command: str) -> None:
    root = context({"Dockerfile": f"FROM busybox\nRUN {command}\n"})
    done = root_builder.run("build", "-m", "64m", str(root), status=1)
    assert "error[step-failed]" in done.err
    assert "memory" not in done.err


def test_a_step_that_outlives_its_killed_process(root_builder: Builder, context: Context) -> None:
    text = "FROM busybox\nRUN head -c 300m /dev/zero | tail > /dev/null; exit 3\n"
    done = root_builder.run("build", "-m", "64m", str(context({"Dockerfile": text})), status=1)
    assert "out of memory" in done.err


def test_what_a_failure_says_of_memory() -> None:
    """The kernel chooses whom it kills, so which of these a step leads to is not for a test to say."""
    assert oom_words(StepStatus(status=137, signal=9)) == ""
    assert oom_words(StepStatus(status=137, signal=9, oom=True)) == ": out of memory"
    assert oom_words(StepStatus(status=3, oom=True)).startswith(", after the kernel had killed")
