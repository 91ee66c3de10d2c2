"""Control groups of steps: memory, CPU and process limits, and whether memory ran out.

Groups are made below the builder's own ones, so that no limit can exceed the host's. Sources:
Documentation/admin-guide/cgroup-v1/{memory,pids}.rst, scheduler/sched-bwc.rst, cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import signal
import threading
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
    `pids`. `within`: those of a whole build, in which the step's then are. `parent`: the group to make
    them in, which must be there: below that of this process, or below the root if it begins with `/`; of
    version 1 in those hierarchies that have it. Raises `OSError` when a group cannot be made or a limit not be set.
    """

    def __init__(
        self,
        root_fd: int,
        values: Mapping[str, Mapping[str, str]],
        within: StepGroups | None = None,
        parent: str = "",
    ) -> None:
        self._root_fd = root_fd
        self._parent_name = parent
        self._values = {kind: files for kind, files in values.items() if files}
        self._within = within
        self._made: dict[str, tuple[int, int, str]] = {}  # controller → parent, group, name
        self.procs_fds: tuple[int, ...] = ()

    def __enter__(self) -> StepGroups:
        try:
            if unified(self._root_fd):
                self._make("", self._parent("", ""), self._v2_files())
            else:
                around = self._within.kinds if self._within is not None else self._with_parent()
                for kind in dict.fromkeys((*self._values, *around)):
                    self._make(kind, self._parent(kind, kind), self._values.get(kind, {}))
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

    @property
    def kinds(self) -> tuple[str, ...]:
        """The controllers of version 1 that have a group; the empty name for version 2."""
        return tuple(self._made)

    def out_of_memory(self) -> bool:
        """Whether the kernel killed something of the step because its memory had run out."""
        for kind, (_, group_fd, _) in self._made.items():
            file = {"": "memory.events", "memory": "memory.oom_control"}.get(kind, "")
            if file:
                for line in _read(group_fd, file).splitlines():
                    if line.startswith("oom_kill ") and line.split()[1] != "0":
                        return True
        return False

    def _parent(self, kind: str, hierarchy: str) -> int:
        """The build's group, or the one of this process, opened."""
        if self._within is not None and kind in self._within._made:
            return os.dup(self._within._made[kind][1])
        paths = own_paths(self._root_fd)
        if kind not in paths:
            raise FileNotFoundError(f"there is no {kind} controller")
        own = "" if self._parent_name.startswith("/") else paths[kind]
        path = f"{hierarchy}/{own}/{self._parent_name}".strip("/") or "."
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._root_fd)

    def _with_parent(self) -> tuple[str, ...]:
        """The controllers of version 1 whose hierarchy has the group that is asked for."""
        if not self._parent_name:
            return ()
        found, refusal = [], FileNotFoundError(errno.ENOENT, "there is no such group")
        for kind in _V1:
            try:
                os.close(self._parent(kind, kind))
            except FileNotFoundError as error:
                refusal = error
            else:
                found.append(kind)
        if not found:
            raise refusal
        return tuple(found)

    def _make(self, kind: str, parent_fd: int, files: Mapping[str, str]) -> None:
        try:
            _sweep(parent_fd)
            if kind == "" and "memory" not in _read(parent_fd, "cgroup.subtree_control"):
                with contextlib.suppress(*(() if files else (OSError,))):
                    _write(parent_fd, "cgroup.subtree_control", _ENABLE)
            name = f"{_NAME}-{os.getpid()}-{next(_numbers)}"
            os.mkdir(name, 0o755, dir_fd=parent_fd)
        except BaseException:
            os.close(parent_fd)
            raise
        group_fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent_fd)
        self._made[kind] = (parent_fd, group_fd, name)
        if kind == "memory":
            with contextlib.suppress(OSError):  # gone where it is always so
                _write(group_fd, "memory.use_hierarchy", "1")
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


class BuildGroups:
    """The groups that all steps of a build are in, made for the first of them. Thread-safe.

    `root_fd`: the control groups as they were before they were made read-only, or -1.
    """

    def __init__(self, root_fd: int) -> None:
        self.root_fd = root_fd
        self._groups: StepGroups | None = None
        self._lock = threading.Lock()

    def around(self, values: Mapping[str, Mapping[str, str]], parent: str = "") -> StepGroups:
        """What to give to `StepGroups` as `within`; all as there, and the same at each call.
        Raises `OSError`."""
        with self._lock:
            if self._groups is None:
                self._groups = StepGroups(self.root_fd, values, parent=parent).__enter__()
            return self._groups

    def end(self) -> None:
        """Remove the groups; every step has ended."""
        if self._groups is not None:
            self._groups.__exit__()


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
                for inner in _groups_below(name, parent_fd):
                    os.rmdir(inner, dir_fd=parent_fd)
                os.rmdir(name, dir_fd=parent_fd)


def _groups_below(name: str, parent_fd: int) -> list[str]:
    """The groups of steps in the group of a build."""
    with os.scandir(f"/proc/self/fd/{parent_fd}/{name}") as entries:
        return [f"{name}/{entry.name}" for entry in entries if entry.is_dir(follow_symlinks=False)]


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
