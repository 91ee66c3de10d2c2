"""The program without the cost of its start: `conformance_server.py FD`.

Imports all of `arkwright` once, then forks for every command that comes over the socket FD, with its
arguments, environment and standard descriptors. What runs in the fork is the program's own `main`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import sys

import arkwright

MESSAGE_SIZE = 1 << 18
STREAMS = 3


def serve(control: socket.socket) -> None:
    """One command after the other, until the other end is closed."""
    from arkwright.cli.main import main

    for module in pkgutil.walk_packages(arkwright.__path__, "arkwright."):
        if not module.name.endswith(".__main__"):
            with contextlib.suppress(ImportError):  # of packages that are extras
                importlib.import_module(module.name)
    gc.freeze()
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, MESSAGE_SIZE, STREAMS)
        if not data:
            return
        request = json.loads(data)
        pid = os.fork()
        if pid == 0:
            control.close()
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number)
                os.close(descriptor)
            os.umask(request["umask"])
            os.chdir(request["cwd"])
            os.environ.clear()
            os.environ.update(request["env"])
            sys.argv = ["arkwright", *request["args"]]
            main()
        for descriptor in descriptors:
            os.close(descriptor)
        control.send(json.dumps(_ended(pid, request["timeout_s"])).encode())


def _ended(pid: int, timeout_s: float) -> int | None:
    """The exit status, negative for a signal; None when the time was over."""
    pid_fd = os.pidfd_open(pid)
    try:
        in_time = bool(select.select([pid_fd], [], [], timeout_s)[0])
    finally:
        os.close(pid_fd)
    if not in_time:
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status if in_time else None


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
