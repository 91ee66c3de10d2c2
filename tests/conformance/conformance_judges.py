"""Other builders that play the same cases: what each cannot know, how it is asked, what it made.

A judge's result is read as ours is, from an archive. Compared are trees, configs, what steps
printed, and whether a build is refused; not error codes, numbers of layers and caching, which every
builder has its own of.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
from conformance_cases import Case
from conformance_compare import config_differences, tree_differences
from conformance_read import Result, read_docker_archive, read_oci_archive
from conformance_site import CaseSite
from conformance_unknown import unknown_syntax
from conformance_world import World

TIMEOUT_S = 120
_PASSED = (
    "--build-arg", "--target", "--secret", "--ssh", "--no-cache", "--label", "--add-host", "--shm-size",
    "--ulimit", "--platform", "-f", "--file", "--network",
)  # fmt: skip
_IMAGE_KEYS = ("architecture", "os", "variant")


class Verdict(msgspec.Struct, frozen=True):
    """`kind` is agrees, differs or not-applicable; `lines` say how or why."""

    kind: str
    lines: tuple[str, ...] = ()


class Judge(Protocol):
    """A builder that may be asked about a case."""

    name: str
    version: str

    def verdict(self, case: Case, site: CaseSite) -> Verdict:
        """Play a case."""


class Made(msgspec.Struct, frozen=True):
    """What a judge did: its exit status, what it wrote, and its result."""

    status: int
    text: str
    result: Result | None = None


def inapplicable(case: Case, passed: Sequence[str] = _PASSED) -> str:
    """Why no outside judge can be asked about a case; empty if it can."""
    if case.findings is not None or (case.warnings and not (case.tree or case.config)):
        return "checks and warnings are Arkwright's own"
    if case.positional or case.stdin or case.env:
        return "its context is given in another way"
    unknown = [arg for arg in case.args if arg.startswith("-") and arg.split("=")[0] not in passed]
    if unknown:
        return f"no such argument: {' '.join(unknown)}"
    if any("," in arg and "/" in arg for arg in case.args if "platform" in arg):
        return "several platforms"
    if any(text.startswith(("run --failed-step",)) for text in case.printed):
        return "what Arkwright says"
    return ""


def compared(world: World, made: Made) -> Iterator[str]:
    """How a judge's first build differs from what a case expects."""
    case = world.case
    if case.error:
        if made.status == 0:
            yield f"accepted; error[{case.error}] is expected"
        return
    if made.status != 0 or made.result is None:
        last = [line for line in made.text.splitlines() if line.strip()][-3:]
        yield f"refused: {' / '.join(last)}"
        return
    yield from _looks(world, made.result, case.tree, case.config)
    image = {key: value for key, value in case.image.items() if key in _IMAGE_KEYS}
    yield from config_differences(world.config(image), made.result.config, "image")
    yield from (f"not printed: {text!r}" for text in case.printed if world.fill(text) not in made.text)


def _looks(world: World, result: Result, tree: dict[str, Any], config: dict[str, Any]) -> Iterator[str]:
    nodes = {
        path: msgspec.structs.replace(node, mtime_s=-1)
        for path, node in world.nodes(tree, "tree", result=True).items()
    }
    yield from tree_differences(nodes, result.tree)
    yield from config_differences(world.config(config), result.config.get("config") or {})


class Builds:
    """What the judges have in common: a case's world, its builds, their differences."""

    name = ""
    version = ""

    def __init__(self, scratch: Path, busybox: Path) -> None:
        self.scratch, self.busybox = scratch / self.name, busybox
        self.scratch.mkdir()

    def verdict(self, case: Case, site: CaseSite) -> Verdict:
        why = inapplicable(case) or unknown_syntax(self.name, case, self.version)
        if why:
            return Verdict("not-applicable", (why,))
        path = self.scratch / case.id
        path.mkdir()
        try:
            with World(case, path, 0, site, self.busybox).opened() as world:
                try:
                    self.prepare(world)
                except (subprocess.CalledProcessError, RuntimeError):
                    return Verdict("not-applicable", ("it cannot be given the base image",))
                lines = tuple(self._lines(world))
        except subprocess.TimeoutExpired:
            lines = (f"did not end within {TIMEOUT_S} s",)
        finally:
            subprocess.run(["rm", "-rf", str(path)], check=True)
        return Verdict("differs", lines) if lines else Verdict("agrees")

    def _lines(self, world: World) -> Iterator[str]:
        first = list(compared(world, self.build(world, self.first_args(world.case))))
        yield from first
        if first:
            return
        for number, again in enumerate(world.case.again, 1):
            world.change(again.change, again.dockerfile)
            made = self.build(world, world.case.args if again.args is None else again.args)
            if again.error:
                if made.status == 0:
                    yield f"again {number}: accepted; error[{again.error}] is expected"
                return
            if made.result is None:
                yield f"again {number}: refused: {made.text[-300:]}"
                return
            found = _looks(world, made.result, again.tree, again.config)
            yield from (f"again {number}: {line}" for line in found)

    def first_args(self, case: Case) -> Sequence[str]:
        """The arguments of the first build."""
        return case.args

    def prepare(self, world: World) -> None:
        raise NotImplementedError

    def build(self, world: World, args: Sequence[str]) -> Made:
        raise NotImplementedError


