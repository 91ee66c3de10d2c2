"""An ssh agent of the build's own, which holds the keys that `--ssh ID=KEY` names and no others.

The program is ssh-agent(1), started as a child that ends with us however we end. Keys are handed
over by standard input: they stand in no argument and no environment, and their files' modes are
the user's business.
"""

from __future__ import annotations

import base64
import binascii
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from arkwright.diagnostics.errors import HostUnsupported, UserError

_LIMIT = 100 * 1024  # bytes of a key file
_MAGIC = b"openssh-key-v1\0"
_PATIENCE_S = 30.0


@contextmanager
def key_agent(key_paths: Sequence[str]) -> Iterator[str]:
    """The path of the socket of an agent with these private keys, as long as the body runs.

    To be entered in the main thread: the agent ends with the thread that started it.
    Raises `UserError` `ssh-key-unusable`; `HostUnsupported` `missing-tool`.
    """
    keys = [(path, _read(path)) for path in key_paths]
    # unix(7) takes 107 bytes for a socket's path, which a store may exceed.
    directory = tempfile.mkdtemp(prefix="arkwright-agent-", dir=_runtime_directory())
    try:
        socket_path = os.path.join(directory, "agent")
        agent = _start(socket_path)
        try:
            for path, data in keys:
                _add(socket_path, path, data)
            yield socket_path
        finally:
            agent.kill()
            agent.wait()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _runtime_directory() -> str | None:
    path = os.environ.get("XDG_RUNTIME_DIR", "")
    return path if path and len(path) < 60 and os.access(path, os.W_OK) else None


def _start(socket_path: str) -> subprocess.Popen[bytes]:
    from arkwright.linux.syscalls import prctl, set_parent_death_signal

    def tie() -> None:
        # ssh-agent is often set-group-id, and such an exec would forget the signal (prctl(2)).
        prctl(_PR_SET_NO_NEW_PRIVS, 1)
        set_parent_death_signal(signal.SIGKILL)

    try:
        agent = subprocess.Popen(
            ["ssh-agent", "-D", "-a", socket_path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=tie,  # noqa: PLW1509 - the main thread, before there are others
        )
    except FileNotFoundError as error:
        raise _no_tool("ssh-agent") from error
    assert agent.stdout is not None
    # It says where it listens once it does.
    with agent.stdout as said:
        if not said.readline():
            agent.wait()
            raise HostUnsupported.of(
                "missing-tool", "ssh-agent does not start here",
                details={"probe": f"exit status {agent.returncode}", "fix": "use --ssh default with an agent of yours"},
            )  # fmt: skip
    return agent


_PR_SET_NO_NEW_PRIVS = 38


def _add(socket_path: str, key_path: str, data: bytes) -> None:
    try:
        done = subprocess.run(
            ["ssh-add", "-q", "-"],
            input=data,
            env={"PATH": os.environ.get("PATH", os.defpath), "SSH_AUTH_SOCK": socket_path, "LC_ALL": "C"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # Without a terminal nobody can be asked for a passphrase.
            start_new_session=True,
            timeout=_PATIENCE_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise _no_tool("ssh-add") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise _unusable(key_path, lines[-1] if lines else "ssh-add refuses it")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(_LIMIT + 1)
    except OSError as error:
        raise _unusable(path, error.strerror or "it cannot be read") from error
    if b"PRIVATE KEY-----" not in data or len(data) > _LIMIT:
        raise _unusable(path, "it is not a private key")
    if _is_protected(data):
        raise _unusable(path, "it is protected by a passphrase")
    return data if data.endswith(b"\n") else data + b"\n"


def _is_protected(data: bytes) -> bool:
    """Whether a PEM file's key is encrypted (PROTOCOL.key of OpenSSH; RFC 1421; PKCS #8)."""
    if b"ENCRYPTED" in data:
        return True
    body = b"".join(line for line in data.splitlines() if line and not line.startswith(b"-----"))
    try:
        raw = base64.b64decode(body)
    except (binascii.Error, ValueError):
        return False
    if not raw.startswith(_MAGIC):
        return False
    size = int.from_bytes(raw[len(_MAGIC) : len(_MAGIC) + 4], "big")
    return raw[len(_MAGIC) + 4 : len(_MAGIC) + 4 + size] != b"none"


def _unusable(path: str, why: str) -> UserError:
    error = UserError.of(
        "ssh-key-unusable",
        f"the ssh key {path} cannot be used: {why}",
        hint=f"add it to an agent (ssh-add {path}) and forward the agent with --ssh default",
    )
    assert isinstance(error, UserError)
    return error


def _no_tool(name: str) -> HostUnsupported:
    error = HostUnsupported.of(
        "missing-tool", f"--ssh with a key needs the program {name}", hint="install openssh-client",
        details={"probe": name, "fix": "apt-get install openssh-client"},
    )  # fmt: skip
    assert isinstance(error, HostUnsupported)
    return error
