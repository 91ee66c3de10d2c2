"""What a step may do: capabilities, system calls, resource limits.

Values follow what container engines give by default: fourteen capabilities (mask a80425fb) and,
where the host has the engines' own seccomp profile, that profile. Shapes are those of the OCI
runtime specification, config-linux.md.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from typing import Any

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.linux.namespaces import capability_mask

# The kernel's order, linux/capability.h.
CAPABILITIES = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
]
DEFAULT_CAPABILITY_MASK = 0xA80425FB
SECCOMP_PROFILE_PATHS = ("/usr/share/containers/seccomp.json", "/etc/containers/seccomp.json")

_ARCHES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
}
_EPERM = 1
# Calls that reach the kernel itself, other containers or the host's clock; the fallback profile
# refuses these and admits everything else.
_DANGEROUS_CALLS = [
    "acct",
    "add_key",
    "bpf",
    "clock_adjtime",
    "clock_settime",
    "create_module",
    "delete_module",
    "fanotify_init",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "get_kernel_syms",
    "init_module",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "mount",
    "mount_setattr",
    "move_mount",
    "nfsservctl",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "pivot_root",
    "query_module",
    "quotactl",
    "reboot",
    "request_key",
    "setdomainname",
    "sethostname",
    "setns",
    "settimeofday",
    "stime",
    "swapoff",
    "swapon",
    "sysfs",
    "_sysctl",
    "umount",
    "umount2",
    "unshare",
    "uselib",
    "userfaultfd",
    "ustat",
    "vhangup",
    "vm86",
    "vm86old",
]
_CLONE_NAMESPACES = 0x7E020000

_ULIMITS = {
    "as": "AS", "core": "CORE", "cpu": "CPU", "data": "DATA", "fsize": "FSIZE", "locks": "LOCKS",
    "memlock": "MEMLOCK", "msgqueue": "MSGQUEUE", "nice": "NICE", "nofile": "NOFILE", "nproc": "NPROC",
    "rss": "RSS", "rtprio": "RTPRIO", "rttime": "RTTIME", "sigpending": "SIGPENDING", "stack": "STACK",
}  # fmt: skip
_LINUX_ONLY = {"LOCKS": 10, "SIGPENDING": 11, "MSGQUEUE": 12, "NICE": 13, "RTPRIO": 14, "RTTIME": 15}
_INFINITY = (1 << 64) - 1


def capabilities(*, every: bool) -> list[str]:
    """Names (`CAP_…`) for a step: the default ones, or all, as far as this process may give them."""
    mask = capability_mask("CapBnd") & capability_mask("CapPrm")
    if not every:
        mask &= DEFAULT_CAPABILITY_MASK
    return ["CAP_" + name for number, name in enumerate(CAPABILITIES) if mask >> number & 1]


def mask_of(names: Iterable[str]) -> int:
    """The mask of capabilities by name (`CAP_…`)."""
    return sum(1 << CAPABILITIES.index(name.removeprefix("CAP_")) for name in names)


# --- Seccomp ---------------------------------------------------------------------------------


class _Condition(msgspec.Struct, frozen=True):
    caps: tuple[str, ...] = ()
    arches: tuple[str, ...] = ()
    minKernel: str = ""  # noqa: N815, the file's spelling

    def holds(self, caps: frozenset[str], arch: str) -> bool:
        return (
            caps.issuperset(self.caps)
            and (not self.arches or arch in self.arches)
            and _release() >= _version(self.minKernel)
        )

    def excludes(self, caps: frozenset[str], arch: str) -> bool:
        return bool(caps.intersection(self.caps)) or arch in self.arches


class _Rule(msgspec.Struct, frozen=True):
    action: str
    names: tuple[str, ...] = ()
    name: str = ""
    args: list[dict[str, Any]] | None = None
    includes: _Condition = _Condition()
    excludes: _Condition = _Condition()
    errnoRet: int | None = None  # noqa: N815, the file's spelling


class _ArchMap(msgspec.Struct, frozen=True):
    architecture: str
    subArchitectures: list[str] | None = None  # noqa: N815, the file's spelling


class _Profile(msgspec.Struct, frozen=True):
    defaultAction: str  # noqa: N815, the file's spelling
    syscalls: list[_Rule]
    defaultErrnoRet: int | None = None  # noqa: N815, the file's spelling
    archMap: list[_ArchMap] = []  # noqa: N815, the file's spelling


@functools.cache
def seccomp(caps: tuple[str, ...]) -> dict[str, Any]:
    """The `linux.seccomp` object for a step with the capabilities `caps`.

    Read from the host's profile of its container engines, else a built-in list of refusals.
    """
    for path in SECCOMP_PROFILE_PATHS:
        try:
            with open(path, "rb") as source:
                profile = msgspec.json.decode(source.read(), type=_Profile)
        except (OSError, msgspec.MsgspecError):
            continue
        return convert_profile(profile, frozenset(caps))
    return fallback_profile()


def convert_profile(profile: _Profile, caps: frozenset[str]) -> dict[str, Any]:
    """An engines' profile, with its conditions decided, in the form of the runtime specification."""
    arch, native = _ARCHES.get(os.uname().machine, (os.uname().machine, ""))
    rules = []
    for rule in profile.syscalls:
        if not rule.includes.holds(caps, arch) or rule.excludes.excludes(caps, arch):
            continue
        found: dict[str, Any] = {"names": list(rule.names or (rule.name,)), "action": rule.action}
        if rule.args:
            found["args"] = rule.args
        if rule.errnoRet is not None and rule.action == "SCMP_ACT_ERRNO":
            found["errnoRet"] = rule.errnoRet
        rules.append(found)
    result: dict[str, Any] = {"defaultAction": profile.defaultAction, "syscalls": rules}
    if profile.defaultErrnoRet is not None:
        result["defaultErrnoRet"] = profile.defaultErrnoRet
    for item in profile.archMap:
        if item.architecture == native:
            result["architectures"] = [native, *(item.subArchitectures or ())]
    return result


