"""Listing, cache mounts and explanations, by the real program."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import sqlite3
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


def metadata(builder: Builder, statement: str) -> list[tuple]:
    connection = sqlite3.connect(builder.store / "metadata.db")
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


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
    assert argument["differences"] == [{"field": "env", "old": "A=1", "new": "A=2", "parts": []}]
    copied = seen["COPY file /file"]
    fields = {one["field"]: one for one in copied["differences"]}
    assert set(fields) == {"content of /file", "input 0"}
    assert "RUN echo $A > /a" in fields["input 0"]["old"]
    (only,) = explained(builder, "COPY")
    assert only == "COPY file /file"
    assert list(explained(builder, first.fields["arkwright.build"], "echo first")) == ["RUN echo first"]
    assert "unknown-step" in builder.run("explain", "nothing", status=1).err
    text = builder.run("explain", second.fields["arkwright.build"][:-2]).out
    assert "          environment (ARG, ENV)\n            - A=1\n            + A=2\n" in text
    steps = [line.rpartition("] ")[2] for line in text.splitlines() if line.startswith(("ran ", "cached "))]
    assert steps == ["RUN echo first", "RUN echo $A > /a", "COPY file /file"]
    assert "unknown-build" in builder.run("explain", "1999", status=1).err


def test_explain_names_the_files_that_changed(builder: Builder, context: Context) -> None:
    text = "FROM busybox\nCOPY . /all\nRUN --mount=type=bind,source=dir,target=/d cat /d/* > /seen\n"
    files = {"Dockerfile": text, ".dockerignore": "Dockerfile\n.dockerignore\n"}
    root = context({**files, "same": "1", "dir/edited": "1", "dir/gone": "1", "tool": "1"})
    builder.build(root)
    context({"dir/edited": "2", "dir/new": "1"})
    (root / "dir" / "gone").unlink()
    (root / "tool").chmod(0o755)
    builder.build(root)
    seen = explained(builder)
    (copied,) = (one for one in seen["COPY . /all"]["differences"] if one["field"].startswith("content"))
    parts = {part["field"]: (part["old"], part["new"]) for part in copied["parts"]}
    one, two = (f"file 644 sha256:{hashlib.sha256(data).hexdigest()[:16]}" for data in (b"1", b"2"))
    assert parts == {
        "dir/edited": (one, two), "dir/gone": (one, ""), "dir/new": ("", one),
        "tool": (one, one.replace("644", "755")),
    }  # fmt: skip
    mounted = {part["field"] for one in seen[text.splitlines()[2]]["differences"] for part in one["parts"]}
    assert mounted == {"dir/edited", "dir/gone", "dir/new"}
    said = builder.run("explain").out
    assert f"- {one}\n                + {two}\n" in said.replace("              ", " " * 16)
    # What no record names any more goes with it.
    assert metadata(builder, "SELECT count(*) FROM records WHERE bucket = 'details'") != [(0,)]
    builder.run("prune", "--all")
    assert metadata(builder, "SELECT count(*) FROM records WHERE bucket = 'details'") == [(0,)]


def test_explain_names_the_digests_of_a_base_that_moved(builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": "FROM base:1\nCOPY f /f\nRUN cat /f\n", "f": "1"}, "app")
    run = context({"Dockerfile": "FROM base:1\nRUN true\n"}, "run")
    digests = []
    for text in ("one", "two"):
        base = context({"Dockerfile": f"FROM busybox\nRUN echo {text} > /base\n"}, "base")
        digests.append(builder.build(base, "-t", "base:1").digest)
        builder.build(root)
        copied = explained(builder)["COPY f /f"]
        builder.build(run)
        ran = explained(builder)["RUN true"]
    old, new = (f"docker-image://docker.io/library/base:1@{digest}" for digest in digests)
    for step in (copied, ran):
        assert step["reason"] == "inputs-changed"
        assert [(one["old"], one["new"]) for one in step["differences"]] == [(old, new)]
    said = builder.run("explain", "RUN true").out
    moved = "          docker.io/library/base:1 has another digest\n            - {}\n            + {}\n"
    assert moved.format(*digests) in said


def test_explain_tells_why_a_step_ran_that_failed(builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": "FROM busybox\nRUN echo 1 > /f\n"})
    first = builder.build(root)
    context({"Dockerfile": "FROM busybox\nRUN echo 1 > /f; exit 3\n"})
    assert "error[step-failed]" in builder.run("build", str(root), status=1).err
    (failed,) = explained(builder).values()
    assert (failed["reason"], failed["failed"]) == ("fields-changed", True)
    assert failed["build"] == first.fields["arkwright.build"]
    (difference,) = failed["differences"]
    assert difference["field"] == "args"
    assert difference["new"].endswith("exit 3")
    # What explains a failure goes with the journal of its build.
    builder.run("history", "rm", "--all")
    builder.run("prune", "--timeout", "30s")
    assert metadata(builder, "SELECT key FROM records WHERE bucket = 'attempts'") == []


def test_explain_tells_that_the_cache_was_not_asked(builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": "FROM busybox AS one\nRUN echo 1 > /f\nFROM one\nRUN cat /f > /g\n"})
    first = builder.build(root)
    builder.build(root, "--no-cache-filter", "one")
    seen = explained(builder)
    assert seen["RUN echo 1 > /f"]["reason"] == "not-asked"
    assert seen["RUN echo 1 > /f"]["differences"] == []
    above = seen["RUN cat /f > /g"]
    assert (above["reason"], above["by"]) == ("cached", "content")
    assert above["build"] == first.fields["arkwright.build"]
    assert "--no-cache" in builder.run("explain", "echo 1").out


def test_explain_names_the_input_that_changed(make_builder: MakeBuilder, context: Context) -> None:
    builder = make_builder()
    builder.build(context({"Dockerfile": "FROM busybox\nRUN echo one > /x\nRUN cat /x\n"}))
    builder.build(context({"Dockerfile": "FROM busybox\nRUN echo two > /x\nRUN cat /x\n"}))
    after = explained(builder)["RUN cat /x"]
    assert after["reason"] == "inputs-changed"
    assert after["differences"][0]["field"].endswith("RUN echo two > /x")
    said = builder.run("explain", "RUN cat").out
    assert said.endswith(f"          {after['differences'][0]['field']} gave another result\n")


def test_explain_tells_that_attributes_changed(make_builder: MakeBuilder, context: Context) -> None:
    builder = make_builder("root")
    root = context({"Dockerfile": "FROM scratch\nCOPY file /file\n", "file": "1"})
    said = []
    for value, mode in ((b"", 0o644), (b"1", 0o644), (b"2", 0o600)):
        if value:
            os.setxattr(root / "file", "user.test", value)
        (root / "file").chmod(mode)
        builder.build(root)
        said.append(builder.run("explain").out.partition("content of /file\n")[2])
    plain = r" {12}file\n"
    changed = r" {14}extended attributes changed: (none|sha256:\w+) before, sha256:\w+ now\n"
    sides = r" {14}- file 644 sha256:\w+\n {14}\+ file 600 sha256:\w+\n"
    assert re.fullmatch(plain + changed, said[1])
    assert re.fullmatch(plain + sides + changed, said[2])


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
    started_s = time.process_time()
    found = explain(store, "new")
    assert time.process_time() - started_s < 10
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
