"""Clean-up and check of real stores, as root and rootless."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import time
from pathlib import Path

from building import Builder, Context, MakeBuilder

DOCKERFILE = """\
FROM busybox AS tool
RUN head -c 3000000 /dev/urandom > /big && mkdir -p /private && chown -R 7:7 /private && chmod 700 /private
RUN touch /private/file && chown 7:7 /private/file
FROM busybox
COPY --from=tool /private /kept
RUN echo {text} > /text
"""


def freed(builder: Builder, *args: str) -> str:
    return builder.run("prune", *args).out


def layers(builder: Builder) -> set[str]:
    return set(os.listdir(builder.store / "layers"))


def metadata(builder: Builder, statement: str, *values: object) -> list[tuple]:
    connection = sqlite3.connect(builder.store / "metadata.db")
    try:
        with connection:
            return connection.execute(statement, values).fetchall()
    finally:
        connection.close()


def clean(builder: Builder) -> None:
    assert builder.run("fsck").out == "nothing is wrong\n"


def test_prune_keeps_named_images_and_their_steps_cached(builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": DOCKERFILE.format(text="one")})
    first = builder.build(root, "-t", "app")
    before = layers(builder)
    dry = freed(builder, "--dry-run")
    assert dry.startswith("would free ")
    assert layers(builder) == before
    done = freed(builder)
    assert done.removeprefix("freed ") == dry.removeprefix("would free ")
    assert "MB" in done
    assert layers(builder) < before
    assert os.listdir(builder.store / "trash") == []
    clean(builder)
    again = builder.build(root, "-t", "app")
    assert (again.digest, again.ran) == (first.digest, [])
    assert builder.run("run", "app", "ls", "/kept").out == "file\n"
    changed = builder.build(context({"Dockerfile": DOCKERFILE.format(text="two")}), "-t", "app")
    assert changed.digest != first.digest
    clean(builder)


def test_prune_all_keeps_nothing_but_images(builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": DOCKERFILE.format(text="one")})
    first = builder.build(root, "-t", "app")
    freed(builder, "--all")
    assert layers(builder) == set()
    assert metadata(builder, "SELECT count(*) FROM records WHERE bucket LIKE 'stat:%'") == [(0,)]
    clean(builder)
    assert builder.run("run", "app", "cat", "/text").out == "one\n"
    assert len(builder.build(root, "-t", "other").ran) == 4
    builder.run("rm", "app", "other", "busybox")
    freed(builder, "--all")
    assert os.listdir(builder.store / "blobs" / "sha256") == []
    assert first.digest
    clean(builder)


def test_unnamed_builds_go_unless_young_or_small(builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": "FROM busybox\nRUN head -c 100000 /dev/zero > /a\n"})
    builder.build(root)
    freed(builder, "--keep-duration", "1h")
    assert builder.build(root).ran == []
    freed(builder, "--keep-storage", "1g")
    assert builder.build(root).ran == []
    freed(builder, "--keep-storage", "0")
    assert len(builder.build(root).ran) == 1
    freed(builder)
    assert len(builder.build(root).ran) == 1
    clean(builder)


def test_failed_steps_stay_until_all(builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": "FROM busybox\nRUN touch /seen && exit 3\n"})
    failure = builder.run("build", "--progress", "plain", str(root), status=1).err
    name = failure.partition("--failed-step ")[2].split()[0]
    freed(builder)
    assert builder.run("run", "--failed-step", name, "ls", "/seen").out == "/seen\n"
    freed(builder, "--all")
    assert "unknown-failed-step" in builder.run("run", "--failed-step", name, "ls", status=1).err
    clean(builder)


def test_a_store_in_use_is_not_pruned(make_builder: MakeBuilder) -> None:
    builder = make_builder()
    with open(builder.store / "lock") as lock:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_SH)
        error = builder.run("prune", status=1).err
        assert "error[store-in-use]" in error
        assert "error[store-in-use]" in builder.run("fsck", "--timeout", "0.1s", status=1).err
    assert "invalid-option-value" in builder.run("prune", "--timeout", "soon", status=2).err
    freed(builder)


def test_fsck_finds_and_repairs(builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": DOCKERFILE.format(text="one")})
    first = builder.build(root, "-t", "app")
    clean(builder)
    blobs = sorted((builder.store / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    damaged = next(path for path in blobs if path.stat().st_size < 2000)
    damaged.write_bytes(damaged.read_bytes() + b" ")
    query = "SELECT CAST(value AS TEXT) FROM records WHERE bucket = 'layers'"
    found_layers = [json.loads(value) for (value,) in metadata(builder, query)]
    gone = next(layer for layer in found_layers if layer.get("parents") and layer.get("unpacked", True))
    subprocess.run(["rm", "-r", str(builder.store / "layers" / gone["id"])], check=True)
    (builder.store / "layers" / ("0" * 32)).mkdir()
    (builder.store / "layers" / ("0" * 32)).chmod(0o755)
    os.chown(builder.store / "layers" / ("0" * 32), builder.uid, builder.uid)
    found = json.loads(builder.run("fsck", "--format", "json", status=1).out)
    kinds = {one["kind"] for one in found}
    assert {"corrupt-blob", "layer-without-directory", "orphan-directory"} <= kinds
    assert {one["kind"] for one in found if one["garbage"]} == {"orphan-directory"}
    assert f"sha256:{damaged.name}" in {one["subject"] for one in found}
    repaired = builder.run("fsck", "--repair").out
    assert repaired.count("(removed)") >= len(found)
    clean(builder)
    assert first.digest


def test_what_a_repair_removed_is_built_anew(
    builder: Builder, context: Context, busybox_layout: Path
) -> None:
    root = context({"Dockerfile": "FROM busybox\nRUN echo a > /a\nRUN echo b > /b\n"})
    first = builder.build(root, "-t", "app")
    for directory in (builder.store / "layers").iterdir():
        subprocess.run(["rm", "-r", str(directory)], check=True)
    assert "layer-without-directory" in builder.run("fsck", status=1).out
    builder.run("fsck", "--repair")
    clean(builder)
    again = builder.build(root, "-t", "app")
    assert again.digest == first.digest
    assert len(again.ran) == 2


def test_a_killed_prune_leaves_a_whole_store(builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": DOCKERFILE.format(text="one")})
    first = builder.build(root, "-t", "app")
    started = time.monotonic()
    builder.run("prune", "--dry-run")
    usual_s = time.monotonic() - started
    for moment in range(1, 9):
        process = builder.start("prune", "--all")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(usual_s * moment / 8)
        process.kill()
        process.communicate()
        builder.run("fsck", "--timeout", "30s")
        assert builder.build(root, "-t", "app").digest == first.digest
    freed(builder, "--timeout", "30s")
    clean(builder)
