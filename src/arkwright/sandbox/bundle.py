"""The `config.json` of a step's bundle: a pure function of what the step may see.

Source: OCI runtime specification, config.md and config-linux.md. Masked and read-only paths,
devices and mount options are those that container engines set.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from arkwright.sandbox.network import Network
from arkwright.sandbox.users import User

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_UMASK = 0o022
TTY_GID = 5

_MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
_CONTROL_GROUPS = "/sys/fs/cgroup"
_READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


class BundleMount(msgspec.Struct, frozen=True):
    """One entry of `mounts`; `destination` is free of symbolic links."""

    destination: str
    type: str
    source: str
    options: tuple[str, ...] = ()


class Confinement(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a step. `seccomp` None: no filter; `masked`: kernel files are hidden."""

    capabilities: list[str]
    seccomp: Mapping[str, Any] | None
    masked: bool
    rlimits: list[dict[str, Any]]
    network: Network


def environment(env: tuple[str, ...], secret_env: tuple[tuple[str, str], ...], user: User) -> list[str]:
    """`env` as given, then secrets that override nothing, then PATH and HOME if they are absent."""
    found = list(env)
    names = {item.partition("=")[0] for item in env}
    wanted = (*secret_env, ("PATH", DEFAULT_PATH), ("HOME", user.home))
    for name, value in wanted:
        if name not in names:
            names.add(name)
            found.append(f"{name}={value}")
    return found


def system_mounts(*, shm_size: int, bind_sys: bool, tty_gid: bool, writable_sys: bool) -> list[BundleMount]:
    """/proc, /dev and /sys. `bind_sys`: a user namespace cannot mount sysfs for the network of
    its parent, so the host's is shown. `tty_gid`: whether group 5 exists for devpts."""
    pts = ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620")
    access = () if writable_sys else ("ro",)
    sysfs = ("nosuid", "noexec", "nodev", *access)
    return [
        BundleMount("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
        BundleMount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
        BundleMount("/dev/pts", "devpts", "devpts", (*pts, f"gid={TTY_GID}") if tty_gid else pts),
        BundleMount(
            "/dev/shm", "tmpfs", "shm", ("nosuid", "noexec", "nodev", "mode=1777", f"size={shm_size}")
        ),
        BundleMount("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
        BundleMount("/sys", "bind", "/sys", ("rbind", *sysfs))
        if bind_sys
        else BundleMount("/sys", "sysfs", "sysfs", sysfs),
    ]


def bind_mount(source: str, destination: str, *, readonly: bool) -> BundleMount:
    """A bind mount with everything below it, private to the step."""
    return BundleMount(destination, "bind", source, ("rbind", "rprivate", "ro" if readonly else "rw"))


def config(
    *,
    args: tuple[str, ...],
    env: list[str],
    cwd: str,
    user: User,
    hostname: str,
    root_path: str,
    readonly_root: bool,
    terminal: bool,
    mounts: list[BundleMount],
    confinement: Confinement,
    annotations: Mapping[str, str],
) -> dict[str, Any]:
    """The whole document."""
    namespaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")]
    match confinement.network.kind:
        case "none":
            namespaces.append({"type": "network"})
        case "own":
            namespaces.append({"type": "network", "path": confinement.network.path})
    linux: dict[str, Any] = {
        "namespaces": namespaces,
        "rootfsPropagation": "rprivate",
    }
    if confinement.masked:
        # Where /sys is the host's, its control groups are hidden, as a new sysfs has none.
        masked = (*_MASKED_PATHS, _CONTROL_GROUPS)
        linux |= {"maskedPaths": masked, "readonlyPaths": _READONLY_PATHS}
    if confinement.seccomp is not None:
        linux["seccomp"] = confinement.seccomp
    # A new namespace has the builder's name already.
    named = {"hostname": hostname} if hostname != os.uname().nodename else {}
    return {
        "ociVersion": "1.0.2",
        **named,
        "root": {"path": root_path, "readonly": readonly_root},
        "mounts": mounts,
        "linux": linux,
        "annotations": annotations,
        "process": {
            "terminal": terminal,
            "args": args,
            "env": env,
            "cwd": cwd,
            "user": {
                "uid": user.uid,
                "gid": user.gid,
                "additionalGids": user.groups,
                "umask": DEFAULT_UMASK,
            },
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), confinement.capabilities),
            "rlimits": confinement.rlimits,
            "noNewPrivileges": False,
        },
    }
