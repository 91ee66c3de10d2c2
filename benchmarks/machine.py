"""On what was measured: enough to compare results, nothing that names the machine or its owner."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

MIB = 1 << 20


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.split(":", 1)[1].strip()
    return ""


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.splitlines()[0].strip() if done.stdout else ""


def describe(scratch: Path) -> dict[str, object]:
    """Processor, memory, kernel, file system of the scratch directory, versions of what all builders use."""
    flags = _field("/proc/cpuinfo", "flags").split()
    return {
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cpus": len(os.sched_getaffinity(0)),
        "sha_instructions": "sha_ni" in flags or "sha2" in _field("/proc/cpuinfo", "Features").split(),
        "memory_mib": int(_field("/proc/meminfo", "MemTotal").split()[0]) // 1024,
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "file_system": _said("stat", "-f", "-c", "%T", str(scratch)),
        "user": "root" if os.geteuid() == 0 else "rootless",
        "python": ".".join(map(str, sys.version_info[:3])),
        "crun": _said("crun", "--version"),
        "runc": _said("runc", "--version"),
    }


def commit() -> str:
    """What is measured: a commit, `-dirty` when files differ from it; empty outside a checkout."""
    return _said("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12")


def slug(machine: dict[str, object]) -> str:
    """A name for the file of the results, such as `x86_64-2cpu-root`."""
    return f"{machine['architecture']}-{machine['cpus']}cpu-{machine['user']}"
