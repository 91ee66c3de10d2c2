"""Kills at random moments of a parallel build: nothing survives, and the next build is right."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from building import Builder, Context, MakeBuilder, processes_with, wait_until_gone
from stores import mounted

SAMPLE, FULL = 4, 200
SOAK = bool(os.environ.get("ARKWRIGHT_SOAK"))
STEPS = "\n".join(
    f"FROM busybox AS s{number}\nRUN echo {number} > /{number}; sleep 0.0{number}1 # @MARK@\nCOPY data /data{number}"
    for number in range(1, 5)
)
DOCKERFILE = f"{STEPS}\nFROM busybox\n" + "\n".join(
    f"COPY --from=s{number} /{number} /data{number} /all/" for number in range(1, 5)
)


def processes_of(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["ext4", "tmpfs"] if SOAK else ["host"])
@pytest.mark.parametrize("identity", ["root", "subids"])
@pytest.mark.parametrize("who", ["supervisor", "worker", "init", "any"])
def test_kill_at_random_moments(
    who: str, identity: str, kind: str, scratch: Path, make_builder: MakeBuilder, context: Context
) -> None:
    with mounted(kind, Builder(scratch, identity).store):
        _kill_and_build_again(who, make_builder(identity), make_builder, context)


def _kill_and_build_again(who: str, builder: Builder, make_builder: MakeBuilder, context: Context) -> None:
    chance = random.Random(f"{os.environ.get('ARKWRIGHT_SEED', '1')} {who} {builder.identity}")
    marker = f"mark-{os.getpid()}-{who}"
    root = context({"Dockerfile": DOCKERFILE.replace("@MARK@", marker), "data": marker}, f"kill-{who}")
    # What an undisturbed build in another store gives.
    judge = make_builder("root", "undisturbed")
    began_s = time.monotonic()
    expected = judge.build(root).digest
    usual_s = time.monotonic() - began_s
    for _ in range((FULL if SOAK else SAMPLE) // 4):
        process = builder.start("build", "--progress", "quiet", str(root))
        time.sleep(chance.uniform(0.02, usual_s))
        victims = below(process.pid)
        victim = {"supervisor": victims[:1], "worker": victims[1:2], "init": victims[2:3]}.get(
            who, [chance.choice(victims)]
        )
        for pid in victim:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.communicate(timeout=120)
        wait_until_gone(marker)
        assert f"{builder.store}/" not in Path("/proc/self/mounts").read_text()
        builder.run("fsck", "--timeout", "30s")
        assert builder.build(root).digest == expected
        # The next one runs all steps again, in the store that was left.
        builder.run("prune", "--all", "--timeout", "30s")


def below(pid: int) -> list[int]:
    try:
        return processes_of(pid)
    except OSError:
        return [pid]


def test_interrupt_stops_the_steps_and_says_so(builder: Builder, context: Context) -> None:
    marker = f"interrupt-{os.getpid()}-{builder.identity}"
    root = context({"Dockerfile": f"FROM busybox\nRUN sleep 600; : {marker}\n"})
    process = builder.start("build", "--progress", "plain", str(root))
    deadline = time.monotonic() + 120
    while not processes_with(marker):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    wait_until_gone(marker)


def test_a_full_disk_is_named_and_the_next_build_works(
    scratch: Path, make_builder: MakeBuilder, context: Context
) -> None:
    disk = scratch / "store-root"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", str(disk)], check=True)
    try:
        builder = make_builder("root")
        filler = disk / "filler"
        filler.write_bytes(bytes(38 << 20))
        big = os.urandom(12 << 20)
        step = context({"Dockerfile": "FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M count=12\n"}, "step")
        done = builder.run("build", "--progress", "plain", str(step), status=1)
        assert "No space left on device" in done.err
        copy = context({"Dockerfile": "FROM busybox\nCOPY big /\n", "big": big}, "copy")
        done = builder.run("build", "--progress", "plain", str(copy), status=1)
        assert "error[no-space]" in done.err
        filler.unlink()
        assert builder.build(copy).ran != []
        assert builder.build(step).ran != []
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
