"""Who is measured: Arkwright, and the builders on this machine. Each has a store of its own, filled from
the same bases; what a builder can do best by its options, it is asked to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from benchmarks.measure import Daemon, Work

CODECS = ("gzip", "zstd")


class Contestant(Protocol):
    """A builder. Methods that give Work or None are measured; None means that it cannot."""

    name: str
    version: str
    scratch: Path
    env: dict[str, str]
    daemon: Daemon | None

    def fresh(self, bases: Mapping[str, Path]) -> None:
        """Forget everything, and know these base images (names to OCI archives)."""

    def prune(self) -> None:
        """Drop images without a name."""

    def build(self, context: Path, tag: str, args: Sequence[str] = (), stages: int = 1) -> list[str]:
        """The command that builds into the local store; `stages` may run at once."""

    def export(self, context: Path, tag: str, archive: Path, codec: str) -> Work | None:
        """Build and write an OCI archive with compressed layers."""

    def push(self, tag: str, name: str) -> Work:
        """Send an image to a registry that speaks plain HTTP on loopback."""

    def close(self) -> None:
        """End daemons and mounts."""


def run(command: Sequence[str], env: Mapping[str, str]) -> str:
    """Run something that is not measured. Raises RuntimeError with what it said."""
    done = subprocess.run(command, env=dict(env), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:6])} …: {done.stderr.strip()[-600:]}")
    return done.stdout.strip()


def empty(path: Path) -> None:
    """Make a directory anew."""
    remove(path)
    path.mkdir()


def aside(path: Path) -> None:
    """Make a directory anew and leave what was in it for later: after many files were deleted, ext4 makes
    new ones many times slower for a while."""
    if path.exists():
        path.rename(Path(tempfile.mkdtemp(prefix="old-", dir=path.parent)) / "old")
    path.mkdir()


def remove(path: Path) -> None:
    """Remove a tree, whatever is mounted in it; what a user's subordinate ids own goes in a user
    namespace. Raises RuntimeError."""
    unmount(path)
    delete = ["rm", "-rf", str(path)]
    apart = [] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--map-auto"]
    run([*apart, *delete], environment(path.parent))


def unmount(path: Path) -> None:
    """Take away what is mounted in a tree."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in sorted((m for m in mounts if Path(m).is_relative_to(path)), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False)


def environment(scratch: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(scratch), "TMPDIR": str(scratch)}


class Arkwright:
    """The program under test, as a user runs it: all defaults, reproducible settings among them."""

    name = "arkwright"

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.store = scratch, scratch / "store"
        self.env = {**environment(scratch), "ARKWRIGHT_ROOT": str(self.store)}
        self.daemon: Daemon | None = None
        self.program = str(Path(sys.executable).with_name("arkwright"))
        self.version = run([self.program, "--version"], self.env).split()[-1]

    def fresh(self, bases: Mapping[str, Path]) -> None:
        aside(self.store)
        for archive in bases.values():
            run([self.program, "load", "-i", str(archive)], self.env)

    def prune(self) -> None:
        run([self.program, "prune", "--timeout", "60s"], self.env)

    def build(self, context: Path, tag: str, args: Sequence[str] = (), stages: int = 1) -> list[str]:
        return [self.program, "build", "--progress", "plain", "-t", tag, *args, str(context)]

    def export(self, context: Path, tag: str, archive: Path, codec: str) -> Work | None:
        output = f"type=oci,dest={archive},compression={codec}"
        return Work([[self.program, "build", "--progress", "plain", "-o", output, str(context)]])

    def push(self, tag: str, name: str) -> Work:
        return Work([[self.program, "push", tag, name]])

    def close(self) -> None:
        empty(self.store)


