"""The history of builds, by the real program."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from building import Builder, Context, MakeBuilder

STEPS = """\
FROM busybox AS base
RUN echo one; echo two >&2
ARG API_TOKEN
ARG A
RUN echo $A > /a
"""


def listed(builder: Builder) -> list[dict]:
    return json.loads(builder.run("history", "ls", "--format", "json").out)


def test_inputs_steps_and_result(builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": STEPS})
    built = builder.build(root, "-t", "app:1", "--build-arg", "A=7", "--build-arg", "API_TOKEN=hidden")
    (one,) = listed(builder)
    assert one["build"] == built.fields["arkwright.build"]
    assert (one["status"], one["digest"]) == ("succeeded", built.digest)
    assert one["build_args"] == {"A": "7", "API_TOKEN": "…"}
    assert one["names"] == ["docker.io/library/app:1"]
    assert (one["steps_run"], one["steps_cached"]) == (built.fields["arkwright.steps"]["run"], 0)
    seen = json.loads(builder.run("history", "show", "--format", "json").out)
    steps = {step["name"].rpartition("] ")[2]: step for step in seen["steps"]}
    assert steps["RUN echo one; echo two >&2"]["status"] == "done"
    assert steps["RUN echo one; echo two >&2"]["log_size"] == len("one\ntwo\n")
    assert steps["RUN echo $A > /a"]["duration_s"] > 0
    text = builder.run("history", "show", one["build"][:-2]).out
    assert "build-arg A: 7" in text
    assert "hidden" not in text
    assert b"hidden" not in (builder.store / "history" / one["build"] / "journal.jsonl").read_bytes()


def test_logs_of_all_steps_and_of_one(make_builder: MakeBuilder, context: Context) -> None:
    builder = make_builder()
    builder.build(context({"Dockerfile": "FROM busybox\nRUN echo first\nRUN echo second\n"}))
    assert builder.run("history", "logs").out == "first\nsecond\n"
    build = listed(builder)[0]["build"]
    assert builder.run("history", "logs", build, "echo second").out == "second\n"
    assert "unknown-step" in builder.run("history", "logs", build, "nothing", status=1).err


def test_failed_and_cached_builds(make_builder: MakeBuilder, context: Context) -> None:
    builder = make_builder()
    root = context({"Dockerfile": "FROM busybox\nRUN echo fine\nRUN false\n"})
    builder.run("build", str(root), status=1)
    context({"Dockerfile": "FROM busybox\nRUN echo fine\n"})
    builder.build(root)
    newest, oldest = listed(builder)
    assert (oldest["status"], oldest["code"]) == ("failed", "step-failed")
    assert (newest["status"], newest["steps_run"]) == ("succeeded", 0)
    failed = json.loads(builder.run("history", "show", "--format", "json", oldest["build"]).out)
    states = {step["name"].rpartition("] ")[2]: step["status"] for step in failed["steps"]}
    assert states["RUN echo fine"] == "done"
    assert states["RUN false"] == "failed"
    assert builder.run("history", "ls").out.splitlines()[2].split()[1] == "failed"


def test_a_running_build_and_a_killed_one(make_builder: MakeBuilder, context: Context) -> None:
    builder = make_builder()
    process = builder.start(
        "build", "--progress", "plain", str(context({"Dockerfile": "FROM busybox\nRUN echo up; sleep 600\n"}))
    )
    assert process.stderr is not None
    for line in process.stderr:
        if " up" in line:
            break
    assert listed(builder)[0]["status"] == "running"
    assert builder.run("history", "rm", "--all").out == "deleted 0 builds\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    until_ended(builder)
    (killed,) = listed(builder)
    assert killed["status"] == "killed"
    seen = json.loads(builder.run("history", "show", "--format", "json").out)
    assert seen["steps"][-1]["status"] == "stopped"
    assert builder.run("history", "rm", killed["build"]).out == "deleted 1 build\n"
    assert listed(builder) == []


def until_ended(builder: Builder) -> None:
    """The worker ends a moment after the process that the test killed: wait for its lock."""
    import fcntl

    for journal in Path(builder.store, "history").glob("*/journal.jsonl"):
        with open(journal) as file:
            fcntl.flock(file, fcntl.LOCK_EX)


def test_old_ones_go(make_builder: MakeBuilder, context: Context) -> None:
    builder = make_builder()
    builder.build(context({"Dockerfile": "FROM scratch\nCOPY f /\n", "f": "x"}))
    assert builder.run("history", "rm", "--older-than", "1h").out == "deleted 0 builds\n"
    assert builder.run("history", "rm", "--older-than", "0").out == "deleted 1 build\n"
    assert "invalid-usage" in builder.run("history", "rm", status=2).err


def test_build_explains_itself(make_builder: MakeBuilder, context: Context) -> None:
    builder = make_builder()
    root = context({"Dockerfile": STEPS})
    assert "no earlier record" in builder.run("build", "--explain", str(root)).err
    said = builder.run("build", "--explain", "--build-arg", "A=2", str(root)).err
    assert "+ A=2" in said
    context({"Dockerfile": STEPS + "RUN exit 3\n"})
    said = builder.run("build", "--explain", str(root), status=1).err
    assert "failed  [" in said
