"""Runs a command on a host with a small outside: `network_world.py COMMAND …`, as root.

The command gets network and mount namespaces with one interface, whose gateway (198.51.100.2,
2001:db8::2) answers `outside` on port 80. On the host's loopback, `secret` is answered on port 7777, and
a resolver knows every name as the gateway; /etc/resolv.conf names it. Every user may open /dev/net/tun.
"""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable

from arkwright.linux import mounts, syscalls

GATEWAY, GATEWAY6 = "198.51.100.2", "2001:db8::2"
LOOPBACK_PORT = 7777
_FILES = "/mnt"
_TUN_DEVICE = os.makedev(10, 200)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def answer(address: str, port: int, text: bytes) -> None:
    """Say `text` to everybody who connects, for as long as this process lives."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family)

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(text)

    threading.Thread(target=serve, daemon=True).start()


def resolve_everything() -> None:
    """A resolver on the loopback device (RFC 1035): the gateway for A, nothing for other types."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(("127.0.0.1", 53))

    def serve() -> None:
        while True:
            query, sender = listener.recvfrom(512)
            end = query.index(0, 12) + 5
            is_a = query[end - 4 : end - 2] == b"\x00\x01"
            head = query[:2] + b"\x81\x80\x00\x01" + bytes((0, is_a)) + b"\x00\x00\x00\x00"
            record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04" + socket.inet_aton(GATEWAY)
            listener.sendto(head + query[12:end] + (record if is_a else b""), sender)

    threading.Thread(target=serve, daemon=True).start()


def make_outside() -> None:
    """In a thread of its own, which is outside from then on."""
    syscalls.unshare(syscalls.CLONE_NEWNET)
    ip("link", "add", "inside", "type", "veth", "peer", "name", "eth0", "netns", str(os.getpid()))
    ip("address", "add", f"{GATEWAY}/24", "dev", "inside")
    ip("-6", "address", "add", f"{GATEWAY6}/64", "dev", "inside", "nodad")
    ip("link", "set", "inside", "up")
    for address in (GATEWAY, GATEWAY6):
        answer(address, 80, b"outside\n")


def run_in_thread(what: Callable[[], None]) -> None:
    thread = threading.Thread(target=what)
    thread.start()
    thread.join()


def make_host() -> None:
    ip("link", "set", "lo", "up")
    ip("address", "add", "198.51.100.1/24", "dev", "eth0")
    ip("-6", "address", "add", "2001:db8::1/64", "dev", "eth0", "nodad")
    ip("link", "set", "eth0", "up")
    ip("route", "add", "default", "via", GATEWAY)
    ip("-6", "route", "add", "default", "via", GATEWAY6)
    for address in ("127.0.0.1", "::1"):
        answer(address, LOOPBACK_PORT, b"secret\n")


def show_files() -> None:
    """A device that every user may open, as udev makes it, and the resolver."""
    syscalls.mount("files", _FILES, "tmpfs")
    tun_path, resolver_path = f"{_FILES}/tun", f"{_FILES}/resolv.conf"
    os.mknod(tun_path, stat.S_IFCHR, _TUN_DEVICE)
    os.chmod(tun_path, 0o666)
    with open(resolver_path, "w") as target:
        target.write("search example.test\nnameserver 127.0.0.1\n")
    mounts.bind(tun_path, "/dev/net/tun")
    mounts.bind(resolver_path, "/etc/resolv.conf")


def serve_until(reader: int, ready: int) -> None:
    """In a process that is nobody's child: serve until every process of the command has ended."""
    if os.fork():
        os._exit(0)
    os.setsid()
    run_in_thread(make_outside)
    make_host()
    resolve_everything()
    os.write(ready, b"1")
    os.close(ready)
    os.read(reader, 1)


def main() -> None:
    syscalls.unshare(syscalls.CLONE_NEWNET | syscalls.CLONE_NEWNS)
    mounts.make_slave("/")
    show_files()
    reader, writer = os.pipe()
    told, ready = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        try:
            serve_until(reader, ready)
        finally:
            os._exit(0)
    for descriptor in (reader, ready):
        os.close(descriptor)
    os.waitpid(child, 0)
    if not os.read(told, 1):
        sys.exit("the outside could not be made")
    # The command holds the pipe by which the servers know of it.
    os.set_inheritable(writer, True)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
