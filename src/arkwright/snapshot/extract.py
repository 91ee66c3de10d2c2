"""What makes two plain trees differ, taken out of the second as a layer directory."""

from __future__ import annotations

import os

from arkwright.layer.diff import Untouched, diff
from arkwright.layer.entry import Change
from arkwright.layer.rooted import Root
from arkwright.layer.tree import make_whiteout
from arkwright.snapshot.attributes import copy_attributes, make_directory


def extract(parent: Root, tree: Root, upper: Root, untouched: Untouched | None = None) -> list[Change]:
    """Move everything in `tree` that is not as in `parent` to the empty directory `upper`; what that was.

    Files are renamed, so that links among them stay; `tree` lacks them afterwards, and its directories
    have other times. Of files that are `untouched` (see `layer.diff`) the content is not compared.
    """
    # All of it first: moving changes the times of the directories that are still to be compared.
    changes = list(diff(parent, tree, untouched=untouched))
    before = {"": os.fstat(tree.fd)}
    for change in changes:
        if change.entry.type == "dir":
            before[change.entry.path] = _status(tree, change.entry.path)
    _open_up(tree, before)
    for change in changes:
        if change.entry.path:
            _move(change, tree, upper)
    for path in reversed(before):
        _carry_over(path, tree, upper, before[path])
    return changes


def _status(tree: Root, path: str) -> os.stat_result:
    found = tree.lstat(path)
    assert found is not None
    return found


def _open_up(tree: Root, directories: dict[str, os.stat_result]) -> None:
    """Let us take things out of directories of ours that forbid it."""
    for path, info in directories.items():
        if info.st_mode & 0o700 != 0o700 and info.st_uid == os.geteuid():
            directory_fd = tree.open_dir(path, follow=False)
            os.fchmod(directory_fd, 0o700)
            os.close(directory_fd)


def _move(change: Change, tree: Root, upper: Root) -> None:
    target_fd, name = upper.open_parent(change.entry.path)
    try:
        if change.entry.type == "dir":
            make_directory(target_fd, name)
        elif change.entry.type == "whiteout":
            make_whiteout(target_fd, name)
        else:
            source_fd, _ = tree.open_parent(change.entry.path)
            try:
                os.rename(name, name, src_dir_fd=source_fd, dst_dir_fd=target_fd)
            finally:
                os.close(source_fd)
    finally:
        os.close(target_fd)


def _carry_over(path: str, tree: Root, upper: Root, info: os.stat_result) -> None:
    source_fd = tree.open_dir(path, follow=False)
    try:
        target_fd = upper.open_dir(path, follow=False)
        try:
            copy_attributes(source_fd, target_fd, info)
        finally:
            os.close(target_fd)
    finally:
        os.close(source_fd)
