"""Runs the program for the cases: a process that forks (see `conformance_server`), or a fresh interpreter."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from conformance_server import MESSAGE_SIZE

SERVER = Path(__file__).with_name("conformance_server.py")
_PIPE_SIZE = 1 << 20


class Servers:
    """Processes of one user that fork, one for each command that runs at a time; made when needed."""

    def __init__(self, prefix: Sequence[str], env: Mapping[str, str]) -> None:
        self._prefix, self._env = list(prefix), dict(env)
        self._lock = threading.Lock()
        self._idle: list[socket.socket] = []
        self._processes: list[subprocess.Popen[bytes]] = []

    def run(
        self, args: Sequence[str], *, cwd: Path, env: Mapping[str, str], input: bytes, timeout_s: float,
        umask: int = 0o022,
    ) -> subprocess.CompletedProcess[bytes]:  # fmt: skip
        """As `subprocess.run`. Raises `subprocess.TimeoutExpired`."""
        with self._lock:
            control = self._idle.pop() if self._idle else None
        control = control or self._start()
        request = {
            "args": list(args),
            "cwd": str(cwd),
            "env": dict(env),
            "umask": umask,
            "timeout_s": timeout_s,
        }
        files = [_readable(input), os.memfd_create("out"), os.memfd_create("err")]
        try:
            socket.send_fds(control, [json.dumps(request).encode()], files)
            answer = control.recv(MESSAGE_SIZE)
            out, err = (os.pread(number, os.fstat(number).st_size, 0) for number in files[1:])
        finally:
            for number in files:
                os.close(number)
        assert answer, f"the server of commands ended: {err!r}"
        with self._lock:
            self._idle.append(control)
        status = json.loads(answer)
        if status is None:
            raise subprocess.TimeoutExpired(["arkwright", *args], timeout_s, out, err)
        return subprocess.CompletedProcess(["arkwright", *args], status, out, err)

    def close(self) -> None:
        """End the processes."""
        for control in self._idle:
            control.close()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_SIZE)
        with theirs:
            command = [*self._prefix, sys.executable, str(SERVER), str(theirs.fileno())]
            process = subprocess.Popen(
                command, env=self._env, cwd="/", stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),)
            )
        with self._lock:
            self._processes.append(process)
        return ours


def _readable(data: bytes) -> int:
    """A descriptor that gives these bytes and then ends: of a pipe, if they fit into one."""
    if len(data) <= _PIPE_SIZE:
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        os.write(writer, data)
        os.close(writer)
        return reader
    file = os.memfd_create("in")
    os.write(file, data)
    os.lseek(file, 0, os.SEEK_SET)
    return file
