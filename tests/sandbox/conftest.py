"""Fixtures of the sandboxes' tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("sandbox_suite", "sandbox_harness")

from sandbox_harness import Bench  # noqa: E402


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory that every user may enter."""
    path = Path(tempfile.mkdtemp(prefix="arkwright-sandbox-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=["root", "subids", "single"])
def bench(request: pytest.FixtureRequest, scratch: Path) -> Bench:
    """A bench for the sandbox that the test class names in `factory` and `needs`."""
    for tool in request.cls.needs:
        if shutil.which(tool, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin") is None:
            pytest.skip(f"needs-{tool}: an OCI runtime")
    return Bench(scratch, request.cls.factory, request.param)
