"""The overlay and the copy tier, as root and as others."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from snapshot_suite import Case, SnapshotterSuite

from arkwright.snapshot.base import Snapshotter
from arkwright.snapshot.copy import CopySnapshotter
from arkwright.snapshot.overlay import OverlaySnapshotter
from arkwright.store.store import Store

CAN = {
    "root": frozenset({"device", "chown"}),
    "rootless": frozenset({"chown"}),
    "plain": frozenset[str](),
}


def nothing() -> None:
    """Durability is not what these tests are about."""


def make(tier: str, store: Store) -> Snapshotter:
    kind = OverlaySnapshotter if tier == "overlay" else CopySnapshotter
    return kind(store, sync=nothing)


@pytest.mark.parametrize(
    ("tier", "kind"),
    [("overlay", "root"), ("overlay", "rootless"), ("copy", "root"), ("copy", "rootless"), ("copy", "plain")],
)
class TestTiers(SnapshotterSuite):
    @pytest.fixture
    def run(self, make_place, tier: str, kind: str) -> Callable[[Callable[[Case], None]], None]:
        place = make_place(kind)

        def run(body: Callable[[Case], None]) -> None:
            def inside(path: str) -> None:
                with Store.open(os.path.join(path, "store")) as store:
                    can = CAN[kind] | ({"mount"} if tier == "overlay" else set())
                    body(Case(store, make(tier, store), can, lambda again: make(tier, again)))

            place.run(inside)

        return run
