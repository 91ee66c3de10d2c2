"""What the caller's side brings to a build besides the request: secrets, agents, TLS switches."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import msgspec


class SecretSpec(msgspec.Struct, frozen=True):
    """Where a secret's value is: a file, or an environment variable."""

    src: str = ""
    env: str = ""


class SessionInputs(msgspec.Struct, frozen=True, kw_only=True):
    """`secrets` by id; `ssh` maps ids to agent sockets, or to files with keys separated by commas (see
    `key_agents`); `tls_verify` None leaves it to the
    registry's configuration."""

    secrets: dict[str, SecretSpec] = {}
    ssh: dict[str, str] = {}
    tls_verify: bool | None = None


@contextmanager
def key_agents(session: SessionInputs) -> Iterator[SessionInputs]:
    """The session with an agent of the build's own for each id that names keys, while the body runs.

    To be entered in the main thread. Raises what `sandbox.ssh_keys.key_agent` raises.
    """
    keys = {name: path for name, path in session.ssh.items() if path and not _is_socket(path)}
    if not keys:
        yield session
        return
    from arkwright.sandbox.ssh_keys import key_agent

    with ExitStack() as stack:
        sockets = {name: stack.enter_context(key_agent(path.split(","))) for name, path in keys.items()}
        yield msgspec.structs.replace(session, ssh={**session.ssh, **sockets})


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False
