"""The quota of a store: never exceeded at rest, and a step that crosses it is stopped."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from arkwright.cache.meter import Meter, QuotaWatch
from arkwright.store.store import Store
from building import Builder, Context, MakeBuilder

MB = 1_000_000
FILL = "FROM busybox\nRUN head -c {size} /dev/urandom > /file && echo {name} > /name\n"


def fill(context: Context, name: str, size: int = 3 * MB) -> Path:
    return context({"Dockerfile": FILL.format(size=size, name=name)}, name)


def attempt(builder: Builder, *args: str) -> str:
    """Build, well or not; what was printed."""
    return builder.start("build", "--progress", "plain", *args).communicate(timeout=120)[1]


def used(builder: Builder) -> int:
    """The bytes of the store's files, as du(1) counts them."""
    said = subprocess.run(["du", "-s", "-B1", builder.store], capture_output=True, check=True).stdout
    return int(said.split()[0])


def test_the_store_shrinks_to_its_quota_after_a_build(builder: Builder, context: Context) -> None:
    assert builder.run("quota").out.startswith("no quota, ")
    assert builder.run("quota", "32m").out.startswith("quota 33.6MB, ")
    roots = [fill(context, f"n{number}") for number in range(6)]
    for root in roots:
        builder.build(root)
        assert used(builder) <= 32 << 20
        assert os.listdir(builder.store / "trash") == []
    assert builder.build(roots[5]).ran == []
    assert len(builder.build(roots[0]).ran) == 1
    assert builder.run("fsck").out == "nothing is wrong\n"
    assert builder.run("quota", "none").out.startswith("no quota, ")
    for root in roots:
        builder.build(root)
    assert used(builder) > 32 << 20
    builder.run("quota", "32m")
    assert used(builder) <= 32 << 20


def test_a_step_that_crosses_the_quota_is_stopped(builder: Builder, context: Context) -> None:
    quota = 20 << 20
    builder.run("quota", str(quota))
    root = context({"Dockerfile": "FROM busybox\nRUN yes > /file\n"})
    failure = builder.run("build", "--progress", "plain", str(root), status=1).err
    assert "error[quota-exceeded]" in failure
    assert "Dockerfile:2:1" in failure
    assert " over" in failure
    assert used(builder) <= quota
    assert builder.run("fsck").out == "nothing is wrong\n"
    assert builder.build(fill(context, "fits")).ran != []


def test_after_a_stop_old_cache_has_made_room(make_builder: MakeBuilder, context: Context) -> None:
    builder = make_builder()
    quota = 24 << 20
    builder.run("quota", str(quota))
    for number in range(5):
        builder.build(fill(context, f"n{number}"))
    # What is left of the quota is too little for it, but without the others it fits.
    large = context({"Dockerfile": "FROM busybox\nRUN head -c 9000000 /dev/urandom > /file && sleep 1.5\n"})
    failures = [attempt(builder, str(large)) for _ in range(3)]
    assert "error[quota-exceeded]" in failures[0]
    assert "error[" not in failures[-1]
    assert used(builder) <= quota


def test_names_that_a_build_gave_are_taken_back_if_it_does_not_fit(
    builder: Builder, context: Context
) -> None:
    root = fill(context, "first", 4 * MB)
    first = builder.build(root, "-t", "app", "-t", "other")
    second = builder.build(fill(context, "second", 1 * MB), "-t", "other")
    builder.run("tag", second.digest, "kept")
    connection = sqlite3.connect(builder.store / "metadata.db")
    with connection:
        connection.execute("UPDATE records SET value = ? WHERE bucket = 'settings'", (b'{"at":1.0}',))
    connection.close()
    builder.env["ARKWRIGHT_QUOTA"] = "4m"
    failure = attempt(builder, "-t", "other", "-t", "new", str(root))
    assert "error[quota-exceeded]" in failure
    assert "1 steps run" not in failure
    images = builder.run("images", "--format", "json").out
    assert "new" not in images
    assert {first.digest in images, second.digest in images} == {True}
    assert json.loads(builder.run("history", "ls", "--format", "json").out)[0]["code"] == "quota-exceeded"
    assert builder.run("run", "other", "cat", "/name").out == "second\n"
    assert builder.run("fsck").out == "nothing is wrong\n"


