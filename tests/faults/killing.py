"""A kill at the n-th change of state that the processes of a build make; for a child process.

Every call that changes a file, a lock, a record, or tells an event counts before it begins, in all
processes of the build together: COUNTER is a file that grows by one byte each time. At NUMBER the
process that counts is killed as by `kill -9`; 0 only counts. What a call left is what the next one
finds, so nothing is killed after it.
"""

from __future__ import annotations

import fcntl
import functools
import os
import signal
from collections.abc import Callable
from typing import Any

CHANGES = (
    "rename", "replace", "link", "symlink", "unlink", "rmdir", "mkdir", "fsync", "ftruncate", "pwrite",
    "setxattr", "chmod", "chown",
)  # fmt: skip


def count(path: str, number: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(fd, b".")
    reached = os.lseek(fd, 0, os.SEEK_CUR)
    os.close(fd)
    if reached == number:
        os.kill(os.getpid(), signal.SIGKILL)


def before(function: Callable[..., Any], path: str, number: int) -> Callable[..., Any]:
    @functools.wraps(function)
    def counted(*args: Any, **more: Any) -> Any:
        count(path, number)
        return function(*args, **more)

    return counted


def install(path: str, number: int) -> None:
    """Let this process, and all that it forks, count and be killed."""
    from arkwright.events.stream import EventStream
    from arkwright.store.metadata import Metadata

    for name in CHANGES:
        setattr(os, name, before(getattr(os, name), path, number))
    fcntl.flock = before(fcntl.flock, path, number)
    EventStream._deliver = before(EventStream._deliver, path, number)  # type: ignore[method-assign]
    for name in ("put", "put_many", "delete", "_roll_back"):
        setattr(Metadata, name, before(getattr(Metadata, name), path, number))
