"""Network namespaces of steps: made, looked at and removed by threads of the worker.

Only a thread moves when it unshares or joins a network namespace (unshare(2), setns(2)), so each
call here uses a thread of its own that ends there: the worker stays where it is. A namespace
is kept by a bind mount of its file, as network_namespaces(7) and ip-netns(8) have it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable
from typing import TypeVar

from arkwright.linux import mounts, syscalls

_Found = TypeVar("_Found")
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 0x1
_INTERFACE = struct.Struct("16sh14x")


def make_network(path: str) -> None:
    """A network namespace with nothing but its loopback device, which is up; kept at `path`, a new file.

    The mount is seen by init and by the steps. Raises `OSError`.
    """
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def make() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        _raise_loopback()
        syscalls.mount("/proc/thread-self/ns/net", path, "", syscalls.MS_BIND)

    _in_thread(make)


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, _INTERFACE.pack(b"lo", 0))
        flags = _INTERFACE.unpack(answer)[1]
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, _INTERFACE.pack(b"lo", flags | _IFF_UP))


def is_unmarked(path: str) -> bool:
    """Whether no connection is left in a namespace, not even one that waits for its end."""

    def look() -> bool:
        namespace_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscalls.setns(namespace_fd, syscalls.CLONE_NEWNET)
        finally:
            os.close(namespace_fd)
        return not any(map(_sockets, ("sockstat", "sockstat6")))

    try:
        return _in_thread(look)
    except OSError:
        return False


def _sockets(name: str) -> int:
    """TCP sockets in use, or waiting to be forgotten. The list of them in /proc/net/tcp takes ten
    milliseconds to read, empty or not."""
    count = 0
    with open(f"/proc/thread-self/net/{name}", encoding="ascii") as lines:
        for line in lines:
            kind, *fields = line.split()
            if kind in ("TCP:", "TCP6:"):
                values = dict(zip(fields[::2], fields[1::2], strict=False))
                count += int(values.get("inuse", 0)) + int(values.get("tw", 0))
    return count


def remove_network(path: str) -> None:
    """Let go of a namespace; it ends with the last process in it."""
    mounts.unmount(path)
    os.unlink(path)


def _in_thread(what: Callable[[], _Found]) -> _Found:
    found: list[_Found] = []
    failed: list[OSError] = []

    def run() -> None:
        try:
            found.append(what())
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="network")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]
