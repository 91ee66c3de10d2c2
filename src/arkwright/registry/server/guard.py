"""Who may ask: basic authentication against an htpasswd file, and nobody's web browser."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import os
import secrets
import socket
import threading
from collections import OrderedDict

from arkwright.diagnostics.errors import ArkwrightError, UserError
from arkwright.registry.server.answers import Problem
from arkwright.registry.server.wire import Request

_FILE_LIMIT = 4 << 20
_PASSWORD_LIMIT = 1 << 10
_REMEMBERED = 256
_AT_ONCE = 2
_LOCAL_SUFFIXES = (".localhost", ".internal", ".local")


class Passwords:
    """The users of an htpasswd file, which is read again when it changes. Thread-safe.

    Lines are `user:hash`; the hash is of a kind that `linux.passwords.STRONG` has, such as bcrypt, which
    `htpasswd -B` writes. A password that was right is remembered, hashed with a key that dies with the
    process, as long as its line stays: a push is hundreds of requests, and bcrypt is slow on purpose.
    """

    def __init__(self, path: str) -> None:
        """Raises `UserError` `invalid-htpasswd`, `HostUnsupported` `no-libcrypt`."""
        self._path = path
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(_AT_ONCE)
        self._key = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._stamp = self._stat()
        self._users = self._read()

    def accept(self, user: str, password: bytes) -> bool:
        """Whether this is the user's password. A file that became unreadable stays what it was."""
        from arkwright.linux.passwords import verify

        self._refresh()
        with self._lock:
            hashed = self._users.get(user)
            stand_in = next(iter(self._users.values()), b"")
        tag = hmac.new(self._key, b"\0".join((user.encode(), hashed or b"", password)), hashlib.sha256)
        with self._lock:
            if hashed and tag.digest() in self._known:
                self._known.move_to_end(tag.digest())
                return True
        with self._slots:
            # A user who is not there takes as long as one who is.
            right = verify(password[:_PASSWORD_LIMIT], hashed or stand_in)
        if not (hashed and right):
            return False
        with self._lock:
            self._known[tag.digest()] = None
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return True

    def _refresh(self) -> None:
        try:
            stamp = self._stat()
            if stamp == self._stamp:
                return
            users = self._read()
        except ArkwrightError:
            return
        with self._lock:
            self._stamp, self._users = stamp, users

    def _stat(self) -> tuple[int, int, int]:
        try:
            found = os.stat(self._path)
        except OSError as error:
            raise self._invalid(error.strerror or "unreadable") from error
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> dict[str, bytes]:
        from arkwright.linux.passwords import STRONG, supported

        try:
            with open(self._path, "rb") as file:
                data = file.read(_FILE_LIMIT)
        except OSError as error:
            raise self._invalid(error.strerror or "unreadable") from error
        users: dict[str, bytes] = {}
        for number, line in enumerate(data.splitlines(), 1):
            if not line.strip() or line.startswith(b"#"):
                continue
            user, colon, hashed = line.strip().partition(b":")
            if not (user and colon and hashed.decode("latin-1").startswith(STRONG) and supported(hashed)):
                raise self._invalid(f"line {number} has no user, or a hash that is not taken")
            users[user.decode("utf-8", "replace")] = hashed
        if not users:
            raise self._invalid("it has no user")
        return users

    def _invalid(self, why: str) -> ArkwrightError:
        return UserError.of(
            "invalid-htpasswd",
            f"{self._path}: {why}",
            hint="make it with `htpasswd -Bc FILE USER`; MD5, SHA-1 and plain passwords are not taken",
        )


class Guard:
    """What is checked before anything else. `local`: the server is for this host alone."""

    def __init__(self, passwords: Passwords | None, *, local: bool) -> None:
        self._passwords = passwords
        self._local = local

    def check(self, request: Request) -> None:
        """Raises `Problem` UNAUTHORIZED, DENIED."""
        _refuse_browsers(request)
        if self._passwords is not None:
            _authenticate(self._passwords, request)
        elif self._local:
            _refuse_strange_host(request)


def _refuse_browsers(request: Request) -> None:
    """A page on the web can make its visitors' browsers send requests to loopback. No client of
    registries is a browser, and browsers say what they are (Fetch standard; Fetch Metadata)."""
    if request.header("origin") or request.header("sec-fetch-site"):
        raise Problem(403, "DENIED", "this registry does not talk to web pages")


def _refuse_strange_host(request: Request) -> None:
    """A name of the web that was made to lead to loopback looks to a browser like the page's own host."""
    host = request.header("host").lower()
    host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if "." not in host or host.endswith(_LOCAL_SUFFIXES) or host == socket.gethostname().lower():
        return
    try:
        ipaddress.ip_address(host)
    except ValueError as error:
        raise Problem(
            403, "DENIED", "this registry is for this host alone, and goes by no such name"
        ) from error


def _authenticate(passwords: Passwords, request: Request) -> None:
    scheme, _, encoded = request.header("authorization").partition(" ")
    if scheme.lower() == "basic":
        try:
            user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        except (binascii.Error, ValueError):
            user, colon, password = b"", b"", b""
        if colon and passwords.accept(user.decode("utf-8", "replace"), password):
            return
    raise Problem(
        401,
        "UNAUTHORIZED",
        "user and password are needed",
        headers={"WWW-Authenticate": 'Basic realm="arkwright", charset="UTF-8"'},
    )
