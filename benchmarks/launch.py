"""Run commands and say what they took: `python -I -S launch.py SPEC`, SPEC and the answer in JSON.

A process of its own, and a small one: what the kernel says of its children (getrusage(2),
RUSAGE_CHILDREN) is then of nothing else. It adopts what its children leave behind
(PR_SET_CHILD_SUBREAPER, prctl(2)), so work that goes on in the background is counted too.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
import time

PR_SET_CHILD_SUBREAPER = 36
AFTERWARDS_S = 60


def _adopt_orphans() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _start(command: list[str], log_fd: int) -> int:
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, log_fd, 1),
        (os.POSIX_SPAWN_DUP2, log_fd, 2),
    ]
    return os.posix_spawnp(command[0], command, os.environ, file_actions=actions)


def _wait(pids: list[int]) -> int:
    """The first status that is not 0, when all have ended; children of others are reaped meanwhile."""
    left, worst = set(pids), 0
    while left:
        pid, status = os.wait()
        if pid in left:
            left.remove(pid)
            worst = worst or os.waitstatus_to_exitcode(status)
    return worst


def _wait_for_orphans() -> bool:
    """Whether all that the commands left behind has ended in time."""
    deadline = time.monotonic() + AFTERWARDS_S
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if pid == 0:
            time.sleep(0.005)
    return False


def main() -> None:
    spec = json.loads(sys.argv[1])
    _adopt_orphans()
    log_fd = os.open(spec["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    groups = [spec["commands"]] if spec["parallel"] else [[command] for command in spec["commands"]]
    status, began = 0, time.perf_counter()
    for group in groups:
        status = _wait([_start(command, log_fd) for command in group])
        if status != 0:
            break
    wall_s = time.perf_counter() - began
    ended = _wait_for_orphans()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = {
        "status": status,
        "wall_s": wall_s,
        "cpu_s": used.ru_utime + used.ru_stime,
        "largest_bytes": used.ru_maxrss * 1024,
        "background_ended": ended,
    }
    print(json.dumps(answer))


main()
