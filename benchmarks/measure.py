"""What commands take: wall time, CPU of all their processes, peak memory."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LAUNCHER = Path(__file__).with_name("launch.py")
SAMPLE_S = 0.004
CPUACCT = Path("/sys/fs/cgroup/cpuacct")


class CommandFailed(Exception):
    """A measured command failed; the message holds the end of what it printed."""


@dataclass(frozen=True)
class Work:
    """Commands that are measured together: one after the other, or all at once."""

    commands: Sequence[Sequence[str]]
    parallel: bool = False


@dataclass(frozen=True)
class Taken:
    """What one run took.

    `cpu_s` is of all processes of the commands and of the daemon that served them. `largest_bytes` is the
    peak of the largest single process (ru_maxrss), of those that are not a daemon's. `peak_bytes` is the
    largest sum over all processes, 0 where no samples were taken.
    """

    wall_s: float
    cpu_s: float
    largest_bytes: int
    peak_bytes: int = 0


class Daemon:
    """The CPU time of a daemon with all that it starts: by a control group of its own where one can be
    made (version 1, nanoseconds), else by /proc (ticks of 10 ms)."""

    def __init__(self, name: str) -> None:
        self.pid = 0
        self.group: Path | None = CPUACCT / name
        try:
            self.group.mkdir()
        except OSError:
            self.group = None

    def adopt(self, pid: int) -> None:
        """Count a process that was just started."""
        self.pid = pid
        if self.group is not None:
            (self.group / "cgroup.procs").write_text(str(pid))

    @property
    def parent_group(self) -> str | None:
        """Where the daemon shall put its containers, for them to be counted."""
        return None if self.group is None else f"/{self.group.name}"

    def cpu_s(self) -> float:
        if self.group is not None:
            return int((self.group / "cpuacct.usage").read_text()) / 1e9
        return sum(_cpu_s(pid) for pid in tree([self.pid]))

    def close(self) -> None:
        """Take the control group away, once its processes have ended."""
        if self.group is None:
            return
        for folder, _, _ in os.walk(self.group, topdown=False):
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                try:
                    Path(folder).rmdir()
                    break
                except OSError:
                    time.sleep(0.05)


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def tree(roots: Iterable[int]) -> Iterator[int]:
    """Processes and their descendants."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(name))
    todo = list(roots)
    while todo:
        pid = todo.pop()
        yield pid
        todo += children.get(pid, [])


class Sampler:
    """The largest sum of resident memory over processes, sampled every 4 ms.

    Pages that processes share count once for each. Processes whose root directory is not ours run
    inside a step: what a user's compiler takes is not the builder's, and is left out. A process that
    peaked between two samples counts with its own peak (VmHWM, proc(5)).
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self.root = self._root_of("self")

    @staticmethod
    def _root_of(pid: int | str) -> tuple[int, int] | None:
        try:
            status = os.stat(f"/proc/{pid}/root/")
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def sample(self, pids: Iterable[int]) -> None:
        resident = 0
        for pid in pids:
            root = self._root_of(pid)
            if root is None or root != self.root:
                continue
            try:
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            except OSError:
                continue
            fields = dict(line.split(":", 1) for line in lines if line.startswith("Vm"))
            if "VmRSS" in fields:
                resident += _bytes(fields["VmRSS"])
                self.peak_bytes = max(self.peak_bytes, _bytes(fields["VmHWM"]))
        self.peak_bytes = max(self.peak_bytes, resident)


def _kill(roots: Sequence[int]) -> None:
    """End processes with all that they started."""
    for pid in list(tree(roots)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _bytes(field: str) -> int:
    return int(field.split(maxsplit=1)[0]) * 1024


def run(
    work: Work, env: Mapping[str, str], log: Path, *, daemon: Daemon | None = None, sampled: bool = False
) -> Taken:
    """Run and measure. Sampling costs CPU time itself: its times are not to be used.

    Raises CommandFailed.
    """
    log.write_bytes(b"")
    spec = {"commands": work.commands, "parallel": work.parallel, "log": str(log)}
    before_s = daemon.cpu_s() if daemon else 0.0
    launcher = subprocess.Popen(
        [sys.executable, "-I", "-S", str(LAUNCHER), json.dumps(spec)],
        env=dict(env), cwd=log.parent, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    sampler = Sampler()
    roots = [launcher.pid, *([daemon.pid] if daemon else [])]
    try:
        while sampled and launcher.poll() is None:
            sampler.sample(pid for pid in tree(roots) if pid != launcher.pid)
            time.sleep(SAMPLE_S)
        said, _ = launcher.communicate()
    except BaseException:
        _kill([launcher.pid])
        launcher.communicate()
        raise
    if launcher.returncode != 0:
        raise CommandFailed(f"the launcher failed: {said}")
    answer = json.loads(said)
    if answer["status"] != 0:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise CommandFailed(f"status {answer['status']}: " + " / ".join(lines[-4:]))
    cpu_s = answer["cpu_s"] + (daemon.cpu_s() - before_s if daemon else 0.0)
    return Taken(answer["wall_s"], cpu_s, answer["largest_bytes"], sampler.peak_bytes)
