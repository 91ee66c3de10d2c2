"""The server: one thread per connection, a bound on their number, and an orderly end."""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from collections.abc import Callable

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, UserError
from arkwright.net.proxy import is_loopback
from arkwright.registry.server.answers import Answer, Problem, head_bytes
from arkwright.registry.server.context import Shared
from arkwright.registry.server.guard import Guard
from arkwright.registry.server.service import respond
from arkwright.registry.server.wire import Body, Gone, Limits, Malformed, Request, Wire

_BACKLOG = 128
_LOOK_S = 1.0
_PAUSE_S = 0.05
_PATIENCE_S = 5.0
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)


class Served(msgspec.Struct, frozen=True):
    """One request that was answered, for a log. `user` is not checked unless the server asks for one."""

    client: str
    method: str
    path: str
    status: int
    seconds: float


class Server:
    """Listens from its making on, and serves in `run`. `address` is where, as `host:port`. `served` is
    told of each answer, `failed` of each fault of ours, both from many threads."""

    def __init__(
        self,
        host: str,
        port: int,
        shared: Shared,
        *,
        guard: Guard | None = None,
        tls: Callable[[socket.socket], socket.socket] | None = None,
        limits: Limits = Limits(),  # noqa: B008
        most: int = 200,
        served: Callable[[Served], None] | None = None,
        failed: Callable[[Exception], None] | None = None,
    ) -> None:
        """Raises `UserError` `listen-failed`."""
        self._shared = shared
        self._tls = tls
        self._limits = limits
        self._most = most
        self._served = served
        self._failed = failed
        self._listener = _listen(host, port)
        self.port: int = self._listener.getsockname()[1]
        self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.address}"
        self._guard = guard or Guard(None, local=is_loopback(host))
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._wires: set[Wire] = set()
        self._busy: set[Wire] = set()
        self._stopping = False
        self._woken_fd, self._wake_fd = os.pipe()

    def run(self) -> None:
        """Serve until `stop`; what is under way then has some seconds to end."""
        try:
            while not self._stopping:
                heard_fd = self._listener.fileno()
                ready, _, _ = select.select([heard_fd, self._woken_fd], [], [], _LOOK_S)
                if heard_fd in ready and not self._stopping:
                    self._accept()
                self._shared.depot.rest(busy=self._shared.uploads.expire())
        finally:
            self._listener.close()
            self._finish()
            self._shared.uploads.close()
            for fd in (self._wake_fd, self._woken_fd):
                os.close(fd)

    def stop(self) -> None:
        """End `run`; from any thread, and from a signal's handler."""
        if not self._stopping:
            self._stopping = True
            os.write(self._wake_fd, b"x")

    def _accept(self) -> None:
        try:
            sock, client = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                # Those in use will end; asking without a pause would keep a core busy.
                time.sleep(_PAUSE_S)
            return
        thread = threading.Thread(target=self._converse, args=(sock, client[0]), name="serve", daemon=True)
        with self._lock:
            full = len(self._threads) >= self._most
            if not full:
                self._threads.add(thread)
        if full or not _started(thread):
            _refuse(sock, plain=self._tls is None)
            with self._lock:
                self._threads.discard(thread)

    def _converse(self, sock: socket.socket, client: str) -> None:
        wire: Wire | None = None
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                sock.settimeout(self._limits.head_s)
                sock = self._tls(sock)
            wire = Wire(sock, self._limits, encrypted=self._tls is not None)
            with self._lock:
                if self._stopping:
                    return
                self._wires.add(wire)
            while self._exchange(wire, client):
                pass
            wire.finish()
        except (Gone, OSError):
            pass
        finally:
            sock.close()
            with self._lock:
                self._threads.discard(threading.current_thread())
                if wire is not None:
                    self._wires.discard(wire)

    def _exchange(self, wire: Wire, client: str) -> bool:
        """One request; whether another may follow. Raises `Gone`."""
        try:
            request = wire.read_request()
        except Malformed as error:
            self._send(wire, _malformed(error), "GET", keep_alive=False)
            return False
        if request is None or self._stopping:
            return False
        began_s = time.monotonic()
        body = Body(wire, request)
        with self._lock:
            self._busy.add(wire)
        try:
            answer, sound = self._respond(request, body, wire)
            keep_alive = sound and request.keep_alive and not self._stopping and body.drain()
            self._send(wire, answer, request.method, keep_alive=keep_alive)
        finally:
            with self._lock:
                self._busy.discard(wire)
        if self._served is not None:
            seconds = time.monotonic() - began_s
            self._served(Served(client, request.method, request.path, answer.status, seconds))
        return keep_alive

    def _respond(self, request: Request, body: Body, wire: Wire) -> tuple[Answer, bool]:
        """The answer, and whether the connection is still in step with its requests."""
        try:
            self._guard.check(request)
            return respond(self._shared, request, body, wire), True
        except Problem as problem:
            return problem.answer(), True
        except Malformed as error:
            return _malformed(error), False
        except (Gone, OSError):
            raise
        except Exception as error:
            # A fault of ours ends this connection, not the server.
            if self._failed is not None:
                self._failed(error)
            return Problem(500, "UNKNOWN", "the registry has a fault").answer(), False

    def _send(self, wire: Wire, answer: Answer, method: str, *, keep_alive: bool) -> None:
        if answer.blob is None or method == "HEAD":
            body = b"" if method == "HEAD" or answer.status in (204, 304) else answer.body
            wire.send(head_bytes(answer, keep_alive=keep_alive) + body)
            return
        try:
            file_fd = os.open(answer.blob.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise Gone from error
        try:
            wire.send(head_bytes(answer, keep_alive=keep_alive))
            wire.send_file(file_fd, answer.blob.offset, answer.blob.count)
        finally:
            os.close(file_fd)

    def _finish(self) -> None:
        """End the connections: idle ones at once, the others when their request is answered or when
        there is no more patience."""
        deadline_s = time.monotonic() + _PATIENCE_S
        while True:
            late = time.monotonic() >= deadline_s
            with self._lock:
                threads = list(self._threads)
                idle = [wire for wire in self._wires if late or wire not in self._busy]
            for wire in idle:
                wire.break_off()
            if not threads:
                return
            threads[0].join(0.1)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise _listen_failed(host, port, error) from error
    return listener


def _listen_failed(host: str, port: int, error: OSError) -> ArkwrightError:
    return UserError.of(
        "listen-failed",
        f"cannot listen on {host}:{port}: {error.strerror or error}",
        hint="choose another address with --listen HOST:PORT; port 0 takes any that is free",
    )


def _started(thread: threading.Thread) -> bool:
    """Start it; false when this host gives no more threads."""
    try:
        thread.start()
    except RuntimeError:
        return False
    return True


def _refuse(sock: socket.socket, *, plain: bool) -> None:
    """There are too many connections: say so without a thread."""
    try:
        sock.settimeout(0)
        if plain:
            sock.send(_FULL)
    except OSError:
        pass
    finally:
        sock.close()


def _malformed(error: Malformed) -> Answer:
    return Problem(error.status, "UNSUPPORTED", error.message).answer()
