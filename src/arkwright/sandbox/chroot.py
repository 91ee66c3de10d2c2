"""Steps by chroot(2): for a container that may change roots and owners, and make no namespace.

What this tier gives up is told in docs/explanation/isolation.md: a step sees the processes and the
network of the builder's container, has no /proc and no /sys, and is root of that container as far
as the builder is. Mounts are stood in for (see `sandbox.standins`).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence

import msgspec

from arkwright.diagnostics.errors import HostUnsupported, UserError
from arkwright.layer.rooted import Root
from arkwright.linux import namespaces
from arkwright.linux.worker import Worker
from arkwright.sandbox import bundle, network
from arkwright.sandbox.agent import AgentForward
from arkwright.sandbox.bundle import Confinement
from arkwright.sandbox.jailed import JailedStep, confined, environment_map, run_jailed
from arkwright.sandbox.limited import limited
from arkwright.sandbox.mountpoints import MountPoints, Target, in_mounting_order
from arkwright.sandbox.spec import Bind, Output, Secret, SshSocket, StepMount, StepSpec, StepStatus, Tmpfs
from arkwright.sandbox.standins import StandIns, copy_of, devices, empty_directory, text_file
from arkwright.sandbox.status import status_of
from arkwright.sandbox.step import confinement, require_mapped
from arkwright.sandbox.users import resolve_user

_FIX = "use a host that allows user namespaces; arkwright doctor says how"
_PLAIN = (
    "steps are isolated by chroot only: they share the processes and the network of the builder, and have "
    "no /proc and no /sys"
)
_NAMESPACED = (
    "steps are isolated by chroot in a user namespace: they share the builder's network and its view of /proc"
)


class ChrootSandbox:
    """A `sandbox.spec.Sandbox`. `notice` gets sentences for the user, each once."""

    def __init__(self, worker: Worker, *, notice: Callable[[str], None] = lambda text: None) -> None:
        self._worker = worker
        self._notice = notice
        self._noticed = False
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)

    @property
    def tier(self) -> str:
        """`chroot`, with `+userns` in a user namespace. Raises `HostUnsupported` (`no-runtime`)."""
        lacking = namespaces.lacks_for_chroot()
        if lacking:
            fix = "start the builder's container with the engine's default capabilities, as root"
            raise HostUnsupported.of(
                "no-runtime",
                f"chroot isolation needs the capabilities {', '.join(lacking)}",
                hint=fix,
                details={"probe": {"lacking": list(lacking)}, "fix": fix},
            )
        return "chroot" + ("+userns" if self._worker.rootless else "")

    def run(
        self,
        spec: StepSpec,
        root: str,
        output: Output,
        *,
        cancelled: threading.Event | None = None,
        stdio: Sequence[int] | None = None,
    ) -> StepStatus:
        """See `Sandbox.run`. Raises `HostUnsupported` (`no-runtime`, `isolation-too-weak`,
        `unmapped-id`, `runtime-failed`), `UserError` as `step.planned`, and `Cancelled`."""
        tier = self.tier
        _require_possible(spec)
        with self._lock:
            first, self._noticed = not self._noticed, True
        if first:
            self._notice(_NAMESPACED if self._worker.namespaced else _PLAIN)
        step_path = os.path.join(self._worker.runtime_path, f"chroot-{next(self._numbers)}")
        os.mkdir(step_path, 0o700)
        try:
            with (
                limited(spec, self._worker, self._notice) as within,
                self._prepared(within.spec, root, step_path) as step,
            ):
                code = run_jailed(
                    self._worker,
                    msgspec.structs.replace(step, jail=within.jail(step.jail), fds=within.fds),
                    output,
                    lambda: self._worker.cancelled.is_set() or (cancelled is not None and cancelled.is_set()),
                    stdio,
                )
                oom = within.oom()
        finally:
            with contextlib.suppress(OSError):
                os.rmdir(step_path)
        return status_of(code, tier, oom=oom)

    @contextlib.contextmanager
    def _prepared(self, spec: StepSpec, root_path: str, step_path: str) -> Iterator[JailedStep]:
        with contextlib.ExitStack() as stack:
            root = stack.enter_context(Root(root_path))
            user = resolve_user(root, spec.user)
            require_mapped(self._worker, user)
            points = stack.enter_context(MountPoints(root))
            aside_path = f"{os.path.realpath(root_path)}.aside-{os.urandom(6).hex()}"
            stands = stack.enter_context(StandIns(root, points, aside_path))
            self._system(spec, stands, points)
            by_target = {_target(mount): mount for mount in spec.mounts}
            for target in in_mounting_order(by_target):
                self._stand_in(by_target[target], stands, stack)
            _require_directory(root, spec.cwd)
            limits = confinement(spec)
            jail = confined(
                limits, user, seccomp=_filter(limits, self._worker), single_id=self._worker.single_id,
                chroot_allowed=spec.security == "insecure",
            )  # fmt: skip
            yield JailedStep(
                argv=list(spec.args),
                env=environment_map(bundle.environment(spec.env, spec.secret_env, user)),
                jail=msgspec.structs.replace(jail, root_path=os.path.realpath(root_path), cwd=spec.cwd),
                terminal=spec.terminal,
            )

    def _system(self, spec: StepSpec, stands: StandIns, points: MountPoints) -> None:
        """/dev, the files of the resolver, and the builder's /proc and /sys where mounts are allowed;
        elsewhere empty directories."""
        may_mount = self._worker.namespaced
        stands.reserve(("/proc/.", "/sys/.", "/dev", "/etc/hosts", *(mount.dest for mount in spec.mounts)))
        for path in ("/proc", "/sys"):
            points.make_directory(path)
            if may_mount:
                stands.bind_directory(path, path, readonly=path == "/sys")
        try:
            stands.place("/dev", lambda path: devices(path, stands.bind if may_mount else None), is_dir=True)
        except OSError as error:
            fix = "allow the builder's container to make device nodes (CAP_MKNOD)"
            raise HostUnsupported.of(
                "isolation-too-weak",
                f"chroot isolation needs device nodes such as /dev/null: {error.strerror}",
                hint=fix,
                details={"probe": {"isolation": "chroot", "wanted": "mknod"}, "fix": fix},
            ) from error
        hosts = network.hosts_file(spec.hostname, spec.extra_hosts)
        stands.place("/etc/hosts", text_file(hosts), is_dir=False)
        stands.place("/etc/resolv.conf", text_file(network.resolv_conf(own_network=False)), is_dir=False)

    def _stand_in(self, mount: StepMount, stands: StandIns, stack: contextlib.ExitStack) -> None:
        match mount:
            case Tmpfs():
                stands.place(mount.dest, empty_directory(mount.mode), is_dir=True)
            case Bind():
                source = os.path.realpath(mount.source)
                stands.place(
                    mount.dest, copy_of(source), is_dir=os.path.isdir(source),
                    writeback_path="" if mount.readonly else source,
                )  # fmt: skip
            case SshSocket():
                agent = mount

                def listen(path: str) -> None:
                    forward = AgentForward(agent.source, path, mode=agent.mode, uid=agent.uid, gid=agent.gid)
                    stack.callback(forward.close)

                stands.place(mount.dest, listen, is_dir=False)


def _filter(limits: Confinement, worker: Worker) -> bytes:
    """A filter can be set by those who have CAP_SYS_ADMIN; a container has its engine's."""
    if limits.seccomp is None or namespaces.needs_user_namespace():
        return b""
    from arkwright.linux.seccomp import compiled

    return compiled(limits.seccomp) or b""


