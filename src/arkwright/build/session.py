"""What the caller's side brings to a build besides the request: secrets, agents, TLS switches."""

from __future__ import annotations

import msgspec


class SecretSpec(msgspec.Struct, frozen=True):
    """Where a secret's value is: a file, or an environment variable."""

    src: str = ""
    env: str = ""


class SessionInputs(msgspec.Struct, frozen=True, kw_only=True):
    """`secrets` by id; `ssh` maps ids to agent sockets; `tls_verify` None leaves it to the
    registry's configuration."""

    secrets: dict[str, SecretSpec] = {}
    ssh: dict[str, str] = {}
    tls_verify: bool | None = None
