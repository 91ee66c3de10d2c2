"""Mount points in a directory that another step changes at the same time."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from arkwright.diagnostics.errors import UserError
from arkwright.layer.rooted import Root
from arkwright.sandbox.mountpoints import MountPoints, Target


def test_a_directory_that_becomes_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step with the same cache puts a link in the place of the stub, right after it was made: what the link
    leads to keeps its mode."""
    root, cache, outside = (tmp_path / name for name in ("root", "cache", "outside"))
    for path in (root, cache, outside):
        path.mkdir()
    outside.chmod(0o700)
    make = os.mkdir
    swapped = []

    def swapping(name: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        make(name, mode, dir_fd=dir_fd)
        if name == "below":
            os.rmdir(name, dir_fd=dir_fd)
            os.symlink(outside, name, dir_fd=dir_fd)
            swapped.append(name)

    monkeypatch.setattr(os, "mkdir", swapping)
    with Root(str(root)) as opened, MountPoints(opened) as points:
        points.prepare(Target("/cache", is_dir=True, source=str(cache)))
        try:
            points.prepare(Target("/cache/below", is_dir=True))
        except UserError as error:
            assert error.code == "bad-mount-target"
    assert swapped
    assert stat.S_IMODE(outside.stat().st_mode) == 0o700
    assert os.readlink(cache / "below") == str(outside)
