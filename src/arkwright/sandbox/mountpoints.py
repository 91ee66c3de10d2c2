"""Mount points in a step's root that leave no trace.

A mount needs a file or directory to stand on. What is missing is made before the step and removed
after it, and the modification times of the directories around are put back. A directory in which
the step itself changed something keeps the time of that change.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Iterable

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.layer.rooted import DIRECTORY, Root, set_mode

_Time = tuple[int, int]


class Target(msgspec.Struct, frozen=True):
    """A place to mount on: `path` in the root as the step sees it."""

    path: str
    is_dir: bool
    source: str | None = None  # a bind mount's directory, in which deeper targets stand


class _Stub(msgspec.Struct):
    ino: int
    is_dir: bool
    users: int = 1


class _Parent(msgspec.Struct):
    """A directory that has stubs: its times before the first and after the last of them."""

    fd: int
    before: _Time
    after: _Time
    stubs: dict[str, _Stub] = {}


_Key = tuple[int, int]

# Steps may share a directory (a cache that both have mounted) and there a stub: it goes with the
# last of them. Removing it earlier would unmount what the other step has put on it.
_lock = threading.Lock()
_parents: dict[_Key, _Parent] = {}


class MountPoints:
    """Context manager: makes mount points, and takes its own away at the end.

    Holds descriptors, not paths, so that renames by the step do not mislead it.
    """

    def __init__(self, root: Root) -> None:
        self._root = root
        self._claims: list[tuple[_Key, str]] = []
        self._mounted: list[tuple[str, str | None]] = []  # canonical path, bound directory

    def __enter__(self) -> MountPoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.clean()

    def prepare(self, target: Target) -> str:
        """Make sure that `target` exists; returns its canonical path (`/…`), free of links.

        Call in mounting order: a target below an earlier one stands in what is mounted there.
        Raises `UserError` (`bad-mount-target`).
        """
        try:
            canonical = self._root.resolve(target.path)
            if not canonical:
                raise IsADirectoryError
            with _lock:
                self._make_in_place(canonical, target.is_dir)
        except OSError as error:
            raise _bad_target(target.path, error) from error
        self._mounted.append((canonical, target.source))
        return "/" + canonical

    def make_directory(self, path: str) -> None:
        """Make sure that a directory exists, on which nothing is mounted. Raises `OSError`."""
        canonical = self._root.resolve(path)
        if canonical:
            with _lock:
                self._make(self._root, canonical, is_dir=True)

    def _make_in_place(self, canonical: str, is_dir: bool) -> None:
        """Find the mount, or the root, in which the path stands, and make it there."""
        for mounted, source in reversed(self._mounted):
            if canonical == mounted:
                return
            if canonical.startswith(mounted + "/"):
                if source is not None:
                    with Root(source) as below:
                        self._make(below, canonical[len(mounted) + 1 :], is_dir)
                return  # one of the runtime's own: it makes the rest there
        self._make(self._root, canonical, is_dir)

    def _make(self, root: Root, path: str, is_dir: bool) -> None:
        self._join_along(root, path)
        parent_fd, _, name = root.locate(path, create=self._make_directory)
        try:
            try:
                found = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
            except FileNotFoundError:
                if is_dir:
                    self._make_directory(parent_fd, name, path)
                else:
                    self._make_file(parent_fd, name)
                return
            if stat.S_ISDIR(found.st_mode) != is_dir:
                raise NotADirectoryError if is_dir else IsADirectoryError
        finally:
            os.close(parent_fd)

    def _join_along(self, root: Root, path: str) -> None:
        """Become a user of the stubs that another step has made on the way."""
        if not _parents:
            return
        parent_fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root.fd)
        try:
            for name in path.split("/"):
                found = os.fstat(parent_fd)
                key = (found.st_dev, found.st_ino)
                parent = _parents.get(key)
                if parent is not None and name in parent.stubs and (key, name) not in self._claims:
                    parent.stubs[name].users += 1
                    self._claims.append((key, name))
                below_fd = os.open(name, DIRECTORY, dir_fd=parent_fd)
                os.close(parent_fd)
                parent_fd = below_fd
        except OSError:
            return  # the rest of the way does not exist yet, or is the file at its end
        finally:
            os.close(parent_fd)

    def _make_directory(self, parent_fd: int, name: str, path: str) -> None:
        before = _times(parent_fd)
        os.mkdir(name, 0o755, dir_fd=parent_fd)
        # mkdir applies the umask, which may be anything. A step with the same cache may have put a link there.
        set_mode(parent_fd, name, 0o755)
        self._record(parent_fd, name, before, is_dir=True)

    def _make_file(self, parent_fd: int, name: str) -> None:
        before = _times(parent_fd)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(name, flags, 0o644, dir_fd=parent_fd))
        self._record(parent_fd, name, before, is_dir=False)

    def _record(self, parent_fd: int, name: str, before: _Time, *, is_dir: bool) -> None:
        found = os.fstat(parent_fd)
        key = (found.st_dev, found.st_ino)
        if key not in _parents:
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent_fd)
            _parents[key] = _Parent(fd, before, before)
        parent = _parents[key]
        if before[1] != parent.after[1]:
            parent.before = before  # a step has changed something since
        parent.after = _times(parent_fd)
        ino = os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_ino
        parent.stubs[name] = _Stub(ino, is_dir)
        self._claims.append((key, name))

    def clean(self) -> None:
        """Remove the stubs that are still there and unused, deepest first, and restore times."""
        with _lock:
            while self._claims:
                key, name = self._claims.pop()
                parent = _parents[key]
                stub = parent.stubs[name]
                stub.users -= 1
                if stub.users:
                    continue
                del parent.stubs[name]
                with contextlib.suppress(OSError):
                    _remove(parent, name, stub)
                if not parent.stubs:
                    os.close(_parents.pop(key).fd)


def _remove(parent: _Parent, name: str, stub: _Stub) -> None:
    now = _times(parent.fd)
    if now[1] != parent.after[1]:
        parent.before = now  # the step's own change
    found = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
    if found.st_ino == stub.ino:  # else the step put something in its place
        if stub.is_dir:
            os.rmdir(name, dir_fd=parent.fd)
        elif stat.S_ISREG(found.st_mode) and found.st_size == 0:
            os.unlink(name, dir_fd=parent.fd)
    os.utime(parent.fd, ns=parent.before)
    parent.after = _times(parent.fd)


def _times(fd: int) -> _Time:
    found = os.fstat(fd)
    return found.st_atime_ns, found.st_mtime_ns


def _bad_target(path: str, error: OSError) -> UserError:
    reason = error.strerror or {
        IsADirectoryError: "it is a directory",
        NotADirectoryError: "it is not a directory",
    }.get(type(error), str(error))
    found = UserError.of(
        "bad-mount-target",
        f"nothing can be mounted at {path}: {reason}",
        hint="mount a file on a file and a directory on a directory, below directories that exist or can be made",
    )
    assert isinstance(found, UserError)
    return found


def in_mounting_order(targets: Iterable[Target]) -> list[Target]:
    """Parents before what is below them; otherwise as given."""
    return sorted(targets, key=lambda item: len([part for part in item.path.split("/") if part]))
