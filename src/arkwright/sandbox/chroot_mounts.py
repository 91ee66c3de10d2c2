"""The mounts of a step under chroot: real ones where the worker may mount, else what stands in for them."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence

from arkwright.diagnostics.errors import UserError
from arkwright.layer.rooted import Root
from arkwright.linux import mounts
from arkwright.linux.worker import Worker
from arkwright.sandbox.agent import AgentForward
from arkwright.sandbox.mountpoints import Target, in_mounting_order
from arkwright.sandbox.secret_pipe import SecretPipe, make_pipe
from arkwright.sandbox.spec import Bind, Secret, SshSocket, StepMount, Tmpfs
from arkwright.sandbox.standins import StandIns, copy_of, empty_directory, text_file
from arkwright.sandbox.step import require_mapped
from arkwright.sandbox.users import User
from arkwright.store.location import file_system_of

_IN_MEMORY = ("tmpfs", "ramfs")


class ChrootMounts:
    """Context manager: places the mounts of one step; `step_path` is for files of its own.

    A mount that another one stands in is copied, as nothing can be put into a read-only one.
    """

    def __init__(
        self, worker: Worker, stands: StandIns, root_path: str, step_path: str, wanted: Sequence[StepMount]
    ) -> None:
        self._worker = worker
        self._root_path = root_path
        self._stands = stands
        self._step_path = step_path
        self._wanted = {_target(mount): mount for mount in wanted}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> ChrootMounts:
        try:
            for number, target in enumerate(in_mounting_order(self._wanted)):
                self._place(self._wanted[target], os.path.join(self._step_path, f"mount-{number}"))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _place(self, mount: StepMount, path: str) -> None:
        may_mount = self._worker.namespaced and not self._holds_another(mount)
        match mount:
            case Tmpfs() if may_mount:
                os.mkdir(path, 0o700)
                mounts.tmpfs(path, mount.size, mount.mode)
                self._stack.callback(mounts.unmount, path)
                self._stands.mount(path, mount.dest, is_dir=True, readonly=mount.readonly)
            case Tmpfs():
                self._stands.place(mount.dest, empty_directory(mount.mode), is_dir=True)
            case Bind() if may_mount:
                source, is_dir = os.path.realpath(mount.source), os.path.isdir(mount.source)
                self._stands.mount(source, mount.dest, is_dir=is_dir, readonly=mount.readonly)
            case Bind():
                source = os.path.realpath(mount.source)
                self._stands.place(
                    mount.dest, copy_of(source), is_dir=os.path.isdir(source),
                    writeback_path="" if mount.readonly else source,
                )  # fmt: skip
            case Secret():
                require_mapped(self._worker, User(mount.uid, mount.gid))
                write = text_file(mount.data, mount.mode, mount.uid, mount.gid)
                if self._worker.namespaced:
                    write(path)
                    self._stands.mount(path, mount.dest, is_dir=False, readonly=True)
                elif _in_memory(self._root_path):
                    self._stands.place(mount.dest, write, is_dir=False)
                else:
                    self._pipe(mount)
            case SshSocket():
                self._listen(mount)

    def _pipe(self, secret: Secret) -> None:
        """The root is on a disk: the secret goes through a pipe."""
        stands, placed = self._stands, ""

        def make() -> str:
            return make_pipe(stands.aside(), secret.mode, secret.uid, secret.gid)

        def put(path: str) -> bool:
            nonlocal placed
            if placed:
                return stands.renew(placed, path)
            placed = stands.place(secret.dest, lambda there: os.rename(path, there), is_dir=False)
            return True

        self._stack.callback(SecretPipe(secret.data, make, put).close)

    def _listen(self, agent: SshSocket) -> None:
        require_mapped(self._worker, User(agent.uid, agent.gid))

        def fill(path: str) -> None:
            forward = AgentForward(agent.source, path, mode=agent.mode, uid=agent.uid, gid=agent.gid)
            self._stack.callback(forward.close)

        self._stands.place(agent.dest, fill, is_dir=False)

    def _holds_another(self, mount: StepMount) -> bool:
        above = mount.dest.rstrip("/") + "/"
        return any(other is not mount and other.dest.startswith(above) for other in self._wanted.values())


def require_mountable(wanted: Sequence[StepMount]) -> None:
    """Raise `UserError` (`bad-mount-source`) for what is not there."""
    for mount in wanted:
        if isinstance(mount, Bind) and not os.path.exists(mount.source):
            raise UserError.of("bad-mount-source", f"nothing can be mounted from {mount.source}")


def _in_memory(path: str) -> bool:
    with Root(path) as root:
        descriptor = root.open_dir("/")
        try:
            return file_system_of(descriptor) in _IN_MEMORY
        finally:
            os.close(descriptor)


def _target(mount: StepMount) -> Target:
    is_dir = isinstance(mount, Tmpfs) or (isinstance(mount, Bind) and _is_directory(mount.source))
    return Target(mount.dest, is_dir)


def _is_directory(path: str) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISDIR(os.stat(path).st_mode)
    return False
