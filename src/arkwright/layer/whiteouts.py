"""Deletions applied to a tree (OCI image specification, layer.md, "Whiteouts").

A whiteout hides what lower layers have, never entries of its own layer, wherever it stands in
the archive. `Removing` deletes from a plain tree; `Marking` writes an upper directory of
overlayfs: character devices 0/0 and `user.overlay.opaque`.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Protocol

from arkwright.diagnostics.errors import HostUnsupported
from arkwright.layer import files
from arkwright.layer.made import Made
from arkwright.layer.parents import Parents
from arkwright.layer.rooted import Root, remove_tree
from arkwright.layer.tree import OPAQUE, is_whiteout, make_whiteout


class Deleting(Protocol):
    """A way to apply deletions. Paths are those of entries; `OSError` passes."""

    def whiteout(self, path: str) -> None: ...
    def opaque(self, path: str) -> None: ...
    def replaced(self, fd: int) -> None:
        """The directory `fd` took the place of something else in this layer."""
        ...

    def is_mark(self, status: os.stat_result) -> bool:
        """Whether something found in the tree stands for a deletion."""
        ...


class Removing:
    """Deletes from a plain tree."""

    def __init__(self, root: Root, parents: Parents, made: Made) -> None:
        self._root = root
        self._parents = parents
        self._made = made

    def whiteout(self, path: str) -> None:
        try:
            dir_fd, canonical, name = self._parents.of(path, create=False)
            status = files.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return
        ours = canonical in self._made
        if ours or self._made.below(canonical):
            if stat.S_ISDIR(status.st_mode):
                self._prune(canonical, reset=not ours)
            return
        remove_tree(dir_fd, name)
        if not stat.S_ISREG(status.st_mode):
            self._parents.forget()

    def opaque(self, path: str) -> None:
        _, canonical, _ = self._parents.of(f"{path}/." if path else ".")
        self._prune(canonical.rpartition("/")[0], reset=False)

    def replaced(self, fd: int) -> None:
        pass

    def is_mark(self, status: os.stat_result) -> bool:
        return False

    def _prune(self, top: str, *, reset: bool) -> None:
        """Remove what is below a directory and was not made by this layer."""
        pending = [(top, reset)]
        while pending:
            path, anew = pending.pop()
            fd = self._root.open_canonical(path)
            try:
                self._made.enter(fd, path)
                for name in files.listdir(fd):
                    child = f"{path}/{name}" if path else name
                    ours = child in self._made
                    if not ours and not self._made.below(child):
                        remove_tree(fd, name)
                    elif stat.S_ISDIR(files.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                        pending.append((child, not ours))
                if anew:
                    self._made.reset(fd, path)
            finally:
                files.close(fd)
        self._parents.forget()


class Marking:
    """Writes the marks of overlayfs, as for a mount with `userxattr`."""

    def __init__(self, parents: Parents, made: Made) -> None:
        self._parents = parents
        self._made = made

    def whiteout(self, path: str) -> None:
        dir_fd, canonical, name = self._parents.of(path)
        if canonical not in self._made and not self._made.below(canonical):
            try:
                make_whiteout(dir_fd, name)
            except FileExistsError:
                remove_tree(dir_fd, name)
                self._parents.forget()
                make_whiteout(dir_fd, name)
            return
        status = files.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            self.opaque(path)

    def opaque(self, path: str) -> None:
        if not path:
            raise HostUnsupported.of(
                "unsupported-root-opaque",
                "an upper directory of overlayfs cannot hide all that is below its root",
                details={"probe": "overlayfs", "fix": "unpack the layer on its parents"},
            )
        self.replaced(self._parents.of(f"{path}/.")[0])

    def replaced(self, fd: int) -> None:
        try:
            files.setxattr(fd, OPAQUE, b"y")
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
            raise HostUnsupported.of(
                "no-user-xattrs",
                "the file system of the store has no user.* extended attributes",
                hint="put the store on ext4, xfs, btrfs or, since Linux 6.6, tmpfs",
                details={"probe": OPAQUE, "fix": "another file system"},
            ) from error

    def is_mark(self, status: os.stat_result) -> bool:
        return is_whiteout(status)
