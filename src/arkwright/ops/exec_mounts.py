"""The mounts of one step: trees realised before it, committed or thrown away after it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from arkwright.cache.mounts import write_id
from arkwright.diagnostics.errors import ArkwrightError, Cancelled, UserError
from arkwright.graph.ops import ExecOp, Mount
from arkwright.layer.rooted import Root
from arkwright.ops.contexts import ContextReader
from arkwright.ops.file_actions import explained
from arkwright.ops.file_copy import Copier
from arkwright.ops.result import LayeredResult
from arkwright.ops.trees import Trees
from arkwright.sandbox.spec import Bind, Secret, SshSocket, StepMount, Tmpfs
from arkwright.snapshot.base import Active
from arkwright.solver.result import Result
from arkwright.sources.base import Session

_LOCK_POLL_S = 0.05


class MountPlan:
    """A context manager: everything that a step is to see, from `__enter__` to `__exit__`.

    `root` is the path of the writable root tree, `mounts` what goes on top, `secrets` the values
    that must not appear in output. What `commit` did not make a layer is thrown away.
    """

    def __init__(
        self,
        op: ExecOp,
        inputs: Sequence[Result],
        readers: Sequence[ContextReader | None],
        trees: Trees,
        session: Session,
        cache_mounts_path: str,
        cancelled: threading.Event,
        fill_cache_mount: Callable[[str, str], bool] = lambda cache_id, path: False,
        build: str = "",
    ) -> None:
        self._op = op
        self._build = build
        self._fill_cache_mount = fill_cache_mount
        self._inputs = inputs
        self._readers = readers
        self._trees = trees
        self._session = session
        self._cache_mounts_path = cache_mounts_path
        self._cancelled = cancelled
        self._stack = ExitStack()
        self._outputs: dict[int, tuple[tuple[str, ...], Active]] = {}
        self._ended: set[int] = set()
        self.actives: list[Active] = []
        self.below: tuple[str, ...] = ()
        self.mounts: tuple[StepMount, ...] = ()
        self.secrets: list[bytes] = []
        self.secret_env: tuple[tuple[str, str], ...] = ()
        self.readonly_root = False

    @property
    def root(self) -> str:
        return self.actives[0].root

    def __enter__(self) -> MountPlan:
        try:
            ordered = sorted(self._op.mounts, key=lambda mount: mount.dest != "/")
            if not ordered or ordered[0].dest != "/":
                ordered.insert(0, Mount(dest="/"))
            self._root_mount(ordered[0])
            self._lock_caches()
            self.mounts = tuple(made for mount in ordered[1:] for made in self._mount(mount))
            self.secret_env = tuple(self._secret_env())
        except BaseException:
            self._abort()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._abort()

    def commit(self, scrub: Sequence[str]) -> list[Result]:
        """Make layers of the writable trees that are outputs, in the order of output indexes."""
        results: list[Result] = []
        for index in sorted(self._outputs):
            below, active = self._outputs[index]
            self._ended.add(id(active))
            layer = active.commit(scrub=scrub)
            results.append(LayeredResult((*below, layer.id)))
        return results

    def keep_root(self) -> tuple[str, ...] | None:
        """Keep the root tree of a step that failed, for looking at; its layers. None when it cannot
        be kept, for want of space for instance: the step's own failure is what counts."""
        self._ended.add(id(self.actives[0]))
        try:
            layer = self.actives[0].commit()
        except ArkwrightError:
            return None
        return (*self.below, layer.id)

    def _abort(self) -> None:
        self._stack.close()
        for active in self.actives:
            if id(active) not in self._ended:
                active.abort()

    def _root_mount(self, mount: Mount) -> None:
        self.below = self._layers(mount)
        active = self._prepare(self.below)
        self.readonly_root = mount.readonly
        if mount.output >= 0:
            self._outputs[mount.output] = (self.below, active)

    def _prepare(self, layers: tuple[str, ...]) -> Active:
        self._trees.ensure(layers)
        active = self._trees.snapshotter.prepare(layers)
        self.actives.append(active)
        return active

    def _layers(self, mount: Mount) -> tuple[str, ...]:
        if mount.input < 0:
            return ()
        result = self._inputs[mount.input]
        return result.layers if isinstance(result, LayeredResult) else ()

    def _mount(self, mount: Mount) -> Iterator[StepMount]:
        if mount.type == "tmpfs":
            yield Tmpfs(dest=mount.dest, size=mount.tmpfs_size, readonly=mount.readonly)
        elif mount.type == "secret":
            value = self._secret(mount.secret_id, mount.required)
            if value is not None:
                mode = 0o400 if mount.mode < 0 else mount.mode
                yield Secret(dest=mount.dest, data=value, mode=mode, uid=mount.uid, gid=mount.gid)
        elif mount.type == "ssh":
            socket_path = self._session.ssh_socket(mount.secret_id or "default")
            if socket_path is not None:
                mode = 0o600 if mount.mode < 0 else mount.mode
                yield SshSocket(dest=mount.dest, source=socket_path, mode=mode, uid=mount.uid, gid=mount.gid)
            elif mount.required:
                raise UserError.of(
                    "missing-ssh-agent", f"no agent was forwarded for ssh id {mount.secret_id or 'default'}",
                    hint="pass --ssh default, or --ssh ID=SOCKET",
                )  # fmt: skip
        elif mount.type == "cache":
            yield Bind(source=self._cache(mount), dest=mount.dest, readonly=mount.readonly)
        else:
            yield self._bind(mount)

    def _bind(self, mount: Mount) -> Bind:
        reader = self._readers[mount.input] if mount.input >= 0 else None
        selector = mount.selector
        if mount.readonly and reader is None:
            layers = self._layers(mount)
            root = self._stack.enter_context(self._trees.view(LayeredResult(layers)))
        else:
            active = self._prepare(self._layers(mount))
            if reader is not None:
                with explained(active.root), Root(active.root) as dest:
                    selector = reader.copy_path(selector, dest)
            if mount.output >= 0:
                self._outputs[mount.output] = (self._layers(mount), active)
            root = active.root
        return Bind(source=_inside(root, selector), dest=mount.dest, readonly=mount.readonly)

    def _lock_caches(self) -> None:
        """Take the locks of `sharing=locked`: each once, and in one order everywhere, so that steps
        with several of them never wait for each other in a circle."""
        wanted = {
            mount.cache_id for mount in self._op.mounts if mount.type == "cache" and mount.sharing == "locked"
        }
        for directory in sorted(self._cache_directory(cache_id) for cache_id in wanted):
            os.makedirs(directory, exist_ok=True)
            self._stack.enter_context(_locked(os.path.join(directory, "lock"), self._cancelled))

    def _cache_directory(self, cache_id: str) -> str:
        return os.path.join(self._cache_mounts_path, hashlib.sha256(cache_id.encode()).hexdigest())

    def _cache(self, mount: Mount) -> str:
        fresh = self._cache_seed(mount)
        directory = self._cache_directory(mount.cache_id)
        os.makedirs(directory, exist_ok=True)
        with _locked(os.path.join(directory, "seed.lock"), self._cancelled):
            write_id(directory, mount.cache_id, self._build)
        if mount.sharing == "private":
            return self._stack.enter_context(_private(directory, fresh))
        path = os.path.join(directory, "shared")
        with _locked(os.path.join(directory, "seed.lock"), self._cancelled):
            if not os.path.isdir(path):
                fresh(path, self._fill_cache_mount)
        return path

    def _cache_seed(self, mount: Mount) -> _Seed:
        source = self._layers(mount) if mount.input >= 0 else ()
        return _Seed(mount, source, self._trees)

    def _secret(self, secret_id: str, required: bool) -> bytes | None:
        value = self._session.secret(secret_id)
        if value is None and required:
            raise UserError.of(
                "missing-secret", f"the step needs the secret {secret_id!r}, and none was given",
                hint=f"pass --secret id={secret_id},src=FILE or --secret id={secret_id},env=NAME",
            )  # fmt: skip
        if value:
            self.secrets.append(value)
        return value

    def _secret_env(self) -> Iterator[tuple[str, str]]:
        for wanted in self._op.secret_env:
            value = self._secret(wanted.secret_id, wanted.required)
            if value is not None:
                yield wanted.name, value.decode("utf-8", "surrogateescape")


