"""Plays cases against Arkwright: the real program, a copy of a prepared store per case."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from conformance_cases import Again, Case
from conformance_compare import config_differences, layers_above, tree_differences
from conformance_program import Servers
from conformance_read import Result, read_oci_archive
from conformance_site import CaseSite
from conformance_world import World

from building import Builder

TIMEOUT_S = 60
# A changed program may hang: that is found out sooner.
MUTANT_TIMEOUT_S = 15
_ERROR = re.compile(r"^error\[([a-z0-9-]+)\]", re.MULTILINE)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of the program did. `steps` maps names to whether they ran; `text` is what a
    person reads, `printed` what the steps wrote."""

    status: int
    text: str
    printed: str = ""
    out: str = ""
    steps: Mapping[str, bool] = {}
    warnings: Sequence[str] = ()
    digest: str = ""
    archive_path: Path | None = None


class Arkwright:
    """The program as one user, with a store that knows busybox. `isolation`: of the steps, if not the
    strongest. `digests` are the images that the cases gave, in order. `furnish` is called with each case's world
    before it is played."""

    umask = 0o022

    def __init__(self, scratch: Path, identity: str, busybox: Path, isolation: str = "") -> None:
        self.builder = Builder(scratch, identity)
        if isolation:
            self.builder.env["ARKWRIGHT_BUILD_ISOLATION"] = isolation
        self.digests: dict[str, list[str]] = {}
        self.busybox, self.identity = busybox, identity
        self.scratch = scratch / f"cases-{identity}"
        self.scratch.mkdir()
        self.env = {**self.builder.env, "PYTHONDONTWRITEBYTECODE": "1"}
        self.timeout_s = TIMEOUT_S
        self.furnish: Callable[[World], object] = lambda world: None
        self.servers: Servers | None = Servers(self.builder.prefix, self.env)
        self.builder.run("load", "-i", str(busybox))
        self._warm()

    def with_package(self, folder: Path) -> Arkwright:
        """The same, but importing `arkwright` from a folder instead of the installed one."""
        other = copy.copy(self)
        other.env = {**self.env, "PYTHONPATH": str(folder)}
        other.timeout_s = MUTANT_TIMEOUT_S
        other.servers = None
        return other

    def close(self) -> None:
        if self.servers is not None:
            self.servers.close()

    def run(
        self, args: Sequence[str], env: Mapping[str, str], stdin: bytes
    ) -> subprocess.CompletedProcess[bytes]:
        """The program with these arguments and this environment, in the user's home."""
        if self.servers is not None:
            return self.servers.run(
                args, cwd=self.builder.home, env=env, input=stdin, timeout_s=self.timeout_s, umask=self.umask
            )
        return subprocess.run(
            self.builder.command(*args), cwd=self.builder.home, env=env, umask=0o022, timeout=self.timeout_s,
            capture_output=True, check=False, input=stdin,
        )  # fmt: skip

    def _warm(self) -> None:
        """Unpacked base, probed runtime: what no case should wait for."""
        context = self.scratch / "warm"
        context.mkdir()
        (context / "Dockerfile").write_text(
            "FROM busybox\n" if self.identity == "sealed" else 'FROM busybox\nRUN ["true", "prepared"]\n'
        )
        self.builder.run("build", "-o", f"type=oci,dest={self.builder.home}/warm.tar", str(context))
        self.busybox_ids = read_oci_archive(self.builder.home / "warm.tar").diff_ids[:1]

    def differences(self, case: Case, site: CaseSite) -> list[str]:
        """Play a case; every way in which it is not as expected."""
        path = self.scratch / case.id
        path.mkdir()
        try:
            store = path / "store"
            subprocess.run(["cp", "-a", str(self.builder.store), str(store)], check=True)
            world = World(case, path, self.builder.uid, site, self.busybox)
            self.furnish(world)
            (path / "out").mkdir()
            os.chown(path / "out", self.builder.uid, self.builder.uid)
            with world.opened():
                play = Play(self, world, store)
                found = list(play.differences())
                self.digests[case.id] = play.digests
                return found
        finally:
            # A step may have made directories that only rm as root takes away.
            subprocess.run(["rm", "-rf", str(path)], check=True)


