"""A step's view of the network: its `/etc/hosts` and `/etc/resolv.conf`, and the namespace.

`none` is a namespace with nothing but the loopback device; `host` is the host's network; `own` is a
namespace that reaches the outside through a stack in user space (see `sandbox.connected`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

_HOSTS = (
    "127.0.0.1\tlocalhost",
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::0\tip6-localnet",
    "ff00::0\tip6-mcastprefix",
    "ff02::1\tip6-allnodes",
    "ff02::2\tip6-allrouters",
)
_SYSTEMD_STUB = "127.0.0.53"
_SYSTEMD_RESOLV_CONF = "/run/systemd/resolve/resolv.conf"


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """What a step gets. `own`: `path` is the namespace's file, and `nameserver` the address in there
    at which the host's resolver answers."""

    kind: Literal["host", "none", "own"]
    path: str = ""
    nameserver: str = ""


HOST = Network(kind="host")
NONE = Network(kind="none")


def hosts_file(hostname: str, extra: Iterable[tuple[str, str]]) -> bytes:
    """The text of `/etc/hosts`: loopback names, the step's own, and `extra` (name, address)."""
    lines = [*_HOSTS, *(f"{address}\t{name}" for name, address in extra)]
    if hostname:
        lines.insert(1, f"127.0.0.1\t{hostname}")
    return ("\n".join(lines) + "\n").encode()


def resolv_conf(network: Network, text: str | None = None) -> bytes:
    """The text of `/etc/resolv.conf`: the host's, or `text` in its place; empty without a network.

    In a network of its own a step cannot reach a resolver on the host's loopback. Those lines are
    replaced by the address at which that resolver answers in there; without any, they go, and
    systemd-resolved's list of real servers is read where that is the resolver.
    """
    if network.kind == "none":
        # Nothing of this host is told to a step that could not use it.
        return b""
    text = _read("/etc/resolv.conf") if text is None else text
    if network.kind == "host":
        return text.encode(errors="surrogateescape")
    if not network.nameserver and _SYSTEMD_STUB in text:
        text = _read(_SYSTEMD_RESOLV_CONF) or text
    lines = text.splitlines()
    kept = [line for line in lines if not _on_loopback(line)]
    # No nameserver at all means the one on the loopback device: resolv.conf(5).
    if network.nameserver and (len(kept) < len(lines) or not any(map(_nameserver, lines))):
        kept.insert(0, f"nameserver {network.nameserver}")
    return ("\n".join(kept) + "\n").encode(errors="surrogateescape") if kept else b""


def _nameserver(line: str) -> str:
    words = line.split()
    return words[1] if len(words) > 1 and words[0] == "nameserver" else ""


def _on_loopback(line: str) -> bool:
    address = _nameserver(line)
    return address.startswith("127.") or address == "::1"


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as source:
            return source.read()
    except OSError:
        return ""
