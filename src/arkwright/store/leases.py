"""Kernel locks on files: the store's lease, and claims on things in the making.

All locks are flock(2): they belong to the open file description, so they vanish with the last
process that holds it, however that process ends. There are no pids and no heartbeats.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

from arkwright.diagnostics.errors import UserError

_POLL_S = 0.05
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
LOCK_NAME = "lock"


def try_lock(lock_fd: int, operation: int) -> bool:
    """Take a lock without waiting; false if another open file description is in the way."""
    try:
        fcntl.flock(lock_fd, operation | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def open_lock_file(path: str) -> int:
    """Open, or create with mode 0600 whatever the umask, a file to lock."""
    lock_fd = os.open(path, _OPEN, 0o600)
    os.fchmod(lock_fd, 0o600)
    return lock_fd


class Lease:
    """The store-wide lock: shared by everyone who uses the store, exclusive for who deletes.

    A process that closes its store to fork may hold a lease of its own meanwhile, so that nothing
    is collected in between: the lock lives until every copy of its descriptor is closed.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock_fd = open_lock_file(path)

    def try_exclusive(self) -> bool:
        """Take the exclusive lock if nobody else holds a lease; a shared lock is lost on failure."""
        return try_lock(self._lock_fd, fcntl.LOCK_EX)

    def share(self) -> None:
        """Hold the shared lock; waits while somebody deletes."""
        fcntl.flock(self._lock_fd, fcntl.LOCK_SH)

    @contextmanager
    def exclusive(self, timeout_s: float) -> Iterator[None]:
        """Hold the exclusive lock in the body, and the shared lock again after it.

        The change of a lock is not atomic (flock(2)), so another process may have deleted things
        in between: what was looked up before the body must be looked up again.
        Raises `UserError` `store-in-use` when others keep their leases longer than `timeout_s`.
        """
        deadline_s = time.monotonic() + timeout_s
        try:
            while not self.try_exclusive():
                if time.monotonic() >= deadline_s:
                    raise UserError.of(
                        "store-in-use",
                        f"other processes are using the store of {self._path}",
                        hint="wait for running builds to end, then try again",
                    )
                self.share()
                time.sleep(_POLL_S)
            yield
        finally:
            self.share()

    def close(self) -> None:
        """Give the lease back."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Claim:
    """A directory in the making that is ours as long as its `lock` file is locked.

    `path` is its absolute path. Closing the claim leaves the directory to whoever cleans.
    """

    def __init__(self, path: str, lock_fd: int) -> None:
        self.path = path
        self._lock_fd = lock_fd

    def close(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def claim_new(parent_path: str) -> Claim:
    """Make a directory with a fresh random name, and lock it.

    A cleaner may see the directory before its lock is taken. Whoever locks first wins: a cleaner
    that wins renames the directory away, which shows here as a lock file that is no longer at
    its path, and another name is tried.
    """
    while True:
        path = os.path.join(parent_path, os.urandom(12).hex())
        os.mkdir(path, 0o700)
        os.chmod(path, 0o700)
        lock_fd = lock_in_place(os.path.join(path, LOCK_NAME))
        if lock_fd >= 0:
            return Claim(path, lock_fd)


def lock_in_place(path: str) -> int:
    """Create and lock the file at `path`; -1 if somebody else has it, or moved it away meanwhile."""
    try:
        lock_fd = open_lock_file(path)
    except FileNotFoundError:
        return -1
    if try_lock(lock_fd, fcntl.LOCK_EX) and _is_at(lock_fd, path):
        return lock_fd
    os.close(lock_fd)
    return -1


def _is_at(fd: int, path: str) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    return False
