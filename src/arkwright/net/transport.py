"""The HTTP/1.1 client: a small, thread-safe pool of connections over `http.client`.

It asks for no compression, keeps no cookies, stores no credentials, and follows redirects only
where it is told to. One transport serves one process; after a fork it starts with an empty pool.
"""

from __future__ import annotations

import http.client
import os
import threading
from collections.abc import Callable, Mapping
from typing import BinaryIO, Literal
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

import msgspec

from arkwright import __version__
from arkwright.diagnostics.errors import RemoteError
from arkwright.net.connection import Connection, Origin
from arkwright.net.failures import exchange_failure, remote_error
from arkwright.net.proxy import proxy_for
from arkwright.net.response import Response
from arkwright.net.tls import TlsContexts

USER_AGENT = f"arkwright/{__version__}"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_REDIRECT_BODY = 1 << 16
_PORTS = {"http": 80, "https": 443}
_CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization"})
_SAFE_PATH = "/%:@!$&'()*+,;=~-._[]"
_SAFE_QUERY = _SAFE_PATH + "?"

Body = bytes | BinaryIO | None


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds, and counts. `timeout_s` is the longest silence, not the longest transfer; a body that
    brings fewer than `least_rate` bytes per second in `rate_after_s` seconds is given up too."""

    connect_timeout_s: float = 15.0
    timeout_s: float = 60.0
    idle_per_host: int = 8
    redirects: int = 8
    least_rate: int = 100
    rate_after_s: float = 60.0


class Target(msgspec.Struct, frozen=True):
    """A URL taken apart: the origin, the request's path with query, the URL without userinfo."""

    origin: Origin
    path: str
    url: str


def parse_url(url: str, *, verify: bool = True) -> Target:
    """Take an `http` or `https` URL apart; userinfo and fragment are dropped, the rest is quoted.

    Raises `RemoteError` `http-protocol` for anything else.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        host = host if host.isascii() else host.encode("idna").decode("ascii")
    except (ValueError, UnicodeError) as error:
        raise _bad_url(url) from error
    if (
        parts.scheme not in _PORTS
        or not host
        or any(ord(letter) <= 32 or letter == "\x7f" for letter in host)
    ):
        raise _bad_url(url)
    origin = Origin(parts.scheme, host, port or _PORTS[parts.scheme], verify)
    path = quote(parts.path or "/", safe=_SAFE_PATH)
    query = quote(parts.query, safe=_SAFE_QUERY)
    whole = urlunsplit((parts.scheme, origin.netloc, path, query, ""))
    return Target(origin, path + (f"?{query}" if query else ""), whole)


class Transport:
    """Sends requests. Thread-safe; close it at the end."""

    def __init__(
        self,
        *,
        tls: TlsContexts | None = None,
        limits: Limits = Limits(),  # noqa: B008
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._tls = tls or TlsContexts()
        self._limits = limits
        self._env = os.environ if env is None else env
        self._lock = threading.Lock()
        self._idle: dict[Origin, list[Connection]] = {}
        self._busy: set[Connection] = set()
        self._pid = os.getpid()
        self._aborted = False

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        length: int | None = None,
        verify: bool = True,
        redirects: Literal["follow", "return"] = "follow",
        timeout_s: float | None = None,
        leads_to: Callable[[str], None] | None = None,
    ) -> Response:
        """Send a request, and return the response when its headers are there, whatever its status.

        `body` is bytes, or a stream of which exactly `length` bytes are sent. Redirects are
        followed for GET and HEAD only: without credentials once the origin differs, never from
        https to http, never in a circle; `leads_to` is told where, and may raise. `timeout_s` replaces the transport's times.
        Raises `RemoteError` (see `net.failures`) and `UserError` `invalid-certificate`,
        `unsupported-proxy`.
        """
        target, sent = parse_url(url, verify=verify), _headers(headers or {}, body, length)
        seen = {target.url}
        while True:
            response = self._exchange(method, target, sent, body, timeout_s)
            follow = redirects == "follow" and method in ("GET", "HEAD") and response.status in _REDIRECTS
            location = response.header("Location") if follow else ""
            if not location:
                return response
            with response:
                response.read(_REDIRECT_BODY)
            following = _redirected(method, target, location)
            if following.url in seen or len(seen) > self._limits.redirects:
                why = "goes in a circle" if following.url in seen else "has no end"
                raise _refused(method, target.url, f"the redirection {why}")
            if leads_to is not None:
                leads_to(following.url)
            if following.origin != target.origin:
                sent = {name: value for name, value in sent.items() if name.lower() not in _CREDENTIALS}
            seen.add(following.url)
            target = following

    def close(self) -> None:
        """Close the idle connections; those in use are closed when their responses are."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for connection in (one for many in idle.values() for one in many):
            connection.close()

    def abort(self) -> None:
        """Break every connection, for good: threads that wait on one, or would begin one, get
        `network-interrupted` at once."""
        with self._lock:
            self._aborted = True
            busy = list(self._busy)
        for connection in busy:
            connection.break_off()
        self.close()

    def __enter__(self) -> Transport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exchange(
        self, method: str, target: Target, headers: dict[str, str], body: Body, timeout_s: float | None
    ) -> Response:
        replayable = body is None or isinstance(body, bytes)
        while True:
            connection = self._take(method, target, timeout_s)
            # A kept connection may be closed by the server just as we write; that is no failure
            # of the request, and a fresh connection tells.
            last = not (connection.reused and replayable)
            try:
                raw = _send(connection, method, target, headers, body)
            except RemoteError:
                self._drop(connection)
                raise
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._drop(connection)
                if last or isinstance(error, TimeoutError):
                    raise exchange_failure(error, method, target.url) from error
            except BaseException:
                self._drop(connection)
                raise
            else:
                return Response(
                    raw, method, target.url, self._releaser(connection),
                    least_rate=self._limits.least_rate, rate_after_s=self._limits.rate_after_s,
                )  # fmt: skip

    def _drop(self, connection: Connection) -> None:
        with self._lock:
            self._busy.discard(connection)
        connection.close()

    def _take(self, method: str, target: Target, timeout_s: float | None) -> Connection:
        connection = self._kept(target.origin, timeout_s) or self._new(target.origin, timeout_s)
        with self._lock:
            if not self._aborted:
                self._busy.add(connection)
                return connection
        connection.close()
        raise exchange_failure(ConnectionAbortedError("broken off"), method, target.url)

    def _kept(self, origin: Origin, timeout_s: float | None) -> Connection | None:
        limit_s = self._limits.timeout_s if timeout_s is None else timeout_s
        while (kept := self._pop_idle(origin)) is not None:
            if kept.is_stale():
                kept.close()
                continue
            kept.reused = True
            kept.timeout = limit_s
            kept.sock.settimeout(limit_s)
            return kept
        return None

    def _new(self, origin: Origin, timeout_s: float | None) -> Connection:
        limit_s = self._limits.timeout_s if timeout_s is None else timeout_s
        context = None
        if origin.scheme == "https":
            context = self._tls.get(origin.host, origin.port, verify=origin.verify)
        return Connection(
            origin,
            proxy=proxy_for(origin.scheme, origin.host, origin.port, self._env),
            context=context,
            connect_timeout_s=min(self._limits.connect_timeout_s, limit_s),
            timeout_s=limit_s,
        )

    def _pop_idle(self, origin: Origin) -> Connection | None:
        with self._lock:
            if self._pid != os.getpid():
                # The conversations are the parent's. Closing our descriptors says nothing to the
                # server: Python sends no TLS goodbye.
                for connection in (one for many in self._idle.values() for one in many):
                    connection.close()
                self._idle, self._pid = {}, os.getpid()
            kept = self._idle.get(origin)
            return kept.pop() if kept else None

    def _releaser(self, connection: Connection) -> Callable[[bool], None]:
        def release(reusable: bool) -> None:
            with self._lock:
                self._busy.discard(connection)
                kept = self._idle.setdefault(connection.origin, [])
                if reusable and len(kept) < self._limits.idle_per_host and self._pid == os.getpid():
                    kept.append(connection)
                    return
            connection.close()

        return release


