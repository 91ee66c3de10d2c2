"""What all conversations with registries share: connections, credentials, configuration, patience.

One `Access` serves one build or command. Servers are probed once (`GET /v2/`): this settles https
or http and how the server wants to be asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import BinaryIO, TypeVar
from urllib.parse import urljoin, urlsplit, urlunsplit

import msgspec

from arkwright.diagnostics.errors import RemoteError
from arkwright.net.credentials import Credential, Credentials
from arkwright.net.failures import remote_error
from arkwright.net.response import Response
from arkwright.net.retry import Clock, RetryPolicy, SystemClock, retrying
from arkwright.net.transport import Transport, parse_url
from arkwright.oci.reference import Reference
from arkwright.registry.auth import Authorizer, Scopes
from arkwright.registry.errors import from_response, translate
from arkwright.registry.hosts import Endpoint, RegistriesConfig

T = TypeVar("T")

_MIRROR_ATTEMPTS = 2
_LOOPBACK_PROBE_S = 5.0
_PROBE_BODY = 1 << 16
# What a server that speaks no TLS may look like to one who tries it.
_MAYBE_PLAIN = frozenset(
    {"tls-failed", "network-unreachable", "network-timeout", "network-interrupted", "http-protocol"}
)

Opener = Callable[[], BinaryIO]


class Access:
    """The shared state. Thread-safe; a context manager that closes the connections.

    `tls_verify`: None leaves it to registries.conf, False allows bad certificates and plain HTTP
    everywhere, True demands good TLS everywhere. `cancelled`, once set, ends transfers and waits with
    `Cancelled`. Everything given replaces the default, which is
    read from the user's files on first use.
    """

    def __init__(
        self,
        *,
        tls_verify: bool | None = None,
        config: RegistriesConfig | None = None,
        credentials: Credentials | None = None,
        transport: Transport | None = None,
        policy: RetryPolicy = RetryPolicy(),  # noqa: B008
        clock: Clock | None = None,
        cancelled: threading.Event | None = None,
    ) -> None:
        self.tls_verify = tls_verify
        self.policy = policy
        self.cancelled = cancelled or threading.Event()
        self.clock: Clock = clock or SystemClock(self.cancelled)
        self.credentials = credentials or Credentials()
        self.transport = transport or Transport()
        self._config = config
        self._lock = threading.Lock()
        self._servers: dict[tuple[str, bool, bool], Server] = {}

    @property
    def config(self) -> RegistriesConfig:
        """registries.conf. Raises `UserError` `invalid-registries-conf`."""
        with self._lock:
            if self._config is None:
                self._config = RegistriesConfig.load()
            return self._config

    def endpoints(self, reference: Reference, *, push: bool = False) -> tuple[Endpoint, ...]:
        """See `RegistriesConfig.endpoints`. Raises `Denied` `registry-blocked`."""
        return self.config.endpoints(reference, push=push, tls_verify=self.tls_verify)

    def server(self, endpoint: Endpoint) -> Server:
        """The one `Server` for all endpoints of a host."""
        key = (endpoint.host, endpoint.verify, endpoint.plain_http)
        with self._lock:
            if key not in self._servers:
                self._servers[key] = Server(self, endpoint)
            return self._servers[key]

    def retry(self, call: Callable[[], T]) -> T:
        """Call with the retry policy. The error that escapes is in the registry's terms."""
        try:
            return retrying(self.policy, self.clock, call)
        except RemoteError as error:
            raise translate(error) from error

    def abort(self) -> None:
        """End every transfer and wait at once, with `Cancelled` or a broken connection."""
        self.cancelled.set()
        self.transport.abort()

    def close(self) -> None:
        self.transport.close()

    def __enter__(self) -> Access:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Server:
    """One registry server: its base URL once probed, and its authorizer. Thread-safe."""

    def __init__(self, access: Access, endpoint: Endpoint) -> None:
        self._access = access
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self._base = ""
        self._authorizer = Authorizer(
            access.transport,
            self._credential,
            policy=access.policy,
            clock=access.clock,
            verify=endpoint.verify,
        )

    def base(self) -> str:
        """The base URL, `https://host` or `http://host`.

        Raises `RemoteError` `registry-unreachable`, `tls-verification-failed`, `tls-failed`.
        """
        with self._lock:
            if not self._base:
                self._base = self._probe()
            return self._base

    def request(
        self,
        method: str,
        path: str,
        *,
        scopes: Scopes,
        what: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | Opener | None = None,
        length: int | None = None,
        ok: tuple[int, ...] = (200,),
    ) -> Response:
        """Send one request, authorized; a 401 leads to a new token and a second try.

        `path` begins with `/v2/`, or is an absolute URL (an upload's location), which gets our
        credentials only at this server. A body given as an opener can be sent again.
        Raises `RemoteError` for statuses not in `ok`; it is not tried again here.
        """
        url = self.url(path)
        ours = parse_url(url).origin == parse_url(self.base()).origin
        for is_last in (False, False, True):
            authorization = self._authorizer.header(scopes) if ours else ""
            sent = {**(headers or {}), **({"Authorization": authorization} if authorization else {})}
            response = self._send(method, url, sent, body, length)
            if response.status in ok:
                return response
            challenged = response.status == 401 and not is_last and self._is_ours(response.url)
            if not (challenged and self._authorizer.refused(scopes, authorization, response)):
                break
            with response:
                response.read(_PROBE_BODY)
        raise from_response(response, what, self._access.policy, self._access.clock)

    def url(self, location: str, at: str = "") -> str:
        """An absolute URL; one that leads back here in plain http stays on https. What is relative
        begins at the URL `at` (RFC 9110, section 10.2.2), else at the registry's base.

        Registries behind a proxy that ends TLS often send such locations.
        Raises `RemoteError` `registry-error` for what is no URL.
        """
        base = self.base()
        try:
            url = urljoin(at or base, location)
            found, here = urlsplit(url), urlsplit(base)
        except ValueError as error:
            raise remote_error(
                "registry-error",
                f"the registry {self._endpoint.host} sent a location that is no URL",
                method="", url=base, retryable=False,
            ) from error  # fmt: skip
        if found.scheme == "http" and here.scheme == "https" and found.hostname == here.hostname:
            return urlunsplit((here.scheme, here.netloc, found.path, found.query, ""))
        return url

    def _is_ours(self, url: str) -> bool:
        return parse_url(url).origin == parse_url(self.base()).origin

    def _send(
        self, method: str, url: str, headers: dict[str, str], body: bytes | Opener | None, length: int | None
    ) -> Response:
        verify = self._endpoint.verify
        if body is None or isinstance(body, bytes):
            return self._access.transport.request(method, url, headers=headers, body=body, verify=verify)
        with body() as stream:
            return self._access.transport.request(
                method, url, headers=headers, body=stream, length=length, verify=verify
            )

    def _credential(self, repository: str) -> Credential | None:
        return self._access.credentials.lookup(self._endpoint.domain, repository)

    def _probe(self) -> str:
        policy = self._access.policy
        if self._endpoint.mirror:
            # There are other places to ask.
            policy = msgspec.structs.replace(policy, attempts=min(policy.attempts, _MIRROR_ATTEMPTS))
        try:
            return retrying(policy, self._access.clock, self._probe_once)
        except RemoteError as error:
            raise translate(error) from error

    def _probe_once(self) -> str:
        secure, plain = f"https://{self._endpoint.host}", f"http://{self._endpoint.host}"
        try:
            # A plain server may wait for the end of what it takes for a line.
            self._ping(secure, _LOOPBACK_PROBE_S if self._endpoint.plain_http else None)
        except RemoteError as error:
            if not (self._endpoint.plain_http and error.code in _MAYBE_PLAIN):
                raise
        else:
            return secure
        self._ping(plain, None)
        return plain

    def _ping(self, base: str, timeout_s: float | None) -> None:
        response = self._access.transport.request(
            "GET", f"{base}/v2/", verify=self._endpoint.verify, timeout_s=timeout_s
        )
        if response.status in self._access.policy.statuses:
            raise from_response(
                response, f"the registry {self._endpoint.host}", self._access.policy, self._access.clock
            )
        with response:
            if response.status == 401:
                self._authorizer.learn(response)
            response.read(_PROBE_BODY)