def _output(command: Sequence[str], **more: Any) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False, **more).stdout.strip()


def _run(command: Sequence[str], world: World, env: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        command, cwd=world.path, env=env, umask=0o022, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.decode(errors="replace")


class Buildah(Builds):
    """Buildah, as root, with a storage of its own per case, in its docker format (which keeps SHELL,
    ONBUILD and HEALTHCHECK)."""

    name = "buildah"

    def __init__(self, scratch: Path, busybox: Path) -> None:
        super().__init__(scratch, busybox)
        self.version = _output(["buildah", "--version"]).split()[2]
        self.env = {"PATH": os.environ["PATH"], "HOME": str(self.scratch), "TMPDIR": str(self.scratch)}
        registries = self.scratch / "registries.conf"
        registries.write_text('unqualified-search-registries = ["docker.io"]\n')
        self.env["CONTAINERS_REGISTRIES_CONF"] = str(registries)
        self.prepared = self.scratch / "prepared"
        self._load(self.prepared, "docker.io/library/busybox:latest", busybox)
        self.isolation = self._isolation()

    def _command(self, storage: Path, *args: str) -> list[str]:
        place = ["--root", str(storage), "--runroot", f"{storage}.run", "--storage-driver", "overlay"]
        # What a failed build leaves mounted goes with its mount namespace.
        return ["unshare", "--mount", "--propagation", "private", "buildah", *place, *args]

    def _load(self, storage: Path, name: str, archive: Path) -> None:
        def ask(*args: str) -> str:
            done = subprocess.run(
                self._command(storage, *args), env=self.env, capture_output=True, text=True, check=True
            )
            return done.stdout.strip()

        ask("tag", ask("pull", "-q", f"oci-archive:{archive}"), name)

    def _isolation(self) -> list[str]:
        """An OCI runtime if one works here (crun has no part in hybrid cgroups), else chroot."""
        context = self.scratch / "probe"
        context.mkdir()
        (context / "Dockerfile").write_text("FROM busybox\nRUN true\n")
        for runtime in ("crun", "runc"):
            found = ["--isolation", "oci", "--runtime", runtime]
            command = self._command(
                self.prepared, "build", *found, "--pull-never", "--no-cache", str(context)
            )
            if subprocess.run(command, env=self.env, capture_output=True, check=False).returncode == 0:
                self._forget_probe()
                return found
        return ["--isolation", "chroot"]

    def _forget_probe(self) -> None:
        command = self._command(self.prepared, "rmi", "--prune", "--force")
        subprocess.run(command, env=self.env, capture_output=True, check=False)

    def prepare(self, world: World) -> None:
        storage = world.path / "storage"
        subprocess.run(["cp", "-a", str(self.prepared), str(storage)], check=True)
        for name, archive in world.bases():
            whole = name if ":" in name else f"{name}:latest"
            if "." not in whole.split("/")[0]:
                whole = f"docker.io/{whole if '/' in whole else 'library/' + whole}"
            self._load(storage, whole, archive)

    def build(self, world: World, args: Sequence[str]) -> Made:
        storage = world.path / "storage"
        command = [
            *self._command(storage, "build", *self.isolation), "--layers", "--pull-never", "--format", "docker",
            "--tls-verify=false", "--identity-label=false", "-t", "result", *(world.fill(arg) for arg in args),
        ]  # fmt: skip
        path = world.context_path / "Dockerfile"
        named = any(arg.split("=")[0] in ("-f", "--file") for arg in args)
        command += [] if named or not path.exists() else ["-f", str(path)]
        status, text = _run([*command, str(world.context_path)], world, self.env)
        if status != 0:
            return Made(status, text)
        archive = world.path / "result.tar"
        archive.unlink(missing_ok=True)
        status, said = _run(
            self._command(storage, "push", "result", f"docker-archive:{archive}:result"), world, self.env
        )
        return Made(status, text, read_docker_archive(archive)) if status == 0 else Made(status, text + said)


def find_judges(names: Sequence[str], scratch: Path, busybox: Path) -> tuple[list[Builds], list[str]]:
    """The judges that are here, and what is said of those that are not."""
    from conformance_docker import Docker

    found: list[Builds] = []
    missing = []
    for name, made, program in (("buildah", Buildah, "buildah"), ("docker", Docker, "dockerd")):
        if name not in names:
            continue
        if not shutil.which(program):
            missing.append(f"{name}: not on this machine, skipped")
            continue
        try:
            found.append(made(scratch, busybox))
        except (OSError, subprocess.SubprocessError, RuntimeError) as error:
            missing.append(f"{name}: does not work here, skipped: {error}")
    return found, missing


__all__ = ["Buildah", "Builds", "Judge", "Made", "Verdict", "find_judges", "read_oci_archive"]
