"""A forwarded agent socket: a listener of the step's own, joined to the host's socket.

The host's socket cannot be handed in itself: its owner and mode are the host's, and ssh-agent(1)
refuses peers with another user id.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading


class AgentForward:
    """Listens at `path` until closed; each connection is copied to and from `source`."""

    def __init__(self, source: str, path: str, *, mode: int, uid: int, gid: int) -> None:
        self._source = source
        self._listener = socket.socket(socket.AF_UNIX)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closed = False
        try:
            _bind_short(self._listener, path)
            os.chown(path, uid, gid)
            os.chmod(path, mode)
            self._listener.listen()
        except BaseException:
            self._listener.close()
            raise
        threading.Thread(target=self._accept, name="agent", daemon=True).start()

    def close(self) -> None:
        """Stop listening and end every connection."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            self._closed = True
            for item in self._open:
                with contextlib.suppress(OSError):
                    item.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._join, args=(client,), name="agent", daemon=True).start()

    def _join(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as agent:
            try:
                self._note(client)
                agent.connect(self._source)
                self._note(agent)
                back = threading.Thread(target=_copy, args=(agent, client), name="agent", daemon=True)
                back.start()
                _copy(client, agent)
                back.join()
            except OSError:
                return  # the step sees a closed connection
            finally:
                with self._lock:
                    self._open.difference_update((client, agent))

    def _note(self, end: socket.socket) -> None:
        """From now on `close` ends this one too; OSError when that was called already."""
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError
            self._open.add(end)


def _bind_short(listener: socket.socket, path: str) -> None:
    """Bind with a path of any length: unix(7) takes 107 bytes only."""
    parent_fd = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{parent_fd}/{os.path.basename(path)}")
    finally:
        os.close(parent_fd)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
