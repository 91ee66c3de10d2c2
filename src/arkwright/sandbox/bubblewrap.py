"""Steps in namespaces that bubblewrap makes, where there is no OCI runtime.

bwrap(1) cannot change to a user of the root's passwd, and it takes the gain of privileges away from
everything below it. So it only makes the namespaces and mounts, and waits; the step joins them
(see `linux.jail`) with the capabilities, filter and user that a runtime would have given it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import shutil
import signal
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, Cancelled, HostUnsupported
from arkwright.diagnostics.wire import ready
from arkwright.layer.rooted import Root
from arkwright.linux.jail import Jail
from arkwright.linux.worker import Child, Worker
from arkwright.sandbox.aftermath import made_removable
from arkwright.sandbox.bundle import BundleMount
from arkwright.sandbox.connected import Networks
from arkwright.sandbox.filters import Filters
from arkwright.sandbox.jailed import JailedStep, confined, environment_map, run_jailed
from arkwright.sandbox.limited import limited
from arkwright.sandbox.network import Network
from arkwright.sandbox.runtime import KEEPS_HOSTNAME
from arkwright.sandbox.spec import DEFAULT_HOSTNAME, Output, StepSpec, StepStatus
from arkwright.sandbox.status import status_of
from arkwright.sandbox.step import confinement, planned
from arkwright.sandbox.users import resolve_user

NAME = "bubblewrap"
_PROGRAM = "bwrap"
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FIX = "install the package bubblewrap"
_INFO_FD, _BLOCK_FD = 3, 4
_INFO_SIZE = 65536
_INFO_WITHIN_MS = 30_000


class _Info(msgspec.Struct):
    """What bwrap writes to its --info-fd."""

    child_pid: int = msgspec.field(name="child-pid")


ready(_Info)


class _Made(msgspec.Struct, frozen=True):
    """Namespaces: the pid, for init, of the process that has them, and what bwrap says."""

    pid: int
    said_reader: int
    child: Child

    def run(
        self,
        worker: Worker,
        step: JailedStep,
        output: Output,
        stopped: Callable[[], bool],
        stdio: Sequence[int] | None,
    ) -> int:
        """As `run_jailed`, with bwrap's words in place of ours when it was at fault."""
        try:
            return run_jailed(worker, step, output, lambda: stopped() or self.child.was_killed(), stdio)
        except Cancelled:
            if stopped():
                raise
            return 128 + signal.SIGKILL  # as when a runtime is killed
        except HostUnsupported as error:
            poll = select.poll()
            poll.register(self.said_reader, select.POLLIN)
            said = os.read(self.said_reader, _INFO_SIZE) if poll.poll(0) else b""
            if not said:
                raise
            raise _failed(said.decode(errors="replace").strip()) from error


