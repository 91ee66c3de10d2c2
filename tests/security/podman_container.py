"""The builder in a container that the real podman starts, with podman's own capabilities, filter and masks."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).parents[2]
_SHOWN = ("bin", "sbin", "lib", "lib32", "lib64", "usr", "etc")
_PLACES = ("proc", "sys", "dev", "tmp", "run", "scratch", "work")


class Podman:
    """`podman run` of the host's programs, all read-only, over one scratch directory, at `/scratch`."""

    def __init__(self, path: Path) -> None:
        for tool in ("podman", "runc"):
            if shutil.which(tool) is None:
                pytest.skip(f"needs-{tool}: a container of podman's")
        if os.geteuid() != 0:
            pytest.skip("needs-root: podman with a network and control groups of the host's")
        self._path = path
        self.scratch = path / "scratch"
        self.scratch.mkdir(mode=0o755)
        self._root = path / "root"
        for name in (*_PLACES, *_SHOWN):
            (self._root / name).mkdir(parents=True)
        done = self.run("true")
        if done.returncode != 0:
            pytest.skip(f"needs-podman-run: podman starts no container here: {done.stderr.strip()[-200:]}")

    def run(self, *args: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run a command; `options` are podman's."""
        shown = [f"/{name}" for name in _SHOWN if os.path.isdir(f"/{name}")]
        shown += [str(_REPOSITORY), sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib")]
        kept = [path for path in dict.fromkeys(shown) if not path.startswith("/usr/")]
        volumes = [f"--volume={path}:{path}:ro" for path in kept]
        # podman's defaults are above the limits of hosts without CAP_SYS_RESOURCE.
        limits = [
            f"--ulimit={name}={min(4096, ceiling) if ceiling >= 0 else 4096}"
            for name, kind in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC))
            for ceiling in (resource.getrlimit(kind)[1],)
        ]
        command = [
            "podman", f"--root={self._path}/graph", f"--runroot={self._path}/run", "--storage-driver=vfs",
            "--cgroup-manager=cgroupfs", "--runtime=runc", "run", "--rm", "--network=host", "--log-driver=none",
            "--env=HOME=/scratch", "--env=ARKWRIGHT_ROOT=/scratch/store", "--env=ARKWRIGHT_GC=off",
            *limits, *volumes, f"--volume={self.scratch}:/scratch", *options, "--rootfs", str(self._root), *args,
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def arkwright(self, *args: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run the builder with a store in the scratch directory."""
        return self.run(sys.executable, "-m", "arkwright", *args, options=options)
