"""What the tests of steps share: users, scratch directories, scripts in interpreters of
their own (a worker must be forked from a process with one thread, which pytest is not)."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

SCRIPTS = Path(__file__).parent / "scripts"


class Started:
    """A script that runs; lines of its output can be waited for."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def line(self) -> str:
        assert self.process.stdout is not None
        found = self.process.stdout.readline()
        assert found, f"the script ended: {self.finish()}"
        return found.strip()

    def finish(self, timeout_s: float = 60) -> tuple[int, str]:
        out, _ = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, out


def processes_with(marker: str) -> list[int]:
    """Pids of live processes whose arguments hold `marker`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if marker.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def eventually(what: Callable[[], bool], timeout_s: float = 20) -> bool:
    """Poll until `what` holds or the deadline passes."""
    deadline = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
