"""Runs the program again and again in forks of one process, which spares the start of an interpreter.

Each line on standard input is a JSON object: `args`, the paths `out` and `err` of what it prints, and
for a run that is to be killed `counter` and `number` (see `killing`). Its status is the answer. The
parent has no threads and opens nothing of a store.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

import killing

# What every build imports, and `fsck`.
import arkwright.build.export
import arkwright.build.means
import arkwright.build.run
import arkwright.build.store_work
import arkwright.cache.fsck
import arkwright.cli.build
import arkwright.cli.cache
import arkwright.cli.main


def run(order: dict[str, Any]) -> None:
    """In the child: the program, from here to its end."""
    null_fd = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null_fd, 0)
    for fd, name in ((1, "out"), (2, "err")):
        target_fd = os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(target_fd, fd)
        os.close(target_fd)
    if "counter" in order:
        killing.install(order["counter"], order["number"])
    sys.argv = ["arkwright", *order["args"]]
    arkwright.cli.main.main()


def serve() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            status = 70
            try:
                run(json.loads(line))
                status = 0
            except SystemExit as ended:
                status = ended.code if isinstance(ended.code, int) else 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


serve()
