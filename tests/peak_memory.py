"""How much memory a program had at its peak."""

from __future__ import annotations

import sys

LIMIT_KB = 150 << 10

# What a process has before exec counts for it too, so a small one starts the command. Our commands are
# one process each; the one below waits for whatever it had started.
_MEASURE = """
import os, sys
pid = os.fork()
if not pid:
    os.execvp(sys.argv[2], sys.argv[2:])
_, status, usage = os.wait4(pid, 0)
with open(sys.argv[1], "w") as file:
    file.write(str(usage.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
"""


def measuring(peak_path: object, *command: str) -> list[str]:
    """The command that runs a command, ends as it does, and writes its peak resident set, in KiB, to a file."""
    return [sys.executable, "-c", _MEASURE, str(peak_path), *command]
