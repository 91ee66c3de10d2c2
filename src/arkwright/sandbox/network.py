"""A step's view of the network: its `/etc/hosts` and `/etc/resolv.conf`, and the namespace.

`none` is a namespace with nothing but the loopback device; `host` is the host's network. For
`default` a step shares the host's network as well, in this version, and the caller is told once:
the tool that would give it a network of its own (pasta, as Debian 12 has it) fails in the worker's
namespaces, as root because it gives up root first, otherwise because it must map ids again.
"""

from __future__ import annotations

from collections.abc import Iterable

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


def hosts_file(hostname: str, extra: Iterable[tuple[str, str]]) -> bytes:
    """The text of `/etc/hosts`: loopback names, the step's own, and `extra` (name, address)."""
    lines = [*_HOSTS, *(f"{address}\t{name}" for name, address in extra)]
    if hostname:
        lines.insert(1, f"127.0.0.1\t{hostname}")
    return ("\n".join(lines) + "\n").encode()


def resolv_conf(*, own_network: bool) -> bytes:
    """The text of `/etc/resolv.conf`: the host's.

    In a network of its own a step cannot reach a resolver on the host's loopback: those lines go,
    and systemd-resolved's list of real servers is read where that is the resolver.
    """
    text = _read("/etc/resolv.conf")
    if not own_network:
        return text.encode()
    if _SYSTEMD_STUB in text:
        text = _read(_SYSTEMD_RESOLV_CONF) or text
    kept = [line for line in text.splitlines() if not _on_loopback(line)]
    return ("\n".join(kept) + "\n").encode() if kept else b""


def _on_loopback(line: str) -> bool:
    words = line.split()
    return len(words) > 1 and words[0] == "nameserver" and (words[1].startswith("127.") or words[1] == "::1")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as source:
            return source.read()
    except OSError:
        return ""
