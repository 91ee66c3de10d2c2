"""Builders, and what tests of verification share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from building import Builder
from file_site import FileSite


@pytest.fixture(scope="module", params=["root", "subids"])
def anybody(request: pytest.FixtureRequest, busybox_layout: Path) -> Iterator[Builder]:
    """A builder that knows busybox, for root and for a user with subordinate ids."""
    with _builder(request.param, busybox_layout) as made:
        yield made


@pytest.fixture(scope="module")
def somebody(busybox_layout: Path) -> Iterator[Builder]:
    """A user with subordinate ids: for what does not depend on who builds."""
    with _builder("subids", busybox_layout) as made:
        yield made


class _builder:
    def __init__(self, identity: str, busybox_layout: Path) -> None:
        self._path = Path(tempfile.mkdtemp(prefix="arkwright-verifying-"))
        self._path.chmod(0o755)
        self._made = Builder(self._path, identity)
        self._made.run("load", "-i", str(busybox_layout.parent / "busybox.tar"))

    def __enter__(self) -> Builder:
        return self._made

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path)


@pytest.fixture
def site() -> Iterator[FileSite]:
    with FileSite() as made:
        yield made
