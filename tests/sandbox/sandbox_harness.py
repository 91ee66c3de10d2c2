"""A root directory made from busybox, and a way to run steps in it as several users."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from arkwright.sandbox.spec import StepSpec, StepStatus

sys.path.insert(0, str(Path(__file__).parents[1] / "linux"))

from identities import identity_prefix

DRIVER = Path(__file__).parent / "drive.py"
BUSYBOX = "/bin/busybox"
_APPLETS = [
    "sh",
    "cat",
    "ls",
    "env",
    "id",
    "hostname",
    "grep",
    "mount",
    "umount",
    "pwd",
    "ps",
    "true",
    "false",
    "ip",
    "sleep",
    "touch",
    "mkdir",
    "rm",
    "mv",
    "stat",
    "df",
    "readlink",
    "printf",
    "kill",
    "find",
    "chmod",
    "ln",
    "nc",
    "setsid",
    "dd",
    "test",
    "sync",
    "mknod",
    "ping",
    "wc",
]
_PASSWD = """root:x:0:0:root:/root:/bin/sh
builder:x:5:6::/home/builder:/bin/sh
"""
_GROUP = """root:x:0:
builder:x:6:
extra:x:77:other,builder
more:x:88:builder
"""


def make_root(path: Path) -> None:
    """A minimal root file system; no /dev, /proc, /sys, no /etc/hosts."""
    if not os.path.exists(BUSYBOX):
        pytest.skip("needs-busybox: a static busybox (package busybox-static)")
    for name in ("bin", "etc", "root", "home/builder", "tmp", "var"):
        (path / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, path / "bin/busybox")
    for name in _APPLETS:
        (path / "bin" / name).symlink_to("busybox")
    (path / "etc/passwd").write_text(_PASSWD)
    (path / "etc/group").write_text(_GROUP)
    (path / "tmp").chmod(0o1777)
    for directory, _, _ in os.walk(path):
        os.utime(directory, ns=(10**18 + 1, 10**18 + 123456789))


def marker() -> str:
    """A number that `sleep` accepts as one more argument, and no other process has."""
    return f"0.{random.randrange(10**15):015d}"


def picture(path: Path) -> dict[str, tuple[int, int, int]]:
    """Every path below a root with type and mode, size and mtime: what a step may not change."""
    found = {}
    for directory, names, files in os.walk(path):
        for name in (".", *names, *files):
            item = os.path.normpath(os.path.join(directory, name))
            status = os.lstat(item)
            found[os.path.relpath(item, path)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


class Outcome:
    """What came of one step: a status or an error's code."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.status: StepStatus | None = found["status"]
        self.error: str = found["error"]
        self.tier: str = found["tier"]
        self.out: str = found["out"].decode()
        self.err: str = found["err"].decode()
        self.alive: int = found["alive"]


class Bench:
    """Runs jobs as one user with one sandbox, in one root."""

    def __init__(self, scratch: Path, factory: str, identity: str) -> None:
        self.factory, self.identity = factory, identity
        self._prefix, self._uid = identity_prefix(identity)
        self._scratch = scratch
        self.root = scratch / "root"
        self.store = scratch / "store"
        self.shared = scratch / "shared"
        self.root.mkdir()
        make_root(self.root)
        for path in (self.store, self.shared):
            path.mkdir()
        # A root stands in a directory of the builder's, which may move things aside there.
        os.chown(scratch, self._uid, self._uid)
        self.own(self.root, self.store, self.shared)
        self.notices: list[str] = []
        self.left: list[str] = []

    def own(self, *paths: Path) -> None:
        """Give trees to the user, who is root inside."""
        for path in paths:
            os.chown(path, self._uid, self._uid)
            for directory, names, files in os.walk(path):
                for name in (*names, *files):
                    os.lchown(os.path.join(directory, name), self._uid, self._uid)

    def file(self, name: str, text: str = "") -> Path:
        """A file of the user's outside of the root."""
        path = self.shared / name
        path.write_text(text)
        self.own(self.shared)
        return path

    def _job(self, specs: tuple[StepSpec, ...], options: dict[str, Any]) -> tuple[list[str], bytes, Path]:
        answer = self.store / "answer"
        job: dict[str, Any] = {"cancel_on": b"", "marker": "", "together": False, "umask": 0o022, "stdio": ()}
        job |= {"root": str(self.root), "answer": str(answer), "steps": list(specs)} | options
        command = [*self._prefix, sys.executable, str(DRIVER), str(self.store), self.factory]
        return command, pickle.dumps(job), answer

    def launch(self, *specs: StepSpec, **options: Any) -> subprocess.Popen[bytes]:
        """Start as `steps` does, and return the supervisor's process at once."""
        command, job, _ = self._job(specs, options)
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, cwd="/")
        assert process.stdin is not None
        process.stdin.write(job)
        process.stdin.flush()
        return process

    def steps(self, *specs: StepSpec, **options: Any) -> list[Outcome]:
        """Run steps in one worker. Options: `cancel_on` bytes, `marker`, `together`, `umask`, `root`."""
        command, job, answer = self._job(specs, options)
        done = subprocess.run(command, input=job, capture_output=True, timeout=120, cwd="/")
        self.stdout = done.stdout
        assert done.returncode == 0, done.stderr.decode()
        found = pickle.loads(answer.read_bytes())
        self.notices, self.left = found["notices"], found["left"]
        return [Outcome(item) for item in found["outcomes"]]

    def sh(self, script: str, **fields: Any) -> Outcome:
        """Run a shell script as one step; keyword arguments are fields of the spec, or options."""
        options = {name: fields.pop(name) for name in ("cancel_on", "marker", "umask") if name in fields}
        fields.setdefault("network", "host")
        return self.steps(StepSpec(args=("/bin/sh", "-c", script), **fields), **options)[0]

    def say(self, script: str, **fields: Any) -> str:
        """As `sh`, for steps that must succeed; what they wrote, without the last line's end."""
        found = self.sh(script, **fields)
        assert found.status is not None, found.error
        assert found.status.status == 0, found.err
        return found.out.rstrip("\n")