class BubblewrapSandbox:
    """A `sandbox.spec.Sandbox`. `notice` gets sentences for the user, each once."""

    def __init__(
        self,
        worker: Worker,
        *,
        notice: Callable[[str], None] = lambda text: None,
        filters: Filters | None = None,
    ) -> None:
        self._worker = worker
        self._filters = filters or Filters()
        self._notice = notice
        self._noticed: set[str] = set()
        self._networks = Networks(worker, self._notify)
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._works = False
        self._hostname = ""  # what steps have instead of theirs

    @property
    def tier(self) -> str:
        """`bubblewrap`, with `+userns` in a user namespace. Tries it with a trivial step first.

        Raises `HostUnsupported` (`no-runtime`, `runtime-failed`).
        """
        with self._lock:
            if not self._works:
                self._try()
                self._works = True
        return self._tier

    @property
    def _tier(self) -> str:
        return NAME + ("+userns" if self._worker.rootless else "")

    def _try(self) -> None:
        try:
            self._try_with(("--hostname", DEFAULT_HOSTNAME))
        except HostUnsupported as error:
            if "hostname" not in str(error):
                raise
            self._hostname = os.uname().nodename
            self._try_with(())
            self._noticed.add(KEEPS_HOSTNAME)
            self._notice(KEEPS_HOSTNAME)

    def _try_with(self, more: Sequence[str]) -> None:
        # The tree of the host serves as a root; nothing is written to it.
        with self._namespaces([_program(), "--ro-bind", "/", "/", *_NAMESPACES, *more]) as made:
            jail = Jail(join_pid=made.pid, join_root=_identity("/"))
            step = JailedStep(argv=["true"], env={"PATH": _SEARCH_PATH}, jail=jail)
            made.run(self._worker, step, lambda _, data: None, self._worker.cancelled.is_set, None)

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
        `unmapped-id`), what `step.planned` raises, and `Cancelled`."""
        if spec.network == "default":
            self._networks.prepare()
        tier = self.tier
        spec = msgspec.structs.replace(spec, hostname=self._hostname or spec.hostname)

        def stopped() -> bool:
            return self._worker.cancelled.is_set() or (cancelled is not None and cancelled.is_set())

        with (
            made_removable(spec, root, self._worker),
            self._directory("step") as step_path,
            limited(spec, self._worker, self._notify) as within,
            self._networks.network(spec) as net,
        ):
            spec = within.spec
            with planned(spec, root, self._worker, step_path, net) as document:
                argv = [_program(), *arguments(document)]
                with self._namespaces(argv, net.path) as made:
                    step = self._step(spec, root, document, made.pid, net)
                    step = msgspec.structs.replace(step, jail=within.jail(step.jail), fds=within.fds)
                    code = made.run(self._worker, step, output, stopped, stdio)
            oom = within.oom()
        return status_of(code, tier, oom=oom)

    def _notify(self, text: str) -> None:
        with self._lock:
            if text in self._noticed:
                return
            self._noticed.add(text)
        self._notice(text)

    def _step(
        self, spec: StepSpec, root_path: str, document: dict[str, Any], pid: int, net: Network
    ) -> JailedStep:
        limits = confinement(spec, net)
        with Root(root_path) as root:
            user = resolve_user(root, spec.user)
        program = b"" if limits.seccomp is None else self._filters.of(tuple(limits.capabilities))
        if program is None:
            self._notify("libseccomp is not installed: steps run without a filter of system calls")
        jail = confined(
            limits, user, seccomp=program or b"", single_id=self._worker.single_id, chroot_allowed=True
        )
        return JailedStep(
            argv=list(spec.args),
            env=environment_map(document["process"]["env"]),
            jail=msgspec.structs.replace(
                jail, join_pid=pid, join_root=_identity(document["root"]["path"]), cwd=spec.cwd
            ),
            terminal=spec.terminal,
        )

    @contextlib.contextmanager
    def _namespaces(self, argv: list[str], network_path: str = "") -> Iterator[_Made]:
        """Run bwrap for as long as the body, in the network namespace of `network_path` if there is one."""
        jail = Jail(keeper=False, network_path=network_path) if network_path else None
        info_reader, info_writer = os.pipe2(os.O_CLOEXEC)
        block_reader, block_writer = os.pipe2(os.O_CLOEXEC)
        said_reader, said_writer = os.pipe2(os.O_CLOEXEC)
        opened = {info_reader, block_reader, block_writer, said_reader}
        child = None
        try:
            try:
                child = self._worker.spawn(
                    [*argv, "--info-fd", str(_INFO_FD), "--block-fd", str(_BLOCK_FD), "--", "true"],
                    env={"PATH": _SEARCH_PATH},
                    fds={1: said_writer, 2: said_writer, _INFO_FD: info_writer, _BLOCK_FD: block_reader},
                    jail=jail,
                )
            finally:
                os.close(info_writer)
                os.close(said_writer)
            yield _Made(_read_info(info_reader, said_reader), said_reader, child)
        finally:
            if child is not None:
                child.kill()
                child.wait()
            for descriptor in opened:
                os.close(descriptor)

    @contextlib.contextmanager
    def _directory(self, kind: str) -> Iterator[str]:
        path = os.path.join(self._worker.runtime_path, f"bwrap-{kind}-{next(self._numbers)}")
        os.mkdir(path, 0o700)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


_NAMESPACES = ("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup", "--die-with-parent")


def arguments(document: dict[str, Any]) -> list[str]:
    """The arguments of bwrap(1) for a bundle's `config.json`."""
    root, linux = document["root"], document["linux"]
    argv = ["--ro-bind" if root["readonly"] else "--bind", root["path"], "/", *_NAMESPACES]
    if "hostname" in document:
        argv += ["--hostname", document["hostname"]]
    # One that has a path is joined before.
    if {"type": "network"} in linux["namespaces"]:
        argv.append("--unshare-net")
    places = {}
    for mount in document["mounts"]:
        argv += _mount(mount)
        places[mount.type if mount.type in ("proc", "sysfs") else mount.source] = mount.destination
    # Where the kernel's files really stand: a root's /proc may be a link.
    kernel = {"proc": places["proc"], "sys": places.get("/sys") or places["sysfs"]}
    for path in linux.get("readonlyPaths", ()):
        if os.path.exists(path):
            argv += ["--ro-bind", path, _within(kernel, path)]
    for path in linux.get("maskedPaths", ()):
        argv += _mask(path, _within(kernel, path))
    return argv