class _Seed:
    """Makes the first state of a cache mount: empty, or a copy of what `from=` names."""

    def __init__(self, mount: Mount, layers: tuple[str, ...], trees: Trees) -> None:
        self._mount = mount
        self._layers = layers
        self._trees = trees

    def __call__(self, path: str, fill: Callable[[str, str], bool] | None = None) -> None:
        making = f"{path}.{os.getpid()}.{threading.get_ident()}"
        filled = fill is not None and fill(self._mount.cache_id, making)
        if not filled:
            os.mkdir(making, 0o700)
        if self._layers and not filled:
            with self._trees.view(LayeredResult(self._layers)) as root_path:
                with explained(making), Root(root_path) as source, Root(making) as dest:
                    Copier(source, dest).copy(self._mount.selector.strip("/"), "/", contents=True)
        os.chown(making, self._mount.uid, self._mount.gid)
        os.chmod(making, 0o755 if self._mount.mode < 0 else self._mount.mode)
        os.rename(making, path)


def _inside(root_path: str, selector: str) -> str:
    with Root(root_path) as root:
        found = root.resolve(selector)
        status = root.lstat(found)
    if status is None or not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
        raise UserError.of("mount-source-missing", f"{selector} does not exist in the mount's source")
    return os.path.join(root_path, found) if found else root_path


@contextmanager
def _locked(path: str, cancelled: threading.Event) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if cancelled.wait(_LOCK_POLL_S):
                    raise Cancelled.of("cancelled", "the build was cancelled") from None
        yield
    finally:
        os.close(fd)


@contextmanager
def _private(directory: str, fresh: _Seed) -> Iterator[str]:
    number = 0
    while True:
        fd = os.open(
            os.path.join(directory, f"private-{number}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            os.close(fd)
            number += 1
    try:
        path = os.path.join(directory, f"private-{number}")
        if not os.path.isdir(path):
            fresh(path)
        yield path
    finally:
        os.close(fd)
