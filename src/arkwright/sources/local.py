"""The caller's side of a build on this host: contexts, secrets, agent sockets."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import BinaryIO

from arkwright.diagnostics.errors import UserError
from arkwright.diagnostics.suggest import nearest
from arkwright.sources.base import HostTree

SECRET_LIMIT = 500 * 1024  # bytes, as BuildKit
_AGENT = "SSH_AUTH_SOCK"


class LocalSession:
    """A `Session` over this host's files and environment.

    `trees` are the contexts by name; `secrets` maps an id to `(file path, environment variable)`,
    one of which may be empty, and both of which are when only an id was given; `ssh` maps an id to
    an agent's socket, empty for the one of the environment.
    """

    def __init__(
        self,
        trees: Mapping[str, HostTree],
        *,
        secrets: Mapping[str, tuple[str, str]] | None = None,
        ssh: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._trees = trees
        self._secrets = secrets or {}
        self._ssh = ssh or {}
        self._env = os.environ if env is None else env

    def context(self, name: str) -> HostTree:
        """The tree of a context. Raises `UserError` `unknown-context`."""
        tree = self._trees.get(name)
        if tree is None:
            near = nearest(name, self._trees)
            raise UserError.of(
                "unknown-context",
                f"there is no build context {name!r}",
                hint=f"did you mean {near!r}?" if near else f"give it with --build-context {name}=PATH",
            )
        return tree

    def secret(self, secret_id: str) -> bytes | None:
        """The value of a secret, None if none of this id was given.

        Raises `UserError` `unreadable-secret`, `secret-too-large`.
        """
        spec = self._secrets.get(secret_id)
        if spec is None:
            return None
        path, variable = spec
        if not path and not variable:
            # As buildx: a variable of the id's name, else a file.
            path, variable = ("", secret_id) if secret_id in self._env else (secret_id, "")
        if variable:
            value = self._env.get(variable)
            if value is None:
                raise _unreadable(secret_id, f"the environment variable {variable} is not set")
            return _bounded(secret_id, os.fsencode(value))
        try:
            with open(os.path.expanduser(path), "rb") as file:
                return _bounded(secret_id, file.read(SECRET_LIMIT + 1))
        except OSError as error:
            raise _unreadable(secret_id, f"{path}: {error.strerror}") from error

    def ssh_socket(self, agent_id: str) -> str | None:
        """The path of an agent's socket, None if none of this id was given.

        Keys are in an agent of the build's own by now (`sandbox.ssh_keys`).
        Raises `UserError` `no-ssh-agent`.
        """
        if agent_id not in self._ssh:
            return None
        path = self._ssh[agent_id] or self._env.get(_AGENT, "")
        if not path:
            raise UserError.of(
                "no-ssh-agent",
                f"--ssh {agent_id}: {_AGENT} is not set",
                hint="start an agent, or name its socket",
            )
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            raise UserError.of("no-ssh-agent", f"--ssh {agent_id}: {path}: {error.strerror}") from error
        if not stat.S_ISSOCK(mode):
            raise UserError.of(
                "no-ssh-agent",
                f"--ssh {agent_id}: {path} is not the socket of an agent",
                hint="name the socket of an agent, or a file with a private key",
            )
        return os.path.abspath(path)


def unpack_context(stream: BinaryIO, directory: str) -> int:
    """Unpack a context archive, compressed or not, into an empty directory (`sources.unpack`);
    gives the time of its newest entry in seconds since 1970."""
    from arkwright.sources.unpack import unpack

    return unpack(stream, directory)


def _bounded(secret_id: str, value: bytes) -> bytes:
    if len(value) > SECRET_LIMIT:
        raise UserError.of(
            "secret-too-large", f"the secret {secret_id} is larger than {SECRET_LIMIT >> 10} KiB"
        )
    return value


def _unreadable(secret_id: str, why: str) -> UserError:
    error = UserError.of("unreadable-secret", f"cannot read the secret {secret_id}: {why}")
    assert isinstance(error, UserError)
    return error