def _headers(given: Mapping[str, str], body: Body, length: int | None) -> dict[str, str]:
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **given}
    if isinstance(body, bytes):
        headers["Content-Length"] = str(len(body))
    elif body is not None:
        if length is None:
            raise ValueError("a streamed body needs its length")
        headers["Content-Length"] = str(length)
    return headers


def _send(
    connection: Connection, method: str, target: Target, headers: Mapping[str, str], body: Body
) -> http.client.HTTPResponse:
    connection.putrequest(
        method,
        target.url if connection.forwards else target.path,
        skip_host=True,
        skip_accept_encoding=True,
    )
    connection.putheader("Host", target.origin.netloc)
    if connection.forwards and connection.proxy_authorization:
        connection.putheader("Proxy-Authorization", connection.proxy_authorization)
    for name, value in headers.items():
        connection.putheader(name, value)
    if body is None and method in ("POST", "PUT", "PATCH"):
        connection.putheader("Content-Length", "0")
    try:
        connection.endheaders(body if isinstance(body, bytes) else None)
        if body is not None and not isinstance(body, bytes):
            _send_stream(connection, body, int(headers["Content-Length"]))
    except (BrokenPipeError, ConnectionResetError):
        # The server may have answered (401, 413 …) without reading the body to its end.
        return _early_answer(connection)
    return connection.getresponse()


def _early_answer(connection: Connection) -> http.client.HTTPResponse:
    raw = connection.getresponse()
    raw.will_close = True
    return raw


def _send_stream(connection: Connection, body: BinaryIO, length: int) -> None:
    left = length
    while left:
        block = body.read(min(connection.blocksize, left))
        if not block:
            raise ValueError("the body's stream is shorter than announced")
        connection.send(block)
        left -= len(block)


def _redirected(method: str, target: Target, location: str) -> Target:
    try:
        url = urljoin(target.url, location)
    except ValueError as error:
        raise _bad_url(location) from error
    following = parse_url(url, verify=target.origin.verify)
    if target.origin.scheme == "https" and following.origin.scheme == "http":
        raise _refused(method, target.url, "a redirection from https to http is not followed")
    return following


def _refused(method: str, url: str, why: str) -> RemoteError:
    return remote_error("redirect-refused", f"{method} {parse_url(url).origin.netloc}: {why}",
                        method=method, url=url, retryable=False)  # fmt: skip


def _bad_url(url: str) -> RemoteError:
    return remote_error(
        "http-protocol", "not a usable http or https URL", method="", url=url, retryable=False
    )
