"""A host of its own for a command: a user namespace whose binfmt_misc has the handlers named.

`python binfmt_host.py arm64,riscv64 POCF command…` (no architecture: an empty binfmt_misc). Needs
root, Linux 6.7 and the emulators of qemu-user-static. Ids are the same inside and outside.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys

from arkwright.linux import emulation, mounts, syscalls

PLACE = "/proc/sys/fs/binfmt_misc"


def main() -> None:
    architectures, flags, *command = sys.argv[1:]
    go_reader, go_writer = os.pipe()
    made_reader, made_writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        syscalls.set_parent_death_signal(signal.SIGKILL)
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
        os.write(made_writer, b".")
        os.read(go_reader, 1)
        mounts.make_slave("/")
        syscalls.mount("binfmt_misc", PLACE, "binfmt_misc")
        for name in filter(None, architectures.split(",")):
            path = shutil.which(
                f"qemu-{emulation.MACHINES[name].qemu}-static", path="/usr/local/bin:/usr/bin"
            )
            assert path is not None
            line = emulation.registration(name, path, flags)
            with open(f"{PLACE}/register", "wb", buffering=0) as file:
                file.write(line)
        os.execvp(command[0], command)
    os.read(made_reader, 1)
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{pid}/{name}", "w") as file:
            file.write("0 0 1000000\n")
    os.write(go_writer, b".")
    os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)


if __name__ == "__main__":
    main()
