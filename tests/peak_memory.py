"""How much memory a program and all that it starts had at its peak."""

from __future__ import annotations

import sys

LIMIT_KB = 150 << 10

# What a process has before exec counts for it too, so a small one starts the command. What it has at its
# peak the kernel says at its end; what all together have is looked at meanwhile, each process with its
# own peak, so that it does not matter when exactly.
_MEASURE = """
import os, sys, time

def below(pid):
    found = [pid]
    for one in found:
        try:
            for task in os.listdir(f"/proc/{one}/task"):
                with open(f"/proc/{one}/task/{task}/children") as file:
                    found += map(int, file.read().split())
        except OSError:
            pass
    return found

def peak_of(pid):
    try:
        with open(f"/proc/{pid}/status") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("VmHWM")), 0)
    except OSError:
        return 0

pid = os.fork()
if not pid:
    os.execvp(sys.argv[2], sys.argv[2:])
together = 0
while True:
    ended, status, usage = os.wait4(pid, os.WNOHANG)
    if ended:
        break
    together = max(together, sum(map(peak_of, below(pid))))
    time.sleep(0.02)
with open(sys.argv[1], "w") as file:
    file.write(str(max(together, usage.ru_maxrss)))
sys.exit(os.waitstatus_to_exitcode(status))
"""


def measuring(peak_path: object, *command: str) -> list[str]:
    """The command that runs a command, ends as it does, and writes to a file how many KiB it and all
    processes below it had resident at their peaks together."""
    return [sys.executable, "-c", _MEASURE, str(peak_path), *command]
