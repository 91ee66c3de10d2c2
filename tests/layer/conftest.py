from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def tool() -> Callable[[str], str]:
    """The path of an outside program; skips when it is not installed."""

    def find(name: str) -> str:
        found = shutil.which(name)
        if found is None:
            pytest.skip(f"needs-{name}: not installed")
        return found

    return find


@pytest.fixture
def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs-root: makes devices and foreign owners")


@pytest.fixture
def open_path() -> Iterator[str]:
    """A directory that an unprivileged user may reach and write."""
    path = tempfile.mkdtemp(prefix="arkwright-layer-")
    os.chmod(path, 0o777)
    yield path
    shutil.rmtree(path, ignore_errors=True)
