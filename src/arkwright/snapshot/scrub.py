"""Dropping changes from a layer before it is committed.

What is dropped from an upper directory lets the parents' show through again. Deletions stay: a
step that removes a log means it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from arkwright.layer.rooted import Root
from arkwright.layer.tree import is_whiteout
from arkwright.snapshot.attributes import copy_attributes


def drop_changes(upper: Root, parent: Root | None, patterns: Sequence[str]) -> set[str]:
    """Drop from the normalised upper directory every change at a path that a pattern matches.

    Patterns are absolute paths; `*` matches within one name. A file that was made vanishes, a
    changed one is again the parent's, a whiteout stays. A directory counts with everything below;
    it goes, too, if the step made it, and gets the parent's attributes otherwise.
    Returns the paths of the directories that held what was dropped.
    """
    emptied: set[str] = set()
    for pattern in patterns:
        names = [name for name in pattern.split("/") if name]
        for path in list(_matches(upper, "", names)):
            _drop_below(upper, parent, path)
            emptied.add(path.rpartition("/")[0])
    return emptied


def _matches(upper: Root, path: str, names: list[str]) -> Iterator[str]:
    """The paths of the upper directory that match; no link is followed."""
    if not names:
        yield path
        return
    directory_fd = _open_if_directory(upper, path)
    if directory_fd < 0:
        return
    try:
        found = sorted(name for name in os.listdir(directory_fd) if fnmatchcase(name, names[0]))
    finally:
        os.close(directory_fd)
    for name in found:
        yield from _matches(upper, f"{path}/{name}" if path else name, names[1:])


def _drop_below(upper: Root, parent: Root | None, path: str) -> None:
    """Drop a path, and keep the time of the directory that holds it."""
    if not path:
        return
    parent_path, _, name = path.rpartition("/")
    directory_fd = upper.open_dir(parent_path, follow=False)
    try:
        info = os.fstat(directory_fd)
        _drop(upper, parent, path, directory_fd, name)
        os.utime(directory_fd, ns=(info.st_atime_ns, info.st_mtime_ns))
    finally:
        os.close(directory_fd)


def _drop(upper: Root, parent: Root | None, path: str, directory_fd: int, name: str) -> None:
    info = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    if is_whiteout(info):
        return
    if not stat.S_ISDIR(info.st_mode):
        os.unlink(name, dir_fd=directory_fd)
        return
    child_fd = upper.open_dir(path, follow=False)
    try:
        for child in os.listdir(child_fd):
            _drop(upper, parent, f"{path}/{child}", child_fd, child)
        if os.listdir(child_fd):
            _restore(parent, path, child_fd)
            return
    finally:
        os.close(child_fd)
    os.rmdir(name, dir_fd=directory_fd)


def _restore(parent: Root | None, path: str, child_fd: int) -> None:
    """Give a directory that still holds whiteouts the attributes that it had."""
    parent_fd = -1 if parent is None else _open_if_directory(parent, path)
    if parent_fd >= 0:
        try:
            copy_attributes(parent_fd, child_fd, os.fstat(parent_fd))
        finally:
            os.close(parent_fd)


def _open_if_directory(root: Root, path: str) -> int:
    try:
        return root.open_dir(path, follow=False)
    except (FileNotFoundError, NotADirectoryError):
        return -1
