"""The program, with less patience for a locked database; for a child process.

    python busy.py SECONDS ARGUMENTS…
    python busy.py SECONDS --at NUMBER COUNTER ARGUMENTS…

With `--at`, every write to the database, in all processes of the build together, adds a byte to the
file COUNTER. Before write NUMBER (0: none) the file `COUNTER.reached` appears, and the process waits
for `COUNTER.locked`.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from arkwright.cli.main import main
from arkwright.store import metadata

WAIT_S = 60


def before(function: Callable[..., Any], path: str, number: int) -> Callable[..., Any]:
    @functools.wraps(function)
    def counted(self: metadata.Metadata, *args: Any) -> Any:
        # Inside of a transaction the lock is ours.
        if self._depth == 0 and _count(path) == number:
            _wait_for_lock(path)
        return function(self, *args)

    return counted


def _count(path: str) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, b".")
        return os.lseek(fd, 0, os.SEEK_CUR)
    finally:
        os.close(fd)


def _wait_for_lock(path: str) -> None:
    os.close(os.open(f"{path}.reached", os.O_WRONLY | os.O_CREAT))
    deadline = time.monotonic() + WAIT_S
    while not os.path.exists(f"{path}.locked") and time.monotonic() < deadline:
        time.sleep(0.002)


def run() -> None:
    metadata._BUSY_S = float(sys.argv[1])
    args = sys.argv[2:]
    if args[0] == "--at":
        number, path, args = int(args[1]), args[2], args[3:]
        for name in ("put", "put_many", "delete", "transaction"):
            setattr(metadata.Metadata, name, before(getattr(metadata.Metadata, name), path, number))
    sys.argv = ["arkwright", *args]
    main()


run()