def test_a_quota_of_the_environment_counts_instead(make_builder: MakeBuilder, context: Context) -> None:
    builder = make_builder()
    builder.run("quota", "1g")
    builder.env["ARKWRIGHT_QUOTA"] = "14m"
    for name in ("one", "two", "three"):
        attempt(builder, str(fill(context, name)))
        assert used(builder) <= 14 << 20
    builder.env["ARKWRIGHT_QUOTA"] = "none"
    assert builder.run("quota").out.startswith("no quota, ")
    builder.env["ARKWRIGHT_QUOTA"] = "much"
    assert "error[invalid-setting]" in builder.run("quota", status=1).err
    assert "error[invalid-setting]" in builder.run("build", str(fill(context, "one")), status=1).err


def test_images_that_come_otherwise_keep_the_quota(make_builder: MakeBuilder, busybox_layout: Path) -> None:
    builder = make_builder()
    builder.run("rm", "busybox")
    builder.env["ARKWRIGHT_QUOTA"] = "500k"
    archive = busybox_layout.parent / "busybox.tar"
    assert "error[quota-exceeded]" in builder.run("load", "-i", str(archive), status=1).err
    assert "error[quota-exceeded]" in builder.run("bootstrap", "busybox", status=1).err
    assert builder.run("images", "--format", "json").out.strip() == "[]"
    assert used(builder) <= 500 << 10
    builder.env["ARKWRIGHT_QUOTA"] = "5m"
    builder.run("load", "-i", str(archive))
    assert "busybox" in builder.run("images").out


def test_builds_that_end_together_leave_the_store_below_its_quota(
    make_builder: MakeBuilder, context: Context
) -> None:
    builder = make_builder()
    builder.run("quota", "16m")
    for turn in range(2):
        roots = [fill(context, f"t{turn}n{number}", 2 * MB) for number in range(3)]
        running = [builder.start("build", "--progress", "plain", str(root)) for root in roots]
        for process in running:
            _, error = process.communicate(timeout=120)
            assert process.returncode == 0 or "quota-exceeded" in error, error
        assert used(builder) <= 16 << 20
    assert builder.run("fsck").out == "nothing is wrong\n"


@pytest.fixture
def small_disk(scratch: Path) -> Iterator[Path]:
    """A file system of its own, as small as a store's quota makes sense."""
    if os.geteuid() != 0:
        pytest.skip("needs-root: to mount a tmpfs")
    path = scratch / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", path], check=False)
    if mounted.returncode:
        pytest.skip("needs-mount: tmpfs cannot be mounted here")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def test_others_on_the_same_disk_do_not_count(small_disk: Path) -> None:
    root_path = small_disk / "store"
    Store.open(str(root_path)).close()
    crossed: list[float] = []
    quota = 8 << 20
    with QuotaWatch(str(root_path), quota, lambda: crossed.append(time.monotonic())) as watch:
        (small_disk / "others").write_bytes(bytes(20 << 20))
        work = root_path / "work" / "tree"
        work.mkdir()
        (work / "file").write_bytes(bytes(7 << 20))
        watch._thread.join(1.0)
        assert crossed == []
        began = time.monotonic()
        (work / "more").write_bytes(bytes(2 << 20))
        watch._thread.join(10)
    assert crossed[0] - began < 1.0
    assert watch.crossing is not None
    assert watch.crossing.used > quota
    assert watch.crossing.grown >= 9 << 20


def test_the_meter_counts_what_the_disk_holds(store_path: Path) -> None:
    with Store.open(str(store_path)) as store:
        meter = Meter(store.root_path)
        empty = meter.measure()
        digest = store.content.write(os.urandom(100_000))
        layer = store_path / "layers" / ("1" * 32)
        layer.mkdir()
        (layer / "fs").mkdir()
        (layer / "fs" / "file").write_bytes(os.urandom(50_000))
        grown = meter.measure() - empty
        assert 150_000 <= grown < 180_000
        assert meter.measure() - empty == grown
        # A directory that gets its tree by a rename is measured anew.
        os.rename(layer / "fs", store_path / "work" / "fs")
        os.rename(store_path / "work" / "fs", layer / "fs")
        (layer / "fs" / "file").write_bytes(os.urandom(60_000))
        os.rename(layer / "fs", store_path / "work" / "fs")
        os.rename(store_path / "work" / "fs", layer / "fs")
        assert meter.measure() - empty > grown
        store.content.delete(digest)
        assert meter.measure() - empty < 90_000


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    return tmp_path / "store"
