"""Programs of other architectures: whether this kernel runs them in a step, and through what.

What counts is whether a program runs where steps run: below another root, in which no emulator
lies. So a tiny static program per architecture is started in an empty root. That also answers
where /proc/sys/fs/binfmt_misc is not mounted (in a container), though the host's handlers apply.

A user namespace can have handlers of its own since Linux 6.7; then a user needs no root to set
them up, only the emulator. Sources: Documentation/admin-guide/binfmt-misc.rst, elf(5), the system
call tables and calling conventions in syscall(2).
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import struct
import tempfile
from collections.abc import Iterable, Sequence

import msgspec

from arkwright.diagnostics.errors import HostUnsupported
from arkwright.linux import mounts, namespaces, syscalls
from arkwright.oci.platform import Platform

_BINFMT_PATH = "/proc/sys/fs/binfmt_misc"
_BASE = 0x400000
_WORKS, _NO_HANDLER, _NO_INTERPRETER, _NO_NAMESPACE, _OTHER = 0, 101, 102, 103, 104
# open-binary, credentials, preserve argv[0], and F: the emulator is opened now, not below a step's root.
_HANDLER_FLAGS = "POCF"
_TIMEOUT_S = 10
_ALTERNATIVE = (
    "cross-compile in a stage with FROM --platform=$BUILDPLATFORM and only COPY into the foreign one"
)


class Machine(msgspec.Struct, frozen=True):
    """An architecture as ELF and QEMU know it; `code` calls exit(0)."""

    number: int
    bits: int
    qemu: str
    code: bytes
    big_endian: bool = False
    flags: int = 0


MACHINES = {
    "amd64": Machine(62, 64, "x86_64", bytes.fromhex("31ff b83c000000 0f05")),
    "386": Machine(3, 32, "i386", bytes.fromhex("31db b801000000 cd80")),
    "arm64": Machine(183, 64, "aarch64", bytes.fromhex("000080d2 a80b80d2 010000d4")),
    "arm": Machine(40, 32, "arm", bytes.fromhex("0000a0e3 0170a0e3 000000ef"), flags=0x05000000),
    "riscv64": Machine(243, 64, "riscv64", bytes.fromhex("13050000 9308d005 73000000")),
    "ppc64le": Machine(21, 64, "ppc64le", bytes.fromhex("01000038 00006038 02000044"), flags=2),
    "s390x": Machine(22, 64, "s390x", bytes.fromhex("a7290000 0a01"), big_endian=True),
    "mips64le": Machine(8, 64, "mips64el", bytes.fromhex("c2130224 25200000 0c000000"), flags=0x80000007),
    "mips64": Machine(
        8, 64, "mips64", bytes.fromhex("240213c2 00002025 0000000c"), big_endian=True, flags=0x80000007
    ),
    "loong64": Machine(258, 64, "loongarch64", bytes.fromhex("0b748103 04008003 00002b00"), flags=0x43),
}  # fmt: skip


class Emulation(msgspec.Struct, frozen=True, kw_only=True):
    """Whether programs of an architecture run. `emulator_path` is set when they only do in a user
    namespace that got a handler of its own (`register`); `reason` and `fix` say what is missing."""

    architecture: str
    ok: bool
    emulator_path: str = ""
    reason: str = ""
    fix: str = ""


def program(architecture: str, code: bytes | None = None) -> bytes:
    """A static ELF program that ends with status 0, or runs `code`. Raises `KeyError`."""
    machine = MACHINES[architecture]
    order = ">" if machine.big_endian else "<"
    code = machine.code if code is None else code
    wide = machine.bits == 64
    header, entry = (64, 56) if wide else (52, 32)
    start = header + entry
    word = "Q" if wide else "I"
    head = struct.pack(
        f"{order}HHI{word}{word}{word}IHHHHHH",
        2, machine.number, 1, _BASE + start, header, 0, machine.flags, header, entry, 1, 0, 0, 0,
    )  # fmt: skip
    size = start + len(code)
    if wide:
        segment = struct.pack(f"{order}IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x10000)
    else:
        segment = struct.pack(f"{order}IIIIIIII", 1, 0, _BASE, _BASE, size, size, 5, 0x10000)
    return _ident(machine) + bytes(8) + head + segment + code


def _ident(machine: Machine) -> bytes:
    return b"\x7fELF" + bytes((2 if machine.bits == 64 else 1, 2 if machine.big_endian else 1, 1, 0))


def emulation_key(platform: Platform) -> str:
    """The name of a platform's programs in `find_emulations`; those of other systems run nowhere."""
    return platform.architecture if platform.os == "linux" else f"{platform.os}/{platform.architecture}"


def find_emulations(architectures: Iterable[str], work_path: str) -> dict[str, Emulation]:
    """Try a program of each architecture, as a step of this user's build would run it.

    `work_path` is a directory in which programs may be started. The calling process must have one
    thread. Raises `OSError` when nothing can be written there.
    """
    found = {name: _find(name, work_path) for name in sorted(set(architectures))}
    own = [item for item in found.values() if item.emulator_path]
    if own:
        # Handlers of a namespace hide those above it, so what these did is tried again.
        for name, item in found.items():
            if item.ok and not item.emulator_path and _attempt(name, work_path, own) != _WORKS:
                found[name] = _own_handler(name, work_path) or _missing(name, _NO_HANDLER)
    return found


def _find(architecture: str, work_path: str) -> Emulation:
    if architecture not in MACHINES:
        return Emulation(architecture=architecture, ok=False, reason="no emulation is known for it")
    status = _attempt(architecture, work_path, ())
    if status == _WORKS:
        return Emulation(architecture=architecture, ok=True)
    return _own_handler(architecture, work_path) or _missing(architecture, status)