class Play:
    """One case being played."""

    def __init__(self, program: Arkwright, world: World, store: Path) -> None:
        self.program, self.world, self.case = program, world, world.case
        self.env = {**program.env, "ARKWRIGHT_ROOT": str(store)}
        self.env |= {key: world.fill(value) for key, value in self.case.env.items()}
        self.archive = world.path / "out" / "result.tar"
        self.base_ids = [program.busybox_ids]
        self.digests: list[str] = []

    def differences(self) -> Iterator[str]:
        for _, path in self.world.bases():
            self._run("load", "-i", str(path), must=True)
            self.base_ids.append(read_oci_archive(path).diff_ids)
        first = self.build(self.case.args)
        case = self.case
        if case.error:
            yield from refused(first, case.error, case.status or 1, case.at)
        elif case.findings is not None:
            yield from self._findings()
        elif first.status != 0:
            yield f"the build failed with status {first.status}:\n{first.text}"
            return
        if not case.error and first.status == 0 and first.archive_path is not None:
            yield from self._result(first)
        yield from _listed("printed", case.printed, first.printed + first.out)
        yield from (f"no warning {code}" for code in case.warnings if code not in first.warnings)
        for number, again in enumerate(case.again, 1):
            yield from (f"again {number}: {line}" for line in self._again(again, first))

    def _result(self, done: Outcome) -> Iterator[str]:
        assert done.archive_path is not None
        result = read_oci_archive(done.archive_path, self.case.platform)
        yield from self._looks(result, self.case.tree, self.case.config)
        yield from config_differences(self.world.config(self.case.image), result.config, "image")
        if self.case.layers is not None:
            found = layers_above(result, self.base_ids)
            if found != self.case.layers:
                yield f"{found} layers above the base, not {self.case.layers}"

    def _looks(self, result: Result, tree: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
        yield from tree_differences(self.world.nodes(tree, "tree", result=True), result.tree)
        yield from config_differences(self.world.config(config), result.config.get("config") or {})

    def _again(self, again: Again, first: Outcome) -> Iterator[str]:
        self.world.change(again.change, again.dockerfile)
        done = self.build(self.case.args if again.args is None else again.args)
        if again.error:
            yield from refused(done, again.error, 1, "")
            return
        if done.status != 0:
            yield f"the build failed with status {done.status}:\n{done.text}"
            return
        for wanted, ran in ((again.cached, False), (again.ran, True)):
            for text in wanted:
                named = {name: value for name, value in done.steps.items() if text in name}
                if not named:
                    yield f"there is no step {text!r} in {sorted(done.steps)}"
                elif any(value != ran for value in named.values()):
                    yield f"{text!r} {'was cached' if ran else 'ran'}"
        if again.same is not None and (done.digest == first.digest) != again.same:
            yield f"the image is {'another' if again.same else 'the same'}: {done.digest}"
        yield from _listed("printed", again.printed, done.printed)
        if done.archive_path is not None and (again.tree or again.config):
            result = read_oci_archive(done.archive_path, self.case.platform)
            yield from self._looks(result, again.tree, again.config)

    def _findings(self) -> Iterator[str]:
        args = [arg for arg in self.case.args if arg != "--check"]
        done = self._run("build", "--call", "check,format=json", *self._arguments(args))
        try:
            report = json.loads(done.out)
        except ValueError:
            yield f"no report, status {done.status}:\n{done.text}"
            return
        found = [f"{one['ruleName']} {_line(one['location'])}" for one in report["warnings"]]
        if sorted(found) != sorted(self.case.findings or ()):
            yield f"findings are {found}, not {list(self.case.findings or ())}"
        if report.get("buildError") and not all(
            one["ruleName"] in {line.split()[0] for line in self.case.findings or ()}
            for one in report["buildError"]["errors"]
        ):
            yield f"the Dockerfile is refused: {report['buildError']['message']}"

    def build(self, args: Sequence[str]) -> Outcome:
        self.archive.unlink(missing_ok=True)
        asks = any(arg == "--check" or arg.startswith("--call") for arg in args)
        output = [] if asks else ["-o", f"type=oci,dest={self.archive}"]
        done = self._run("build", "--progress", "rawjson", *output, *self._arguments(args))
        self.digests.append(done.digest)
        return done

    def _arguments(self, args: Sequence[str]) -> list[str]:
        position = self.world.fill(self.case.positional) or str(self.world.context_path)
        return [*(self.world.fill(arg) for arg in args), position]

    def _run(self, *args: str, must: bool = False) -> Outcome:
        stdin = Path(self.world.fill(self.case.stdin)).read_bytes() if self.case.stdin else b""
        done = self.program.run(args, self.env, stdin)
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        if must and done.returncode != 0:
            raise AssertionError(f"{args[0]} failed: {err}")
        return _outcome(done.returncode, out, err, self.archive if self.archive.exists() else None)


def _outcome(status: int, out: str, err: str, archive: Path | None) -> Outcome:
    import base64

    names: dict[str, str] = {}
    ran: dict[str, bool] = {}
    logs, warnings, text, digest = b"", [], [], ""
    plain = []
    for stream, line in [("out", line) for line in out.splitlines()] + [
        ("", line) for line in err.splitlines()
    ]:
        if not line.startswith('{"event":"'):
            (plain if stream else text).append(line)
            continue
        event = json.loads(line)
        kind, vertex = event["event"], event.get("vertex", "")
        if kind == "declared":
            names[vertex] = event["name"]
            ran[vertex] = False
        elif kind == "started":
            ran[vertex] = True
        elif kind == "log":
            logs += base64.b64decode(event["data"])
        elif kind == "warning":
            warnings.append(event["diagnostic"]["code"])
        elif kind == "exported" and event["kind"] == "oci":
            digest = event["digest"]
    steps: dict[str, bool] = {}
    for vertex, name in names.items():
        steps[name] = steps.get(name, False) or ran[vertex]
    return Outcome(
        status=status, text="\n".join(text), printed=logs.decode(errors="replace"), out="".join(f"{line}\n" for line in plain),
        steps=steps, warnings=warnings, digest=digest, archive_path=archive,
    )  # fmt: skip


def refused(done: Outcome, code: str, status: int, at: str) -> Iterator[str]:
    """How an outcome is not the refusal expected."""
    codes = _ERROR.findall(done.text + "\n" + done.out)
    if done.status == 0:
        yield f"was accepted, error[{code}] is expected"
        return
    if code not in codes:
        yield f"the error is {codes}, not {code}:\n{done.text}"
    elif done.status != status:
        yield f"the exit status is {done.status}, not {status}"
    if at and code in codes:
        places = re.findall(rf"^error\[{code}\][^\n]*\n  [^\n]*?:(\d+:\d+)$", done.text, re.MULTILINE)
        if at not in places:
            yield f"the error is at {places}, not at {at}:\n{done.text}"


def _line(location: Any) -> str:
    """The first line of a finding; - for one that is about the whole build."""
    return str(location["ranges"][0]["start"]["line"]) if location else "-"


def _listed(what: str, wanted: Sequence[str], text: str) -> Iterator[str]:
    yield from (f"not {what}: {item!r} in {text[-2000:]!r}" for item in wanted if item not in text)


def tool_missing(case: Case) -> str:
    """The outside tool that a case needs and this host lacks."""
    return "git" if case.git and not shutil.which("git") else ""
