"""Steps by chroot(2): for a container that may change roots and owners, and make no namespace.

What this tier gives up is told in docs/explanation/isolation.md: a step sees the processes and, without
namespaces, the network of the builder's container, has no /proc and no /sys, and is root of that container
as far as the builder is. For mounts see `sandbox.chroot_mounts`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence

import msgspec

from arkwright.diagnostics.errors import HostUnsupported, UserError
from arkwright.layer.rooted import Root
from arkwright.linux import namespaces
from arkwright.linux.worker import Worker
from arkwright.sandbox import bundle, network
from arkwright.sandbox.aftermath import made_removable
from arkwright.sandbox.bundle import Confinement
from arkwright.sandbox.chroot_mounts import ChrootMounts, require_mountable
from arkwright.sandbox.connected import Networks
from arkwright.sandbox.filters import Filters
from arkwright.sandbox.jailed import JailedStep, confined, environment_map, run_jailed
from arkwright.sandbox.limited import limited
from arkwright.sandbox.mountpoints import MountPoints
from arkwright.sandbox.network import Network
from arkwright.sandbox.spec import Output, StepSpec, StepStatus
from arkwright.sandbox.standins import StandIns, devices, text_file
from arkwright.sandbox.status import status_of
from arkwright.sandbox.step import confinement, require_mapped
from arkwright.sandbox.users import resolve_user

_FIX = "use a host that allows user namespaces; arkwright doctor says how"
_PLAIN = (
    "steps are isolated by chroot only: they share the processes and the network of the builder, and have "
    "no /proc and no /sys"
)
_NAMESPACED = "steps are isolated by chroot in a user namespace: they have the builder's view of /proc"


class ChrootSandbox:
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
        self._noticed = False
        self._networks = Networks(worker, notice)
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
        _require_possible(spec, self._worker)
        require_mountable(spec.mounts)
        with self._lock:
            first, self._noticed = not self._noticed, True
        if first:
            self._notice(_NAMESPACED if self._worker.namespaced else _PLAIN)
        step_path = os.path.join(self._worker.runtime_path, f"chroot-{next(self._numbers)}")
        os.mkdir(step_path, 0o700)
        try:
            with (
                limited(spec, self._worker, self._notice) as within,
                self._networks.joinable(spec) as net,
                self._prepared(within.spec, root, step_path, net) as step,
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
            shutil.rmtree(step_path, ignore_errors=True)
        return status_of(code, tier, oom=oom)

    @contextlib.contextmanager
    def _prepared(self, spec: StepSpec, root_path: str, step_path: str, net: Network) -> Iterator[JailedStep]:
        with contextlib.ExitStack() as stack:
            root = stack.enter_context(Root(root_path))
            user = resolve_user(root, spec.user)
            require_mapped(self._worker, user)
            points = stack.enter_context(MountPoints(root))
            aside_path = f"{os.path.realpath(root_path)}.aside-{os.urandom(6).hex()}"
            stands = stack.enter_context(StandIns(root, points, aside_path))
            self._system(spec, stands, points, net)
            stack.enter_context(ChrootMounts(self._worker, stands, root_path, step_path, spec.mounts))
            stack.enter_context(made_removable(spec, root_path, self._worker))
            _require_directory(root, spec.cwd)
            limits = confinement(spec, net)
            jail = confined(
                limits, user, seccomp=self._filter(limits), single_id=self._worker.single_id,
                chroot_allowed=spec.security == "insecure",
            )  # fmt: skip
            yield JailedStep(
                argv=list(spec.args),
                env=environment_map(bundle.environment(spec.env, spec.secret_env, user)),
                jail=msgspec.structs.replace(
                    jail, root_path=os.path.realpath(root_path), cwd=spec.cwd, network_path=net.path
                ),
                terminal=spec.terminal,
            )

    def _filter(self, limits: Confinement) -> bytes:
        """A filter can be set by those who have CAP_SYS_ADMIN; a container has its engine's."""
        if limits.seccomp is None or namespaces.needs_user_namespace():
            return b""
        return self._filters.of(tuple(limits.capabilities)) or b""

    def _system(self, spec: StepSpec, stands: StandIns, points: MountPoints, net: Network) -> None:
        """/dev, the files of the resolver, and the builder's /proc and /sys where mounts are allowed;
        elsewhere empty directories."""
        may_mount = self._worker.namespaced
        system = ("/proc/.", "/sys/.", "/dev", "/etc/hosts", "/etc/resolv.conf")
        stands.reserve((*system, *(mount.dest for mount in spec.mounts)))
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
        stands.place("/etc/resolv.conf", text_file(network.resolv_conf(net)), is_dir=False)


def _require_possible(spec: StepSpec, worker: Worker) -> None:
    """Raise `HostUnsupported` (`isolation-too-weak`) for what needs a mount or a namespace."""
    wanted = "a read-only root" if spec.readonly_root else ""
    if spec.network == "none" and not worker.namespaced:
        wanted = "--network=none"
    if wanted:
        raise HostUnsupported.of(
            "isolation-too-weak",
            f"chroot isolation cannot give the step {wanted}",
            hint=_FIX,
            details={"probe": {"isolation": "chroot", "wanted": wanted}, "fix": _FIX},
        )


def _require_directory(root: Root, path: str) -> None:
    try:
        os.close(root.open_dir(root.resolve(path) or "/"))
    except OSError as error:
        raise UserError.of(
            "no-such-directory",
            f"the working directory {path} does not exist",
            hint="WORKDIR makes it",
        ) from error
