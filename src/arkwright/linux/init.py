"""The init process of the worker's pid namespace (Z) and the worker's side of its socket.

Z is process 1 of a pid namespace: when it ends, the kernel kills every step. It has one thread,
forks nothing but what it is asked for, and reaps everything. It is tied to the worker (P1) twice:
by its parent-death signal and by the end of the socket.

The socket carries one message a packet (SOCK_SEQPACKET):

    to Z     spawn ID        with descriptors: a memfd with the JSON of `_Order`, then the child's
             kill ID SIGNAL  signals the process group of a child that is still there
    from Z   started ID PID | refused ID ERRNO | ended ID STATUS
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import os
import select
import signal
import socket
import threading
from collections.abc import Mapping

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, HostUnsupported
from arkwright.linux import jail as jails
from arkwright.linux import mounts, syscalls
from arkwright.linux.jail import Jail

_PACKET = 256
_MAX_FDS = 250  # SCM_MAX_FD is 253
_Action = tuple[int, int, int] | tuple[int, int, str, int, int]
_RESET_SIGNALS = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


class _Order(msgspec.Struct, frozen=True):
    """What to start. `fds` are the child's descriptor numbers, in the order they were sent."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    fds: list[int]
    setsid: bool
    jail: Jail | None = None


# --- Z ---------------------------------------------------------------------------------------


def start_init(*, namespaced: bool = True) -> tuple[int, socket.socket]:
    """Fork Z; returns its pid and the worker's end of the socket.

    To be called in the main thread, before any other thread exists: Z dies with that thread.
    Unless `namespaced`, Z shares the namespaces of the worker and is the subreaper of what it
    starts; only keepers (see `linux.jail`) then see to it that nothing is left.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    worker_pid = os.getpid()
    pid = syscalls.fork_into(syscalls.CLONE_NEWPID) if namespaced else os.fork()
    if pid:
        theirs.close()
        return pid, ours
    try:
        syscalls.set_parent_death_signal(signal.SIGKILL)
        if not namespaced:
            if os.getppid() != worker_pid:
                os._exit(1)
            syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        _Server(theirs, namespaced).run()
    finally:
        os._exit(0)


def _enter_mounts() -> str:
    """A mount namespace that follows the worker's, with the /proc of this pid namespace."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    mounts.make_slave("/")
    try:
        mounts.proc("/proc")
    except HostUnsupported as error:
        return str(error)
    return ""


class _Server:
    """Z's loop. Everything that it got from the worker by fork is closed, so that locks and pipes
    of the worker end with the worker."""

    def __init__(self, control: socket.socket, namespaced: bool) -> None:
        self._control = control
        self._namespaced = namespaced
        self._children: dict[int, tuple[str, int]] = {}  # pid → request, process group
        self._pids: dict[str, int] = {}
        self._kept: set[int] = set()

    def run(self) -> None:
        # Objects whose descriptors are closed behind their back must never be collected.
        gc.disable()
        keep = self._control.fileno()
        os.closerange(3, keep)
        os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))
        for number in _RESET_SIGNALS:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
        with contextlib.suppress(OSError):
            syscalls.set_process_name("arkwright-init")
        self._send(f"ready {_enter_mounts() if self._namespaced else ''}"[:_PACKET])
        self._serve()

    def _serve(self) -> None:
        wake_reader, wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(wake_reader, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if wake_reader in ready:
                os.read(wake_reader, 4096)
                self._reap()
            if self._control.fileno() in ready and not self._obey():
                return

    def _send(self, message: str) -> None:
        with contextlib.suppress(OSError):
            self._control.send(message.encode())

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            request, _ = self._children.pop(pid, ("", 0))
            if request:
                del self._pids[request]
                code = os.waitstatus_to_exitcode(status)
                if pid in self._kept:
                    self._kept.discard(pid)
                    if code < 0:
                        self._end_orphans()
                self._send(f"ended {request} {code}")

    def _end_orphans(self) -> None:
        """Kill what a keeper left that was killed itself; it has come to us."""
        while True:
            below = jails.children_by_parent().get(os.getpid(), [])
            strays = [pid for pid in below if pid not in self._children]
            if not strays:
                return
            for stray in strays:
                for pid in filter(None, (*jails.descendants(stray), stray)):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(stray, 0)

    def _obey(self) -> bool:
        data, fds, _, _ = socket.recv_fds(self._control, _PACKET, _MAX_FDS + 1)
        if not data:
            return False
        verb, request, *rest = data.decode().split()
        if verb == "spawn":
            self._spawn(request, fds)
        elif request in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pids[request], int(rest[0]))
        return True

    def _spawn(self, request: str, fds: list[int]) -> None:
        order = msgspec.json.decode(_read_all(fds[0]), type=_Order)
        # Out of the way of the numbers that the child wants.
        lowest = max([*order.fds, 2]) + 1
        parked = [fcntl.fcntl(item, fcntl.F_DUPFD_CLOEXEC, lowest) for item in fds[1:]]
        for item in fds:
            os.close(item)
        try:
            pid = self._start(order, parked)
        except OSError as error:
            self._send(f"refused {request} {error.errno}")
            return
        finally:
            for item in parked:
                os.close(item)
        self._children[pid] = (request, pid)
        if order.jail is not None and order.jail.keeper:
            self._kept.add(pid)
        self._pids[request] = pid
        self._send(f"started {request} {pid}")

    def _start(self, order: _Order, fds: list[int]) -> int:
        if order.jail is not None:
            given = dict(zip(order.fds, fds, strict=True))
            return jails.start(jails.Command(order.argv, order.env, given, order.setsid), order.jail)
        actions: list[_Action] = []
        if 0 not in order.fds:
            actions.append((os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0))
        actions += [
            (os.POSIX_SPAWN_DUP2, source, target) for source, target in zip(fds, order.fds, strict=True)
        ]
        os.chdir(order.cwd)
        try:
            if order.setsid:
                return _posix_spawn(order, actions, setsid=True)
            return _posix_spawn(order, actions, setpgroup=0)
        finally:
            os.chdir("/")


