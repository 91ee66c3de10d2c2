"""What the solver and the cache promise, on stores of each file system, as root and rootless."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from arkwright.events.journal import read_journal
from arkwright.events.types import Started
from building import Builder, Built, Context, MakeBuilder
from stores import mounted

DOCKERFILE = """\
FROM busybox AS tools
RUN echo tool > /tool
RUN --mount=type=cache,target=/c date >> /c/log; echo after > /after
FROM busybox
RUN --mount=type=bind,source=script,target=/script sh /script
COPY --from=tools /tool /after /
RUN cat /tool /result > /all
ARG WHO=one
RUN echo $WHO > /who
"""
FILES = {"Dockerfile": DOCKERFILE, "script": "echo result > /result\n"}
BIG = "FROM busybox\nRUN head -c 200000000 /dev/zero > /big; sleep 60\n"


PLACES = [(identity, kind) for identity in ("root", "subids") for kind in ("tmpfs", "ext4")]
SOME_PLACES = [("root", "tmpfs"), ("subids", "ext4")]


@pytest.mark.soak
@pytest.mark.parametrize(("identity", "kind"), PLACES if os.environ.get("ARKWRIGHT_SOAK") else SOME_PLACES)
def test_a_life_of_a_store(
    identity: str, kind: str, scratch: Path, make_builder: MakeBuilder, context: Context
) -> None:
    with mounted(kind, Builder(scratch, identity).store):
        builder = make_builder(identity)
        root = context(FILES)
        first = _at_once(builder, root)
        clean = make_builder("root", "undisturbed").build(root).digest
        assert first == {clean}
        _edits(builder, context, root, clean)
        _another_machine(builder, make_builder, root, clean)
        _disk(builder, context, root, clean)


def _at_once(builder: Builder, root: Path) -> set[str]:
    """Several builds that start together run nothing twice."""
    started = [builder.start("build", "-q", "-t", "app", str(root)) for _ in range(4)]
    outputs = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0] * 4, outputs
    journals = (builder.store / "history").glob("*/journal.jsonl")
    events = [event for path in journals for event in read_journal(str(path))]
    assert set(Counter(event.vertex for event in events if isinstance(event, Started)).values()) == {1}
    return {out.strip() for out, _ in outputs}


def _edits(builder: Builder, context: Context, root: Path, clean: str) -> None:
    """What sees an edit runs, and what follows from equal content does not."""
    assert _steps(builder.build(root)) == []
    context({"script": "# another comment\n" + FILES["script"]})
    built = builder.build(root)
    assert (_steps(built), built.digest) == (["RUN --mount=type=bind"], clean)
    (ran,) = (step for step in _explained(builder) if step["reason"] == "fields-changed")
    (content,) = (one for one in ran["differences"] if one["parts"])
    assert [part["field"] for part in content["parts"]] == ["script"]
    assert _steps(builder.build(root, "--build-arg", "WHO=two")) == ["RUN echo"]
    (ran,) = (step for step in _explained(builder) if step["reason"] != "cached")
    assert ran["differences"][0]["new"] == "WHO=two"


def _another_machine(builder: Builder, make_builder: MakeBuilder, root: Path, clean: str) -> None:
    place = builder.home / "cache"
    builder.build(root, "--cache-to", f"type=local,dest={place},mode=max,mounts=all")
    other = make_builder(builder.identity, "other")
    built = other.build(root, "--cache-from", f"type=local,src={place}")
    assert (_steps(built), built.digest) == ([], clean)


def _disk(builder: Builder, context: Context, root: Path, clean: str) -> None:
    failing = context({"Dockerfile": "FROM busybox\nRUN touch /seen; exit 3\n"}, "failing")
    assert "--failed-step" in builder.run("build", str(failing), status=1).err
    assert len(json.loads(builder.run("du", "--format", "json", "--filter", "type=cache-mount").out)) == 1
    builder.env["ARKWRIGHT_QUOTA"] = "60m"
    stopped = builder.run("build", str(context({"Dockerfile": BIG}, "big")), status=1)
    assert "error[quota-exceeded]" in stopped.err
    assert sum(one["size"] for one in json.loads(builder.run("du", "--format", "json").out)) < 60 << 20
    statuses = Counter(
        one["status"] for one in json.loads(builder.run("history", "ls", "--format", "json").out)
    )
    assert statuses["failed"] == 2
    builder.run("prune", "--all", "--timeout", "30s")
    assert builder.run("fsck", "--timeout", "30s").out == "nothing is wrong\n"
    assert builder.run("run", "app", "cat", "/all").out == "tool\nresult\n"
    assert builder.build(root).digest == clean


def _steps(built: Built) -> list[str]:
    """The first two words of the steps that ran; transfers of a cache are none."""
    names = (name.rpartition("] ")[2] for name in built.ran if name.startswith("["))
    return sorted(" ".join(name.partition(",")[0].split()[:2]) for name in names)


def _explained(builder: Builder) -> list[dict]:
    return json.loads(builder.run("explain", "--format", "json").out)["steps"]