def _own_handler(architecture: str, work_path: str) -> Emulation | None:
    """The emulator that works as a handler of the user namespace that steps get, if there is one."""
    found = _emulator_path(architecture)
    if not found or not namespaces.needs_user_namespace():
        return None
    own = Emulation(architecture=architecture, ok=True, emulator_path=found)
    return own if _attempt(architecture, work_path, (own,)) == _WORKS else None


def _attempt(architecture: str, work_path: str, own: Sequence[Emulation]) -> int:
    with tempfile.TemporaryDirectory(prefix="emulation-", dir=work_path) as root_path:
        with open(os.path.join(root_path, "program"), "xb") as file:
            file.write(program(architecture))
        os.chmod(file.name, 0o755)
        return _try(root_path, own)


def _missing(architecture: str, status: int) -> Emulation:
    return Emulation(
        architecture=architecture, ok=False, reason=_reason(architecture, status), fix=_fix(architecture)
    )


def no_emulation(platform: str, found: Emulation) -> HostUnsupported:
    """The error for a step of a platform whose programs do not run here."""
    error = HostUnsupported.of(
        "no-emulation",
        f"this host cannot run programs for {platform}: {found.reason}",
        hint=_ALTERNATIVE if not found.fix else f"{found.fix}; or {_ALTERNATIVE}",
        details={"probe": {"platform": platform, "reason": found.reason}, "fix": found.fix},
    )
    assert isinstance(error, HostUnsupported)
    return error


def register(handlers: Sequence[Emulation], mount_path: str) -> None:
    """Give this user namespace handlers of its own, in place of those of the namespaces above.

    `mount_path` is a fresh path in a private mount namespace. Raises `OSError`.
    """
    os.mkdir(mount_path, 0o700)
    syscalls.mount("binfmt_misc", mount_path, "binfmt_misc")
    for handler in handlers:
        line = registration(handler.architecture, handler.emulator_path)
        fd = os.open(os.path.join(mount_path, "register"), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)


def registration(architecture: str, emulator_path: str, flags: str = _HANDLER_FLAGS) -> bytes:
    """The line for the kernel: executables (ET_EXEC, ET_DYN) of one machine, any OS ABI."""
    machine = MACHINES[architecture]
    order = ">" if machine.big_endian else "<"
    magic = _ident(machine) + bytes(8) + struct.pack(f"{order}HH", 2, machine.number)
    mask = b"\xff" * 7 + b"\x00" + b"\xff" * 8 + struct.pack(f"{order}HH", 0xFFFE, 0xFFFF)
    parts = ("".join(f"\\x{byte:02x}" for byte in data).encode() for data in (magic, mask))
    name = f"arkwright-{architecture}".encode()
    return b":".join((b"", name, b"M", b"", *parts, os.fsencode(emulator_path), flags.encode()))


def _emulator_path(architecture: str) -> str:
    name = f"qemu-{MACHINES[architecture].qemu}"
    return shutil.which(f"{name}-static") or shutil.which(name) or ""


def _try(root_path: str, own: Sequence[Emulation]) -> int:
    """Start `program` below a root of its own, in a child; `own` handlers are registered first."""
    uid, gid = os.geteuid(), os.getegid()
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(_start(root_path, own, uid, gid))
        finally:
            os._exit(_OTHER)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status if status in (_WORKS, _NO_HANDLER, _NO_INTERPRETER, _NO_NAMESPACE) else _OTHER


def _start(root_path: str, own: Sequence[Emulation], uid: int, gid: int) -> int:
    signal.alarm(_TIMEOUT_S)
    null_fd = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null_fd, fd)
    try:
        if namespaces.needs_user_namespace():
            syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
            _map_self(uid, gid)
        if own:
            mounts.make_slave("/")
            register(own, os.path.join(root_path, "binfmt"))
        os.chroot(root_path)
        os.chdir("/")
    except OSError:
        return _NO_NAMESPACE
    try:
        os.execv("/program", ["program"])  # noqa: S606
    except OSError as error:
        return _NO_INTERPRETER if error.errno == errno.ENOENT else _NO_HANDLER


def _map_self(uid: int, gid: int) -> None:
    for name, text in (("setgroups", "deny"), ("gid_map", f"0 {gid} 1"), ("uid_map", f"0 {uid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _reason(architecture: str, status: int) -> str:
    if status == _NO_INTERPRETER:
        return "its binfmt_misc handler lacks the flag F, so steps do not find the emulator"
    if status == _NO_HANDLER:
        return "no binfmt_misc handler takes its programs" + _where(architecture)
    return "a program for it was started and did not end well"


def _where(architecture: str) -> str:
    if not os.path.exists(os.path.join(_BINFMT_PATH, "status")):
        return "; binfmt_misc is not mounted here"
    path = os.path.join(_BINFMT_PATH, f"qemu-{MACHINES[architecture].qemu}")
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return "; it is switched off" if file.readline().strip() == "disabled" else ""
    except OSError:
        return ""


def _fix(architecture: str) -> str:
    if architecture in ("amd64", "386") and os.uname().machine == "x86_64":
        return "use a kernel with IA32 emulation"
    if _emulator_path(architecture):
        return (
            "let the host use the emulators that are installed: systemctl restart systemd-binfmt, or "
            "install binfmt-support; on Linux 6.7 and later a user other than root needs neither"
        )
    return "install emulators on the host: the packages qemu-user-static and binfmt-support"
