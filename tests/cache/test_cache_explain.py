"""Listing, cache mounts and explanations, by the real program."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import time

import pytest

from arkwright.cache import mounts
from arkwright.cache.explain import explain
from arkwright.cache.records import Record, Records
from arkwright.diagnostics.errors import UserError
from arkwright.events.journal import Journal, journal_path
from arkwright.events.types import Declared, Started
from arkwright.store.store import Store
from building import Builder, Context, MakeBuilder

STEPS = """\
FROM busybox
RUN echo first
ARG A=1
RUN echo $A > /a
COPY file /file
"""


def explained(builder: Builder, *args: str) -> dict[str, dict]:
    steps = json.loads(builder.run("explain", "--format", "json", *args).out)["steps"]
    return {step["name"].rpartition("] ")[2]: step for step in steps}


def test_explain_tells_what_changed(builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": STEPS, "file": "one"})
    first = builder.build(root)
    seen = explained(builder)
    assert {step["reason"] for step in seen.values()} <= {"no-earlier-record", "fields-changed"}
    second = builder.build(context({"file": "two"}), "--build-arg", "A=2")
    seen = explained(builder)
    assert seen["RUN echo first"]["reason"] == "cached"
    assert seen["RUN echo first"]["build"] == first.fields["arkwright.build"]
    argument = seen["RUN echo $A > /a"]
    assert argument["reason"] == "fields-changed"
    assert argument["differences"] == [{"field": "env", "old": "A=1", "new": "A=2"}]
    copied = seen["COPY file /file"]
    fields = {one["field"]: one for one in copied["differences"]}
    assert set(fields) == {"content of /file", "input 0"}
    assert "RUN echo $A > /a" in fields["input 0"]["old"]
    text = builder.run("explain", second.fields["arkwright.build"][:-2]).out
    assert "- A=1" in text
    assert "+ A=2" in text
    assert "unknown-build" in builder.run("explain", "1999", status=1).err


def test_explain_names_the_input_that_changed(make_builder: MakeBuilder, context: Context) -> None:
    builder = make_builder()
    builder.build(context({"Dockerfile": "FROM busybox\nRUN echo one > /x\nRUN cat /x\n"}))
    builder.build(context({"Dockerfile": "FROM busybox\nRUN echo two > /x\nRUN cat /x\n"}))
    after = explained(builder)["RUN cat /x"]
    assert after["reason"] == "inputs-changed"
    assert after["differences"][0]["field"].endswith("RUN echo two > /x")


def test_ten_thousand_records_are_searched_fast(store: Store) -> None:
    records = Records(store.metadata)
    with store.metadata.transaction():
        for number in range(10_000):
            fields = {"args": f"echo {number}", "env": "A=1", "cwd": "/", "input of /": str(number % 7)}
            records.save(
                Record(
                    key=f"sha256:{number}", operation=f"sha256:o{number}", vertex=f"sha256:v{number}",
                    results=(), created_at=number + 1, build="old" if number < 9_980 else "new", fields=fields,
                )
            )  # fmt: skip
    with Journal(journal_path(store.root_path, "new")) as journal:
        for number in range(9_980, 10_000):
            journal(Declared(vertex=f"sha256:v{number}", name=f"step {number}"))
            journal(Started(vertex=f"sha256:v{number}"))
    started = time.monotonic()
    found = explain(store, "new")
    assert time.monotonic() - started < 5
    assert len(found.steps) == 20
    assert {step.differences[0].field for step in found.steps} == {"args"}


def test_records_are_listed_with_their_steps(builder: Builder, context: Context) -> None:
    built = builder.build(context({"Dockerfile": "FROM busybox\nRUN head -c 500000 /dev/zero > /a\n"}))
    (record,) = json.loads(builder.run("cache", "ls", "--format", "json").out)
    assert record["name"].endswith("RUN head -c 500000 /dev/zero > /a")
    assert record["build"] == built.fields["arkwright.build"]
    assert record["size"] >= 500_000
    assert "RUN head" in builder.run("cache", "ls").out
    parts = {one["part"]: one for one in json.loads(builder.run("cache", "du", "--format", "json").out)}
    assert parts["layers"]["size"] >= 500_000
    assert parts["blobs"]["needed"] > 0
    assert builder.run("cache", "du").out.splitlines()[-1].startswith("total")


MOUNT = """\
FROM busybox
RUN --mount=type=cache,id=tools,target=/c,sharing=locked cat /c/* 2>/dev/null; echo {text} > /c/{text}; \
chown 5:6 /c/{text}; ls /c > /seen
"""


def test_cache_mounts_travel_as_tars(make_builder: MakeBuilder, context: Context) -> None:
    for identity in ("root", "subids"):
        builder = make_builder(identity, "one")
        builder.build(context({"Dockerfile": MOUNT.format(text="a")}, identity))
        (listed,) = json.loads(builder.run("cache", "mounts", "--format", "json").out)
        assert listed["name"] == hashlib.sha256(b"tools").hexdigest()
        assert listed["size"] > 0
        archive = builder.home / "mount.tar"
        builder.run("cache", "export-mount", "tools", str(archive))
        with tarfile.open(archive) as tar:
            member = tar.getmember("a")
            assert (member.uid, member.gid, member.size) == (5, 6, 2)
        other = make_builder(identity, "two")
        other.run("cache", "import-mount", "tools", str(archive))
        assert "tools" in other.run("cache", "mounts").out
        other.run("cache", "export-mount", "tools", str(archive) + "2")
        assert (builder.home / "mount.tar2").read_bytes() == archive.read_bytes()
        other.build(context({"Dockerfile": MOUNT.format(text="b")}, identity), "-t", "app")
        assert other.run("run", "app", "cat", "/seen").out == "a\nb\n"
        other.run("prune", "--all")
        assert "1 cache mounts" in other.run("cache", "prune-mounts", "tools").out
        assert "unknown-cache-mount" in other.run("cache", "prune-mounts", "tools", status=1).err
        assert "unknown-cache-mount" in other.run("cache", "export-mount", "tools", "-", status=1).err


def test_a_hostile_tar_changes_no_mount(store: Store) -> None:
    def tar_of(name: str) -> io.BytesIO:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            member = tarfile.TarInfo(name)
            member.size = 1
            member.uid, member.gid = os.geteuid(), os.getegid()
            tar.addfile(member, io.BytesIO(b"x"))
        data.seek(0)
        return data

    mounts.import_mount(store, "m", tar_of("good"))
    with pytest.raises(UserError) as caught:
        mounts.import_mount(store, "m", tar_of("../bad"))
    assert caught.value.code in ("path-escapes-root", "invalid-archive")
    out = io.BytesIO()
    mounts.export_mount(store, "m", out)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        assert "good" in tar.getnames()
