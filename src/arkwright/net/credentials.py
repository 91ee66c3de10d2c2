"""Who we are to a registry: docker's config.json, containers' auth.json, and credential helpers.

Files, in order of precedence; the first that knows the registry decides:

1. `$REGISTRY_AUTH_FILE` (containers-auth.json(5)); if set, it is the only one
2. `$DOCKER_CONFIG/config.json`, if the variable is set
3. `${XDG_RUNTIME_DIR}/containers/auth.json`, or `/run/containers/<uid>/auth.json` without it
4. `${XDG_CONFIG_HOME:-~/.config}/containers/auth.json`
5. `~/.docker/config.json`

Within a file: the helper that `credHelpers` names for the host, then `credsStore`, then the entry
of `auths` with the longest key that is the repository or a parent of it (`host/namespace/repo`,
`host/namespace`, `host`). Secrets are in no repr, message or argument list.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import threading
from collections.abc import Mapping
from typing import Any

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, UserError
from arkwright.diagnostics.wire import ready

_RUN_PATH = "/run/containers/"
_FILE_LIMIT = 4 << 20
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HELPER_TIMEOUT_S = 60.0
_TOKEN_USER = "<token>"  # noqa: S105
_NOT_FOUND = "credentials not found"
_DOCKER_KEY = "https://index.docker.io/v1/"
_DOCKER_HOSTS = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})


class Credential(msgspec.Struct, frozen=True):
    """A user name with a password, or an identity (OAuth2 refresh) token."""

    username: str = ""
    password: str = ""
    identity_token: str = ""

    def __repr__(self) -> str:
        kind = "identity token" if self.identity_token else "password"
        return f"Credential({self.username!r}, {kind} hidden)"

    def __rich_repr__(self) -> Any:
        yield "username", self.username


class _Entry(msgspec.Struct):
    auth: str | None = None
    username: str | None = None
    password: str | None = None
    identitytoken: str | None = None


class _File(msgspec.Struct, rename="camel"):
    auths: dict[str, _Entry | None] | None = None
    cred_helpers: dict[str, str] | None = None
    creds_store: str | None = None


class Credentials:
    """Looks credentials up; reads files on first use and keeps the answers. Thread-safe."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self._env = os.environ if env is None else env
        self._lock = threading.Lock()
        self._files: list[tuple[str, _File]] | None = None
        self._answers: dict[tuple[str, str], Credential | None] = {}

    def __repr__(self) -> str:
        return "Credentials()"

    def lookup(self, host: str, repository: str = "") -> Credential | None:
        """The credential for `repository` on `host` (with port); None for anonymous use.

        Raises `UserError` `invalid-credentials-file` or `credential-helper-failed`.
        """
        with self._lock:
            if (host, repository) not in self._answers:
                self._answers[host, repository] = self._search(host, repository)
            return self._answers[host, repository]

    def _search(self, host: str, repository: str) -> Credential | None:
        if self._files is None:
            paths = credential_files(self._env)
            self._files = [(path, file) for path in paths if (file := _load(path)) is not None]
        for path, file in self._files:
            found = _from_file(path, file, host, repository, self._env)
            if found is not None:
                return found
        return None


def credential_files(env: Mapping[str, str]) -> list[str]:
    """The files that are asked, first to last; they need not exist."""
    if env.get("REGISTRY_AUTH_FILE"):
        return [env["REGISTRY_AUTH_FILE"]]
    home = env.get("HOME") or os.path.expanduser("~")
    runtime = env.get("XDG_RUNTIME_DIR")
    config = env.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    return [
        *([os.path.join(env["DOCKER_CONFIG"], "config.json")] if env.get("DOCKER_CONFIG") else []),
        os.path.join(
            runtime or f"{_RUN_PATH}{os.getuid()}", "containers/auth.json" if runtime else "auth.json"
        ),
        os.path.join(config, "containers/auth.json"),
        *([] if env.get("DOCKER_CONFIG") else [os.path.join(home, ".docker/config.json")]),
    ]


