"""What takes disk, what of it goes, and when it was last used: real stores, as root and rootless."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from arkwright.cache.collect import collect
from arkwright.cache.filters import parse_filters
from arkwright.cache.items import Item
from arkwright.cache.settings import Limits, State, is_due, note, read_quota
from arkwright.cli.cache import duration_s
from arkwright.diagnostics.errors import UsageError
from arkwright.events.journal import Journal, journal_path
from arkwright.events.types import Closed
from arkwright.store.store import Store
from building import Builder, Context, MakeBuilder

MB = 1_000_000
DOCKERFILE = """\
FROM busybox AS big
RUN head -c 3000000 /dev/urandom > /{name}
FROM busybox
COPY --from=big /{name} /copy
"""
MOUNT = "FROM busybox\nRUN --mount=type=cache,target=/kept head -c 2000000 /dev/urandom > /kept/file\n"
DAY_NS = 86400 * 10**9


def du(builder: Builder, *args: str) -> list[dict[str, Any]]:
    return json.loads(builder.run("du", "--format", "json", *args).out)


def only(builder: Builder, *filters: str) -> list[dict[str, Any]]:
    return du(builder, *(part for one in filters for part in ("--filter", one)))


def age(builder: Builder, seconds: int, *, all_uses: bool = True) -> None:
    """Make everything in the records older."""
    connection = sqlite3.connect(builder.store / "metadata.db")
    with connection:
        rows = connection.execute(
            "SELECT bucket, key, value FROM records WHERE bucket IN ('records', 'uses')"
        )
        for bucket, key, value in rows.fetchall():
            fields = json.loads(value)
            name = "created_at" if bucket == "records" else "at"
            if bucket == "records" or all_uses:
                fields[name] -= seconds * 10**9
            connection.execute(
                "UPDATE records SET value = ? WHERE bucket = ? AND key = ?",
                (json.dumps(fields).encode(), bucket, key),
            )
    connection.close()


def clean(builder: Builder) -> None:
    assert builder.run("fsck").out == "nothing is wrong\n"


def test_du_says_what_how_large_for_whom_and_by_which_build(builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": DOCKERFILE.format(name="first")})
    first = builder.build(root, "-t", "one")
    second = builder.build(root, "-t", "two")
    assert second.ran == []
    steps = only(builder, "type=step")
    copy = next(one for one in steps if "COPY" in one["name"])
    assert copy["size"] >= 3 * MB
    assert (copy["needed"], copy["users"]) == (True, 2)
    made = next(one for one in steps if "head -c" in one["name"])
    assert (made["needed"], made["users"]) == (False, 1)
    assert {copy["build"], made["build"]} == {second.fields["arkwright.build"]}
    assert first.digest == second.digest
    assert all(one["used_at"] > time.time_ns() - DAY_NS for one in steps)
    builder.build(context({"Dockerfile": MOUNT}, "mount"))
    (mount,) = only(builder, "type=exec.cachemount")
    assert (mount["kind"], mount["name"]) == ("cache-mount", "/kept")
    newest = json.loads(builder.run("history", "ls", "--format", "json").out)[0]
    assert mount["build"] == newest["build"]
    assert mount["size"] >= 2 * MB
    assert len(only(builder, "type=history")) == 3
    assert [one["name"] for one in only(builder, "type=image", "name~=busy")] == [
        "docker.io/library/busybox:latest"
    ]
    table = builder.run("du").out
    assert "reclaimable:" in table
    assert "last used:" in builder.run("du", "--verbose").out
    sizes = [one["size"] for one in du(builder)]
    assert sizes == sorted(sizes, reverse=True)


def test_the_sizes_of_du_are_those_of_the_disk(builder: Builder, context: Context) -> None:
    builder.build(context({"Dockerfile": DOCKERFILE.format(name="first")}), "-t", "one")
    said = sum(one["size"] for one in du(builder))
    measured = int(
        subprocess.run(["du", "-s", "-B1", builder.store], capture_output=True, check=True).stdout.split()[0]
    )
    assert abs(said - measured) < 300_000


def test_prune_goes_by_last_use(make_builder: MakeBuilder, context: Context) -> None:
    builder = make_builder()
    old = context({"Dockerfile": DOCKERFILE.format(name="old")}, "old")
    used = context({"Dockerfile": DOCKERFILE.format(name="used")}, "used")
    builder.build(used)
    builder.build(old)
    age(builder, 7200)
    # A hit makes it young again, though it was made first.
    assert builder.build(used).ran == []
    stale, fresh = only(builder, "type=step", "unused-for=1h"), only(builder, "type=step", "until!=1h")
    assert {"/old" in one["name"] for one in stale} == {True}
    assert {"/used" in one["name"] for one in fresh} == {True}
    builder.run("prune", "--keep-duration", "1h")
    assert builder.build(used).ran == []
    assert len(builder.build(old).ran) == 2
    clean(builder)


def test_prune_to_a_size_keeps_what_was_used_last(make_builder: MakeBuilder, context: Context) -> None:
    builder = make_builder()
    roots = [
        context({"Dockerfile": DOCKERFILE.format(name=f"n{number}")}, f"n{number}") for number in range(3)
    ]
    for root in roots:
        builder.build(root)
    builder.build(roots[0])
    used = sum(one["size"] for one in du(builder) if one["kind"] != "other")
    builder.run("prune", "--max-used-space", str(used - 4 * MB))
    assert builder.build(roots[0]).ran == []
    assert builder.build(roots[2]).ran == []
    assert builder.build(roots[1]).ran != []
    # There is as much free space as is asked for: nothing goes.
    builder.run("prune", "--min-free-space", "1")
    assert builder.build(roots[2]).ran == []
    builder.run("prune", "--min-free-space", "100t", "--reserved-space", "1g")
    assert builder.build(roots[2]).ran == []
    builder.run("prune", "--min-free-space", "100t")
    assert builder.build(roots[2]).ran != []
    clean(builder)


def test_prune_with_filters_takes_only_what_fulfils_them(builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": DOCKERFILE.format(name="a")}, "a")
    builder.build(root)
    mount = context({"Dockerfile": MOUNT}, "mount")
    builder.build(mount)
    builder.run("prune", "--filter", "type=cache-mount", "--filter", "unused-for=1h")
    assert len(only(builder, "type=cache-mount")) == 1
    assert "1 cache mount" in builder.run("prune", "--filter", "type=cache-mount").out
    assert only(builder, "type=cache-mount") == []
    assert builder.build(root).ran == []
    builder.run("prune", "--filter", "name~=COPY")
    assert len(builder.build(root).ran) == 1
    builds = len(only(builder, "type=history"))
    assert builds >= 3
    builder.run("prune", "--filter", "type=history", "--filter", "unused-for=1h")
    assert len(only(builder, "type=history")) == builds
    builder.run("prune", "--filter", "type=history")
    assert only(builder, "type=history") == []
    assert builder.build(root).ran == []
    assert "invalid-option-value" in builder.run("prune", "--filter", "type=cheese", status=2).err
    clean(builder)


def test_filters_read_what_people_write() -> None:
    item = Item(
        kind="step", id="sha256:0123456789", name="RUN make", used_at=10 * DAY_NS, users=2, needed=True
    )
    true = ("type=step", "type==regular", "type!=git", "id=0123456", "name~=ma.e", "name!~=cheese", "shared",
            "inuse=true", "unique=false", "!reclaimable", "until=48h", "unused-for=1d,shared", "build=")  # fmt: skip
    false = (
        "type=git",
        "id=0123457",
        "name=RUN",
        "private",
        "until=20d",
        "shared,unique",
        "description~=^make",
    )
    for text in true:
        assert all(one.holds(item, 15 * DAY_NS) for one in parse_filters([text], duration_s)), text
    for text in false:
        assert not all(one.holds(item, 15 * DAY_NS) for one in parse_filters([text], duration_s)), text
    for text in ("cheese", "type", "cheese=1", "type=cheese", "name~=(", "until=soon", "="):
        with pytest.raises(UsageError) as caught:
            parse_filters([text], duration_s)
        assert caught.value.code == "invalid-option-value"


def test_history_keeps_the_newest_and_the_young(store: Store) -> None:
    now_ns = time.time_ns()
    for number in range(8):
        path = journal_path(store.root_path, f"build-{number}")
        with Journal(path) as journal:
            journal(Closed(status="succeeded"))
        os.utime(path, ns=(now_ns - number * DAY_NS, now_ns - number * DAY_NS))
    with Journal(journal_path(store.root_path, "build-running")) as running:
        os.utime(running.path, ns=(0, 0))
        collect(store, Limits(history_builds=1, history_s=3.5 * 86400), now_ns=now_ns)
        kept = sorted(os.listdir(os.path.join(store.root_path, "history")))
        assert kept == ["build-0", "build-1", "build-2", "build-3", "build-running"]
    collect(store, Limits(history_builds=5, history_s=0), now_ns=now_ns)
    assert len(os.listdir(os.path.join(store.root_path, "history"))) == 5


def test_sources_go_when_unused_and_large(store: Store) -> None:
    now_ns = time.time_ns()
    base = Path(store.root_path) / "sources" / "git"
    for number in range(4):
        path = base / f"{number:032x}"
        path.mkdir(parents=True)
        (path / "pack").write_bytes(os.urandom(100_000))
        (base / f"{number:032x}.flock").touch()
        os.utime(path, ns=(now_ns - number * 2 * DAY_NS, now_ns - number * 2 * DAY_NS))
    limits = Limits(sources_s=86400, sources_space=150_000)
    collect(store, limits, now_ns=now_ns)
    # The young one in any case, and of the others the one used last, for which there is room.
    assert sorted(path.name[-1] for path in base.iterdir() if path.is_dir()) == ["0", "1"]
    collect(store, Limits(sources_s=86400), now_ns=now_ns)
    assert sorted(path.name[-1] for path in base.iterdir() if path.is_dir()) == ["0", "1"]


def test_collection_is_due_after_a_while_or_many_builds(store: Store) -> None:
    limits, metadata = Limits(interval_s=600), store.metadata
    assert not is_due(metadata, limits, now_s=1000)
    assert not is_due(metadata, limits, now_s=1599)
    assert is_due(metadata, limits, now_s=1600)
    note(metadata, State(at=1600))
    assert not any(is_due(metadata, limits, now_s=1601) for _ in range(60))
    note(metadata, State(at=1600))
    assert sum(is_due(metadata, Limits(quota=1), now_s=1601) for _ in range(60)) == 10
    assert read_quota(metadata) == -1


def test_garbage_is_collected_beside_the_next_build(make_builder: MakeBuilder, context: Context) -> None:
    builder = make_builder()
    root = context({"Dockerfile": DOCKERFILE.format(name="old")})
    builder.build(root)
    age(builder, 61 * 86400)
    connection = sqlite3.connect(builder.store / "metadata.db")
    with connection:
        connection.execute("DELETE FROM records WHERE bucket = 'uses'")
        connection.execute(
            "UPDATE records SET value = ? WHERE bucket = 'settings' AND key = ?", (b'{"at":1.0}', b"gc")
        )
    connection.close()
    other = context({"Dockerfile": "FROM busybox\nLABEL a=b\n"}, "other")
    builder.build(other)
    assert len(only(builder, "type=step")) == 2
    del builder.env["ARKWRIGHT_GC"]
    builder.build(other)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and builder.run("cache", "ls", "--format", "json").out.strip() != "[]":
        time.sleep(0.05)
    assert json.loads(builder.run("cache", "ls", "--format", "json").out) == []
    clean(builder)


def test_fsck_looks_at_journals_and_cache_mounts(builder: Builder, context: Context) -> None:
    builder.build(context({"Dockerfile": MOUNT}, "mount"))
    clean(builder)
    (mount,) = (builder.store / "cache-mounts").iterdir()
    (journal,) = (builder.store / "history").glob("*/journal.jsonl")
    for path in (mount / "shared.1.2", builder.store / "history" / "empty"):
        path.mkdir()
        os.chown(path, builder.uid, builder.uid)
    # A line that a killed process left unfinished is no fault; one of nonsense is.
    lines = journal.read_bytes()
    journal.write_bytes(lines + b'{"event":"log","vert')
    found = json.loads(builder.run("fsck", "--format", "json").out)
    assert {(one["kind"], one["garbage"]) for one in found} == {
        ("empty-history", True),
        ("half-made-mount", True),
    }
    journal.write_bytes(b"nonsense\n" + lines)
    assert "corrupt-journal" in builder.run("fsck", status=1).out
    builder.run("fsck", "--repair")
    clean(builder)
    assert (mount / "shared" / "file").exists()
    assert list((builder.store / "history").iterdir()) == []


def test_fsck_makes_the_blob_of_a_step_again_and_says_which_images_are_lost(
    builder: Builder, context: Context
) -> None:
    root = context({"Dockerfile": DOCKERFILE.format(name="data")}, "data")
    builder.build(root, "-t", "kept:1")
    clean(builder)
    manifest = json.loads(builder.run("inspect", "--raw", "kept:1").out)
    base, layer = (one["digest"] for one in manifest["layers"])

    def damage(digest: str) -> Path:
        path = builder.store / "blobs" / digest.replace(":", "/")
        path.write_bytes(path.read_bytes()[:-1] + b"!")
        return path

    path = damage(layer)
    assert "corrupt-blob" in builder.run("fsck", status=1).out
    done = builder.run("fsck", "--repair")
    whose = "it is part of docker.io/library/kept:1"
    assert done.out == f"corrupt-blob: blob {layer} does not have this digest; {whose} (made again)\n"
    assert done.err == ""
    assert hashlib.sha256(path.read_bytes()).hexdigest() == layer.partition(":")[2]
    assert os.stat(path).st_uid == builder.uid
    clean(builder)
    # The tree of a base does not tell the bytes of its blob.
    damage(base)
    done = builder.run("fsck", "--repair")
    assert f"corrupt-blob: blob {base} does not have this digest; it is part of " in done.out
    assert f"incomplete-image: docker.io/library/kept:1 lacks blob {base} (removed)" in done.out
    assert "  arkwright pull docker.io/library/kept:1\n" in done.err
    clean(builder)
