"""The forwarded agent socket carries both directions, and ends with the step."""

from __future__ import annotations

import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from arkwright.sandbox.agent import AgentForward


def _serve(listener: socket.socket) -> None:
    """An agent that answers each question on each connection until its end."""
    while True:
        try:
            client = listener.accept()[0]
        except OSError:
            return
        threading.Thread(target=_answer, args=(client,), daemon=True).start()


def _answer(client: socket.socket) -> None:
    with client:
        while question := client.recv(1000):
            client.sendall(question.upper())


def test_forward(tmp_path: Path) -> None:
    # Longer than a socket address: both ends must do without the path itself.
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        source = tmp_path / "agent"
        listener.bind(str(source))
        listener.listen()
        threading.Thread(target=_serve, args=(listener,), daemon=True).start()
        path = deep / "forwarded"
        forward = AgentForward(str(source), str(path), mode=0o640, uid=os.getuid(), gid=os.getgid())
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            folder_fd = os.open(deep, os.O_PATH)
            for client in (first, second):
                client.connect(f"/proc/self/fd/{folder_fd}/forwarded")
                client.settimeout(20)
            os.close(folder_fd)
            first.sendall(b"one")
            assert first.recv(100) == b"ONE"
            first.shutdown(socket.SHUT_WR)
            assert first.recv(100) == b""
            forward.close()
            assert second.recv(100) == b""
        listener.shutdown(socket.SHUT_RDWR)


def test_no_agent(tmp_path: Path) -> None:
    path = tmp_path / "forwarded"
    forward = AgentForward(str(tmp_path / "none"), str(path), mode=0o600, uid=os.getuid(), gid=os.getgid())
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.settimeout(20)
        assert client.recv(100) == b""
    forward.close()
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(str(path))
