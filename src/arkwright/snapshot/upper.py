"""Upper directories made canonical: what a step left in an overlay, as per-name facts.

After `make_canonical` an upper directory depends on the two trees and not on how the kernel got from
one to the other: it holds exactly what the canonical diff says. No opaque directory, no
whiteout of a name that the parent does not have, no copy of something that did not change, no
attribute of overlayfs's own, no socket. It then means the same in any stack of layers, and to
the copy tier.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Sequence

from arkwright.layer.diff import diff
from arkwright.layer.rooted import Root
from arkwright.layer.tree import is_whiteout, make_whiteout
from arkwright.snapshot.attributes import is_opaque, strip_overlay_notes
from arkwright.snapshot.scrub import drop_changes


def make_canonical(upper: Root, parent: Root | None, patterns: Sequence[str] = ()) -> list[str]:
    """Make the tree at `upper`, no longer mounted, canonical against the view of its parents.

    `patterns` name changes to drop, see `drop_changes`. Returns the paths of the directories that
    hold whiteouts, parents first.
    """
    normaliser = _Normaliser(upper, parent)
    normaliser.run()
    emptied = drop_changes(upper, parent, patterns)
    if parent is not None and (normaliser.suspects or emptied):
        _prune(upper, parent, {*normaliser.suspects, *emptied})
    return sorted(normaliser.holders)


class _Normaliser:
    """Walks an upper directory in step with the parents' tree, and corrects one after the other.

    `holders` are directories with whiteouts; `suspects` look as if they had not changed at all.
    """

    def __init__(self, upper: Root, parent: Root | None) -> None:
        self._upper = upper
        self._parent = parent
        self.holders: list[str] = []
        self.suspects: list[str] = []

    def run(self) -> None:
        # Path, whether the parent has a directory there, whether the kernel hid what is in that one.
        pending = [("", self._parent is not None, False)]
        while pending:
            path, shared, hidden = pending.pop()
            upper_fd = self._upper.open_dir(path, follow=False)
            parent_fd = -1
            try:
                if shared and self._parent is not None:
                    parent_fd = self._parent.open_dir(path, follow=False)
                hidden = hidden or is_opaque(upper_fd)
                strip_overlay_notes(upper_fd)
                for child, both in self._correct(path, upper_fd, parent_fd, hidden):
                    pending.append((child, both, hidden))
            finally:
                os.close(upper_fd)
                if parent_fd >= 0:
                    os.close(parent_fd)

    def _correct(self, path: str, upper_fd: int, parent_fd: int, hidden: bool) -> list[tuple[str, bool]]:
        """Correct one directory: its subdirectories, and whether the parent has each of them too."""
        before = os.fstat(upper_fd)
        prefix = f"{path}/" if path else ""
        directories: list[tuple[str, bool]] = []
        whiteouts = 0
        with os.scandir(upper_fd) as entries:
            listing = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
        for name, info in listing.items():
            below = _status(parent_fd, name)
            if stat.S_ISDIR(info.st_mode):
                directories.append((prefix + name, below is not None and stat.S_ISDIR(below.st_mode)))
            elif is_whiteout(info):
                whiteouts += _settle_deletion(upper_fd, name, info, hides=below is not None)
            else:
                if stat.S_ISREG(info.st_mode):
                    strip_overlay_notes(f"/proc/self/fd/{upper_fd}/{name}")
                if below is not None and _alike(info, below):
                    self.suspects.append(prefix + name)
        if hidden and parent_fd >= 0:
            for name in os.listdir(parent_fd):
                if name not in listing:
                    make_whiteout(upper_fd, name)
                    whiteouts += 1
        os.utime(upper_fd, ns=(before.st_atime_ns, before.st_mtime_ns))
        if whiteouts:
            self.holders.append(path)
        elif not listing and parent_fd >= 0 and _alike(before, os.fstat(parent_fd)):
            self.suspects.append(path)
        return directories


def _prune(upper: Root, parent: Root, suspects: Iterable[str]) -> None:
    """Remove those of the suspects that did not change, and directories that were there for them."""
    kept = {change.entry.path for change in diff(parent, upper, overlay=True)}
    for suspect in sorted(suspects, reverse=True):
        path = suspect
        while path and path not in kept and _remove(upper, path):
            path = path.rpartition("/")[0]


def _remove(upper: Root, path: str) -> bool:
    """Remove a file or an empty directory; whether it was one."""
    directory_fd, name = upper.open_parent(path)
    try:
        before = os.fstat(directory_fd)
        info = _status(directory_fd, name)
        if info is None:
            return True
        remove = os.rmdir if stat.S_ISDIR(info.st_mode) else os.unlink
        try:
            remove(name, dir_fd=directory_fd)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
        os.utime(directory_fd, ns=(before.st_atime_ns, before.st_mtime_ns))
        return True
    finally:
        os.close(directory_fd)


def _settle_deletion(upper_fd: int, name: str, info: os.stat_result, *, hides: bool) -> bool:
    """A whiteout, or a socket (which no layer can hold), becomes a whiteout if it hides anything."""
    if not (hides and stat.S_ISCHR(info.st_mode)):
        os.unlink(name, dir_fd=upper_fd)
        if hides:
            make_whiteout(upper_fd, name)
    return hides


def _alike(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether nothing that is quick to see differs."""
    sizes = (0, 0) if stat.S_ISDIR(one.st_mode) else (one.st_size, other.st_size)
    return (one.st_mode, one.st_uid, one.st_gid, one.st_mtime_ns, one.st_rdev, sizes[0]) == (
        other.st_mode, other.st_uid, other.st_gid, other.st_mtime_ns, other.st_rdev, sizes[1],
    )  # fmt: skip


def _status(directory_fd: int, name: str) -> os.stat_result | None:
    if directory_fd < 0:
        return None
    try:
        return os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
