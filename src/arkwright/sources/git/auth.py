"""What git may show to servers: tokens and headers from the build's secrets, and an ssh agent.

The names are BuildKit's: the secret `GIT_AUTH_HEADER` is the value of an Authorization header, or
its scheme alone (`Bearer`, `Basic`) for the secret `GIT_AUTH_TOKEN`, which without it is sent as the
password of `x-access-token`. With `.HOST` behind the name a secret is for that host only.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.sources.git_url import Remote

_HEADER, _TOKEN = "GIT_AUTH_HEADER", "GIT_AUTH_TOKEN"
_SCHEMES = ("basic", "bearer")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Access(msgspec.Struct, frozen=True):
    """For one repository: the Authorization header, and the agent's socket; empty for none. `redirects`:
    whether git may go where the server sends it."""

    authorization: str = ""
    ssh_socket: str = ""
    redirects: bool = True


NO_ACCESS = Access()


class GitAuth:
    """Looks secrets and the agent of a build up: `secret(id)` gives a value or None, and
    `ssh_socket(id)` a path or None."""

    def __init__(
        self,
        secret: Callable[[str], bytes | None] = lambda _: None,
        ssh_socket: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self._secret = secret
        self._ssh_socket = ssh_socket

    def access(self, remote: Remote, asked: Remote) -> Access:
        """What may be shown to a repository, which the repository `asked` for led to.

        Secrets without a host are for the host that the user named: a submodule elsewhere gets
        none of them. Nothing is sent in the clear, but to this host itself.
        Raises `UserError` `invalid-git-secret`, and what reading a secret raises.
        """
        if remote.scheme == "ssh":
            return Access(ssh_socket=self._ssh_socket("default") or "")
        if remote.scheme not in ("http", "https"):
            return NO_ACCESS
        parts = urlsplit(remote.url)
        if parts.username is not None or (remote.scheme == "http" and parts.hostname not in _LOOPBACK):
            return NO_ACCESS
        names = [f".{host}" for host in dict.fromkeys((_netloc(remote), parts.hostname or ""))]
        if _netloc(remote) == _netloc(asked):
            names.append("")
        return Access(authorization=self._authorization(names))

    def _authorization(self, suffixes: list[str]) -> str:
        for suffix in suffixes:
            header, token = self._text(_HEADER + suffix), self._text(_TOKEN + suffix)
            if not header and not token:
                continue
            scheme = header.lower()
            if header and scheme not in _SCHEMES:
                return header
            if not token:
                raise _invalid(
                    _HEADER + suffix, f"names a scheme, and there is no {_TOKEN}{suffix} to go with it"
                )
            if scheme == "bearer":
                return f"Bearer {token}"
            pair = token if scheme == "basic" and ":" in token else f"x-access-token:{token}"
            return "Basic " + base64.b64encode(pair.encode()).decode()
        return ""

    def _text(self, name: str) -> str:
        value = self._secret(name)
        if value is None:
            return ""
        try:
            text = value.decode().strip()
        except UnicodeDecodeError as error:
            raise _invalid(name, "is not text") from error
        if any(ord(char) < 32 or ord(char) == 127 for char in text):
            raise _invalid(name, "has more than one line")
        return text


def _netloc(remote: Remote) -> str:
    return urlsplit(remote.url).netloc.rpartition("@")[2].lower()


def _invalid(name: str, why: str) -> UserError:
    error = UserError.of("invalid-git-secret", f"the secret {name} {why}")
    assert isinstance(error, UserError)
    return error
