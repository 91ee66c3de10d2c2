"""Steps under an OCI runtime: crun, else runc.

A runtime is tried with a trivial step before its first use, once in a worker; the first that works
is kept. Bundles, state and secrets live in the worker's private memory file system. Control groups
are left alone (crun's manager is off; runc finds the tree read-only), so nothing of a step is
left when its processes die, and those die with the worker.

Steps of the network `default` get one of their own, see `sandbox.connected`.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, Cancelled, HostUnsupported
from arkwright.diagnostics.wire import ready
from arkwright.linux import limits
from arkwright.linux.init import init_died
from arkwright.linux.jail import Jail
from arkwright.linux.worker import Child, Worker
from arkwright.sandbox.aftermath import made_removable
from arkwright.sandbox.connected import Networks
from arkwright.sandbox.filters import Filters
from arkwright.sandbox.limited import Limited, limited
from arkwright.sandbox.pump import OutputPipes
from arkwright.sandbox.spec import Bind, Output, StepSpec, StepStatus
from arkwright.sandbox.status import status_of
from arkwright.sandbox.step import prepared

RUNTIMES = ("crun", "runc")
KEEPS_HOSTNAME = "this host refuses to set host names: steps have the builder's"

_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_GLOBAL_FLAGS = {"crun": ("--cgroup-manager=disabled",), "runc": ("--rootless=true",)}
_FIX = "install crun or runc with the package manager of this host"
_SECCOMP_PROGRAM = "run.oci.seccomp_bpf_data"  # crun(1)
_KILL_ATTEMPTS = 40
_KILL_PAUSE_S = 0.05
# What crun and runc say when the command itself cannot be run, as against the container.
_NOT_EXECUTED = re.compile(r"executable file|open executable|exec container process|exec: \"|exec /")
_NOT_FOUND = re.compile(r"not found|no such file", re.IGNORECASE)


class _LogLine(msgspec.Struct):
    level: str = ""
    msg: str = ""


ready(_LogLine)


class _Runtime(msgspec.Struct, frozen=True):
    name: str
    path: str


class RuntimeSandbox:
    """A `sandbox.spec.Sandbox`. `runtimes` are tried in order; `notice` gets sentences for the
    user about what is other than asked for, each once."""

    def __init__(
        self,
        worker: Worker,
        *,
        runtimes: Sequence[str] = RUNTIMES,
        notice: Callable[[str], None] = lambda text: None,
        filters: Filters | None = None,
    ) -> None:
        self._worker = worker
        self._filters = filters or Filters()
        self._candidates = tuple(runtimes)
        self._notice = notice
        self._noticed: set[str] = set()
        self._networks = Networks(worker, self._notify)
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._chosen: _Runtime | None = None
        self._version = ""
        self._hostname = ""  # what steps have instead of theirs

    @property
    def tier(self) -> str:
        """The runtime's name, with `+userns` when steps run in a user namespace.

        Chooses the runtime if no step has yet: raises as `run` does.
        """
        return self._ready().name + ("+userns" if self._worker.rootless else "")

    @property
    def version(self) -> str:
        """What the runtime says of its version, such as `1.8.1`; raises as `run` does."""
        runtime = self._ready()
        with self._lock:
            if not self._version:
                self._version = self._ask_version(runtime)
            return self._version

    def _ask_version(self, runtime: _Runtime) -> str:
        said = bytearray()
        with OutputPipes() as pipes:
            child = self._worker.spawn([runtime.path, "--version"], env={}, fds=pipes.writers)
            pipes.close_writers()
            pipes.pump(lambda _, data: said.extend(data), lambda: False)
            child.wait()
        return said.decode(errors="replace").partition("\n")[0].rpartition(" ")[2]

    def run(
        self,
        spec: StepSpec,
        root: str,
        output: Output,
        *,
        cancelled: threading.Event | None = None,
        stdio: Sequence[int] | None = None,
    ) -> StepStatus:
        """See `Sandbox.run`. Raises `HostUnsupported` (`no-runtime`, `runtime-failed`,
        `unmapped-id`), what `step.prepared` raises, and `Cancelled`."""
        if spec.network == "default":
            self._networks.prepare()
        runtime = self._ready()
        return self._run(runtime, spec, root, output, cancelled, stdio)

    def _notify(self, text: str) -> None:
        with self._lock:
            if text in self._noticed:
                return
            self._noticed.add(text)
        self._notice(text)

    # --- Choosing ----------------------------------------------------------------------------

    def _ready(self) -> _Runtime:
        """The runtime to use, tried before."""
        with self._lock:
            if self._chosen is None:
                self._chosen = self._choose()
            return self._chosen

    def _choose(self) -> _Runtime:
        refusals = []
        for name in self._candidates:
            path = shutil.which(name, path=os.environ.get("PATH")) or shutil.which(name, path=_SEARCH_PATH)
            if path is None:
                refusals.append(f"{name} is not installed")
                continue
            runtime = _Runtime(name, path)
            try:
                self._try_out(runtime)
            except (ArkwrightError, OSError) as error:
                if isinstance(error, Cancelled) or not self._worker.alive:
                    raise
                refusals.append(f"{path} does not work here: {error}")
                continue
            for refusal in refusals:
                if refusal not in self._noticed:
                    self._noticed.add(refusal)
                    self._notice(f"{refusal}; using {path}")
            return runtime
        raise HostUnsupported.of(
            "no-runtime",
            "no OCI runtime works on this host",
            notes=tuple(refusals),
            hint=_FIX,
            details={"probe": {"runtimes": refusals}, "fix": _FIX},
        )

    def _try_out(self, runtime: _Runtime) -> None:
        """Filters of containers may refuse sethostname(2) even in a namespace of their own."""
        try:
            self._try(runtime)
        except HostUnsupported as error:
            if "sethostname" not in str(error):
                raise
            self._hostname = os.uname().nodename
            self._try(runtime)
            self._noticed.add(KEEPS_HOSTNAME)
            self._notice(KEEPS_HOSTNAME)

    def _try(self, runtime: _Runtime) -> None:
        """Run `true` of the host in a root that shows the host's programs."""
        said = bytearray()
        with self._directory("try") as path:
            root_path = os.path.join(path, "root")
            os.mkdir(root_path)
            spec = StepSpec(
                args=(shutil.which("true", path=_SEARCH_PATH) or "/bin/true",),
                mounts=tuple(_host_programs(root_path)),
                network="host",
            )
            status = self._run(runtime, spec, root_path, lambda _, data: said.extend(data), None, None)
        if status.status != 0:
            raise HostUnsupported.of("runtime-failed", said.decode(errors="replace").strip() or "no output")

    @contextlib.contextmanager
    def _directory(self, kind: str) -> Iterator[str]:
        path = os.path.join(self._worker.runtime_path, f"{kind}-{next(self._numbers)}")
        os.mkdir(path, 0o700)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    # --- Running -----------------------------------------------------------------------------

    def _run(
        self,
        runtime: _Runtime,
        spec: StepSpec,
        root: str,
        output: Output,
        cancelled: threading.Event | None,
        stdio: Sequence[int] | None,
    ) -> StepStatus:
        def stopped() -> bool:
            return self._worker.cancelled.is_set() or (cancelled is not None and cancelled.is_set())

        spec = msgspec.structs.replace(spec, hostname=self._hostname or spec.hostname)
        with (
            made_removable(spec, root, self._worker),
            self._directory("step") as step_path,
            limited(spec, self._worker, self._notify) as within,
            self._networks.network(spec) as net,
        ):
            annotations = self._annotations(runtime, spec)
            with prepared(within.spec, root, self._worker, step_path, net, annotations) as bundle_path:
                name = os.path.basename(step_path)
                container = _Container(self._worker, runtime, bundle_path, name, within)
                code = container.run(output, stopped, stdio)
                failure = container.failure() if code else ""
            oom = within.oom()
        if failure:
            return StepStatus(status=_refused(failure, runtime), tier=self._tier_of(runtime))
        return status_of(code, self._tier_of(runtime), oom=oom)

    def _annotations(self, runtime: _Runtime, spec: StepSpec) -> dict[str, str]:
        """What crun takes besides the specification: the filter of system calls as the kernel wants it, which
        it would compile anew for every step. A crun that does not know it goes by the profile."""
        if runtime.name != "crun" or spec.security == "insecure":
            return {}
        with contextlib.suppress(OSError):
            if program := self._filters.of(tuple(limits.capabilities(every=False))):
                return {_SECCOMP_PROGRAM: base64.b64encode(program).decode()}
        return {}

    def _tier_of(self, runtime: _Runtime) -> str:
        return runtime.name + ("+userns" if self._worker.rootless else "")