def _load(path: str) -> _File | None:
    try:
        with open(path, "rb") as file:
            data = file.read(_FILE_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        # Within a user namespace we seem to be root, and root's directory is not ours to read.
        if isinstance(error, PermissionError) and path.startswith(_RUN_PATH):
            return None
        raise _invalid(path, error.strerror or "unreadable") from error
    if not data.strip():
        return None
    try:
        return msgspec.json.decode(data, type=_File)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        # The decoder's message may quote the file, and the chain would show it.
        raise _invalid(path, f"not the expected JSON ({type(error).__name__})") from None


def _from_file(
    path: str, file: _File, host: str, repository: str, env: Mapping[str, str]
) -> Credential | None:
    helpers = file.cred_helpers or {}
    helper = next((helpers[name] for name in _spellings(host) if name in helpers), "")
    helper = helper or file.creds_store or ""
    if helper:
        server = _DOCKER_KEY if host in _DOCKER_HOSTS else host
        found = ask_helper(helper, server, env)
        if found is not None:
            return found
    entries = {_normalise(key): entry for key, entry in (file.auths or {}).items() if entry is not None}
    for key in _keys(host, repository):
        if key in entries:
            found = _from_entry(path, key, entries[key])
            if found is not None:
                return found
    return None


def _spellings(host: str) -> list[str]:
    return [host, *sorted(_DOCKER_HOSTS), _DOCKER_KEY] if host in _DOCKER_HOSTS else [host]


def _normalise(key: str) -> str:
    """An `auths` key without what docker once put around the host."""
    bare = key.partition("://")[2] or key
    host, _, rest = bare.partition("/")
    host = "docker.io" if host in _DOCKER_HOSTS else host
    rest = rest.strip("/")
    return host if rest in ("", "v1", "v2") else f"{host}/{rest}"


def _keys(host: str, repository: str) -> list[str]:
    """The repository and its parents, the most specific first."""
    host = "docker.io" if host in _DOCKER_HOSTS else host
    parts = repository.split("/") if repository else []
    return ["/".join([host, *parts[:count]]) for count in range(len(parts), -1, -1)]


def _from_entry(path: str, key: str, entry: _Entry) -> Credential | None:
    username, password = entry.username or "", entry.password or ""
    if entry.auth:
        try:
            pair = base64.b64decode(entry.auth, validate=True).decode("utf-8")
        except (binascii.Error, ValueError):
            raise _invalid(path, f"`auth` of {key} is not base64 of user:password") from None
        username, colon, password = pair.partition(":")
        if not colon:
            raise _invalid(path, f"`auth` of {key} is not base64 of user:password")
        # Old versions of docker padded the password with zero bytes.
        password = password.rstrip("\0")
    if not (password or entry.identitytoken):
        return None
    return Credential(username, password, entry.identitytoken or "")


class _HelperAnswer(msgspec.Struct, rename="pascal"):
    username: str = ""
    secret: str = ""


ready(_File, _HelperAnswer)


def ask_helper(name: str, server: str, env: Mapping[str, str]) -> Credential | None:
    """Ask `docker-credential-<name> get` for a server's credential; None when it has none.

    The protocol is that of the docker-credential-helpers project: the server on standard input,
    JSON on standard output. Raises `UserError` `credential-helper-failed`, without what the helper
    printed.
    """
    import subprocess

    if not _HELPER_NAME.fullmatch(name):
        raise _helper_failed(name, "the name is not a helper's")
    program = f"docker-credential-{name}"
    try:
        done = subprocess.run(
            [program, "get"],
            input=server.encode(),
            capture_output=True,
            timeout=_HELPER_TIMEOUT_S,
            env=dict(env),
            check=False,
        )
    except FileNotFoundError:
        raise _helper_failed(name, f"there is no program {program} in PATH") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _helper_failed(name, type(error).__name__) from None
    if done.returncode != 0:
        if _NOT_FOUND in (done.stdout + done.stderr).decode("utf-8", "replace").lower():
            return None
        raise _helper_failed(name, f"exit status {done.returncode}")
    try:
        answer = msgspec.json.decode(done.stdout, type=_HelperAnswer)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise _helper_failed(name, "its answer is not the expected JSON") from None
    if not answer.secret:
        return None
    if answer.username == _TOKEN_USER:
        return Credential(identity_token=answer.secret)
    return Credential(answer.username, answer.secret)


def _helper_failed(name: str, why: str) -> ArkwrightError:
    return UserError.of(
        "credential-helper-failed",
        f"the credential helper {name!r} failed: {why}",
        hint="install or repair it, or remove it from credHelpers and credsStore",
    )


def _invalid(path: str, why: str) -> ArkwrightError:
    return UserError.of("invalid-credentials-file", f"cannot read credentials from {path}: {why}")
