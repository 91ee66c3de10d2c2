"""A registry's answers and network failures as `RemoteError`s.

Codes: `registry-unreachable`, `registry-interrupted`, `registry-denied`, `registry-not-found`,
`registry-rate-limited`, `registry-error`, besides those of `net.failures` that say enough
themselves (`tls-verification-failed`, `tls-failed`, `redirect-refused`, `proxy-failed`).
"""

from __future__ import annotations

import msgspec

from arkwright.diagnostics.errors import Diagnostic, RemoteError
from arkwright.diagnostics.wire import ready
from arkwright.net.failures import remote_error
from arkwright.net.response import Response
from arkwright.net.retry import Clock, RetryPolicy, retry_after_s

ERROR_BODY_LIMIT = 1 << 16
_SHOWN = 300
_DENIED_HINT = (
    "log in with docker, podman or skopeo (their credential files are read), or check the name: "
    "registries often deny what does not exist"
)
_TRANSLATED = {
    "network-unreachable": "registry-unreachable",
    "network-timeout": "registry-unreachable",
    "network-interrupted": "registry-interrupted",
    "http-protocol": "registry-error",
}


class _Item(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Body(msgspec.Struct):
    errors: tuple[_Item, ...] = ()


ready(_Body)


def translate(error: RemoteError) -> RemoteError:
    """A failure of the network, in the registry's terms."""
    code = _TRANSLATED.get(error.code)
    if code is None:
        return error
    first = error.diagnostics[0]
    hint = first.hint
    if code == "registry-unreachable" and hint is None:
        hint = "check the registry's name, the network and the proxy settings"
    return RemoteError(Diagnostic(code=code, message=first.message, hint=hint), details=error.details)


def from_response(response: Response, what: str, policy: RetryPolicy, clock: Clock) -> RemoteError:
    """The error that an unexpected response stands for; reads and closes the response.

    `what` says what was asked for, such as `manifest example.com/app:1`.
    """
    remote_code, words = _read_body(response)
    code, hint, retryable = _classify(response.status, remote_code, policy)
    said = f" ({words})" if words else ""
    return remote_error(
        code,
        f"{what}: the registry answered {response.status}{said}",
        method=response.method,
        url=response.url,
        retryable=retryable,
        status=response.status,
        remote_code=remote_code,
        hint=hint,
        retry_after_s=retry_after_s(response.header("Retry-After") or None, clock.wall()),
    )


def _classify(status: int, remote_code: str, policy: RetryPolicy) -> tuple[str, str | None, bool]:
    if status == 429 or remote_code == "TOOMANYREQUESTS":
        return "registry-rate-limited", "wait, log in, or use a mirror", True
    if status in (401, 403):
        return "registry-denied", _DENIED_HINT, False
    if status == 404:
        return "registry-not-found", None, False
    return "registry-error", None, status in policy.statuses


def _read_body(response: Response) -> tuple[str, str]:
    """The first error of a body as the distribution specification has it, made safe to print."""
    try:
        with response:
            body = msgspec.json.decode(response.read(ERROR_BODY_LIMIT), type=_Body)
    except (RemoteError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "", ""
    if not body.errors:
        return "", ""
    return _printable(body.errors[0].code), _printable(body.errors[0].message)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text[:_SHOWN]).strip()
