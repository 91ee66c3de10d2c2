"""Copies of build contexts: elsewhere, for another user, with other times; what builds digest stays the same."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence

from arkwright.diagnostics.errors import UserError
from arkwright.sources.ignore import Matcher

_DAY_NS = 86_400 * 1_000_000_000
# 2001-01-01, in nanoseconds: long before anything that a build makes.
_EARLY_NS = 978_307_200 * 1_000_000_000

# The time of the n-th entry, in nanoseconds, or None for that of the original.
Times = Callable[[int], int | None]


def kept_times(number: int) -> int | None:
    """The times of the original."""
    return None


def other_times(number: int) -> int | None:
    """Times that are all different, and in another order than any in which files were made."""
    return _EARLY_NS + (number * 37 % 1009) * _DAY_NS + number


def copy_context(
    source_path: str, target_path: str, ignore_lines: Sequence[str], uid: int, times: Times
) -> None:
    """Copy what an ignore file leaves of a directory, with modes, links, hard links and attributes.

    Raises `UserError` `unreadable-path`.
    """
    copier = _Copier(Matcher(ignore_lines) if ignore_lines else None, uid, times)
    try:
        copier.directory(source_path, target_path, "")
        copier.set_times()
    except OSError as error:
        raise UserError.of("unreadable-path", f"cannot copy {error.filename}: {error.strerror}") from error


class _Copier:
    def __init__(self, matcher: Matcher | None, uid: int, times: Times) -> None:
        self._matcher = matcher
        self._uid = uid
        self._times = times
        self._links: dict[tuple[int, int], str] = {}
        self._made: list[tuple[str, int]] = []

    def directory(self, source: str, target: str, relative: str) -> None:
        os.mkdir(target, 0o700)
        # In another order than that in which the directory tells its names.
        for name in sorted(os.listdir(source), reverse=True):
            path = f"{relative}/{name}" if relative else name
            status = os.lstat(os.path.join(source, name))
            is_dir = stat.S_ISDIR(status.st_mode)
            if self._is_hidden(path, is_dir):
                continue
            if is_dir:
                self.directory(os.path.join(source, name), os.path.join(target, name), path)
            else:
                self._file(os.path.join(source, name), os.path.join(target, name), status)
        self._finish(source, target, os.lstat(source))

    def _is_hidden(self, path: str, is_dir: bool) -> bool:
        if self._matcher is None or not self._matcher.excluded(path, is_dir):
            return False
        return not is_dir or self._matcher.may_prune(path)

    def _file(self, source: str, target: str, status: os.stat_result) -> None:
        key = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and key in self._links:
            os.link(self._links[key], target, follow_symlinks=False)
            return
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(source), target)
        elif stat.S_ISREG(status.st_mode):
            _copy_bytes(source, target)
        elif stat.S_ISFIFO(status.st_mode):
            os.mkfifo(target, 0o600)
        else:
            # Sockets and devices are in no context.
            return
        self._links[key] = target
        self._finish(source, target, status)

    def _finish(self, source: str, target: str, status: os.stat_result) -> None:
        if os.geteuid() == 0:
            os.chown(target, self._uid, self._uid, follow_symlinks=False)
        for name in os.listxattr(source, follow_symlinks=False):
            if name.startswith("user."):
                os.setxattr(
                    target, name, os.getxattr(source, name, follow_symlinks=False), follow_symlinks=False
                )
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(target, stat.S_IMODE(status.st_mode))
        wanted = self._times(len(self._made))
        self._made.append((target, status.st_mtime_ns if wanted is None else wanted))

    def set_times(self) -> None:
        """Last, since making a file changes its directory's time."""
        for path, time_ns in self._made:
            os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)


def _copy_bytes(source: str, target: str) -> None:
    with open(source, "rb") as reader, open(target, "xb") as writer:
        while chunk := reader.read(1 << 20):
            writer.write(chunk)
