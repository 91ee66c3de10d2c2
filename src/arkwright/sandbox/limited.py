"""A step within its limits: by control groups where they can be written, else by rlimits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import msgspec

from arkwright.diagnostics.errors import HostUnsupported
from arkwright.linux.groups import StepGroups
from arkwright.linux.jail import Jail
from arkwright.linux.worker import Worker
from arkwright.sandbox.spec import Rlimit, StepLimits, StepSpec

_DEFAULT_PERIOD = "100000"
_FIRST_FD = 16  # of the child; below are the step's own


class Limited(msgspec.Struct, frozen=True):
    """A step's spec with what rlimits can do, the descriptors of groups to enter, and `oom`, which
    says afterwards whether memory ran out (False also where nobody can know)."""

    spec: StepSpec
    fds: dict[int, int]
    cpus: tuple[int, ...]
    oom: Callable[[], bool]

    def jail(self, jail: Jail) -> Jail:
        """The jail with the limits."""
        return msgspec.structs.replace(jail, group_fds=tuple(self.fds), cpus=self.cpus)

    @property
    def any(self) -> bool:
        """Whether the step's process has anything to enter."""
        return bool(self.fds or self.cpus)


@contextmanager
def limited(spec: StepSpec, worker: Worker, notify: Callable[[str], None]) -> Iterator[Limited]:
    """Groups for the time of the step; `notify` gets a note on what cannot be limited here."""
    values = group_files(spec.limits)
    whole = group_files(spec.limits.whole or StepLimits())
    parent = spec.limits.cgroup_parent
    if not (parent or any((*values.values(), *whole.values()))):
        yield Limited(spec, {}, spec.limits.cpus, lambda: False)
        return
    with ExitStack() as stack:
        try:
            within = worker.build_groups.around(whole, parent) if any(whole.values()) else None
            groups = stack.enter_context(StepGroups(worker.build_groups.root_fd, values, within, parent))
        except OSError as error:
            if parent:
                raise _no_parent(parent, error) from error
            rlimits, effect = _instead(spec)
            notify(f"no control group can be made for steps ({error.strerror or error}): {effect}")
            changed = msgspec.structs.replace(spec, rlimits=(*spec.rlimits, *rlimits))
            yield Limited(changed, {}, spec.limits.cpus, lambda: False)
            return
        fds = dict(enumerate(groups.procs_fds, _FIRST_FD))
        yield Limited(spec, fds, spec.limits.cpus, groups.out_of_memory)


def _no_parent(parent: str, error: OSError) -> HostUnsupported:
    fix = f"make the group {parent} first, and let this user make groups in it"
    found = HostUnsupported.of(
        "no-cgroup-parent",
        f"no control group can be made for steps in {parent}: {error.strerror or error}",
        hint=fix,
        details={"probe": {"cgroup_parent": parent, "errno": error.errno}, "fix": fix},
    )
    assert isinstance(found, HostUnsupported)
    return found


def group_files(limits: StepLimits) -> dict[str, dict[str, str]]:
    """What is written to which file, by controller of version 1. Order matters: memory and swap
    together may not be below memory."""
    memory: dict[str, str] = {}
    cpu: dict[str, str] = {}
    if limits.memory:
        memory["memory.limit_in_bytes"] = str(limits.memory)
        memory["memory.memsw.limit_in_bytes"] = str(limits.memory_swap or 2 * limits.memory)
    if limits.cpu_quota:
        cpu["cpu.cfs_period_us"] = str(limits.cpu_period or _DEFAULT_PERIOD)
        cpu["cpu.cfs_quota_us"] = str(limits.cpu_quota)
    if limits.cpu_shares:
        cpu["cpu.shares"] = str(limits.cpu_shares)
    pids = {"pids.max": str(limits.pids)} if limits.pids else {}
    return {"memory": memory, "cpu": cpu, "pids": pids}


def _instead(spec: StepSpec) -> tuple[list[Rlimit], str]:
    """What rlimits can do, and a sentence on it."""
    limits = spec.limits
    parts, rlimits = [], []
    if any(group_files(limits.whole or StepLimits()).values()):
        parts.append("the limits of the whole build have no effect")
    if limits.memory:
        rlimits.append(Rlimit("data", limits.memory, limits.memory))
        parts.append("memory is limited for each process alone")
    lost = [
        name
        for name, value in (("CPU", limits.cpu_quota or limits.cpu_shares), ("processes", limits.pids))
        if value
    ]
    if lost:
        parts.append(f"the limits on {' and '.join(lost)} have no effect")
    return rlimits, ", ".join(parts)
