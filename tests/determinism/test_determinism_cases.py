"""Conformance cases built in two worlds at once different in all that can be: equal digests of everything."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance_cases import OF_THE_KERNEL, Case, load_all
from conformance_play import Arkwright, tool_missing
from conformance_program import Servers
from conformance_site import CaseSite
from conformance_world import World

SAMPLE = 24
# What is no image is left out: checks, refusals.
_IMAGES = [
    case
    for case in load_all()
    if not (case.error or case.root_only or case.findings is not None or case.id in OF_THE_KERNEL)
]
# Cases that say when a file is from are about that.
_TIMED = ("mtime", "SOURCE_DATE_EPOCH")


def _taken() -> list[Case]:
    if os.environ.get("ARKWRIGHT_SOAK"):
        return _IMAGES
    return random.Random("worlds").sample(_IMAGES, SAMPLE)


@pytest.fixture(scope="session")
def site() -> Iterator[CaseSite]:
    with CaseSite() as made:
        yield made


@pytest.fixture(scope="session")
def worlds(busybox_layout: Path) -> Iterator[tuple[Arkwright, Arkwright]]:
    """Root in the morning in Greenwich, and a user without root in the evening of Kiritimati, with one core."""
    made: list[Arkwright] = []
    paths = [Path(tempfile.mkdtemp(prefix=prefix)) for prefix in ("arkwright-", "arkwright with a blank-")]
    for path, identity in zip(paths, ("root", "subids"), strict=True):
        path.chmod(0o755)
        made.append(Arkwright(path, identity, busybox_layout.parent / "busybox.tar"))
    first, second = made
    first.env |= {"LC_ALL": "C.UTF-8", "TZ": "UTC"}
    second.env |= {
        "LC_ALL": "tr_TR.UTF-8",
        "LANG": "tr_TR.UTF-8",
        "TZ": "Pacific/Kiritimati",
        "USER": "somebody",
    }
    second.umask, second.furnish = 0o077, other_times
    if second.servers is not None and shutil.which("taskset"):
        second.servers.close()
        second.servers = Servers(["taskset", "-c", "0", *second.builder.prefix], second.env)
    yield first, second
    for program in made:
        program.close()
    for path in paths:
        shutil.rmtree(path)


def other_times(world: World) -> None:
    """Give what is in the context times that are all different, unless the case is about them."""
    if any(word in repr(world.case) for word in _TIMED):
        return
    found = sorted(world.context_path.rglob("*"), reverse=True)
    for number, path in enumerate([*found, world.context_path]):
        time_ns = (1_000_000_000 + number * 37 % 1009 * 86_400) * 1_000_000_000 + number
        os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)


def test_there_are_enough() -> None:
    assert len(_IMAGES) >= 100


@pytest.mark.soak
@pytest.mark.parametrize("case", _taken(), ids=lambda case: case.id)
def test_a_case_in_two_worlds(case: Case, worlds: tuple[Arkwright, Arkwright], site: CaseSite) -> None:
    if tool_missing(case):
        pytest.skip(f"needs-{tool_missing(case)}: this case's world")
    first, second = worlds
    for program in worlds:
        found = program.differences(case, site)
        assert not found, f"{case.id} ({case.source})\n" + "\n".join(found)
    assert first.digests[case.id] == second.digests[case.id]
