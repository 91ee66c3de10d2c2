"""A small HTTP server on loopback that fails on demand, and a clock that does not wait."""

from __future__ import annotations

import hashlib
import re
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

from arkwright.net.credentials import Credentials
from arkwright.net.retry import RetryPolicy
from arkwright.net.tls import TlsContexts
from arkwright.net.transport import Limits, Transport
from arkwright.registry.access import Access
from arkwright.registry.hosts import RegistriesConfig


class FakeClock:
    """Sleeping only moves the time."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.slept: list[float] = []

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Request(NamedTuple):
    """What was asked, as it came."""

    command: str
    path: str
    headers: Message


class Exchange(BaseHTTPRequestHandler):
    """One request: what came, and ways to answer it, also badly."""

    protocol_version = "HTTP/1.1"
    server: Loopback

    def handle(self) -> None:
        # A client that tries TLS first would wait for the end of its "line".
        if self.rfile.peek(1)[:1] == b"\x16":  # type: ignore[attr-defined]
            return
        super().handle()

    def dispatch(self) -> None:
        self.body = b""
        with self.server.lock:
            self.server.seen.append(Request(self.command, self.path, self.headers))
        for fault in list(self.server.faults):
            if fault.takes(self):
                fault.answer(self)
                return
        self.read_body()
        self.server.respond(self)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_CONNECT = dispatch

    def read_body(self, limit: int = -1) -> bytes:
        left = int(self.headers.get("Content-Length", 0))
        left = left if limit < 0 else min(left, limit)
        while left:
            data = self.rfile.read(min(left, 1 << 16))
            if not data:
                break
            self.body += data
            left -= len(data)
        return self.body

    def reply(
        self, status: int = 200, body: bytes = b"", *, announce: int | None = None, **headers: str
    ) -> None:
        """Answer; `announce` is a Content-Length that need not be true, -1 for none."""
        self.send_response(status)
        length = len(body) if announce is None else announce
        if length >= 0 and status != 204:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length != len(body):
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            with self.server.lock:
                self.server.sent.append(len(body))

    def log_message(self, format: str, *args: Any) -> None:
        return


class Fault:
    """An answer for the first `times` requests that it fits."""

    def __init__(self, method: str, pattern: str, answer: Callable[[Exchange], None], times: float) -> None:
        self.method, self.pattern, self.answer, self.times = method, re.compile(pattern), answer, times
        self.lock = threading.Lock()

    def takes(self, exchange: Exchange) -> bool:
        with self.lock:
            fits = exchange.command == self.method and self.pattern.search(exchange.path) is not None
            if not (fits and self.times > 0):
                return False
            self.times -= 1
            return True


class Loopback(ThreadingHTTPServer):
    """The server, in threads of its own. A context manager."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.lock = threading.Lock()
        self.seen: list[Request] = []
        self.sent: list[int] = []
        self.faults: list[Fault] = []
        self.scheme = "http"
        super().__init__((host, 0), Exchange)
        if context is not None:
            self.scheme = "https"
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.port: int = self.server_address[1]
        self.host = f"{host}:{self.port}"
        self.url = f"{self.scheme}://{self.host}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is part of many tests."""

    def respond(self, exchange: Exchange) -> None:
        exchange.reply(404)

    def on(self, method: str, pattern: str, answer: Callable[[Exchange], None], times: float = 1) -> None:
        """Answer matching requests so, `times` times; earlier faults go first."""
        self.faults.append(Fault(method, pattern, answer, times))

    def requests(self, method: str = "", pattern: str = "") -> list[Request]:
        with self.lock:
            seen = list(self.seen)
        return [one for one in seen if method in ("", one.command) and re.search(pattern, one.path)]


