"""From a `StepSpec` and a root directory to the bundle of one step.

Everything that a step needs on disk for its lifetime (bundle, hosts file, secrets, agent sockets)
is made in one directory of the worker's private memory file system.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.layer.rooted import Root
from arkwright.linux import limits, mounts
from arkwright.linux.namespaces import unmapped_id
from arkwright.linux.worker import Worker
from arkwright.sandbox import bundle, network
from arkwright.sandbox.agent import AgentForward
from arkwright.sandbox.bundle import BundleMount, Confinement
from arkwright.sandbox.mountpoints import MountPoints, Target, in_mounting_order
from arkwright.sandbox.network import Network
from arkwright.sandbox.spec import Bind, Secret, SshSocket, StepMount, StepSpec, Tmpfs
from arkwright.sandbox.users import User, resolve_user

_MakeMount = Callable[[str], BundleMount]


@contextlib.contextmanager
def prepared(
    spec: StepSpec,
    root_path: str,
    worker: Worker,
    step_path: str,
    net: Network,
    annotations: Mapping[str, str],
) -> Iterator[str]:
    """Write the step's bundle below `step_path` and yield its directory; undo everything after.

    Raises what `planned` raises.
    """
    with planned(spec, root_path, worker, step_path, net, annotations) as document:
        yield _written(step_path, document)


@contextlib.contextmanager
def planned(
    spec: StepSpec,
    root_path: str,
    worker: Worker,
    step_path: str,
    net: Network,
    annotations: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[dict[str, Any]]:
    """The `config.json` of the step, whose files are below `step_path`; undo everything after.

    Raises `UserError` (`unknown-user`, `unknown-group`, `no-such-directory`, `bad-mount-target`,
    `bad-mount-source`, `unknown-ulimit`) and `HostUnsupported` (`unmapped-id`).
    """
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(Root(root_path))
        user = resolve_user(root, spec.user)
        require_mapped(worker, user)
        points = stack.enter_context(MountPoints(root))
        mounted = _system_mounts(spec, worker, points, net)
        mounted += _name_service_mounts(spec, step_path, points, net)
        mounted += _step_mounts(spec, worker, step_path, points, stack)
        _require_directory(spec, root, mounted)
        document = bundle.config(
            args=spec.args,
            env=bundle.environment(spec.env, spec.secret_env, user),
            cwd=spec.cwd,
            user=user,
            hostname=spec.hostname,
            root_path=os.path.realpath(root_path),
            readonly_root=spec.readonly_root,
            terminal=spec.terminal,
            mounts=mounted,
            confinement=confinement(spec, net),
            annotations=annotations,
        )
        yield document


def _written(step_path: str, document: dict[str, Any]) -> str:
    bundle_path = os.path.join(step_path, "bundle")
    os.mkdir(bundle_path, 0o700)
    _write(os.path.join(bundle_path, "config.json"), msgspec.json.encode(document), 0o600)
    return bundle_path


def confinement(spec: StepSpec, net: Network) -> Confinement:
    """The limits of a step. Raises `UserError` (`unknown-ulimit`)."""
    insecure = spec.security == "insecure"
    caps = limits.capabilities(every=insecure)
    return Confinement(
        capabilities=caps,
        seccomp=None if insecure else limits.seccomp(tuple(caps)),
        masked=not insecure,
        rlimits=limits.rlimits((item.name, item.soft, item.hard) for item in spec.rlimits),
        network=net,
    )


def require_mapped(worker: Worker, user: User) -> None:
    """Raise `HostUnsupported` (`unmapped-id`) for a user that has no id here."""
    if not worker.maps_uid(user.uid):
        raise unmapped_id("user", user.uid, worker.maps.reason)
    for gid in (user.gid, *user.groups):
        if not worker.maps_gid(gid):
            raise unmapped_id("group", gid, worker.maps.reason)


def _require_directory(spec: StepSpec, root: Root, mounted: list[BundleMount]) -> None:
    """Runtimes make a missing working directory, which would then be in the image."""
    canonical = "/" + root.resolve(spec.cwd)
    for mount in reversed(mounted):
        below = canonical[len(mount.destination) :]
        if canonical.startswith(mount.destination) and below[:1] in ("", "/"):
            if mount.type != "bind":
                return
            with Root(mount.source) as bound:
                return _require_in(bound, below, spec.cwd)
    _require_in(root, canonical, spec.cwd)


def _require_in(root: Root, path: str, written: str) -> None:
    try:
        os.close(root.open_dir(path))
    except OSError as error:
        raise UserError.of(
            "no-such-directory",
            f"the working directory {written} does not exist",
            hint="WORKDIR makes it",
        ) from error


def _system_mounts(spec: StepSpec, worker: Worker, points: MountPoints, net: Network) -> list[BundleMount]:
    system = bundle.system_mounts(
        shm_size=spec.shm_size,
        bind_sys=worker.rootless and net.kind == "host",
        tty_gid=worker.maps_gid(bundle.TTY_GID),
        writable_sys=spec.security == "insecure",
    )
    return [
        msgspec.structs.replace(
            item, destination=points.prepare(Target(item.destination, is_dir=True, source=None))
        )
        for item in system
    ]


def _name_service_mounts(
    spec: StepSpec, step_path: str, points: MountPoints, net: Network
) -> list[BundleMount]:
    files = {
        "/etc/hosts": network.hosts_file(spec.hostname, spec.extra_hosts),
        "/etc/resolv.conf": network.resolv_conf(net),
    }
    found = []
    for dest, data in files.items():
        source = os.path.join(step_path, os.path.basename(dest))
        _write(source, data, 0o644)
        canonical = points.prepare(Target(dest, is_dir=False))
        found.append(bundle.bind_mount(source, canonical, readonly=False))
    return found


def _step_mounts(
    spec: StepSpec,
    worker: Worker,
    step_path: str,
    points: MountPoints,
    stack: contextlib.ExitStack,
) -> list[BundleMount]:
    planned: dict[Target, list[_MakeMount]] = {}
    for number, mount in enumerate(spec.mounts):
        target, make = _planned(mount, worker, os.path.join(step_path, f"mount-{number}"), stack)
        planned.setdefault(target, []).append(make)
    found = []
    for target in in_mounting_order(planned):
        canonical = points.prepare(target)
        found += [make(canonical) for make in planned[target]]
    return found


def _planned(
    mount: StepMount, worker: Worker, path: str, stack: contextlib.ExitStack
) -> tuple[Target, _MakeMount]:
    """Where a mount goes and how it is spelled once its place is known; `path` is for its file."""
    match mount:
        case Tmpfs():
            # Mounted here, as runtimes differ in whose mode counts: the option's or the stub's.
            os.mkdir(path, 0o700)
            mounts.tmpfs(path, mount.size, mount.mode)
            stack.callback(mounts.unmount, path)
            readonly = mount.readonly
            return Target(mount.dest, True, path), lambda dest: bundle.bind_mount(
                path, dest, readonly=readonly
            )
        case Bind():
            source, readonly = os.path.realpath(mount.source), mount.readonly
            is_dir = _is_directory(source)
            target = Target(mount.dest, is_dir, source if is_dir else None)
            return target, lambda dest: bundle.bind_mount(source, dest, readonly=readonly)
        case Secret():
            require_mapped(worker, User(mount.uid, mount.gid))
            _write(path, mount.data, mount.mode, mount.uid, mount.gid)
            return Target(mount.dest, False), lambda dest: bundle.bind_mount(path, dest, readonly=True)
        case SshSocket():
            require_mapped(worker, User(mount.uid, mount.gid))
            forward = AgentForward(mount.source, path, mode=mount.mode, uid=mount.uid, gid=mount.gid)
            stack.callback(forward.close)
            return Target(mount.dest, False), lambda dest: bundle.bind_mount(path, dest, readonly=True)


def _is_directory(source: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(source).st_mode)
    except OSError as error:
        raise UserError.of(
            "bad-mount-source", f"nothing can be mounted from {source}: {error.strerror}"
        ) from error


def _write(path: str, data: bytes, mode: int, uid: int = 0, gid: int = 0) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as target:
        target.write(data)
        os.fchown(target.fileno(), uid, gid)
        os.fchmod(target.fileno(), mode)
