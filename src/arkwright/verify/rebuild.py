"""A build done again in another world: a process of its own, with a store that knows nothing but the inputs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import msgspec

from arkwright.attest.provenance import BuildFacts
from arkwright.build.contexts import MAIN
from arkwright.build.replay import Observed, observe
from arkwright.build.request import BuildRequest, BuildTarget
from arkwright.build.session import SessionInputs
from arkwright.diagnostics.errors import Denied, UserError
from arkwright.exporters.base import Output
from arkwright.images.fetch import fetch_entry
from arkwright.images.load import load_layout
from arkwright.images.places import Place
from arkwright.oci.descriptor import Descriptor, plain
from arkwright.oci.layout import Layout
from arkwright.store.store import Store
from arkwright.verify.inputs import Inputs
from arkwright.verify.trees import copy_context, kept_times, other_times
from arkwright.verify.variation import Variation, environment

_CHILD = "arkwright.cli.replaying"
_PATIENCE_S = 30.0


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What the other process is told on its standard input, as JSON. Without a request it removes its store.
    `secrets` and `agents` map ids to variables of its environment and to sockets."""

    store_path: str
    result_path: str = ""
    request: BuildRequest | None = None
    bases_path: str = ""
    secrets: dict[str, str] = {}
    agents: dict[str, str] = {}
    tls_verify: bool | None = None
    cpus: int = 0
    progress: str = "none"


class TaskResult(msgspec.Struct, frozen=True, kw_only=True):
    """What it leaves behind. `code` is that of the error that ended it."""

    facts: BuildFacts | None = None
    code: str = ""
    message: str = ""


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """One image of a rebuild: where it is, and what it is."""

    target: str
    layout_path: str
    root: Descriptor


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """What a rebuild gave, in the order of targets and outputs."""

    variation: Variation
    images: tuple[Built, ...]
    facts: BuildFacts


def imported(store: Store, one: Built) -> Descriptor:
    """A rebuilt image among the blobs of a store, where no name keeps it. Raises as `images.fetch.fetch_entry`."""
    return plain(fetch_entry(store, Place(transport="oci", text=one.layout_path, path=one.layout_path)))


