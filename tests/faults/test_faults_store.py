"""A full disk at any size, and a database that somebody keeps locked: errors, never wrong images."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from building import Builder, Context, MakeBuilder, processes_with
from stores import mounted

CHILD = Path(__file__).with_name("busy.py")


@contextmanager
def locked(builder: Builder) -> Iterator[None]:
    """Keep every writer out of the store's database."""
    connection = sqlite3.connect(builder.store / "metadata.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def impatient(builder: Builder, busy_s: float, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*builder.prefix, sys.executable, str(CHILD), str(busy_s), *args], cwd=builder.home,
        env=builder.env, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_database_locked_for_longer_than_we_wait_is_an_error(
    builder: Builder, make_builder: MakeBuilder, context: Context
) -> None:
    marker = f"busy-{os.getpid()}-{builder.identity}"
    root = context(
        {"Dockerfile": f"FROM busybox\nRUN sleep 1; echo {marker} > /f\nCOPY data /\n", "data": marker}
    )
    process = impatient(builder, 0.2, "build", "--progress", "none", str(root))
    deadline = time.monotonic() + 120
    while not processes_with(f"echo {marker}"):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    with locked(builder):
        _, err = process.communicate(timeout=120)
        assert process.returncode == 1, err
        assert "error[store-busy]" in err
    builder.run("fsck", "--timeout", "30s")
    assert builder.build(root).digest == make_builder("root", "undisturbed").build(root).digest


def test_a_database_locked_for_less_is_waited_for(builder: Builder, context: Context) -> None:
    marker = f"patient-{os.getpid()}-{builder.identity}"
    root = context({"Dockerfile": f"FROM busybox\nRUN sleep 0.5; echo {marker} > /f\n"})
    process = impatient(builder, 30, "build", "--progress", "none", str(root))
    deadline = time.monotonic() + 120
    while not processes_with(f"echo {marker}"):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    with locked(builder):
        while processes_with(f"echo {marker}"):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert process.poll() is None
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err


class Writes:
    """Builds of which one write to the database finds it locked, and all that come after it."""

    def __init__(self, builder: Builder, root: Path) -> None:
        self._builder = builder
        self._root = root
        self._counter = builder.home / "counter"
        self._reached, self._locked = (
            self._counter.with_name(f"counter.{name}") for name in ("reached", "locked")
        )

    def run(self, number: int) -> tuple[int, str, str]:
        """Build; the status, and what was printed."""
        for path in (self._reached, self._locked):
            path.unlink(missing_ok=True)
        self._counter.write_bytes(b"")
        self._counter.chmod(0o666)
        args = ("--at", str(number), str(self._counter), "build", "--progress", "quiet", str(self._root))
        process = impatient(self._builder, 0.05, *args)
        while process.poll() is None and not self._reached.exists():
            time.sleep(0.002)
        with locked(self._builder) if self._reached.exists() else nullcontext():
            self._locked.touch()
            out, err = process.communicate(timeout=120)
        return process.returncode, out.strip(), err

    @property
    def count(self) -> int:
        return self._counter.stat().st_size


@pytest.mark.soak
@pytest.mark.parametrize("identity", ["root", "subids"])
def test_a_database_that_is_locked_from_any_write_on(
    identity: str, scratch: Path, make_builder: MakeBuilder, context: Context
) -> None:
    """The build fails, or was through with what it had to write; afterwards all is well."""
    root = context(
        {"Dockerfile": "FROM busybox\nCOPY data /\nRUN --mount=type=cache,target=/c cat /data > /copy\n"}
        | {"data": "content"}
    )
    expected = make_builder("root", "undisturbed").build(root).digest
    status, digest, err = (counting := Writes(make_builder(identity, "counted"), root)).run(0)
    assert (status, digest) == (0, expected), err
    numbers = range(1, counting.count + 1)
    assert len(numbers) > 8
    chance = random.Random(f"{os.environ.get('ARKWRIGHT_SEED', '1')} {identity}")
    for number in numbers if os.environ.get("ARKWRIGHT_SOAK") else chance.sample(numbers, 2):
        builder = make_builder(identity, f"locked-{number}")
        status, digest, err = Writes(builder, root).run(number)
        refused = status == 1 and "error[store-busy]" in err
        assert refused or (status, digest) == (0, expected), f"locked at {number}: {status} {err}"
        builder.run("fsck", "--timeout", "30s")
        assert builder.build(root).digest == expected, f"locked at {number}"


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
@pytest.mark.parametrize("identity", ["root", "subids"])
def test_a_disk_that_is_full_at_any_moment(
    identity: str, kind: str, scratch: Path, make_builder: MakeBuilder, context: Context
) -> None:
    """The room that is left decides where it runs out: in a step, a copy, a layer, a record."""
    chance = random.Random(f"{os.environ.get('ARKWRIGHT_SEED', '1')} {identity} {kind}")
    free = [chance.randrange(8 << 10, 6 << 20) for _ in range(40 if os.environ.get("ARKWRIGHT_SOAK") else 2)]
    root = context(
        {
            "Dockerfile": "FROM busybox\nCOPY data /\nRUN head -c 1000000 /data > /part\nRUN cat /part /data > /all\n",
            "data": random.Random(7).randbytes(1_000_000),
        }
    )
    expected = make_builder("root", "undisturbed").build(root).digest
    store = Builder(scratch, identity).store
    with mounted(kind, store, size_mb=64):
        builder = make_builder(identity)
        filler = scratch / f"store-{identity}" / "filler"
        for size in free:
            builder.run("prune", "--all", "--timeout", "30s")
            with open(filler, "wb") as file:
                status = os.statvfs(store)
                os.posix_fallocate(file.fileno(), 0, max(4096, status.f_bavail * status.f_frsize - size))
            process = builder.start("build", "--progress", "plain", "--no-cache", str(root))
            _, err = process.communicate(timeout=120)
            if process.returncode:
                assert process.returncode == 1, err
                # A step meets the full disk in its own way.
                assert "error[no-space]" in err or "error[step-failed]" in err, err
            filler.unlink()
            builder.run("fsck", "--timeout", "30s")
            assert builder.build(root).digest == expected
