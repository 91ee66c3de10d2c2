"""`config.json` of a bundle from an image's config.

Sources: OCI image specification, conversion.md; runtime specification, config.md and config-linux.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from arkwright.layer.rooted import Root
from arkwright.linux import limits
from arkwright.oci.config import ImageConfig
from arkwright.sandbox.bundle import environment, system_mounts
from arkwright.sandbox.users import resolve_user

_MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
)  # fmt: skip
_READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_SHM = 65536 << 10  # bytes
_PREFIX = "org.opencontainers.image."

IdMap = tuple[int, int, int]


def runtime_config(
    image: ImageConfig, root: Root, *, rootless: bool, single: bool, uids: Sequence[IdMap] = (),
    gids: Sequence[IdMap] = (), terminal: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """The document. `rootless` makes a user namespace with the maps (inside, outside, count); `single`
    says that it has one id only.

    Raises `UserError` `unknown-user`, `unknown-group`.
    """
    config = image.config
    user = resolve_user(root, config.user)
    mounts = system_mounts(shm_size=_SHM, bind_sys=rootless, tty_gid=not single, writable_sys=False)
    shown: list[dict[str, Any]] = [msgspec.to_builtins(one) for one in mounts]
    if rootless:
        shown.append(
            {"destination": "/etc/resolv.conf", "type": "bind", "source": "/etc/resolv.conf", "options": ["rbind", "ro"]}
        )  # fmt: skip
    else:
        shown.append(
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
        )  # fmt: skip
    shown += [
        {"destination": path, "type": "tmpfs", "source": "none", "options": ["rw", "nosuid", "nodev", "noexec", "relatime"]}
        for path in sorted(config.volumes)
    ]  # fmt: skip
    kinds = ["pid", "ipc", "uts", "mount", *(["user"] if rootless else ["network"])]
    mask = limits.DEFAULT_CAPABILITY_MASK
    capabilities = [f"CAP_{name}" for number, name in enumerate(limits.CAPABILITIES) if mask >> number & 1]
    linux: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in kinds], "maskedPaths": _MASKED, "readonlyPaths": _READONLY,
    }  # fmt: skip
    if rootless:
        linux["uidMappings"] = [_mapping(one) for one in uids]
        linux["gidMappings"] = [_mapping(one) for one in gids]
    else:
        linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    return {
        "ociVersion": "1.0.2",
        "hostname": "arkwright",
        "root": {"path": "rootfs", "readonly": False},
        "process": {
            "terminal": terminal,
            "user": {"uid": user.uid, "gid": user.gid, "additionalGids": [] if single else user.groups},
            "args": [*(config.entrypoint or ()), *(config.cmd or ())] or ["sh"],
            "env": environment(config.env, (), user),
            "cwd": config.working_dir or "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "mounts": shown,
        "annotations": image_annotations(image),
        "linux": linux,
    }  # fmt: skip


def image_annotations(image: ImageConfig) -> dict[str, str]:
    """What conversion.md makes of fields, and the labels, which win."""
    fields = {
        "os": image.os, "architecture": image.architecture, "variant": image.variant, "os.version": image.os_version,
        "author": image.author, "created": image.created, "stopSignal": image.config.stop_signal,
        "exposedPorts": ",".join(sorted(image.config.exposed_ports)),
    }  # fmt: skip
    found = {_PREFIX + name: value for name, value in fields.items() if value}
    return dict(sorted({**found, **image.config.labels}.items()))


def _mapping(one: IdMap) -> dict[str, int]:
    return {"containerID": one[0], "hostID": one[1], "size": one[2]}
