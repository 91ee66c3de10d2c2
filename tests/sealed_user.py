"""Runs a command as a user with nothing: no capability, no way to one, no subordinate id, and no user
namespace to be had. Started by root: `sealed_user.py UID COMMAND...`."""

from __future__ import annotations

import os
import sys

from arkwright.linux.syscalls import unshare

CLONE_NEWUSER = 0x10000000


def main(uid: str, *command: str) -> None:
    """A user namespace with the same ids, in which no other can be made, and there the user."""
    ready_fd, tell_fd = os.pipe()
    wait_fd, go_fd = os.pipe()
    parent = os.getpid()
    if os.fork() == 0:
        os.read(ready_fd, 1)
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{parent}/{name}", "w") as file:
                file.write("0 0 65536")
        os.write(go_fd, b"g")
        os._exit(0)
    unshare(CLONE_NEWUSER)
    os.write(tell_fd, b"r")
    assert os.read(wait_fd, 1) == b"g"
    with open("/proc/sys/user/max_user_namespaces", "w") as file:
        file.write("0")
    for fd in (ready_fd, tell_fd, wait_fd, go_fd):
        os.close(fd)
    os.execvp(
        "setpriv",
        ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs", "--bounding-set=-all",
         "--inh-caps=-all", *command],
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
