"""Networks of steps' own that reach the outside: a namespace, and slirp4netns or pasta beside it.

The tool is a child of init like a step, outside of the namespace, so it dies with the builder. What
a step may reach is what the host reaches, except for the host's loopback addresses; nothing from
outside reaches the step. No two steps share a network at the same time. One in which a step left
no connection serves the next step; others, and those of steps with every capability, are thrown away.

Sources: pasta(1), slirp4netns(1).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import select
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from arkwright.diagnostics.errors import ArkwrightError
from arkwright.linux import networks
from arkwright.linux.worker import Child, Worker
from arkwright.sandbox.network import HOST, NONE, Network
from arkwright.sandbox.pump import OutputPipes
from arkwright.sandbox.spec import StepSpec

TOOLS = ("slirp4netns", "pasta")

_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TUN_PATH = "/dev/net/tun"
_READY_FD = 3
_READY_WITHIN_S = 10.0
_LOOK_AGAIN_MS = 50
_NAMESERVERS = {"pasta": "169.254.1.1", "slirp4netns": "10.0.2.3"}
# Up to that of Debian 12 (2023-03-09), connections that a server closes at once may never end.
_OLDEST_PASTA = "20240101"
_DATE = re.compile(r"(20\d\d)_?(\d\d)_?(\d\d)")


class _Refused(Exception):
    """A tool that gives no network here; the text says why."""


class _Connection(NamedTuple):
    """A network and what serves it; `path` is its directory."""

    network: Network
    child: Child
    path: str


class Networks:
    """The networks of one worker's steps. Thread-safe. `notify` gets a sentence, once, when steps share
    the host's network because nothing gives them one of their own."""

    def __init__(self, worker: Worker, notify: Callable[[str], None]) -> None:
        self._worker = worker
        self._notify = notify
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._choosing = threading.Lock()
        self._idle: list[_Connection] = []
        self._tool: str | None = None

    @property
    def tool(self) -> str:
        """The tool in use, or nothing when steps share the host's network. Tries it first."""
        if not self._worker.namespaced:
            return ""
        if self._tool is None:
            self._give_back(self._take(), used=False)
        return self._tool or ""

    def prepare(self) -> None:
        """Begin to make a network, if there is none yet, while other things are got ready."""
        if self._tool is None and self._worker.namespaced:
            threading.Thread(target=lambda: self.tool, name="network", daemon=True).start()

    @contextlib.contextmanager
    def network(self, spec: StepSpec) -> Iterator[Network]:
        """The network of a step, for its time."""
        if spec.network != "default" or not self._worker.namespaced:
            yield NONE if spec.network == "none" else HOST
            return
        connection = self._take()
        try:
            yield HOST if connection is None else connection.network
        finally:
            self._give_back(connection, used=True, spoilt=spec.security == "insecure")

    @contextlib.contextmanager
    def joinable(self, spec: StepSpec) -> Iterator[Network]:
        """As `network`, for a step whose process joins it: `none` has a path, too."""
        if spec.network != "none":
            with self.network(spec) as network:
                yield network
            return
        path = self._directory()
        try:
            networks.make_network(f"{path}/namespace")
            yield Network(kind="none", path=f"{path}/namespace")
        finally:
            _remove(path)

    def _directory(self) -> str:
        path = os.path.join(self._worker.runtime_path, f"network-{next(self._numbers)}")
        os.mkdir(path, 0o700)
        return path

    def _take(self) -> _Connection | None:
        if (connection := self._waiting()) is not None:
            return connection
        if self._tool is None:
            with self._choosing:
                if self._tool is None:
                    return self._chosen()
                connection = self._waiting()
        if not self._tool:
            return None
        try:
            return connection or self._start(self._tool)
        except _Refused as error:
            self._notify(f"a step uses the host's network: {error}")
            return None

    def _waiting(self) -> _Connection | None:
        """An idle network whose tool still runs."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if _runs(connection.child):
                return connection
            self._end(connection)

    def _give_back(self, connection: _Connection | None, *, used: bool, spoilt: bool = False) -> None:
        if connection is None:
            return
        if spoilt or not _runs(connection.child):
            return self._end(connection)
        if used and not networks.is_unmarked(connection.network.path):
            return self._end(connection)
        with self._lock:
            self._idle.append(connection)

    # --- Choosing ----------------------------------------------------------------------------

    def _chosen(self) -> _Connection | None:
        """The first connection, by the first tool that gives one."""
        refusals = []
        for tool in TOOLS:
            try:
                connection = self._start(tool)
            except _Refused as error:
                refusals.append(f"{tool} {error}")
                continue
            self._tool = tool
            return connection
        self._tool = ""
        self._notify("steps use the host's network: " + "; ".join(refusals))
        return None

    def _start(self, tool: str) -> _Connection:
        program = shutil.which(tool, path=os.environ.get("PATH")) or shutil.which(tool, path=_SEARCH_PATH)
        if program is None:
            raise _Refused("is not installed")
        if not os.access(_TUN_PATH, os.R_OK | os.W_OK):
            raise _Refused(f"needs {_TUN_PATH}, which this user may not open or which is missing")
        path = self._directory()
        network = Network(kind="own", path=f"{path}/namespace", nameserver=_NAMESERVERS[tool])
        try:
            networks.make_network(network.path)
            start = _start_pasta if tool == "pasta" else _start_slirp4netns
            child = start(self._worker, program, network, path)
        except (OSError, ArkwrightError, _Refused) as error:
            _remove(path)
            if isinstance(error, ArkwrightError):
                raise
            raise _Refused(f"does not work here: {error}") from error
        return _Connection(network, child, path)

    def _end(self, connection: _Connection) -> None:
        # Nobody waits for its end, which takes the kernel some ten milliseconds.
        with contextlib.suppress(ArkwrightError):
            connection.child.kill()
        _remove(connection.path)


def _start_pasta(worker: Worker, program: str, network: Network, path: str) -> Child:
    """pasta tells that it is ready by its pid file, which is a fifo here. Raises `_Refused`, `OSError`."""
    _require_sound_pasta(worker, program)
    # Port forwards are off in both directions, and the gateway's address is not the host.
    argv = [
        program, "--foreground", "--quiet", "--config-net", "--no-map-gw", "--tcp-ports", "none",
        "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none",
        "--dns-forward", network.nameserver,
        # It would become nobody, who may not enter the namespace; 0 is the id that its owner has here.
        "--runas", "0", "--netns-only", "--netns", network.path, "--pid", f"{path}/pid",
    ]  # fmt: skip
    os.mkfifo(f"{path}/pid", 0o600)
    reader = os.open(f"{path}/pid", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return _spawned(worker, argv, {}, reader, path)
    finally:
        os.close(reader)


def _require_sound_pasta(worker: Worker, program: str) -> None:
    said = bytearray()
    with OutputPipes() as pipes:
        child = worker.spawn([program, "--version"], env={"PATH": _SEARCH_PATH}, fds=pipes.writers)
        pipes.close_writers()
        pipes.pump(lambda _, data: said.extend(data), lambda: False)
        child.wait()
    found = _DATE.search(said.decode(errors="replace").partition("\n")[0])
    if found is None or "".join(found.groups()) < _OLDEST_PASTA:
        raise _Refused("this version loses the ends of connections; one of 2024 or later is needed")


def _start_slirp4netns(worker: Worker, program: str, network: Network, path: str) -> Child:
    argv = [
        program, "--configure", f"--ready-fd={_READY_FD}", "--mtu=65520", "--disable-host-loopback",
        "--enable-sandbox", "--enable-seccomp", "--netns-type=path", network.path, "tap0",
    ]  # fmt: skip
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        return _spawned(worker, argv, {_READY_FD: writer}, reader, path)
    finally:
        os.close(reader)
        os.close(writer)


def _spawned(worker: Worker, argv: list[str], fds: dict[int, int], reader: int, path: str) -> Child:
    """Start a tool and wait until it is ready. Raises `_Refused` with its words, and `OSError`."""
    log_fd = os.open(f"{path}/log", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        child = worker.spawn(argv, env={"PATH": _SEARCH_PATH}, fds={1: log_fd, 2: log_fd, **fds})
    finally:
        os.close(log_fd)
    try:
        if _is_ready(child, reader):
            return child
    except BaseException:
        child.kill()
        raise
    child.kill()
    raise _Refused(_last_words(f"{path}/log"))


def _is_ready(child: Child, reader: int) -> bool:
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    deadline_s = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < deadline_s:
        if any(events & select.POLLIN for _, events in poll.poll(_LOOK_AGAIN_MS)):
            return bool(os.read(reader, 64))
        if not _runs(child):
            return False
    return False


def _runs(child: Child) -> bool:
    try:
        child.wait(0)
    except TimeoutError:
        return True
    return False


def _last_words(log_path: str) -> str:
    """The last line of a tool that is not about its own log."""
    with open(log_path, encoding="utf-8", errors="replace") as log:
        lines = [line.strip() for line in log if line.strip() and "to syslog" not in line]
    return lines[-1] if lines else "it ended without a word"


def _remove(path: str) -> None:
    with contextlib.suppress(OSError, ArkwrightError):
        networks.remove_network(f"{path}/namespace")
    shutil.rmtree(path, ignore_errors=True)
