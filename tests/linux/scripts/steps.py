"""Starts steps that would sleep for long, mounts something, prints the pids, and waits.

STORE MARKER [stubborn]: prints `P0 P1` and then, once asked to stop, `cancelled`.
"""

import os
import sys
import threading

from arkwright.diagnostics.errors import ArkwrightError
from arkwright.linux import mounts
from arkwright.linux.worker import Worker, run_in_worker

store, marker = sys.argv[1:3]
stubborn = "stubborn" in sys.argv
supervisor = os.getpid()


def body(worker: Worker) -> bytes:
    mounts.tmpfs(worker.runtime_path)
    nested = f"trap '' TERM HUP; setsid sleep 1000 {marker} & sleep 1000"
    for command in (["sleep", "1000", marker], ["sh", "-c", nested, marker]):
        # sleep(1) sums its arguments, and a marker is a number.
        worker.spawn(command, env={"PATH": os.environ["PATH"]}, fds={})
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    print(supervisor, os.getpid(), flush=True)
    if stubborn:
        worker.cancelled.wait()
        print("cancelled", flush=True)
        threading.Event().wait()
    while not worker.cancelled.wait(0.02):
        worker.spawn(["true"], env={"PATH": os.environ["PATH"]}).wait()
    print("cancelled", flush=True)
    return b"stopped"


try:
    print(run_in_worker(body, store_root_path=store).decode(), flush=True)
except ArkwrightError as error:
    print(error.code, error.details.get("signal"), flush=True)
