"""The overlay and the copy tier, as root and as others."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from snapshot_suite import Case, SnapshotterSuite

from arkwright.layer.stamps import Stamps
from arkwright.linux import syscalls
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
    return kind(store, sync=nothing, stamps=Stamps(rule="keep"))


def overlay_in(path: str) -> str:
    """An overlay as container engines mount them; nobody can make overlayfs's own marks in it."""
    lower, upper, work, merged = (os.path.join(path, name) for name in ("lower", "upper", "work", "merged"))
    for name in (lower, upper, work, merged):
        os.mkdir(name)
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    syscalls.mount("overlay", merged, "overlay", 0, options)
    return merged


@pytest.mark.parametrize(
    ("tier", "kind"),
    [
        ("overlay", "root"),
        ("overlay", "rootless"),
        ("copy", "root"),
        ("copy", "rootless"),
        ("copy", "plain"),
        ("copy on an overlay", "root"),
    ],
)
class TestTiers(SnapshotterSuite):
    @pytest.fixture
    def run(self, make_place, tier: str, kind: str) -> Callable[[Callable[[Case], None]], None]:
        place = make_place(kind)

        def run(body: Callable[[Case], None]) -> None:
            def inside(path: str) -> None:
                if "on an overlay" in tier:
                    path = overlay_in(path)
                with Store.open(os.path.join(path, "store")) as store:
                    can = CAN[kind] | ({"mount"} if tier == "overlay" else set())
                    body(Case(store, make(tier, store), can, lambda again: make(tier, again)))

            place.run(inside)

        return run