def fallback_profile() -> dict[str, Any]:
    """Everything but the calls that no build step needs and that attacks begin with."""
    refused = {"action": "SCMP_ACT_ERRNO", "errnoRet": _EPERM}
    namespaces = {"index": 0, "value": _CLONE_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    each = [
        {"names": ["clone"], "args": [{**namespaces, "value": 1 << bit, "valueTwo": 1 << bit}], **refused}
        for bit in range(32)
        if _CLONE_NAMESPACES >> bit & 1
    ]
    # The flags of clone3 are out of a filter's reach; ENOSYS makes libc use clone.
    clone3 = {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": list(_DANGEROUS_CALLS), **refused}, *each, clone3],
    }


@functools.cache
def _release() -> tuple[int, ...]:
    return _version(os.uname().release)


def _version(text: str) -> tuple[int, ...]:
    parts = text.split("-", maxsplit=1)[0].split(".")[:2]
    return tuple(int(part) for part in parts if part.isdecimal())


# --- Limits ----------------------------------------------------------------------------------


def rlimits(wanted: Iterable[tuple[str, int, int]]) -> list[dict[str, Any]]:
    """`process.rlimits` from (ulimit name, soft, hard), each clamped to this process's hard limit.

    -1 is unlimited. Raises `UserError` (`unknown-ulimit`).
    """
    import resource

    found = []
    for name, soft, hard in wanted:
        kind = _ULIMITS.get(name.lower())
        if kind is None:
            raise UserError.of(
                "unknown-ulimit",
                f"there is no ulimit named {name!r}",
                hint="one of " + ", ".join(sorted(_ULIMITS)),
            )
        number = _LINUX_ONLY.get(kind)
        if number is None:
            number = int(getattr(resource, "RLIMIT_" + kind))
        ceiling = _unsigned(resource.getrlimit(number)[1])
        hard_value = min(_unsigned(hard), ceiling)
        soft_value = min(_unsigned(soft), hard_value)
        found.append({"type": "RLIMIT_" + kind, "soft": soft_value, "hard": hard_value})
    return found


def as_setrlimit(found: Iterable[dict[str, Any]]) -> list[tuple[int, int, int]]:
    """`process.rlimits` as arguments of setrlimit(2): kind, soft, hard."""
    import resource

    numbers = []
    for item in found:
        name = item["type"].removeprefix("RLIMIT_")
        number = _LINUX_ONLY.get(name)
        kind = int(getattr(resource, "RLIMIT_" + name)) if number is None else number
        numbers.append((kind, _signed(item["soft"]), _signed(item["hard"])))
    return numbers


def _signed(value: int) -> int:
    return -1 if value == _INFINITY else value


def _unsigned(value: int) -> int:
    return _INFINITY if value < 0 else value
