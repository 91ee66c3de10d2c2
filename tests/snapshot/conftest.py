"""Where snapshotters are tested: children with mount and user namespaces of their own."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator

import pytest

pytest.register_assert_rewrite("snapshot_suite")

from arkwright.linux import mounts, syscalls  # noqa: E402
from arkwright.store.store import Store  # noqa: E402

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
FIRST_ID = 100_000
UNPRIVILEGED_ID = 65534

Body = Callable[[str], None]


class Place:
    """A kind of process, and a directory that it owns.

    `root`: root of the host, with a private mount namespace. `rootless`: root of a user namespace
    with 65536 subordinate ids. `plain`: an ordinary user without any namespace.
    """

    def __init__(self, kind: str, path: str) -> None:
        self.kind = kind
        self.path = path
        owner = {"root": 0, "rootless": FIRST_ID, "plain": UNPRIVILEGED_ID}[kind]
        os.chown(path, owner, owner)

    def run(self, body: Body) -> None:
        """Run `body(path)` in a child, and fail as it fails."""
        ready_fd, tell_fd = os.pipe()
        wait_fd, go_fd = os.pipe()
        with tempfile.TemporaryFile("w+", errors="backslashreplace") as report:
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    os.close(go_fd)
                    # No child outlives a test that hangs and is timed out.
                    syscalls.set_parent_death_signal(signal.SIGKILL)
                    self._enter(tell_fd, wait_fd)
                    syscalls.set_parent_death_signal(signal.SIGKILL)
                    body(self.path)
                    status = 0
                except pytest.skip.Exception as skipped:
                    report.write(str(skipped))
                    status = 77
                except BaseException:
                    traceback.print_exc(file=report)
                finally:
                    report.flush()
                    sys.stdout.flush()
                    os._exit(status)
            os.close(tell_fd)
            os.close(wait_fd)
            if os.read(ready_fd, 1) == b"u":
                for name in ("uid_map", "gid_map"):
                    with open(f"/proc/{pid}/{name}", "w") as file:
                        file.write(f"0 {FIRST_ID} 65536")
            os.close(go_fd)
            os.close(ready_fd)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            report.seek(0)
            text = report.read()
        if status == 77:
            pytest.skip(text)
        assert status == 0, f"the child ended with {status}:\n{text}"

    def _enter(self, tell_fd: int, wait_fd: int) -> None:
        if self.kind == "plain":
            os.setgroups([])
            os.setgid(UNPRIVILEGED_ID)
            os.setuid(UNPRIVILEGED_ID)
            return
        syscalls.unshare(CLONE_NEWNS | (CLONE_NEWUSER if self.kind == "rootless" else 0))
        if self.kind == "rootless":
            os.write(tell_fd, b"u")
            os.read(wait_fd, 1)
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            os.setgroups([])
        mounts.make_private("/")


@pytest.fixture
def directory() -> Iterator[str]:
    if os.geteuid() != 0:
        pytest.skip("needs-root: becomes other users and makes namespaces")
    path = tempfile.mkdtemp(prefix="arkwright-snapshot-")
    os.chmod(path, 0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def make_place(directory: str) -> Callable[[str], Place]:
    return lambda kind: Place(kind, directory)


def open_store(path: str, name: str = "store") -> Store:
    return Store.open(os.path.join(path, name))
