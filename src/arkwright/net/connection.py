"""One HTTP/1.1 connection: to the origin, to a proxy, or through a proxy's tunnel."""

from __future__ import annotations

import http.client
import select
import socket
import ssl
from contextlib import suppress
from typing import NamedTuple

from arkwright.diagnostics.errors import ArkwrightError
from arkwright.net.failures import connect_failure, remote_error
from arkwright.net.proxy import Proxy

_TUNNEL_LINES = 100
_LINE_LIMIT = 16384
_SEND_BLOCK = 1 << 18


class Origin(NamedTuple):
    """Where a connection leads, and so what it may be shared for. `host` has no brackets."""

    scheme: str
    host: str
    port: int
    verify: bool = True

    @property
    def netloc(self) -> str:
        """The value of the `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"


class Connection(http.client.HTTPConnection):
    """`http.client`'s connection with our own way to connect.

    `connect` raises `RemoteError`, all else what `http.client` raises.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        proxy: Proxy | None,
        context: ssl.SSLContext | None,
        connect_timeout_s: float,
        timeout_s: float,
    ) -> None:
        super().__init__(origin.host, origin.port, timeout=timeout_s, blocksize=_SEND_BLOCK)
        self.origin = origin
        self.reused = False
        self._proxy = proxy
        self._context = context
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._broken_off = False

    @property
    def forwards(self) -> bool:
        """Whether requests go to a proxy that reads them, and so need the whole URL."""
        return self._proxy is not None and self.origin.scheme == "http"

    @property
    def proxy_authorization(self) -> str:
        return self._proxy.authorization if self._proxy is not None else ""

    def connect(self) -> None:
        """Connect, tunnel, shake hands. Raises `RemoteError`."""
        url = f"{self.origin.scheme}://{self.origin.netloc}/"
        host, port = self.origin.host, self.origin.port
        if self._proxy is not None:
            host, port = self._proxy.host, self._proxy.port
        sock = None
        try:
            sock = socket.create_connection((host, port), self._connect_timeout_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._proxy is not None and self.origin.scheme == "https":
                self._tunnel_through(sock, self._proxy)
                host, port = self.origin.host, self.origin.port
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_hostname=self.origin.host)
            sock.settimeout(self._timeout_s)
        except (OSError, UnicodeError) as error:
            _close(sock)
            raise connect_failure(error, "CONNECT", url, host, port) from error
        except ArkwrightError:
            _close(sock)
            raise
        self.sock = sock
        if self._broken_off:
            self.break_off()

    def break_off(self) -> None:
        """End the conversation from another thread, now or when there is one; whoever waits on it sees its
        end."""
        self._broken_off = True
        sock = self.sock
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def is_stale(self) -> bool:
        """Whether an idle connection was closed, or spoken on, by the server meanwhile."""
        if self.sock is None:
            return True
        poll = select.poll()
        poll.register(self.sock, select.POLLIN | select.POLLHUP | select.POLLERR)
        return bool(poll.poll(0))

    def _tunnel_through(self, sock: socket.socket, proxy: Proxy) -> None:
        """Ask the proxy for a tunnel (RFC 9110, section 9.3.6)."""
        host = f"[{self.origin.host}]" if ":" in self.origin.host else self.origin.host
        target = f"{host}:{self.origin.port}"
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if proxy.authorization:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
        sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
        status = _tunnel_status(sock)
        if status != 200:
            raise remote_error(
                "proxy-failed",
                f"the proxy {proxy.host}:{proxy.port} refuses a tunnel to {target}"
                + (f": status {status}" if status else ""),
                method="CONNECT",
                url=f"https://{target}/",
                retryable=status >= 500,
                status=status,
            )


def _tunnel_status(sock: socket.socket) -> int:
    """The status of the answer to CONNECT; 0 for what is no HTTP.

    Unbuffered, byte by byte: what follows the empty line belongs to the tunnel.
    """
    first = b""
    for number in range(_TUNNEL_LINES):
        line = _line(sock)
        if number == 0:
            first = line
        if not line:
            break
    words = first.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        return 0
    return int(words[1])


def _line(sock: socket.socket) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n") and len(line) < _LINE_LIMIT:
        byte = sock.recv(1)
        if not byte:
            break
        line += byte
    return bytes(line).strip()


def _close(sock: socket.socket | None) -> None:
    if sock is not None:
        sock.close()
