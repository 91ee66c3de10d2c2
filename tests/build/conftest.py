"""One store for all tests of a module, for tests whose builds cannot disturb one another."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from building import Builder


@pytest.fixture(scope="module", params=["root", "subids"])
def module_builder(request: pytest.FixtureRequest, busybox_layout: Path) -> Iterator[Builder]:
    """A builder that knows busybox, for root and for a user with subordinate ids."""
    path = Path(tempfile.mkdtemp(prefix="arkwright-module-"))
    path.chmod(0o755)
    made = Builder(path, request.param)
    made.run("load", "-i", str(busybox_layout.parent / "busybox.tar"))
    yield made
    shutil.rmtree(path)
