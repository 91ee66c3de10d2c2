"""One connection's bytes: HTTP/1.1 heads and bodies, with bounds on their size and on their slowness
(RFC 9112).

Nothing here knows of registries. Whatever a client sends that is not plainly a request ends in
`Malformed`, never in a guess: two readings of one request are how requests are smuggled past proxies.
"""

from __future__ import annotations

import os
import re
import socket
import time
from contextlib import suppress
from urllib.parse import parse_qsl, unquote

import msgspec

HEAD_LIMIT = 32 << 10  # bytes of request line and header fields
_TARGET_LIMIT = 8 << 10
_LINE_LIMIT = 1 << 10  # bytes of a chunk's size line
_FIELDS = 128
_BLOCK = 1 << 20
_RATE_AFTER_S = 30.0
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_START = re.compile(rb"([A-Z]{1,16}) ([!-~]+) HTTP/1\.([01])")
_SIZE = re.compile(rb"[0-9a-fA-F]{1,15}")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Patience, in seconds: between requests, for a whole head, for the next bytes of a body. Below
    `least_rate` bytes per second, on average after half a minute, a body is given up."""

    idle_s: float = 60.0
    head_s: float = 15.0
    stall_s: float = 60.0
    least_rate: int = 1 << 10


class Malformed(Exception):
    """What came is no request that we take. `status` is the answer; the connection ends with it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Gone(Exception):
    """The client left, or was too slow."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request's head. `path` is decoded, header names are in lower case; of repeated query keys the
    first counts. `length` is the body's, -1 for a chunked one."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    length: int = 0
    keep_alive: bool = True

    def header(self, name: str) -> str:
        """A header's value, "" when absent."""
        return self.headers.get(name, "")


class Wire:
    """A connection. For one thread; only `break_off` may be called from another."""

    def __init__(self, sock: socket.socket, limits: Limits, *, encrypted: bool = False) -> None:
        self._sock = sock
        self._limits = limits
        self._encrypted = encrypted
        self._held = b""

    def read_request(self) -> Request | None:
        """The next request's head; None when the client is done. Raises `Malformed`, `Gone`."""
        if not self._held and not self._more(self._limits.idle_s):
            return None
        deadline_s = time.monotonic() + self._limits.head_s
        while (end := self._held.find(b"\r\n\r\n")) < 0:
            # Another protocol, such as TLS, is told at once: its client waits for our end.
            if not self._held[:1].isalpha():
                raise Gone
            if len(self._held) > HEAD_LIMIT:
                raise Malformed(431, "the request's header fields are too large")
            if not self._more(deadline_s - time.monotonic()):
                raise Gone
        head, self._held = self._held[:end], self._held[end + 4 :]
        if len(head) > HEAD_LIMIT:
            raise Malformed(431, "the request's header fields are too large")
        return parse_head(head)

    def receive(self, limit: int) -> bytes:
        """Some bytes of a body, at most `limit`. Raises `Gone` at the connection's end."""
        if not self._held and not self._more(self._limits.stall_s):
            raise Gone
        data, self._held = self._held[:limit], self._held[limit:]
        return data

    def receive_line(self) -> bytes:
        """A line without its end. Raises `Malformed`, `Gone`."""
        while (end := self._held.find(b"\r\n")) < 0:
            if len(self._held) > _LINE_LIMIT:
                raise Malformed(400, "a chunk's size line is too long")
            if not self._more(self._limits.stall_s):
                raise Gone
        line, self._held = self._held[:end], self._held[end + 2 :]
        return line

    def send(self, data: bytes) -> None:
        """Send all. Raises `Gone`."""
        try:
            self._sock.settimeout(self._limits.stall_s)
            self._sock.sendall(data)
        except OSError as error:
            raise Gone from error

    def send_file(self, file_fd: int, offset: int, count: int) -> None:
        """Send a part of a file. Raises `Gone`, also when the file is shorter."""
        pace = Pace(self._limits)
        while count:
            if self._encrypted:
                data = os.pread(file_fd, min(count, _BLOCK), offset)
                self.send(data)
                sent = len(data)
            else:
                sent = self._send_some(file_fd, offset, min(count, _BLOCK))
            if not sent or pace.too_slow(sent):
                raise Gone
            offset, count = offset + sent, count - sent

    def finish(self) -> None:
        """End the connection so that the last answer arrives: a client that still sends would get a
        reset, and lose what it has not read (RFC 9112, section 9.6)."""
        with suppress(OSError):
            if not self._encrypted:
                self._sock.shutdown(socket.SHUT_WR)
                self._sock.settimeout(0.5)
                deadline_s = time.monotonic() + 2
                while time.monotonic() < deadline_s and self._sock.recv(_BLOCK):
                    pass
        self.close()

    def close(self) -> None:
        with suppress(OSError):
            self._sock.close()

    def break_off(self) -> None:
        """End the connection at once, from any thread; who waits on it gets `Gone`."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    @property
    def limits(self) -> Limits:
        return self._limits

    def _more(self, timeout_s: float) -> bool:
        if timeout_s <= 0:
            raise Gone
        try:
            self._sock.settimeout(timeout_s)
            data = self._sock.recv(_BLOCK)
        except OSError as error:
            raise Gone from error
        self._held += data
        return bool(data)

    def _send_some(self, file_fd: int, offset: int, count: int) -> int:
        self._sock.settimeout(self._limits.stall_s)
        with open(file_fd, "rb", closefd=False) as file:
            try:
                return self._sock.sendfile(file, offset, count)
            except OSError as error:
                raise Gone from error


class Pace:
    """Whether a transfer makes any headway."""

    def __init__(self, limits: Limits) -> None:
        self._least_rate = limits.least_rate
        self._began_s = time.monotonic()
        self._count = 0

    def too_slow(self, count: int) -> bool:
        """Take note of `count` more bytes."""
        self._count += count
        spent_s = time.monotonic() - self._began_s
        return spent_s > _RATE_AFTER_S and self._count < spent_s * self._least_rate


class Body:
    """A request's body: iterate over its blocks, once."""

    def __init__(self, wire: Wire, request: Request) -> None:
        self._wire = wire
        self._left = request.length
        self._expects = request.header("expect").lower() == "100-continue" and request.length != 0
        self._pace = Pace(wire.limits)
        self._chunk = 0
        self.length = request.length

    def __iter__(self) -> Body:
        return self

    def __next__(self) -> bytes:
        """The next block. Raises `Malformed`, `Gone`."""
        if self._left == 0:
            raise StopIteration
        if self._expects:
            self._expects = False
            self._wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        data = self._blocks() if self._left < 0 else self._plain()
        if not data:
            raise StopIteration
        if self._pace.too_slow(len(data)):
            raise Gone
        return data

    def read(self, limit: int) -> bytes | None:
        """The whole body, or None if it is larger than `limit` bytes."""
        if self._left > limit:
            return None
        data = bytearray()
        for block in self:
            data += block
            if len(data) > limit:
                return None
        return bytes(data)

    def drain(self) -> bool:
        """Throw a short rest away; whether the connection can be used again."""
        if self._expects or self._left < 0 or self._left > 1 << 16:
            return self._left == 0
        for _ in self:
            pass
        return True

    def _plain(self) -> bytes:
        data = self._wire.receive(min(self._left, _BLOCK))
        self._left -= len(data)
        return data

    def _blocks(self) -> bytes:
        """The next bytes of a chunked body; b"" after its last chunk."""
        if not self._chunk:
            size = self._wire.receive_line().partition(b";")[0].strip()
            if not _SIZE.fullmatch(size):
                raise Malformed(400, "a chunk has no size")
            self._chunk = int(size, 16)
            if not self._chunk:
                self._trailer()
                self._left = 0
                return b""
        data = self._wire.receive(min(self._chunk, _BLOCK))
        self._chunk -= len(data)
        if not self._chunk and self._wire.receive_line():
            raise Malformed(400, "a chunk is longer than its size")
        return data

    def _trailer(self) -> None:
        for _ in range(_FIELDS):
            if not self._wire.receive_line():
                return
        raise Malformed(400, "the trailer is too long")


