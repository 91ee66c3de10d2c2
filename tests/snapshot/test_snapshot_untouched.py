"""Copied files whose content is not compared again, and those that are."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from arkwright.snapshot.union import unite
from arkwright.snapshot.untouched import Copied

OLD_NS = 10**18


def tick(path: Path) -> None:
    """Wait until files that are written get another time of change than those that are there."""
    before = path.stat().st_ctime_ns
    probe = path.parent / "probe"
    while True:
        probe.write_text("")
        if probe.stat().st_ctime_ns > before:
            probe.unlink()
            return
        probe.unlink()


@pytest.fixture
def tree(tmp_path: Path) -> tuple[Copied, Path]:
    """A copy of two directories with equally named files of one size and time."""
    for name in ("a", "b"):
        (tmp_path / "lower" / name).mkdir(parents=True)
        path = tmp_path / "lower" / name / "f"
        path.write_text(name)
        os.utime(path, ns=(OLD_NS, OLD_NS))
    copied = Copied()
    (tmp_path / "tree").mkdir()
    unite([str(tmp_path / "lower")], str(tmp_path / "tree"), link=False, note=copied.note)
    tick(tmp_path / "tree/b/f")
    copied.complete(str(tmp_path))
    if not copied.untouched("a/f", (tmp_path / "tree/a/f").stat()):
        pytest.skip("needs-fine-times: a file system that keeps fractions of seconds")
    return copied, tmp_path / "tree"


def test_the_copy_is_untouched(tree: tuple[Copied, Path]) -> None:
    copied, root = tree
    assert all(copied.untouched(f"{name}/f", (root / name / "f").stat()) for name in "ab")
    assert not copied.untouched("c/f", (root / "a/f").stat())


def rewrite(root: Path) -> None:
    (root / "a/f").write_text("x")
    os.utime(root / "a/f", ns=(OLD_NS, OLD_NS))


def swap_directories(root: Path) -> None:
    (root / "a").rename(root / "c")
    (root / "b").rename(root / "a")


def swap_files(root: Path) -> None:
    (root / "b/f").replace(root / "a/f")


def replace(root: Path) -> None:
    (root / "a/f").unlink()
    rewrite(root)


def write_by_another_link(root: Path) -> None:
    os.link(root / "a/f", root / "link")
    (root / "link").write_text("x")
    os.utime(root / "link", ns=(OLD_NS, OLD_NS))
    (root / "link").unlink()


@pytest.mark.parametrize(
    "change",
    [rewrite, swap_directories, swap_files, replace, write_by_another_link],
    ids=lambda f: f.__name__,
)
def test_changes_that_keep_size_and_time_are_seen(
    tree: tuple[Copied, Path], change: Callable[[Path], None]
) -> None:
    copied, root = tree
    change(root)
    status = (root / "a/f").stat()
    assert (status.st_size, status.st_mtime_ns) == (1, OLD_NS)
    assert not copied.untouched("a/f", status)


def test_files_of_the_last_tick_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "f"
    copied = Copied()
    path.write_text("x")
    copied.note("f", path.stat())
    # As if the copy were complete in the tick in which the file was made.
    copied._complete_ns = path.stat().st_ctime_ns
    assert not copied.untouched("f", path.stat())


def test_nothing_is_trusted_when_the_clock_was_set_back(
    tree: tuple[Copied, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    copied, root = tree
    now_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() - 10**9)
    assert not copied.untouched("a/f", (root / "a/f").stat())
