"""`--secret`, `--ssh` and `--tls-verify`: what a build may use but never records."""

from __future__ import annotations

import os

from arkwright.build.session import SecretSpec
from arkwright.cli.values import attributes, invalid
from arkwright.diagnostics.errors import UsageError

_SECRET_KEYS = ("id", "type", "src", "source", "env")


def secrets(texts: tuple[str, ...]) -> dict[str, SecretSpec]:
    """`id=ID[,src=PATH|,env=NAME]` by id. Without either, the environment variable named like the
    id, else the file named like it.

    Raises `UsageError` `invalid-option-value`, `missing-secret`.
    """
    found: dict[str, SecretSpec] = {}
    for text in texts:
        attrs = attributes("--secret", text, _SECRET_KEYS)
        name = attrs.get("id", "")
        if not name:
            invalid("--secret", text, "no id is given", "write id=NAME,src=PATH or id=NAME,env=VARIABLE")
        if name in found:
            invalid("--secret", text, f"the id {name} is given twice")
        found[name] = _secret(text, name, attrs)
    return found


def _secret(text: str, name: str, attrs: dict[str, str]) -> SecretSpec:
    kind = attrs.get("type", "")
    if kind not in ("", "file", "env"):
        invalid("--secret", text, f"unknown type {kind!r}", "known are file, env")
    src, env = attrs.get("src") or attrs.get("source", ""), attrs.get("env", "")
    if src and env:
        invalid("--secret", text, "src and env exclude each other")
    if kind == "env" and src:
        src, env = "", src
    if not src and not env:
        src, env = ("", name) if kind == "env" or (kind != "file" and name in os.environ) else (name, "")
    if env and env not in os.environ:
        raise UsageError.of("missing-secret", f"--secret {name}: the environment has no variable {env}")
    if src:
        src = os.path.expanduser(src)
        if not os.path.isfile(src):
            raise UsageError.of("missing-secret", f"--secret {name}: there is no file {src}")
    return SecretSpec(src=os.path.abspath(src) if src else "", env=env)


def agents(texts: tuple[str, ...]) -> dict[str, str]:
    """`default`, `ID=SOCKET` or `ID=KEY` by id; `default` alone is $SSH_AUTH_SOCK.

    Raises `UsageError` `invalid-option-value`, `no-ssh-agent`.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, _, path = text.partition("=")
        name = name or "default"
        if name in found:
            invalid("--ssh", text, f"the id {name} is given twice")
        if not path:
            path = os.environ.get("SSH_AUTH_SOCK", "")
            if not path:
                raise UsageError.of(
                    "no-ssh-agent",
                    f"--ssh {text}: SSH_AUTH_SOCK is not set",
                    hint="start an agent with `eval $(ssh-agent)`, or name a socket: --ssh default=/path",
                )
        path = ",".join(os.path.abspath(os.path.expanduser(part)) for part in path.split(","))
        for part in path.split(","):
            if not os.path.exists(part):
                raise UsageError.of("no-ssh-agent", f"--ssh {text}: there is no socket or key {part}")
        found[name] = path
    return found
