"""The program, which tells of forks with an open database; for a child process: REPORT ARGUMENTS…

Each fork of any of its processes adds a line to the file REPORT: the files of the database that are
open in that moment.
"""

from __future__ import annotations

import os
import sys

REPORT = sys.argv[1]


def tell() -> None:
    paths = (os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd"))
    found = sorted({os.path.basename(path) for path in paths if "metadata.db" in path})
    with open(REPORT, "a") as report:
        report.write(" ".join(found) + "\n")


def main() -> None:
    os.register_at_fork(before=tell)
    from arkwright.cli.main import main as program

    sys.argv = ["arkwright", *sys.argv[2:]]
    program()


if __name__ == "__main__":
    main()
