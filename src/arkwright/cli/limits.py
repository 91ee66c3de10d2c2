"""Options that limit each step of a build."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from arkwright.cli.values import duration_s, invalid, size
from arkwright.sandbox.spec import StepLimits

_PERIOD = 100_000  # microseconds, the kernel's default
_LEAST_MEMORY = 6 << 20  # as container engines have it
_LEAST_QUOTA = 1000


def step_limits(options: Mapping[str, Any]) -> StepLimits:
    """The limits that the options ask for. Raises `UsageError` `invalid-option-value`."""
    memory = size("--memory", options["memory"]) if options["memory"] else 0
    if memory and memory < _LEAST_MEMORY:
        invalid("--memory", options["memory"], "the least is 6m")
    timeout = options["step_timeout"]
    return StepLimits(
        memory=memory,
        memory_swap=_swap(options["memory_swap"], memory),
        cpu_quota=_quota(options),
        cpu_period=options["cpu_period"] or 0,
        cpu_shares=options["cpu_shares"] or 0,
        cpus=_cpus(options["cpuset_cpus"]),
        pids=max(options["pids_limit"] or 0, 0),
        timeout_s=duration_s("--step-timeout", timeout) if timeout else 0.0,
        max_output=size("--max-output", options["max_output"]) if options["max_output"] else 0,
        cgroup_parent=_cgroup_parent(options["cgroup_parent"] or ""),
        whole=_whole(options),
    )


def _cgroup_parent(text: str) -> str:
    if ".." in text.split("/") or "\0" in text or text.strip("/") != text.lstrip("/").rstrip("/"):
        invalid("--cgroup-parent", text, "not a path of a control group")
    return text.rstrip("/") or ("/" if text else "")


def _whole(options: Mapping[str, Any]) -> StepLimits | None:
    text = str(options.get("build_memory") or "")
    cpus, pids = options.get("build_cpus") or 0.0, options.get("build_pids_limit") or 0
    memory = size("--build-memory", text) if text else 0
    if memory and memory < _LEAST_MEMORY:
        invalid("--build-memory", text, "the least is 6m")
    if cpus < 0:
        invalid("--build-cpus", str(cpus), "not a number of CPUs")
    timeout, output = options.get("build_timeout"), options.get("build_max_output")
    found = StepLimits(
        memory=memory,
        cpu_quota=max(int(cpus * _PERIOD), _LEAST_QUOTA) if cpus else 0,
        pids=pids,
        timeout_s=duration_s("--build-timeout", timeout) if timeout else 0.0,
        max_output=size("--build-max-output", output) if output else 0,
    )
    return found if found != StepLimits() else None


def _swap(text: str | None, memory: int) -> int:
    if not text:
        return 0
    if not memory:
        invalid("--memory-swap", text, "it needs --memory")
    both = -1 if text == "-1" else size("--memory-swap", text)
    if both != -1 and both < memory:
        invalid("--memory-swap", text, "it is memory and swap together, and less than --memory")
    return both


def _quota(options: Mapping[str, Any]) -> int:
    cpus = options["cpus"]
    if not cpus:
        return max(options["cpu_quota"] or 0, 0)
    if options["cpu_quota"]:
        invalid("--cpus", str(cpus), "it says what --cpu-quota says: give one of them")
    if cpus < 0:
        invalid("--cpus", str(cpus), "not a number of CPUs")
    return max(int(cpus * (options["cpu_period"] or _PERIOD)), _LEAST_QUOTA)


def _cpus(text: str | None) -> tuple[int, ...]:
    """`0-2,4`: CPUs that the builder itself may run on."""
    if not text:
        return ()
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) > 1 << 16:
            invalid("--cpuset-cpus", text, "not a list of CPUs", "write numbers and ranges, such as 0-2,4")
        found.update(range(int(first), int(last or first) + 1))
    lacking = sorted(found - os.sched_getaffinity(0))
    if lacking or not found:
        invalid("--cpuset-cpus", text, f"there is no CPU {lacking[0]} here" if lacking else "no CPU is named")
    return tuple(sorted(found))