class World:
    """The directories of one variation below `work_path`."""

    def __init__(self, inputs: Inputs, variation: Variation, work_path: str, progress: str = "none") -> None:
        self._inputs = inputs
        self.variation = variation
        self._path = os.path.join(work_path, variation.name)
        self._progress = progress
        self._runs = 0

    def build(self, targets: tuple[str, ...] = ()) -> Rebuilt:
        """Build everything that was asked for, or these stages; a second time in the same store.

        Raises `UserError` `rebuild-failed`; `Denied` `input-mismatch` when the web gives something else now.
        """
        if not self._runs:
            self._furnish()
        self._runs += 1
        request, places = self._request(targets)
        result = self._run(request)
        if result.code == "checksum-mismatch":
            raise Denied.of(
                "input-mismatch", f"an input is not the recorded one: {result.message}",
                details={"rule": "input", "evidence": result.message},
            )  # fmt: skip
        if result.facts is None:
            raise UserError.of(
                "rebuild-failed", f"the rebuild failed: error[{result.code or 'internal-error'}]: {result.message}",
                hint="what was recorded does not build (any more); its own message is above",
            )  # fmt: skip
        images = tuple(
            Built(target=target, layout_path=path, root=Layout.open(path).index().manifests[0])
            for target, path in places
        )
        return Rebuilt(variation=self.variation, images=images, facts=result.facts)

    def observed(self) -> Observed:
        """What would be built here from, found out in this process, which must be of the world's user. Raises as
        `build.replay.observe`."""
        self._furnish()
        store_path = self._at("store")
        if self._inputs.bases_path:
            with Store.open(store_path) as store:
                load_layout(store, self._inputs.bases_path)
        return observe(self._request(())[0], SessionInputs(tls_verify=self._inputs.tls_verify), store_path)

    def remove(self) -> None:
        """Delete all of it; files of subordinate ids with the rights of their owner."""
        for path in (self._at("store"), self._path):
            try:
                shutil.rmtree(path)
            except FileNotFoundError:
                continue
            except PermissionError:
                self._child(Task(store_path=path))

    def _at(self, *names: str) -> str:
        return os.path.join(self._path, *names)

    def _furnish(self) -> None:
        """The directories, and copies of the contexts."""
        os.makedirs(self._path, mode=0o755)
        # Contexts may be private.
        os.chmod(self._path, 0o700)
        self._own(self._path)
        for name in ("store", "home", "out"):
            os.mkdir(self._at(name), 0o700)
            self._own(self._at(name))
        os.mkdir(self._at("in"), 0o755)
        self._write("Dockerfile", self._inputs.dockerfile)
        if self._inputs.lock:
            self._write("arkwright.lock", self._inputs.lock.decode())
        times = other_times if self.variation.moved_times else kept_times
        for number, (name, context) in enumerate(self._inputs.contexts.items()):
            target = self._at("in", f"context-{number}")
            copy_context(context.path, target, context.ignore_lines, self.variation.uid, times)
            if name == MAIN:
                # Nothing is left to ignore, and a file of that name in the context must not do it again.
                self._write("Dockerfile.dockerignore", "")
        self._own(self._at("in"))

    def _write(self, name: str, text: str) -> None:
        with open(self._at("in", name), "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(self._at("in", name), 0o644)

    def _own(self, path: str) -> None:
        if os.geteuid() == 0:
            os.chown(path, self.variation.uid, self.variation.uid)

    def _request(self, targets: tuple[str, ...]) -> tuple[BuildRequest, list[tuple[str, str]]]:
        """The request here, and where its images go: by target."""
        inputs, places = self._inputs, list[tuple[str, str]]()
        named = dict(inputs.request.named_contexts)
        context = inputs.request.context or self._at("in", "empty")
        for number, name in enumerate(inputs.contexts):
            path = self._at("in", f"context-{number}")
            if name == MAIN:
                context = path
            else:
                named[name] = path
        if context == self._at("in", "empty") and not os.path.isdir(context):
            os.mkdir(context, 0o755)

        def output(target: str, attrs: dict[str, str]) -> Output:
            path = self._at("out", f"{self._runs}-{len(places)}")
            places.append((target, path))
            return Output(type="oci", dest=path, attrs={**attrs, "tar": "false"})

        shaping = inputs.request.outputs or (Output(type="image"),)
        if targets:
            parts = tuple(BuildTarget(target=one, outputs=(output(one, {}),)) for one in targets)
        else:
            parts = tuple(
                BuildTarget(
                    target=part.target,
                    outputs=tuple(output(part.target, one.attrs) for one in part.outputs or shaping),
                )
                for part in inputs.request.parts()
            )
        request = msgspec.structs.replace(
            inputs.request, context=context, named_contexts=named,
            dockerfile=inputs.dockerfile_path or self._at("in", "Dockerfile"),
            jobs=self.variation.jobs, provenance="max",
            lock="use" if inputs.lock else "ignore", lock_file=self._at("in", "arkwright.lock") if inputs.lock else "",
            target=parts[0].target, outputs=parts[0].outputs, targets=parts if len(parts) > 1 else (),
        )  # fmt: skip
        return request, places

    def _run(self, request: BuildRequest) -> TaskResult:
        inputs = self._inputs
        variables = {name: f"ARKWRIGHT_GIVEN_{number}" for number, name in enumerate(inputs.secrets)}
        result_path = self._at("out", f"result-{self._runs}.json")
        task = Task(
            store_path=self._at("store"), result_path=result_path, request=request,
            bases_path=inputs.bases_path if self._runs == 1 else "", secrets=variables, agents=inputs.agents,
            tls_verify=inputs.tls_verify, cpus=self.variation.cpus, progress=self._progress,
        )  # fmt: skip
        self._child(task, {variables[name]: value for name, value in inputs.secrets.items()})
        try:
            with open(result_path, "rb") as file:
                return msgspec.json.decode(file.read(), type=TaskResult)
        except (OSError, msgspec.MsgspecError) as error:
            return TaskResult(message=f"its process ended without a result: {error}")

    def _child(self, task: Task, env: dict[str, str] | None = None) -> None:
        uid = self.variation.uid
        identity = {"user": uid, "group": _group(uid), "extra_groups": []} if uid != os.geteuid() else {}
        process = subprocess.Popen(  # type: ignore[call-overload]
            [sys.executable, "-m", _CHILD],
            stdin=subprocess.PIPE,
            env={**environment(self.variation, self._at("home")), **(env or {})},
            cwd=self._at("home"),
            umask=self.variation.umask,
            **identity,
        )
        try:
            process.communicate(msgspec.json.encode(task))
        except BaseException:
            # It ends its steps and leaves no mount behind, if it is let.
            process.terminate()
            try:
                process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise


def _group(uid: int) -> int:
    import pwd

    return pwd.getpwuid(uid).pw_gid
