"""BuildKit inside a Docker daemon of the benchmark's own."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.contestants import environment, run
from benchmarks.measure import Daemon, Work

START_S = 30


class Docker:
    """A warm daemon with its data, socket and networks apart from the machine's. Its CPU time and memory
    count, from a command's start to its end; what it does between commands does not."""

    name = "docker"

    def __init__(self, scratch: Path, busybox: Path) -> None:
        self.scratch = scratch
        self.env = {
            **environment(scratch),
            "DOCKER_HOST": f"unix://{scratch}/docker.sock",
            "DOCKER_BUILDKIT": "1",
            "BUILDKIT_PROGRESS": "plain",
        }
        self.daemon: Daemon | None = Daemon(f"arkwright-bench-{os.getpid()}")
        self.process = self._start(self.daemon)
        try:
            self._wait()
            self._load("busybox", busybox)
        except BaseException:
            self.close()
            raise

    def _start(self, daemon: Daemon) -> subprocess.Popen[bytes]:
        at = self.scratch
        # What the daemon starts and mounts goes with it; no bridge, no firewall rule of the host's.
        apart = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]
        groups = ["--cgroup-parent", f"{daemon.parent_group}/steps"] if daemon.parent_group else []
        with (at / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    # Waits until it is counted.
                    "sh", "-c", 'read -r _; exec "$@"', "sh", *apart,
                    "dockerd", "--host", f"unix://{at}/docker.sock", "--data-root", f"{at}/data",
                    "--exec-root", f"{at}/exec", "--pidfile", f"{at}/pid", "--bridge=none", "--iptables=false",
                    "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
                    "--storage-driver", "overlay2", *groups,
                ],
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=self.env,
            )  # fmt: skip
        assert process.stdin is not None
        daemon.adopt(process.pid)
        process.stdin.write(b"go\n")
        process.stdin.close()
        return process

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            try:
                server = run(["docker", "version", "--format", "{{.Server.Version}}"], self.env)
                self.version = f"BuildKit in Docker {server}"
                return
            except RuntimeError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    lines = (self.scratch / "log").read_text(errors="replace").splitlines()
                    raise RuntimeError(f"dockerd did not start: {lines[-1] if lines else ''}") from None
                time.sleep(0.1)

    def _load(self, name: str, archive: Path) -> None:
        """Docker of this age reads its own archives only; skopeo writes one."""
        target = self.scratch / "load.tar"
        target.unlink(missing_ok=True)
        whole = name if ":" in name else f"{name}:latest"
        run(["skopeo", "copy", "-q", f"oci-archive:{archive}", f"docker-archive:{target}:{whole}"], self.env)
        run(["docker", "load", "-q", "-i", str(target)], self.env)
        target.unlink()

    def fresh(self, bases: Mapping[str, Path]) -> None:
        run(["docker", "builder", "prune", "--all", "--force"], self.env)
        run(["docker", "image", "prune", "--all", "--force"], self.env)
        for name, archive in bases.items():
            self._load(name, archive)

    def prune(self) -> None:
        run(["docker", "image", "prune", "--force"], self.env)

    def build(self, context: Path, tag: str, args: Sequence[str] = (), stages: int = 1) -> list[str]:
        return ["docker", "build", "--network=host", "-t", tag, *args, str(context)]

    def export(self, context: Path, tag: str, archive: Path, codec: str) -> Work | None:
        return None  # BuildKit inside Docker 20.10 writes no archives

    def push(self, tag: str, name: str) -> Work:
        return Work([["docker", "tag", tag, name], ["docker", "push", "-q", name]])

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.daemon is not None:
            self.daemon.close()
