"""The program, with a kill at the n-th change of state that its processes make; for a child process.

    python killing.py COUNTER NUMBER ARGUMENTS…

Every call that changes a file, a lock, a record, or tells an event counts before and after, in all
processes of the build together: COUNTER is a file that grows by one byte each time. At NUMBER the
process that counts is killed as by `kill -9`; 0 only counts.
"""

from __future__ import annotations

import fcntl
import functools
import os
import signal
import sys
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


def around(function: Callable[..., Any], path: str, number: int) -> Callable[..., Any]:
    @functools.wraps(function)
    def counted(*args: Any, **more: Any) -> Any:
        count(path, number)
        found = function(*args, **more)
        count(path, number)
        return found

    return counted


def main() -> None:
    path, number = sys.argv[1], int(sys.argv[2])
    from arkwright.cli.main import main as program
    from arkwright.events.stream import EventStream
    from arkwright.store.metadata import Metadata

    for name in CHANGES:
        setattr(os, name, around(getattr(os, name), path, number))
    fcntl.flock = around(fcntl.flock, path, number)
    EventStream._deliver = around(EventStream._deliver, path, number)  # type: ignore[method-assign]
    for name in ("put", "put_many", "delete", "_roll_back"):
        setattr(Metadata, name, around(getattr(Metadata, name), path, number))
    sys.argv = ["arkwright", *sys.argv[3:]]
    sys.exit(program())


if __name__ == "__main__":
    main()