class Buildah:
    """Debian's buildah with its cache on (`--layers`); podman build is the same engine."""

    name = "buildah"

    def __init__(self, scratch: Path, busybox: Path) -> None:
        self.scratch, self.storage = scratch, scratch / "storage"
        self.daemon: Daemon | None = None
        # Podman takes 50 characters at most.
        self.run_path = Path(tempfile.mkdtemp(prefix="awb-"))
        registries = scratch / "registries.conf"
        registries.write_text('unqualified-search-registries = ["docker.io"]\n')
        self.env = {**environment(scratch), "CONTAINERS_REGISTRIES_CONF": str(registries)}
        self.version = run([self.name, "--version"], self.env).split()[2]
        self.isolation: list[str] = []
        try:
            self.fresh({"busybox": busybox})
            self.isolation = self._isolation()
            self.version += f" ({' '.join(arg for arg in self.isolation if not arg.startswith('--'))})"
        except BaseException:
            self.close()
            raise

    def _command(self, *args: str) -> list[str]:
        return [self.name, *self._place(), *args]

    def _place(self) -> list[str]:
        where = ["--root", str(self.storage), "--runroot", str(self.run_path)]
        return [*where, "--storage-driver", "overlay"]

    def _isolation(self) -> list[str]:
        """The fastest isolation that works here; crun has no part in hybrid control groups."""
        probe = self.scratch / "probe"
        probe.mkdir()
        (probe / "Dockerfile").write_text("FROM busybox\nRUN true\n")
        for found in self._isolations():
            self.isolation = found
            try:
                run(self.build(probe, "probe"), self.env)
                return found
            except RuntimeError:
                continue
        raise RuntimeError(f"{self.name} cannot run a step here")

    def _isolations(self) -> list[list[str]]:
        runtimes = [["--isolation", "oci", "--runtime", name] for name in ("crun", "runc")]
        return [*runtimes, ["--isolation", "chroot"]]

    def fresh(self, bases: Mapping[str, Path]) -> None:
        unmount(self.storage)
        aside(self.storage)
        empty(self.run_path)
        for name, archive in bases.items():
            pulled = run(self._command("pull", "-q", f"oci-archive:{archive}"), self.env).splitlines()[-1]
            run(self._command("tag", pulled, f"docker.io/library/{name}"), self.env)

    def prune(self) -> None:
        run(self._command("rmi", "--prune", "--force"), self.env)

    def build(self, context: Path, tag: str, args: Sequence[str] = (), stages: int = 1) -> list[str]:
        fixed = ["--layers", "--pull-never", "--tls-verify=false", "--jobs", str(stages)]
        if any(arg.startswith("--pull") for arg in args):
            fixed.remove("--pull-never")
        return self._command("build", *self.isolation, *fixed, "-t", tag, *args, str(context))

    def export(self, context: Path, tag: str, archive: Path, codec: str) -> Work | None:
        push = self._command("push", "--compression-format", codec, tag, f"oci-archive:{archive}")
        return Work([self.build(context, tag), push])

    def push(self, tag: str, name: str) -> Work:
        return Work([self._command("push", "--tls-verify=false", tag, f"docker://{name}")])

    def close(self) -> None:
        empty(self.storage)
        remove(self.run_path)


class Podman(Buildah):
    """podman build."""

    name = "podman"

    def _command(self, *args: str) -> list[str]:
        runtime = (
            [] if not self.isolation or "chroot" in self.isolation else ["--runtime", self.isolation[-1]]
        )
        return [self.name, *self._place(), *runtime, "--cgroup-manager", "cgroupfs", *args]

    def build(self, context: Path, tag: str, args: Sequence[str] = (), stages: int = 1) -> list[str]:
        pull = any(arg.startswith("--pull") for arg in args)
        fixed = ["--layers", *([] if pull else ["--pull=never"]), "--tls-verify=false", "--jobs", str(stages)]
        return self._command("build", *self.isolation[:2], *fixed, "-t", tag, *args, str(context))

    def prune(self) -> None:
        run(self._command("image", "prune", "--force"), self.env)


def find(
    scratch: Path, busybox: Path, peers: bool, without: Sequence[str] = ()
) -> tuple[list[Contestant], list[str]]:
    """Arkwright and, if asked for, the peers that work here but those named in `without`; and what is said of
    those that do not."""
    from benchmarks.docker import Docker

    def made(name: str) -> Path:
        path = scratch / name
        path.mkdir()
        return path

    found: list[Contestant] = [Arkwright(made("arkwright"))]
    missing: list[str] = []
    for kind, program in ((Docker, "dockerd"), (Buildah, "buildah"), (Podman, "podman")):
        if not peers or kind.name in without:
            continue
        if not shutil.which(program):
            missing.append(f"{kind.name}: no {program} on this machine")
            continue
        try:
            found.append(kind(made(kind.name), busybox))
        except (OSError, RuntimeError) as error:
            missing.append(f"{kind.name}: does not work here: {error}")
    return found, missing
