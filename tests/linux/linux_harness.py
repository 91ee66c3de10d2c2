"""What the tests of steps share: users, scratch directories, scripts in interpreters of
their own (a worker must be forked from a process with one thread, which pytest is not)."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "scripts"
SUBID_USER = "arkwright-test"
NOBODY = 65534


def identity_prefix(name: str) -> tuple[list[str], int]:
    """The command prefix and uid for `root`, `subids` (a user with subordinate ids) or `single`
    (a user without); skips when this host cannot."""
    if os.geteuid() != 0:
        pytest.skip("needs-root: switching to other users")
    if name == "root":
        return [], 0
    if name == "single":
        return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"], NOBODY
    if not shutil.which("newuidmap") or not shutil.which("useradd"):
        pytest.skip("needs-newuidmap: a user with subordinate ids (packages uidmap, passwd)")
    uid = _subid_user()
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--init-groups"], uid


def _subid_user() -> int:
    try:
        uid = pwd.getpwnam(SUBID_USER).pw_uid
    except KeyError:
        # Another test process may be doing the same.
        subprocess.run(["useradd", "-M", "-U", "-s", "/bin/sh", SUBID_USER], check=False)
        uid = pwd.getpwnam(SUBID_USER).pw_uid
    for path in ("/etc/subuid", "/etc/subgid"):
        if f"{SUBID_USER}:" not in Path(path).read_text():
            with open(path, "a") as ranges:
                ranges.write(f"{SUBID_USER}:200000:65536\n")
    return uid


class Started:
    """A script that runs; lines of its output can be waited for."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def line(self) -> str:
        assert self.process.stdout is not None
        found = self.process.stdout.readline()
        assert found, f"the script ended: {self.finish()}"
        return found.strip()

    def finish(self, timeout_s: float = 60) -> tuple[int, str]:
        out, _ = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, out


def processes_with(marker: str) -> list[int]:
    """Pids of live processes whose arguments hold `marker`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if marker.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def eventually(what: Callable[[], bool], timeout_s: float = 20) -> bool:
    """Poll until `what` holds or the deadline passes."""
    deadline = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
