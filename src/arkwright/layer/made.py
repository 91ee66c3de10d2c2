"""What an archive made of a tree so far: tells its own entries from what was there before."""

from __future__ import annotations

import os
import stat

from arkwright.layer import attributes, files
from arkwright.layer.profile import CONSTANT_NS
from arkwright.layer.rooted import Root

IMPLIED_MODE = 0o755


class Made:
    """Canonical paths made, and the final modes and times of directories.

    Directories stay accessible to us while entries are put into them; `finish` gives them what
    the archive says, or gives those that it does not mention what they had.
    """

    def __init__(self, root: Root) -> None:
        self._root = root
        self._paths: set[str] = set()
        self._ancestors: set[str] = set()
        self._directories: dict[str, tuple[int | None, int]] = {}
        self._user = os.geteuid()

    def add(self, path: str) -> None:
        """An entry was made at a canonical path."""
        self._paths.add(path)
        parent = path.rpartition("/")[0]
        while parent and parent not in self._ancestors:
            self._ancestors.add(parent)
            parent = parent.rpartition("/")[0]

    def __contains__(self, path: str) -> bool:
        """Whether the path was made."""
        return path in self._paths

    def below(self, path: str) -> bool:
        """Whether something was made below the path."""
        return path in self._ancestors

    def directory(self, path: str, mode: int, mtime_ns: int) -> None:
        """What a directory is to have at the end."""
        self._directories[path] = (mode, mtime_ns)

    def implied(self, path: str) -> None:
        """A directory that the archive needs and does not mention: 0755, 0:0, the constant time."""
        self._paths.add(path)
        self._directories[path] = (IMPLIED_MODE, CONSTANT_NS)

    def enter(self, fd: int, path: str) -> None:
        """A directory is about to be changed: keep its time, and make it writable for us."""
        if path in self._directories:
            return
        status = files.fstat(fd)
        mode = stat.S_IMODE(status.st_mode)
        if self._user and mode & 0o700 != 0o700 and status.st_uid == self._user:
            files.fchmod(fd, mode | 0o700)
            self._directories[path] = (mode, status.st_mtime_ns)
        else:
            self._directories[path] = (None, status.st_mtime_ns)

    def finish(self) -> None:
        """Set modes and times, children first; directories that were replaced are passed over."""
        for path in sorted(self._directories, reverse=True):
            mode, mtime_ns = self._directories[path]
            try:
                fd = self._root.open_canonical(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            try:
                if mode is not None:
                    files.fchmod(fd, mode)
                files.utime(fd, ns=(mtime_ns, mtime_ns))
            finally:
                files.close(fd)

    def reset(self, fd: int, path: str) -> None:
        """An older directory was deleted, and only what was made below it keeps it there."""
        attributes.clear(fd, ".")
        if not self._user or files.is_virtual(fd):
            files.fchown(fd, 0, 0)
        self.implied(path)
