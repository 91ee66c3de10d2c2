"""Control groups of steps: memory, CPU and process limits, and whether memory ran out.

Groups are made below the builder's own ones, so that no limit can exceed the host's. Sources:
Documentation/admin-guide/cgroup-v1/{memory,pids}.rst, scheduler/sched-bwc.rst, cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Mapping

_NAME = "arkwright"
_numbers = itertools.count(1)
_REMOVE_WITHIN_S = 5.0
_REMOVE_AGAIN_S = 0.01
_V1 = ("memory", "cpu", "pids")
_ENABLE = "+memory +cpu +pids"


class StepGroups:
    """Context manager: the groups of one step; `procs_fds` are for its first process to enter.

    `values` maps files to what is written to them, by controller of version 1: `memory`, `cpu`,
    `pids`. Raises `OSError` when a group cannot be made or a limit not be set.
    """

    def __init__(self, root_fd: int, values: Mapping[str, Mapping[str, str]]) -> None:
        self._root_fd = root_fd
        self._values = {kind: files for kind, files in values.items() if files}
        self._made: dict[str, tuple[int, int, str]] = {}  # controller → parent, group, name
        self.procs_fds: tuple[int, ...] = ()

    def __enter__(self) -> StepGroups:
        try:
            if unified(self._root_fd):
                self._make("", own_paths(self._root_fd)[""], self._v2_files())
            else:
                paths = own_paths(self._root_fd)
                for kind, files in self._values.items():
                    if kind not in paths:
                        raise FileNotFoundError(f"there is no {kind} controller")
                    self._make(kind, f"{kind}/{paths[kind].lstrip('/')}", files)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self.procs_fds:
            os.close(descriptor)
        self.procs_fds = ()
        while self._made:
            parent_fd, group_fd, name = self._made.popitem()[1]
            _remove(parent_fd, group_fd, name)
            os.close(group_fd)
            os.close(parent_fd)

    def out_of_memory(self) -> bool:
        """Whether the kernel killed something of the step because its memory had run out."""
        for kind, (_, group_fd, _) in self._made.items():
            file = {"": "memory.events", "memory": "memory.oom_control"}.get(kind, "")
            if file:
                for line in _read(group_fd, file).splitlines():
                    if line.startswith("oom_kill ") and line.split()[1] != "0":
                        return True
        return False

    def _make(self, kind: str, path: str, files: Mapping[str, str]) -> None:
        parent_fd = os.open(
            path.strip("/") or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._root_fd
        )
        try:
            _sweep(parent_fd)
            if kind == "" and "memory" not in _read(parent_fd, "cgroup.subtree_control"):
                _write(parent_fd, "cgroup.subtree_control", _ENABLE)
            name = f"{_NAME}-{os.getpid()}-{next(_numbers)}"
            os.mkdir(name, 0o755, dir_fd=parent_fd)
        except BaseException:
            os.close(parent_fd)
            raise
        group_fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent_fd)
        self._made[kind] = (parent_fd, group_fd, name)
        for file, text in files.items():
            with contextlib.suppress(FileNotFoundError):  # swap may not be accounted for
                _write(group_fd, file, text)
        procs_fd = os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=group_fd)
        self.procs_fds = (*self.procs_fds, procs_fd)

    def _v2_files(self) -> dict[str, str]:
        """The files of version 2 that mean what those of version 1 do."""
        memory, cpu = self._values.get("memory", {}), self._values.get("cpu", {})
        found = dict(self._values.get("pids", {}))
        if limit := memory.get("memory.limit_in_bytes"):
            found["memory.max"] = limit
            both = memory.get("memory.memsw.limit_in_bytes")
            if both:
                found["memory.swap.max"] = "max" if both == "-1" else str(max(int(both) - int(limit), 0))
        if quota := cpu.get("cpu.cfs_quota_us"):
            found["cpu.max"] = f"{quota} {cpu.get('cpu.cfs_period_us', '100000')}"
        if shares := cpu.get("cpu.shares"):
            # The mapping that runtimes use: 2..262144 to 1..10000.
            found["cpu.weight"] = str(1 + (int(shares) - 2) * 9999 // 262142)
        return found


def unified(root_fd: int) -> bool:
    """Whether the groups are of version 2 only."""
    with contextlib.suppress(OSError):
        os.stat("cgroup.controllers", dir_fd=root_fd)
        return True
    return False


def own_paths(root_fd: int) -> dict[str, str]:
    """The group of this process by controller of version 1, and that of version 2 as the empty name."""
    found = {}
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            _, names, path = line.rstrip("\n").split(":", 2)
            for name in names.split(","):
                found[name] = path
    return found


def _sweep(parent_fd: int) -> None:
    """Remove the empty groups of builders that were killed."""
    for name in os.listdir(parent_fd):
        prefix, _, rest = name.partition("-")
        pid = rest.partition("-")[0]
        if prefix == _NAME and pid.isdecimal() and not os.path.exists(f"/proc/{pid}"):
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=parent_fd)


def _remove(parent_fd: int, group_fd: int, name: str) -> None:
    """A group can be removed when its last process is gone, which the kernel tells late."""
    deadline_s = time.monotonic() + _REMOVE_WITHIN_S
    while time.monotonic() < deadline_s:
        for pid in _read(group_fd, "cgroup.procs").split():
            with contextlib.suppress(OSError):
                if pid != "0":
                    os.kill(int(pid), signal.SIGKILL)
        try:
            os.rmdir(name, dir_fd=parent_fd)
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(_REMOVE_AGAIN_S)
        else:
            return


def _read(group_fd: int, file: str) -> str:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC, dir_fd=group_fd)
    except OSError:
        return ""
    with os.fdopen(descriptor, encoding="ascii", errors="replace") as source:
        return source.read()


def _write(group_fd: int, file: str, text: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC, dir_fd=group_fd)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
