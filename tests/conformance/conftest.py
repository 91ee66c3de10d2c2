"""Players of the conformance suite: one prepared store per user, one web server."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conformance_play import Arkwright
from conformance_site import CaseSite


@pytest.fixture(scope="session")
def case_site() -> Iterator[CaseSite]:
    with CaseSite() as site:
        yield site


@pytest.fixture(scope="session")
def player(busybox_layout: Path) -> Iterator[Callable[[str], Arkwright]]:
    """`player(identity)`: Arkwright as that user; made when first asked for. `root/chroot`: with a tier."""
    path = Path(tempfile.mkdtemp(prefix="arkwright-conformance-"))
    path.chmod(0o755)
    made: dict[str, Arkwright] = {}

    def get(identity: str) -> Arkwright:
        if identity not in made:
            scratch = Path(tempfile.mkdtemp(dir=path))
            scratch.chmod(0o755)
            user, _, isolation = identity.partition("/")
            made[identity] = Arkwright(scratch, user, busybox_layout.parent / "busybox.tar", isolation)
        return made[identity]

    yield get
    for program in made.values():
        program.close()
    shutil.rmtree(path)
