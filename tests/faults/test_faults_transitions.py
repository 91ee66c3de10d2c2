"""A kill at every change of state that a build makes: the store is sound, the next build is right."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from building import Builder, Context, MakeBuilder, wait_until_gone

CHILD = Path(__file__).with_name("killing.py")
SAMPLE = 4
DOCKERFILE = """\
FROM busybox AS one
RUN echo 1 > /one # @MARK@
COPY data /data
FROM busybox AS two
RUN --mount=type=cache,target=/c,sharing=locked echo 2 > /two # @MARK@
FROM one
COPY --from=two /two /
"""


def run(builder: Builder, counter: Path, number: int, root: Path) -> int:
    """Build with a kill; how many changes of state were made."""
    counter.write_bytes(b"")
    counter.chmod(0o666)
    command = [
        *builder.prefix, sys.executable, str(CHILD), str(counter), str(number),
        "build", "--progress", "quiet", str(root),
    ]  # fmt: skip
    subprocess.run(
        command, cwd=builder.home, env=builder.env, timeout=60, check=False, capture_output=True,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return counter.stat().st_size


@pytest.mark.soak
def test_a_kill_at_every_change_of_state(
    builder: Builder, make_builder: MakeBuilder, context: Context, scratch: Path
) -> None:
    counter = scratch / "counter"
    chance = random.Random(f"{os.environ.get('ARKWRIGHT_SEED', '1')} {builder.identity}")
    root = context({"Dockerfile": DOCKERFILE.replace("@MARK@", "counted"), "data": "counted"}, "counted")
    total = run(builder, counter, 0, root)
    assert total > 100
    numbers = list(range(1, total + 1))
    if not os.environ.get("ARKWRIGHT_SOAK"):
        numbers = sorted(chance.sample(numbers, SAMPLE))
    judge = make_builder("root", "undisturbed")
    for number in numbers:
        marker = f"killed-{os.getpid()}-{builder.identity}-{number}"
        root = context({"Dockerfile": DOCKERFILE.replace("@MARK@", marker), "data": marker}, marker)
        run(builder, counter, number, root)
        wait_until_gone(marker)
        builder.run("fsck", "--timeout", "30s")
        assert builder.build(root).digest == judge.build(root).digest, f"killed at {number} of {total}"
