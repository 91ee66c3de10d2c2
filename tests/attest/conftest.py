from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from building import Builder


@pytest.fixture(scope="module")
def builders(busybox_layout: Path) -> Iterator[Callable[[str], Builder]]:
    """By identity, a builder that knows busybox."""
    at = Path(tempfile.mkdtemp(prefix="arkwright-attest-"))
    at.chmod(0o755)

    @cache
    def builder(identity: str) -> Builder:
        made = Builder(at, identity)
        made.run("load", "-i", str(busybox_layout.parent / "busybox.tar"))
        return made

    yield builder
    shutil.rmtree(at)
