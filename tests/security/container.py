"""A container as engines start it, made by runc: default capabilities, no new privileges, a filter
of system calls, masked kernel files. The builder's own program runs in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from arkwright.linux import limits

_REPOSITORY = Path(__file__).parents[2]
# What engines let containers make and use.
_DEVICES = [
    {"allow": False, "access": "rwm"},
    {"allow": True, "type": "c", "access": "m"},
    {"allow": True, "type": "b", "access": "m"},
    *(
        {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
        for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, -1))
    ),
]
_KERNEL = ["nosuid", "noexec", "nodev", "ro"]
_SHOWN = ("bin", "sbin", "lib", "lib32", "lib64", "usr", "etc")


class Container:
    """Runs commands in fresh containers over one scratch directory, which is writable at `/scratch`."""

    def __init__(self, path: Path) -> None:
        if os.geteuid() != 0:
            pytest.skip("needs-root: a container with the default capabilities of engines")
        if shutil.which("runc") is None:
            pytest.skip("needs-runc: a container with the default capabilities of engines")
        self._path = path
        self.scratch = path / "scratch"
        self.scratch.mkdir(mode=0o755)
        self._count = 0

    def run(
        self,
        *args: str,
        uid: int = 0,
        capabilities: bool = True,
        seccomp: dict[str, Any] | None = None,
        env: tuple[str, ...] = (),
        masked: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; `seccomp` None is a profile that forbids namespaces."""
        self._count += 1
        bundle_path = self._path / f"bundle-{self._count}"
        root = bundle_path / "root"
        for name in ("proc", "sys", "dev", "tmp", "scratch", *_SHOWN):
            (root / name).mkdir(parents=True)
        document = self._document(root, list(args), uid, capabilities, seccomp, env)
        if not masked:
            del document["linux"]["maskedPaths"], document["linux"]["readonlyPaths"]
        (bundle_path / "config.json").write_text(json.dumps(document))
        name = f"arkwright-test-{os.getpid()}-{self._count}"
        command = ["runc", f"--root={self._path}/state", "run", f"--bundle={bundle_path}", name]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def arkwright(self, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the builder with a store in the scratch directory."""
        return self.run(sys.executable, "-m", "arkwright", *args, **options)

    def _document(
        self,
        root: Path,
        args: list[str],
        uid: int,
        capabilities: bool,
        seccomp: dict[str, Any] | None,
        env: tuple[str, ...],
    ) -> dict[str, Any]:
        caps = [
            "CAP_" + name
            for number, name in enumerate(limits.CAPABILITIES)
            if capabilities and limits.DEFAULT_CAPABILITY_MASK >> number & 1
        ]
        shown = [f"/{name}" for name in _SHOWN if os.path.isdir(f"/{name}")]
        shown += [str(_REPOSITORY), sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib")]
        mounts: list[dict[str, Any]] = [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": _KERNEL},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": _KERNEL},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=1777"]},
            *(_bind(path, path, "ro") for path in dict.fromkeys(shown)),
            _bind(str(self.scratch), "/scratch", "rw"),
        ]
        return {
            "ociVersion": "1.0.2",
            "root": {"path": str(root), "readonly": True},
            "hostname": "pod",
            "mounts": mounts,
            "process": {
                "args": args,
                "cwd": "/",
                "env": [
                    "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                    "HOME=/scratch",
                    "ARKWRIGHT_ROOT=/scratch/store",
                    *env,
                ],
                "user": {"uid": uid, "gid": uid},
                "noNewPrivileges": True,
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), caps),
            },
            "linux": {
                "namespaces": [{"type": name} for name in ("pid", "ipc", "uts", "mount", "network")],
                "resources": {"devices": _DEVICES},
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
                "seccomp": limits.fallback_profile() if seccomp is None else seccomp,
            },
        }


def _bind(source: str, destination: str, access: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": source, "options": ["rbind", access]}