def _within(kernel: dict[str, str], path: str) -> str:
    first, _, rest = path.lstrip("/").partition("/")
    return f"{kernel[first]}/{rest}"


def _mount(mount: BundleMount) -> list[str]:
    options = dict(item.partition("=")[::2] for item in mount.options)
    match mount.type:
        case "proc":
            return ["--proc", mount.destination]
        case "tmpfs" if mount.destination.endswith("/dev"):
            return ["--dev", mount.destination]
        case "devpts":
            return []  # part of --dev
        case "tmpfs":
            sized = ["--size", options["size"]] if "size" in options else []
            return ["--perms", options.get("mode", "755").rjust(4, "0"), *sized, "--tmpfs", mount.destination]
        case "mqueue":
            return ["--mqueue", mount.destination]
        case "sysfs":
            return ["--ro-bind" if "ro" in options else "--bind", "/sys", mount.destination]
        case _:
            return ["--ro-bind" if "ro" in options else "--bind", mount.source, mount.destination]


def _mask(path: str, place: str) -> list[str]:
    try:
        is_dir = stat.S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return []
    return ["--tmpfs", place, "--remount-ro", place] if is_dir else ["--ro-bind", "/dev/null", place]


def _program() -> str:
    path = shutil.which(_PROGRAM, path=os.environ.get("PATH")) or shutil.which(_PROGRAM, path=_SEARCH_PATH)
    if path is None:
        raise HostUnsupported.of(
            "no-runtime",
            "bubblewrap is not installed",
            hint=_FIX,
            details={"probe": {"program": _PROGRAM}, "fix": _FIX},
        )
    return path


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _read_info(info_reader: int, said_reader: int) -> int:
    """The pid that bwrap tells. Raises `HostUnsupported` (`runtime-failed`) with its complaint."""
    poll = select.poll()
    poll.register(info_reader, select.POLLIN)
    data = b""
    while poll.poll(_INFO_WITHIN_MS):
        part = os.read(info_reader, _INFO_SIZE)
        data += part
        if not part or data.rstrip().endswith(b"}"):
            break
    try:
        return msgspec.json.decode(data, type=_Info).child_pid
    except msgspec.MsgspecError:
        said = os.read(said_reader, _INFO_SIZE).decode(errors="replace").strip()
    raise _failed(said or "it said nothing")


def _failed(said: str) -> ArkwrightError:
    return HostUnsupported.of(
        "runtime-failed",
        f"bubblewrap could not make the namespaces of the step: {said}",
        hint=_FIX,
        details={"probe": {"runtime": NAME, "said": said}, "fix": _FIX},
    )
