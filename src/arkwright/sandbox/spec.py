"""What one step may see: the contract between `ops.exec` and every sandbox.

A sandbox runs inside the worker process and starts steps only through the worker's init (see
`linux.init`), so that no step outlives the builder. `tests/sandbox/sandbox_suite.py` is the suite that
every implementation passes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import msgspec

DEFAULT_HOSTNAME = "buildkitsandbox"
DEFAULT_SHM_SIZE = 64 << 20


class Bind(msgspec.Struct, frozen=True, kw_only=True):
    """A host directory or file of the worker's view at `dest` (absolute, in the root)."""

    source: str
    dest: str
    readonly: bool = True


class Tmpfs(msgspec.Struct, frozen=True, kw_only=True):
    """An empty memory file system; `size` in bytes, 0 for the host's default."""

    dest: str
    size: int = 0
    mode: int = 0o1777
    readonly: bool = False


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """A file with secret bytes that never touches a disk."""

    dest: str
    data: bytes
    mode: int = 0o400
    uid: int = 0
    gid: int = 0


class SshSocket(msgspec.Struct, frozen=True, kw_only=True):
    """A forwarded agent socket: `source` is the host's socket."""

    dest: str
    source: str
    mode: int = 0o600
    uid: int = 0
    gid: int = 0


StepMount = Bind | Tmpfs | Secret | SshSocket


class Rlimit(msgspec.Struct, frozen=True):
    """A POSIX limit by its ulimit name; -1 is unlimited. Never raised above the host's."""

    name: str
    soft: int
    hard: int


class StepLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one step may take; 0 and empty are no limit. Enters no cache key.

    `memory` and `memory_swap` (both together; -1: unlimited) in bytes, `cpu_quota` and `cpu_period`
    in microseconds, `cpu_shares` relative to 1024, `cpus` the CPUs it may run on, `timeout_s` and
    `max_output` (bytes) what ends it. `cgroup_parent`: the control group in which that of the step is made,
    below the builder's own unless it begins with `/`. `whole`: memory, CPU time, processes and output of all
    steps of the build together, and the time of the build.
    """

    memory: int = 0
    memory_swap: int = 0
    cpu_quota: int = 0
    cpu_period: int = 0
    cpu_shares: int = 0
    cpus: tuple[int, ...] = ()
    pids: int = 0
    timeout_s: float = 0.0
    max_output: int = 0
    cgroup_parent: str = ""
    whole: StepLimits | None = None


class StepSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One command. `user` is as written in the Dockerfile and is resolved in the root: a number
    without passwd entry has gid 0 and HOME=/; a name has its primary and supplementary groups;
    `name:group` has only that group. `secret_env` values override nothing and reach no log."""

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: str = ""
    hostname: str = DEFAULT_HOSTNAME
    mounts: tuple[StepMount, ...] = ()
    network: Literal["default", "none", "host"] = "default"
    security: Literal["sandbox", "insecure"] = "sandbox"
    extra_hosts: tuple[tuple[str, str], ...] = ()
    rlimits: tuple[Rlimit, ...] = ()
    shm_size: int = DEFAULT_SHM_SIZE
    secret_env: tuple[tuple[str, str], ...] = ()
    limits: StepLimits = StepLimits()
    readonly_root: bool = False
    terminal: bool = False


class StepStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a step ended: exit status as a shell reports it (128+n for signal n)."""

    status: int
    signal: int | None = None
    oom: bool = False
    tier: str = ""


Output = Callable[[int, bytes], None]
"""Called with fd (1 or 2) and what was read from it."""


class Sandbox(Protocol):
    """Runs one step in a root directory. Methods may be called from several threads."""

    @property
    def tier(self) -> str:
        """A short name for the record, such as `crun`, `runc`, `runc+userns`."""
        ...

    def run(
        self,
        spec: StepSpec,
        root: str,
        output: Output,
        *,
        cancelled: threading.Event | None = None,
        stdio: Sequence[int] | None = None,
    ) -> StepStatus:
        """Run the step to its end and leave no trace in `root`: no mount-point stub, no
        `/etc/hosts` or `/etc/resolv.conf` that was not there, parents' mtimes restored.

        When `cancelled` is set, everything that the step started is killed and `Cancelled` is
        raised. `stdio` passes three descriptors through instead of calling `output`.
        Raises `HostUnsupported` when the runtime cannot start here, `UserError` for a user,
        group or cwd that cannot be resolved.
        """
        ...