def _posix_spawn(order: _Order, actions: list[_Action], **group: int) -> int:
    return os.posix_spawnp(
        order.argv[0],
        order.argv,
        order.env,
        file_actions=actions,
        setsigmask=(),
        setsigdef=_RESET_SIGNALS,
        **group,  # type: ignore[arg-type]
    )


def _read_all(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


# --- P1 --------------------------------------------------------------------------------------


class Child:
    """A process that Z started. Thread-safe."""

    def __init__(self, init: Init, request: str) -> None:
        self._init = init
        self._request = request
        self._answered = threading.Event()
        self._ended = threading.Event()
        self._refusal = 0
        self._status = -int(signal.SIGKILL)
        self.pid_in_init = 0

    def wait(self, timeout_s: float | None = None) -> int:
        """The exit status, or the negative number of the signal that ended it; -9 when init died.

        Raises `TimeoutError`.
        """
        if not self._ended.wait(timeout_s):
            raise TimeoutError(f"process {self.pid_in_init} still runs")
        return self._status

    def was_killed(self) -> bool:
        """Whether it has ended by a signal."""
        return self._ended.is_set() and self._status < 0

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the process group of the child; does nothing once it has ended."""
        if not self._ended.is_set():
            self._init.send(f"kill {self._request} {int(number)}")

    def answer(self, verb: str, value: int) -> None:
        """Take a message of Z."""
        if verb == "started":
            self.pid_in_init = value
        elif verb == "refused":
            self._refusal = value
            self._ended.set()
        else:
            self._status = value
            self._ended.set()
        self._answered.set()

    def started(self) -> None:
        """Wait for Z's answer to the request; raises `OSError` with the reason of a refusal."""
        self._answered.wait()
        if self._refusal:
            raise OSError(self._refusal, os.strerror(self._refusal))


class Init:
    """The worker's client of Z. Thread-safe; its reader thread begins with the first spawn."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._lock = threading.Lock()
        self._children: dict[str, Child] = {}
        self._count = 0
        self._reader: threading.Thread | None = None
        self.alive = True
        greeting = control.recv(_PACKET).decode(errors="replace")
        if not greeting:
            raise init_died()
        self.proc_refusal = greeting.partition(" ")[2]

    def spawn(
        self,
        argv: list[str],
        env: Mapping[str, str],
        cwd: str,
        fds: Mapping[int, int],
        setsid: bool,
        jail: Jail | None = None,
    ) -> Child:
        """Start a process; see `Worker.spawn`."""
        if len(fds) > _MAX_FDS:
            raise ValueError(f"at most {_MAX_FDS} descriptors can be passed")
        order = _Order(argv, dict(env), cwd, list(fds), setsid, jail)
        order_fd = os.memfd_create("spawn", os.MFD_CLOEXEC)
        try:
            data = memoryview(msgspec.json.encode(order))
            while data:
                data = data[os.write(order_fd, data) :]
            child = self._enlist()
            self.send(f"spawn {child._request}", [order_fd, *fds.values()])
        finally:
            os.close(order_fd)
        child.started()
        if child.pid_in_init == 0:
            raise init_died()
        return child

    def _enlist(self) -> Child:
        with self._lock:
            if not self.alive:
                raise init_died()
            if self._reader is None:
                self._reader = threading.Thread(target=self._read, name="init-reader", daemon=True)
                self._reader.start()
            self._count += 1
            child = Child(self, str(self._count))
            self._children[child._request] = child
            return child

    def send(self, message: str, fds: list[int] | None = None) -> None:
        """Send one packet; raises `ArkwrightError` (`init-died`) when Z is gone."""
        try:
            socket.send_fds(self._control, [message.encode()], fds or [])
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise
            raise init_died() from error

    def _read(self) -> None:
        while True:
            try:
                data = self._control.recv(_PACKET)
            except OSError:
                data = b""
            if not data:
                return self._lost()
            verb, request, value = data.decode().split()
            with self._lock:
                child = self._children[request]
                if verb != "started":
                    del self._children[request]
            child.answer(verb, int(value))

    def _lost(self) -> None:
        with self._lock:
            self.alive = False
            orphans = list(self._children.values())
            self._children.clear()
        for child in orphans:
            child.answer("ended", -int(signal.SIGKILL))

    def close(self) -> None:
        """End Z, and with it every process that it started."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)


def init_died() -> ArkwrightError:
    """The error for a worker whose init was killed."""
    return ArkwrightError.of(
        "init-died",
        "the process that starts the build's steps was killed",
        hint="look for an out-of-memory kill in the kernel's log, then build again",
    )