class _Container:
    """One step, from the runtime's start to its end."""

    def __init__(
        self, worker: Worker, runtime: _Runtime, bundle_path: str, name: str, within: Limited
    ) -> None:
        self._worker = worker
        self._within = within
        self._name = name
        self._bundle_path = bundle_path
        self._log_path = os.path.join(os.path.dirname(bundle_path), "log")
        self._state_path = os.path.join(worker.runtime_path, "state")
        self._argv = [
            runtime.path,
            *_GLOBAL_FLAGS.get(runtime.name, ()),
            f"--root={self._state_path}",
            f"--log={self._log_path}",
            "--log-format=json",
        ]

    def run(self, output: Output, stopped: Callable[[], bool], stdio: Sequence[int] | None) -> int:
        """The runtime's exit status, negative for a signal. Nothing of the step is left after."""
        with OutputPipes() as pipes:
            fds = dict(enumerate(stdio)) if stdio is not None else pipes.writers
            jail = self._within.jail(Jail(keeper=False)) if self._within.any else None
            command = ["run", f"--bundle={self._bundle_path}", self._name]
            child = self._spawn(command, {**fds, **self._within.fds}, jail)
            pipes.close_writers()
            try:
                # A runtime that was killed leaves its container, which holds the pipes.
                pipes.pump(output, lambda: stopped() or child.was_killed())
                if not self._ended(child, stopped):
                    raise Cancelled.of("cancelled", "the step was stopped")
            except BaseException:
                self._end(child)
                raise
        code = child.wait()
        if code < 0:
            self._end(child)
        if not self._worker.alive:
            raise init_died()
        return code

    def _spawn(self, arguments: list[str], fds: dict[int, int], jail: Jail | None = None) -> Child:
        argv = [*self._argv, *arguments]
        return self._worker.spawn(argv, env={"PATH": _SEARCH_PATH}, fds=fds, jail=jail)

    def _ended(self, child: Child, stopped: Callable[[], bool]) -> bool:
        if child.was_killed():
            return True
        while not stopped():
            with contextlib.suppress(TimeoutError):
                child.wait(0.1)
                return True
        return False

    def _end(self, child: Child) -> None:
        """Kill the container and what is left of its runtime.

        A runtime that is just starting may have written no state yet, so this is tried again
        until it has gone.
        """
        for attempt in range(_KILL_ATTEMPTS):
            if attempt == _KILL_ATTEMPTS // 2:
                child.kill()
            self._delete()
            with contextlib.suppress(TimeoutError):
                child.wait(_KILL_PAUSE_S)
                break
        self._delete()

    def _delete(self) -> None:
        with contextlib.suppress(ArkwrightError, OSError), OutputPipes() as pipes:
            child = self._spawn(["delete", "--force", self._name], pipes.writers)
            pipes.close_writers()
            pipes.pump(lambda *_: None, lambda: False)
            child.wait()

    def failure(self) -> str:
        """What the runtime logged as the error that kept the step from running, or nothing."""
        try:
            with open(self._log_path, "rb") as source:
                lines = source.read().splitlines()
        except OSError:
            return ""
        for line in reversed(lines):
            with contextlib.suppress(msgspec.MsgspecError):
                found = msgspec.json.decode(line, type=_LogLine)
                if found.level == "error":
                    return found.msg
        return ""


def _refused(failure: str, runtime: _Runtime) -> int:
    """The status a shell would give for a command that cannot be executed."""
    if _NOT_EXECUTED.search(failure):
        return 127 if _NOT_FOUND.search(failure) else 126
    raise HostUnsupported.of(
        "runtime-failed",
        f"{runtime.path} could not start the step: {failure}",
        hint=_FIX,
        details={"probe": {"runtime": runtime.path, "said": failure}, "fix": _FIX},
    )


def _host_programs(root_path: str) -> Iterator[Bind]:
    """Mounts that show the host's programs and libraries, read-only; links are made anew."""
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "nix", "gnu"):
        path = "/" + name
        if os.path.islink(path):
            os.symlink(os.readlink(path), os.path.join(root_path, name))
        elif os.path.isdir(path):
            yield Bind(source=path, dest=path)
