"""Which files of a copied tree nobody has written since: their content need not be compared.

A file is untouched if its path still leads to the inode that was made there, and if that has the
time of change (st_ctim, inode(7)) that it had when the copy was complete. Only the kernel sets this time. Files that were
made in the last tick of its clock may be written in the same one, and are not trusted; nor is
any if the file system keeps whole seconds only, or if the clock was set back meanwhile.
"""

from __future__ import annotations

import os
import time

_SECOND_NS = 10**9
_SET_BACK_NS = 50_000_000


class Copied:
    """The files of one copy, noted while it is made."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[int, int]] = {}
        self._complete_ns = 0
        self._clock_ns = 0

    def note(self, path: str, status: os.stat_result) -> None:
        """A file that was just made at `path`."""
        self._made[path] = (status.st_ino, status.st_ctime_ns)

    def complete(self, directory_path: str) -> None:
        """The copy is complete; a file is made and removed in a directory of its file system, for the time."""
        marker_path = os.path.join(directory_path, "complete")
        os.close(os.open(marker_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        now_ns = os.stat(marker_path).st_ctime_ns
        os.unlink(marker_path)
        self._complete_ns = now_ns if now_ns % _SECOND_NS else 0
        self._clock_ns = _set_forward_ns()

    def untouched(self, path: str, status: os.stat_result) -> bool:
        """Whether the content of the file at `path`, which now has this status, is what was copied."""
        made = self._made.get(path)
        return (
            made == (status.st_ino, status.st_ctime_ns)
            and status.st_ctime_ns < self._complete_ns
            and _set_forward_ns() > self._clock_ns - _SET_BACK_NS
        )


def _set_forward_ns() -> int:
    """By how much the clock of files is before the one that nobody can set; a step back makes it less."""
    return time.time_ns() - time.monotonic_ns()