class LoopbackRegistry(Loopback):
    """A registry in memory: what the distribution specification asks for, and no more."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(context)
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.uploads: dict[str, bytearray] = {}
        self.tokens: set[str] = set()
        self.token_life_s = 0.0
        self.guarded = False
        self._made = 0

    def add_blob(self, data: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    def add_manifest(self, ref: str, media_type: str, data: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.manifests[ref] = self.manifests[digest] = (media_type, data)
        return digest

    def respond(self, exchange: Exchange) -> None:
        path = urllib.parse.urlsplit(exchange.path).path
        if path == "/token":
            self._token(exchange)
        elif self.guarded and exchange.headers.get("Authorization") not in {
            f"Bearer {token}" for token in self.tokens
        }:
            scope = f'Bearer realm="{self.url}/token",service="test",scope="repository:app:pull"'
            exchange.reply(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', WWW_Authenticate=scope)
        elif path == "/v2/":
            exchange.reply(200, b"{}")
        elif "/manifests/" in path:
            self._manifest(exchange, path.rpartition("/")[2])
        elif "/blobs/uploads/" in path:
            self._upload(exchange, path)
        else:
            self._blob(exchange, path.rpartition("/")[2])

    def _token(self, exchange: Exchange) -> None:
        with self.lock:
            self._made += 1
            token = f"token-{self._made}"
            self.tokens.add(token)
        life = f',"expires_in":{self.token_life_s}' if self.token_life_s else ""
        exchange.reply(200, f'{{"token":"{token}"{life}}}'.encode())

    def _manifest(self, exchange: Exchange, ref: str) -> None:
        if exchange.command == "PUT":
            digest = self.add_manifest(ref, exchange.headers["Content-Type"], exchange.body)
            exchange.reply(201, Docker_Content_Digest=digest)
        elif ref in self.manifests:
            media_type, data = self.manifests[ref]
            digest = "sha256:" + hashlib.sha256(data).hexdigest()
            exchange.reply(200, data, Content_Type=media_type, Docker_Content_Digest=digest)
        else:
            exchange.reply(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such"}]}')

    def _blob(self, exchange: Exchange, digest: str) -> None:
        if digest not in self.blobs:
            exchange.reply(404, b'{"errors":[{"code":"BLOB_UNKNOWN"}]}')
            return
        data = self.blobs[digest]
        found = re.fullmatch(r"bytes=(\d+)-", exchange.headers.get("Range", ""))
        if found is None:
            exchange.reply(200, data)
            return
        begin = int(found[1])
        exchange.reply(206, data[begin:], Content_Range=f"bytes {begin}-{len(data) - 1}/{len(data)}")

    def _upload(self, exchange: Exchange, path: str) -> None:
        name = path.rpartition("/")[2]
        if exchange.command == "POST":
            with self.lock:
                self._made += 1
                name = f"upload-{self._made}"
                self.uploads[name] = bytearray()
            exchange.reply(202, Location=f"{path}{name}")
        elif name not in self.uploads:
            exchange.reply(404, b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}')
        elif exchange.command == "PUT":
            self.uploads[name] += exchange.body
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(exchange.path).query)
            done = self.add_blob(bytes(self.uploads.pop(name)))
            exchange.reply(201 if [done] == query["digest"] else 400)
        else:
            self.uploads[name] += exchange.body
            last = max(0, len(self.uploads[name]) - 1)
            exchange.reply(202 if exchange.command == "PATCH" else 204, Location=path, Range=f"0-{last}")


def open_access(
    *,
    env: Mapping[str, str] | None = None,
    config: RegistriesConfig | None = None,
    attempts: int = 5,
    clock: FakeClock | None = None,
    credentials: Credentials | None = None,
    tls_directories: tuple[str, ...] = (),
    transport: Transport | None = None,
    **more: Any,
) -> Access:
    """An `Access` that reads nothing of this machine's configuration, and does not wait."""
    return Access(
        config=config or RegistriesConfig(),
        credentials=credentials or Credentials({"REGISTRY_AUTH_FILE": "/nonexistent", **(env or {})}),
        transport=transport
        or Transport(env={}, tls=TlsContexts(tls_directories), limits=Limits(timeout_s=20)),
        policy=RetryPolicy(attempts=attempts),
        clock=clock or FakeClock(),
        **more,
    )
