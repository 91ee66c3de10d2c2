"""The judge `docker`: a Docker daemon of the suite's own, whose builds go through BuildKit."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from conformance_cases import Case
from conformance_judges import Builds, Made, _run
from conformance_read import Result, read_docker_archive
from conformance_world import World

START_S = 30


class Docker(Builds):
    """A daemon with its data, socket and networks apart from the machine's; ended by `close`."""

    name = "docker"

    def __init__(self, scratch: Path, busybox: Path) -> None:
        super().__init__(scratch, busybox)
        self.socket = self.scratch / "docker.sock"
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.scratch),
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_BUILDKIT": "1",
            "BUILDKIT_PROGRESS": "plain",
        }
        self.lock = threading.Lock()
        self._start()
        try:
            self._load("busybox:latest", busybox)
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        # No bridge and no firewall rules of the host's are touched.
        # What the daemon starts and mounts goes with it, also when it crashes.
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
        (self.scratch / "pid").unlink(missing_ok=True)
        log = (self.scratch / "log").open("ab")
        self.daemon = subprocess.Popen(
            [
                *apart, "dockerd", "--host", f"unix://{self.socket}",
                "--data-root", str(self.scratch / "data"), "--exec-root", str(self.scratch / "exec"),
                "--pidfile", str(self.scratch / "pid"), "--bridge=none", "--iptables=false",
                "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--storage-driver", "overlay2",
            ],
            stdout=log, stderr=log, env=self.env,
        )  # fmt: skip
        log.close()
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _revived(self) -> bool:
        """Whether the daemon had died, as 20.10 does of some cases; it is started anew."""
        with self.lock:
            if self._docker("version", "--format", "{{.Server.Version}}").returncode == 0:
                return False
            self.daemon.wait(20)
            self._start()
            return True

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        while self._docker("version", "--format", "{{.Server.Version}}").returncode != 0:
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                lines = (self.scratch / "log").read_text(errors="replace").splitlines()
                raise RuntimeError(f"dockerd did not start: {lines[-1] if lines else ''}")
            time.sleep(0.1)
        self.version = self._docker("version", "--format", "{{.Server.Version}}").stdout.strip()

    def _docker(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["docker", *args], env=self.env, capture_output=True, text=True, check=False)

    def _load(self, name: str, archive: Path) -> None:
        """Docker of this age reads its own archives only; skopeo writes one."""
        target = self.scratch / "load.tar"
        target.unlink(missing_ok=True)
        whole = name if ":" in name else f"{name}:latest"
        copy = ["skopeo", "copy", "-q", f"oci-archive:{archive}", f"docker-archive:{target}:{whole}"]
        subprocess.run(copy, check=True, capture_output=True)
        loaded = self._docker("load", "-q", "-i", str(target))
        if loaded.returncode != 0:
            raise RuntimeError(f"docker load: {loaded.stderr.strip()}")

    def close(self) -> None:
        self.daemon.terminate()
        try:
            self.daemon.wait(20)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            self.daemon.wait()

    def first_args(self, case: Case) -> Sequence[str]:
        """All cases share the daemon's cache."""
        return case.args if "--no-cache" in case.args else ("--no-cache", *case.args)

    def prepare(self, world: World) -> None:
        for name, archive in world.bases():
            self._load(name, archive)

    def build(self, world: World, args: Sequence[str]) -> Made:
        filled, name = [world.fill(arg) for arg in args], world.case.id
        command = ["docker", "build", "--network=host", "-t", name, *filled, str(world.context_path)]
        status, text = _run(command, world, self.env)
        if status != 0 and self._revived():
            status, text = _run(command, world, self.env)
            if status != 0 and self._revived():
                raise RuntimeError("the daemon crashed, twice")
        if status != 0:
            return Made(status, text)
        archive = world.path / "result.tar"
        archive.unlink(missing_ok=True)
        saved = self._docker("save", "-o", str(archive), name)
        if "empty export" in saved.stderr:
            # An image without layers cannot be saved.
            config = json.loads(self._docker("image", "inspect", name).stdout)[0]
            names = {"architecture": config["Architecture"], "os": config["Os"]}
            return Made(0, text, Result(config={**names, "config": config["Config"]}, tree={}))
        if saved.returncode != 0:
            return Made(saved.returncode, text + saved.stderr)
        return Made(0, text, read_docker_archive(archive))
