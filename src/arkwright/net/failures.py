"""What can go wrong between us and a server, as `RemoteError`s.

This is the boundary at which errors of `http.client`, `ssl` and the socket layer are wrapped.
Codes: `network-unreachable`, `network-timeout`, `network-interrupted`, `tls-verification-failed`,
`tls-failed`, `http-protocol`, `redirect-refused`, `proxy-failed`.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from typing import Any

from arkwright.diagnostics.errors import RemoteError
from arkwright.net.redact import redact_url

TLS_HINT = (
    "put the CA's certificate into /etc/containers/certs.d/<host:port>/ca.crt, or name a bundle in "
    "SSL_CERT_FILE"
)


def remote_error(
    code: str,
    message: str,
    *,
    method: str,
    url: str,
    retryable: bool,
    status: int = 0,
    remote_code: str = "",
    hint: str | None = None,
    **more: Any,
) -> RemoteError:
    """A `RemoteError` with every detail that its class promises; the URL is redacted here."""
    details = {
        "method": method,
        "url": redact_url(url),
        "status": status,
        "remote_code": remote_code,
        "retryable": retryable,
        "attempts": 1,
        **more,
    }
    error = RemoteError.of(code, message, hint=hint, details=details)
    assert isinstance(error, RemoteError)
    return error


def connect_failure(error: Exception, method: str, url: str, host: str, port: int) -> RemoteError:
    """A connection that did not come about."""
    place = f"{host}:{port}"
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message or error.reason or "unknown reason"
        return remote_error(
            "tls-verification-failed",
            f"the certificate of {place} is not trusted: {why}",
            method=method, url=url, retryable=False, hint=TLS_HINT,
        )  # fmt: skip
    if isinstance(error, ssl.SSLError):
        return remote_error(
            "tls-failed",
            f"no TLS connection with {place}: {error.reason or error}",
            method=method, url=url, retryable=isinstance(error, ssl.SSLEOFError),
        )  # fmt: skip
    if isinstance(error, socket.gaierror):
        return remote_error(
            "network-unreachable",
            f"the host name {host!r} is unknown: {error.strerror}",
            method=method, url=url, retryable=error.errno == socket.EAI_AGAIN,
        )  # fmt: skip
    if isinstance(error, TimeoutError):
        return remote_error(
            "network-timeout", f"{place} did not answer in time", method=method, url=url, retryable=True
        )
    why = (error.strerror if isinstance(error, OSError) else "") or str(error)
    return remote_error(
        "network-unreachable", f"no connection to {place}: {why}", method=method, url=url, retryable=True
    )


def exchange_failure(error: Exception, method: str, url: str) -> RemoteError:
    """A connection that broke, or a server that spoke no HTTP, during an exchange."""
    shown = redact_url(url)
    if isinstance(error, TimeoutError):
        code, why, retryable = "network-timeout", "nothing came in time", True
    elif isinstance(error, OSError | http.client.IncompleteRead | http.client.RemoteDisconnected):
        code, why, retryable = "network-interrupted", _reason(error), True
    elif isinstance(error, http.client.BadStatusLine):
        code, why, retryable = "http-protocol", "the answer is not HTTP", False
    else:
        code, why, retryable = "http-protocol", type(error).__name__, False
    return remote_error(code, f"{method} {shown}: {why}", method=method, url=url, retryable=retryable)


def _reason(error: Exception) -> str:
    if isinstance(error, http.client.RemoteDisconnected | http.client.IncompleteRead):
        return "the server closed the connection too early"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
