"""Fixtures of the exporters' tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from exporting import Workshop

from arkwright.store.store import Store


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    with Store.open(str(tmp_path / "store")) as store:
        yield Workshop(store)


@pytest.fixture
def view_of() -> object:
    """A `View` over plain directories by layer id."""

    def make(trees: dict[str, Path]) -> object:
        @contextmanager
        def view(layers: Sequence[str]) -> Iterator[str]:
            yield str(trees[layers[-1]])

        return view

    return make
