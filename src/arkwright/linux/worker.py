"""The worker process: supervisor (P0), worker (P1) and init (Z).

`run_in_worker` forks P1, which enters a user namespace if it must, then a mount namespace, then
forks Z into a pid namespace, all before any thread exists. P0 maps ids, passes signals on and
waits. Whatever is killed, everything below it dies: P1 by its parent-death signal, Z by that of
P1's main thread, the steps with Z's pid namespace, and the mounts with the last of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from arkwright.diagnostics import errors
from arkwright.diagnostics.errors import ArkwrightError, Cancelled, HostUnsupported
from arkwright.linux import mounts, namespaces, syscalls
from arkwright.linux.groups import BuildGroups
from arkwright.linux.init import Child, Init, start_init
from arkwright.linux.jail import Jail
from arkwright.linux.namespaces import IdMaps, IdRange

if TYPE_CHECKING:
    from arkwright.linux.emulation import Emulation

__all__ = ["Child", "Worker", "run_in_worker"]

_UNSHARED, _MAPPED, _INIT, _RESULT, _ERROR, _REPORT = b"UMZREP"
_HEADER = struct.Struct("=BQ")
_CANCEL = b"c"
_NO_NAMESPACES = ("no-user-namespace", "mount-refused")
_PLAIN_PREFIX = "plain-"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Worker:
    """What a body may use inside P1. Thread-safe.

    `namespaced`: in namespaces of its own; without them it has no mounts, and `runtime_path` is a
    plain directory (mode 0700). `proc_refused`: steps' init got no /proc.

    `rootless`: in a user namespace of ours. `single_id`: only id 0 exists there. `facts` are
    sentences about what this host refused. `runtime_path` is a memory file system (mode 0700) that
    only this worker and its steps see. `cancelled` is set when the user asks to stop.
    """

    def __init__(
        self,
        init: Init,
        maps: IdMaps | None,
        runtime_path: str,
        facts: tuple[str, ...],
        control: socket.socket,
        *,
        namespaced: bool = True,
        group_root_fd: int = -1,
    ) -> None:
        self._init = init
        self.namespaced = namespaced
        self.build_groups = BuildGroups(group_root_fd)
        self.proc_refused = bool(init.proc_refusal)
        self._control = control
        self._control_lock = threading.Lock()
        self.rootless = maps is not None
        self.maps = maps or IdMaps()
        self.single_id = self.maps.single_id
        self.runtime_path = runtime_path
        self.facts = facts
        self.cancelled = threading.Event()

    @property
    def alive(self) -> bool:
        """Whether Z still runs; false only after something killed it."""
        return self._init.alive

    def spawn(
        self,
        argv: list[str],
        *,
        env: Mapping[str, str],
        cwd: str = "/",
        fds: Mapping[int, int] | None = None,
        setsid: bool = True,
        jail: Jail | None = None,
    ) -> Child:
        """Start a process in Z's pid namespace.

        `fds` maps descriptors of the child to ours; without 0 its input is /dev/null, without 1
        and 2 it has the worker's. The child leads a process group of its own, and a session with
        `setsid`. With a `jail` (see `linux.jail`) it is confined before it begins; a jail with a
        keeper is ended by SIGTERM. Raises `OSError` when it cannot be started, `ArkwrightError` (`init-died`).
        """
        return self._init.spawn(argv, env, cwd, fds or {}, setsid, jail)

    def report(self, data: bytes) -> None:
        """Send bytes to the supervisor, which hands them to `on_report` in the order of calls."""
        with self._control_lock:
            _send(self._control, _REPORT, data)

    def maps_uid(self, uid: int) -> bool:
        """Whether files and steps here can have this user id."""
        return not self.rootless or _covers(self.maps.uids, uid)

    def maps_gid(self, gid: int) -> bool:
        """Whether files and steps here can have this group id."""
        return not self.rootless or _covers(self.maps.gids, gid)


def _covers(ranges: tuple[IdRange, ...], number: int) -> bool:
    return any(item.inside <= number < item.inside + item.count for item in ranges)


def run_in_worker(
    body: Callable[[Worker], bytes],
    *,
    store_root_path: str,
    on_report: Callable[[bytes], None] = lambda data: None,
    handlers: Sequence[Emulation] = (),
    plain: Literal["never", "fallback", "always"] = "fallback",
) -> bytes:
    """Run `body` in a worker process and return its bytes.

    `plain`: whether the worker may do without namespaces of its own: when this host refuses them
    (`fallback`) and this process can change roots and owners, or in any case (`always`).

    What the body sends by `Worker.report` goes to `on_report`, in the calling thread. `handlers`
    are binary formats that the worker's user namespace gets (see `linux.emulation`).

    The calling process must have one thread and no open store. `store_root_path` gets a directory
    `run`, on which the worker mounts its private memory file system. The first SIGINT, SIGTERM or
    SIGHUP sets `Worker.cancelled`; the next one kills the worker.

    Raises what `body` raises, if it is an `ArkwrightError`; otherwise `ArkwrightError` with code
    `internal-error` (`details`: `traceback`) or `worker-died` (`details`: `status`, `signal`), and
    `HostUnsupported` when the namespaces cannot be made.
    """
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise RuntimeError(f"a worker must be forked from one thread, there are {threads}")
    os.makedirs(os.path.join(store_root_path, "run"), mode=0o700, exist_ok=True)
    maps = namespaces.plan_id_maps() if namespaces.needs_user_namespace() else None
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    wanted = _Wanted(body, store_root_path, on_report, handlers)
    if plain == "always":
        return _follow(wanted, None, namespaced=False)
    try:
        return _follow(wanted, maps, namespaced=True)
    except HostUnsupported as error:
        if plain != "fallback" or error.code not in _NO_NAMESPACES or not wanted.untouched:
            raise
        if namespaces.lacks_for_chroot():
            raise
    return _follow(wanted, None, namespaced=False)


class _Wanted:
    """What `run_in_worker` was asked for; `untouched` until a worker has its init."""

    def __init__(
        self,
        body: Callable[[Worker], bytes],
        store_root_path: str,
        on_report: Callable[[bytes], None],
        handlers: Sequence[Emulation],
    ) -> None:
        self.body = body
        self.store_root_path = store_root_path
        self.on_report = on_report
        self.handlers = handlers
        self.untouched = True


def _follow(wanted: _Wanted, maps: IdMaps | None, *, namespaced: bool) -> bytes:
    """Fork a worker and serve it until its end."""
    ours, theirs = socket.socketpair()
    with ours, theirs, _Supervisor(ours, wanted) as supervisor:
        supervisor_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            ours.close()
            _worker_main(wanted, theirs, supervisor_pid, maps is not None, namespaced)
        theirs.close()
        return supervisor.follow(pid, maps)


# --- P0 --------------------------------------------------------------------------------------


class _Supervisor:
    """P0's side: signals are held back around the fork and then passed on."""

    def __init__(self, control: socket.socket, wanted: _Wanted) -> None:
        self._control = control
        self._wanted = wanted
        self._pid = 0
        self._asked = 0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Supervisor:
        # Z comes to us when the worker is killed, so that we can wait until its steps are gone.
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._on_signal)
        self._previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 0)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked += 1
        if self._asked == 1:
            with contextlib.suppress(OSError):
                self._control.send(_CANCEL, socket.MSG_NOSIGNAL)
        elif self._pid:
            os.kill(self._pid, signal.SIGKILL)

    def follow(self, pid: int, maps: IdMaps | None) -> bytes:
        """Serve the worker until its end; its result, or its error."""
        self._pid = pid
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        init_pid, outcome = 0, None
        try:
            while (message := _receive(self._control)) is not None:
                kind, payload = message
                if kind == _UNSHARED and maps is not None:
                    self._map(pid, maps)
                elif kind == _REPORT:
                    self._wanted.on_report(payload)
                elif kind == _INIT:
                    init_pid = int(payload)
                    self._wanted.untouched = False
                else:
                    outcome = message
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            self._collect(pid, init_pid)
            raise
        status = self._collect(pid, init_pid)
        return self._conclude(outcome, status)

    def _map(self, pid: int, maps: IdMaps) -> None:
        try:
            written = namespaces.write_id_maps(pid, maps)
        except ArkwrightError as error:
            _send(self._control, _ERROR, errors.encode(error))
        else:
            _send(self._control, _MAPPED, msgspec.json.encode(written))

    def _collect(self, pid: int, init_pid: int) -> int:
        """Wait for P1, and for Z if P1 left it to us."""
        status = os.waitpid(pid, 0)[1]
        self._pid = 0
        with contextlib.suppress(ChildProcessError):
            if init_pid:
                os.waitpid(init_pid, 0)
        return os.waitstatus_to_exitcode(status)

    def _conclude(self, outcome: tuple[int, bytes] | None, status: int) -> bytes:
        if outcome is not None:
            kind, payload = outcome
            if kind == _RESULT:
                return payload
            raise errors.decode(payload)
        if self._asked > 1:
            raise Cancelled.of("cancelled", "stopped at once, as asked")
        number = -status if status < 0 else None
        how = f"was killed by signal {number}" if number else f"ended with status {status}"
        raise ArkwrightError.of(
            "worker-died",
            f"the worker process {how}",
            hint="look for an out-of-memory kill in the kernel's log, then build again",
            details={"status": status, "signal": number},
        )