def _require_possible(spec: StepSpec) -> None:
    """Raise `HostUnsupported` (`isolation-too-weak`) for what needs a mount or a namespace."""
    wanted = "--network=none" if spec.network == "none" else "a read-only root" if spec.readonly_root else ""
    if any(isinstance(mount, Secret) for mount in spec.mounts):
        wanted = "a secret as a file, which must never touch a disk (env=NAME works)"
    if wanted:
        raise HostUnsupported.of(
            "isolation-too-weak",
            f"chroot isolation cannot give the step {wanted}",
            hint=_FIX,
            details={"probe": {"isolation": "chroot", "wanted": wanted}, "fix": _FIX},
        )
    for mount in spec.mounts:
        if isinstance(mount, Bind) and not os.path.exists(mount.source):
            raise UserError.of("bad-mount-source", f"nothing can be mounted from {mount.source}")


def _target(mount: StepMount) -> Target:
    is_dir = isinstance(mount, Tmpfs) or (isinstance(mount, Bind) and os.path.isdir(mount.source))
    return Target(mount.dest, is_dir)


def _require_directory(root: Root, path: str) -> None:
    try:
        os.close(root.open_dir(root.resolve(path) or "/"))
    except OSError as error:
        raise UserError.of(
            "no-such-directory",
            f"the working directory {path} does not exist",
            hint="WORKDIR makes it",
        ) from error
