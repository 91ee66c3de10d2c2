from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.registry_images import Docker
from sources.sources_servers import Site


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Docker]:
    """A docker-registry of the test's own, which it may stop."""
    with Docker(tmp_path) as running:
        yield running
