"""A kill at every change of state that a build makes: the store is sound, the next build is right."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from building import Builder, Context, MakeBuilder, wait_until_gone
from stores import mounted

CHILD = Path(__file__).with_name("forked.py")
SAMPLE = 4
SOAK = bool(os.environ.get("ARKWRIGHT_SOAK"))
PLACES = [(identity, kind) for identity in ("root", "subids") for kind in ("tmpfs", "ext4")]
SOME_PLACES = [("root", "host"), ("subids", "host")]
# With its base unpacked before, a build is killed at every change; unpacking makes hundreds of links one
# like the other, so that of a build with its base still packed every fourth does.
STRIDES = {"unpacked": 1, "packed": 4}
DOCKERFILE = """\
FROM busybox AS one
RUN echo 1 > /one # @MARK@
COPY data /data
FROM busybox AS two
RUN --mount=type=cache,target=/c,sharing=locked echo 2 > /two # @MARK@
FROM one
COPY --from=two /two /
"""


class Cases:
    """Builds in copies of one store that knows its base and little else, each killed somewhere."""

    def __init__(self, place: Path, identity: str, archive: Path, warm_up: Path | None) -> None:
        self.builder = Builder(place, identity)
        self.builder.run("load", "-i", str(archive))
        if warm_up is not None:
            self.builder.build(warm_up)
        self._prepared = place / "prepared"
        self._counter = place / "counter"
        self.builder.store.rename(self._prepared)
        self._forks = subprocess.Popen(
            [*self.builder.prefix, sys.executable, str(CHILD)], cwd=self.builder.home, env=self.builder.env,
            text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> Cases:
        return self

    def __exit__(self, *_: object) -> None:
        self._forks.communicate(timeout=120)

    def again(self, root: Path) -> str:
        """Check the store, and build undisturbed; the image's digest."""
        assert self._run("fsck", "--timeout", "30s")[0] == 0, self._printed()
        status, digest = self._run("build", "--progress", "quiet", str(root))
        assert status == 0, self._printed()
        return digest

    def _run(self, *args: str, **kill: object) -> tuple[int, str]:
        out, err = (self.builder.home / name for name in ("out", "err"))
        order = {"args": args, "out": str(out), "err": str(err), **kill}
        assert self._forks.stdin is not None
        assert self._forks.stdout is not None
        self._forks.stdin.write(f"{json.dumps(order)}\n")
        self._forks.stdin.flush()
        return int(self._forks.stdout.readline()), out.read_text().strip()

    def _printed(self) -> str:
        return "".join((self.builder.home / name).read_text() for name in ("out", "err"))

    def run(self, number: int, root: Path) -> int:
        """Build in a fresh store with a kill; how many changes of state were made."""
        shutil.rmtree(self.builder.store, ignore_errors=True)
        subprocess.run(["cp", "-a", str(self._prepared), str(self.builder.store)], check=True)
        self._counter.write_bytes(b"")
        self._counter.chmod(0o666)
        kill = {"counter": str(self._counter), "number": number}
        self._run("build", "--progress", "quiet", str(root), **kill)
        return self._counter.stat().st_size


@pytest.mark.soak
@pytest.mark.parametrize("base", STRIDES)
@pytest.mark.parametrize(("identity", "kind"), PLACES if SOAK else SOME_PLACES)
def test_a_kill_at_every_change_of_state(
    identity: str,
    kind: str,
    base: str,
    make_builder: MakeBuilder,
    context: Context,
    scratch: Path,
    busybox_layout: Path,
) -> None:
    chance = random.Random(f"{os.environ.get('ARKWRIGHT_SEED', '1')} {identity} {base}")
    marker = f"killed-{os.getpid()}-{identity}"
    root = context({"Dockerfile": DOCKERFILE.replace("@MARK@", marker), "data": marker})
    warm_up = context({"Dockerfile": "FROM busybox\nRUN true\n"}, "warm-up")
    expected = make_builder("root", "undisturbed").build(root).digest
    place = scratch / "place"
    place.mkdir()
    with mounted(kind, place):
        archive = busybox_layout.parent / "busybox.tar"
        with Cases(place, identity, archive, warm_up if base == "unpacked" else None) as cases:
            total = cases.run(0, root)
            assert total > 100
            numbers = range(1, total + 1, STRIDES[base])
            for number in numbers if SOAK else chance.sample(numbers, SAMPLE // len(STRIDES)):
                cases.run(number, root)
                wait_until_gone(marker)
                assert cases.again(root) == expected, f"killed at {number} of {total}"