def _send(control: socket.socket, kind: int, payload: bytes = b"") -> None:
    control.sendall(_HEADER.pack(kind, len(payload)) + payload)


def _receive(control: socket.socket) -> tuple[int, bytes] | None:
    """One message, or `None` at the end of the stream or when it breaks off."""
    header = _receive_exactly(control, _HEADER.size)
    if header is None:
        return None
    kind, size = _HEADER.unpack(header)
    payload = _receive_exactly(control, size)
    return None if payload is None else (kind, payload)


def _receive_exactly(control: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        try:
            part = control.recv(min(size - len(parts), 1 << 20))
        except ConnectionResetError:
            return None
        if not part:
            return None
        parts += part
    return bytes(parts)


# --- P1 --------------------------------------------------------------------------------------


def _worker_main(
    wanted: _Wanted, control: socket.socket, supervisor_pid: int, in_user_namespace: bool, namespaced: bool
) -> None:
    """P1 from fork to end; never returns."""
    kind, payload = _ERROR, b""
    ended = _nothing
    try:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        # Ctrl-C reaches the process group of the terminal: the supervisor, which decides.
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        _tie_to(supervisor_pid)
        if namespaced:
            worker, ended = _enter(
                control, supervisor_pid, wanted.store_root_path, in_user_namespace, wanted.handlers
            )
        else:
            worker, ended = _stay(control, wanted.store_root_path)
        threading.Thread(target=_listen, args=(control, worker), name="cancel", daemon=True).start()
        kind, payload = _RESULT, wanted.body(worker)
    except ArkwrightError as error:
        kind, payload = _ERROR, errors.encode(error)
    except BaseException as error:
        kind, payload = _ERROR, errors.encode(_internal(error))
    finally:
        _leave(control, kind, payload, ended)


def _nothing() -> None:
    return


def _leave(control: socket.socket, kind: int, payload: bytes, ended: Callable[[], None]) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    try:
        ended()
        _send(control, kind, payload)
    except OSError:
        os._exit(70)
    os._exit(0)


def _tie_to(parent_pid: int) -> None:
    """Die with the parent, even if it died before this call."""
    syscalls.set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def _enter(
    control: socket.socket,
    supervisor_pid: int,
    store_root_path: str,
    in_user_namespace: bool,
    handlers: Sequence[Emulation],
) -> tuple[Worker, Callable[[], None]]:
    """Make the namespaces and Z; returns the worker and what ends Z."""
    maps = None
    if in_user_namespace:
        namespaces.enter_user_namespace()
        maps = _ask_for_maps(control)
        namespaces.become_namespace_root()
        # A change of credentials clears the parent-death signal.
        _tie_to(supervisor_pid)
    namespaces.enter_mount_namespace()
    group_root_fd = namespaces.open_control_groups()
    facts = list(namespaces.settle_cgroups())
    runtime_path = os.path.join(os.path.realpath(store_root_path), "run")
    mounts.tmpfs(runtime_path, mode=0o700)
    if handlers and maps is not None:
        _register(handlers, runtime_path)
    try:
        init_pid, init_control = start_init()
    except OSError as error:
        raise mounts.refused("a pid namespace", error) from error
    _send(control, _INIT, str(init_pid).encode())
    init = Init(init_control)
    if maps is not None and maps.single_id:
        facts.append(f"only one user id is mapped: {maps.reason}")
    if init.proc_refusal:
        facts.append(f"steps' init has no /proc of its own: {init.proc_refusal}")

    worker = Worker(init, maps, runtime_path, tuple(facts), control, group_root_fd=group_root_fd)
    return worker, lambda: _end_init(worker, init, init_pid)


def _end_init(worker: Worker, init: Init, init_pid: int) -> None:
    init.close()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(init_pid, 0)
    worker.build_groups.end()


def _stay(control: socket.socket, store_root_path: str) -> tuple[Worker, Callable[[], None]]:
    """Make Z, and no namespace; returns the worker and what ends Z."""
    runtime_path, lock_fd = _plain_directory(os.path.join(os.path.realpath(store_root_path), "run"))
    group_root_fd = namespaces.open_control_groups()
    init_pid, init_control = start_init(namespaced=False)
    _send(control, _INIT, str(init_pid).encode())
    init = Init(init_control)

    def end() -> None:
        _end_init(worker, init, init_pid)
        shutil.rmtree(runtime_path, ignore_errors=True)
        os.close(lock_fd)

    facts = ("no namespaces: steps see the processes and the network of this host",)
    worker = Worker(init, None, runtime_path, facts, control, namespaced=False, group_root_fd=group_root_fd)
    return worker, end


def _plain_directory(parent_path: str) -> tuple[str, int]:
    """A directory of this worker's, with its lock; those of killed workers are removed."""
    for name in os.listdir(parent_path):
        if name.startswith(_PLAIN_PREFIX):
            with contextlib.suppress(OSError):
                stale_fd = _locked_directory(os.path.join(parent_path, name))
                shutil.rmtree(os.path.join(parent_path, name), ignore_errors=True)
                os.close(stale_fd)
    path = os.path.join(parent_path, _PLAIN_PREFIX + os.urandom(8).hex())
    os.mkdir(path, 0o700)
    return path, _locked_directory(path)


def _locked_directory(path: str) -> int:
    """A descriptor that holds the directory's lock; raises `OSError` when another has it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _register(handlers: Sequence[Emulation], runtime_path: str) -> None:
    from arkwright.linux import emulation

    try:
        emulation.register(handlers, os.path.join(runtime_path, "binfmt"))
    except OSError as error:
        raise mounts.refused("binfmt_misc in a user namespace", error) from error


def _ask_for_maps(control: socket.socket) -> IdMaps:
    _send(control, _UNSHARED)
    message = _receive(control)
    if message is None:
        os._exit(1)
    kind, payload = message
    if kind == _ERROR:
        raise errors.decode(payload)
    return msgspec.json.decode(payload, type=IdMaps)


def _listen(control: socket.socket, worker: Worker) -> None:
    """The supervisor's only further word is the wish to stop."""
    with contextlib.suppress(OSError):
        if control.recv(1):
            worker.cancelled.set()


def _internal(error: BaseException) -> ArkwrightError:
    import traceback

    return ArkwrightError.of(
        "internal-error",
        f"unexpected {type(error).__name__} in the worker",
        details={"traceback": "".join(traceback.format_exception(error))},
    )