def parse_head(head: bytes) -> Request:
    """A request's head, without the empty line. Raises `Malformed`."""
    first, *lines = head.split(b"\r\n")
    start = _START.fullmatch(first)
    if start is None:
        raise Malformed(400, "the request line is malformed")
    if len(start[2]) > _TARGET_LIMIT:
        raise Malformed(414, "the request's target is too long")
    headers = _fields(lines)
    path, query = _target(start[2].decode("ascii"))
    length = _length(headers, older := start[3] == b"0")
    wanted = headers.get("connection", "").lower()
    return Request(
        method=start[1].decode("ascii"),
        path=path,
        query=query,
        headers=headers,
        length=length,
        keep_alive="close" not in wanted and (not older or "keep-alive" in wanted),
    )


def _fields(lines: list[bytes]) -> dict[str, str]:
    if len(lines) > _FIELDS:
        raise Malformed(431, "there are too many header fields")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.fullmatch(name) or b"\r" in value or b"\n" in value or b"\0" in value:
            raise Malformed(400, "a header field is malformed")
        key, text = name.decode("ascii").lower(), value.strip(b" \t").decode("latin-1")
        if key in headers:
            if key in ("content-length", "transfer-encoding", "host", "authorization", "content-range"):
                raise Malformed(400, f"the header field {key} stands twice")
            text = f"{headers[key]}, {text}"
        headers[key] = text
    return headers


def _length(headers: dict[str, str], older: bool) -> int:
    encoding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if encoding is not None:
        if length is not None or older:
            raise Malformed(400, "the body's length is ambiguous")
        if encoding.lower() != "chunked":
            raise Malformed(501, "this transfer encoding is not supported")
        return -1
    if length is None:
        return 0
    if not (length.isascii() and length.isdigit() and len(length) < 19):
        raise Malformed(400, "the body's length is not a number")
    return int(length)


def _target(target: str) -> tuple[str, dict[str, str]]:
    if target.startswith(("http://", "https://")):
        target = "/" + target.partition("://")[2].partition("/")[2]
    raw, _, query = target.partition("?")
    if not raw.startswith("/"):
        raise Malformed(400, "the request's target is not a path")
    try:
        found: dict[str, str] = {}
        for key, value in parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=32):
            found.setdefault(key, value)
        return unquote(raw, errors="strict"), found
    except ValueError as error:
        raise Malformed(400, "the request's target is malformed") from error
