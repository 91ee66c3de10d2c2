"""One flight per vertex across processes: equal vertices in flight are run once.

A claim is a kernel lock (an open file description's) on a file named after the definition key, and
holds the build's id for those who wait. It is taken only when the inputs are there, and a holder
waits for no other claim, so claims cannot form a circle. A killed holder's lock ends with it, and
the next in line finds no record and runs the vertex itself; a failure is not shared either.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import msgspec

from arkwright.diagnostics.errors import Cancelled
from arkwright.store.leases import open_lock_file, try_lock

_POLL_S = 0.03
# A claim is locked a moment before its holder has written its name.
_PATIENCE = 3


class Holder(msgspec.Struct, frozen=True):
    """Who has a claim: the id of the build, and the process that the user started for it. Empty and
    0 when it did not say in time."""

    build: str = ""
    pid: int = 0


class Claims:
    """The claims of a store, in the directory `path`, taken for a build of the calling process."""

    def __init__(self, path: str, build: str) -> None:
        self._path = path
        self._name = f"{build} {os.getpid()}".encode()

    @contextmanager
    def hold(self, key: str, cancelled: threading.Event, waiting: Callable[[Holder], None]) -> Iterator[None]:
        """Hold the claim of a key for the body; `waiting` is told once who has it.

        Raises `Cancelled` when `cancelled` is set before the claim is free.
        """
        path = os.path.join(self._path, key.partition(":")[2])
        claim_fd = self._take(path, cancelled, waiting)
        try:
            # A full disk must not fail a build for want of a name.
            with suppress(OSError):
                os.ftruncate(claim_fd, 0)
                os.pwrite(claim_fd, self._name, 0)
            yield
        finally:
            # Unlinked while locked: who waits sees that its file is gone, and opens the new one.
            with suppress(FileNotFoundError):
                os.unlink(path)
            os.close(claim_fd)

    def _take(self, path: str, cancelled: threading.Event, waiting: Callable[[Holder], None]) -> int:
        tries = 0
        while True:
            claim_fd = open_lock_file(path)
            try:
                while not try_lock(claim_fd, fcntl.LOCK_EX):
                    holder = _holder(claim_fd)
                    if tries >= 0 and (holder.build or tries == _PATIENCE):
                        tries = -1
                        waiting(holder)
                    elif tries >= 0:
                        tries += 1
                    if cancelled.wait(_POLL_S):
                        raise Cancelled.of("cancelled", "the build was cancelled")
                if _is_at(claim_fd, path):
                    return claim_fd
            except BaseException:
                os.close(claim_fd)
                raise
            os.close(claim_fd)


def _holder(claim_fd: int) -> Holder:
    build, _, pid = os.pread(claim_fd, 128, 0).decode(errors="replace").partition(" ")
    return Holder(build, int(pid)) if pid.isdigit() else Holder()


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False
