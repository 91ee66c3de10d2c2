"""User and mount namespaces of the worker: id maps from subordinate ids, and private mounts.

A user namespace is made by the worker (P1) and mapped from outside by the supervisor (P0), as
user_namespaces(7) demands. Sources: subuid(5), newuidmap(1), mount_namespaces(7).
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable

import msgspec

from arkwright.diagnostics.errors import HostUnsupported
from arkwright.linux import mounts, syscalls

_CAP_SETGID, _CAP_SETUID, _CAP_SYS_CHROOT, _CAP_SYS_ADMIN, _CAP_SETFCAP = 6, 7, 18, 21, 31
# What it takes to write any file of a tree, and to start a step in it, without a namespace.
_FOR_CHROOT = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "SETGID": 6,
    "SETUID": 7,
    "SYS_CHROOT": 18,
}
_FIX_SUBIDS = (
    "install newuidmap and newgidmap (package uidmap) and give the user 65536 subordinate ids: "
    "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 NAME"
)
_FIX_USERNS = (
    "allow user namespaces: sysctl user.max_user_namespaces=15000, kernel.unprivileged_userns_clone=1 "
    "where it exists, kernel.apparmor_restrict_unprivileged_userns=0; or run as root"
)

_ALL_IDS = (1 << 32) - 1


class IdRange(msgspec.Struct, frozen=True):
    """`count` ids from `inside` on stand for those from `outside` on."""

    inside: int
    outside: int
    count: int


class IdMaps(msgspec.Struct, frozen=True, kw_only=True):
    """The maps of a user namespace. `single_id`: only the user's own id, as 0, is mapped, and
    `reason` says why."""

    uids: tuple[IdRange, ...] = ()
    gids: tuple[IdRange, ...] = ()
    single_id: bool = False
    reason: str = ""


def needs_user_namespace() -> bool:
    """Whether this process must have a user namespace of its own before it may mount."""
    return os.geteuid() != 0 or not effective_capabilities() >> _CAP_SYS_ADMIN & 1


def lacks_for_chroot() -> tuple[str, ...]:
    """The capabilities that this process lacks to change roots and owners, by name."""
    have = effective_capabilities()
    return tuple(name for name, number in _FOR_CHROOT.items() if not have >> number & 1)


def effective_capabilities() -> int:
    """The mask CapEff of this process."""
    return capability_mask("CapEff")


def capability_mask(field: str) -> int:
    """A capability mask (`CapEff`, `CapBnd` …) of this process; see proc_pid_status(5)."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1], 16)
    return 0


def subordinate_ranges(path: str, names: Iterable[str]) -> list[tuple[int, int]]:
    """(first, count) of every range in a subuid(5) file that belongs to one of `names` (a login
    name or a uid in decimal). A missing file is an empty one; bad lines are skipped."""
    wanted = set(names)
    found = []
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                owner, _, rest = line.strip().partition(":")
                first, _, count = rest.partition(":")
                if owner in wanted and first.isdecimal() and count.isdecimal() and int(count):
                    found.append((int(first), int(count)))
    except OSError:
        return []
    return found


def plan_id_maps() -> IdMaps:
    """The widest maps that this user can have: subordinate ids when files and tools are there."""
    if may_map_all():
        return IdMaps(uids=_identity("uid"), gids=_identity("gid"))
    names = _own_names()
    uids = subordinate_ranges("/etc/subuid", names)
    gids = subordinate_ranges("/etc/subgid", names)
    if not uids or not gids:
        return _single(f"no subordinate ids for {names[-1]} in /etc/subuid and /etc/subgid")
    if not (shutil.which("newuidmap") and shutil.which("newgidmap")):
        return _single("newuidmap and newgidmap are not installed")
    return IdMaps(uids=_laid_out(os.geteuid(), uids), gids=_laid_out(os.getegid(), gids))


def may_map_all() -> bool:
    """Whether this process may map every id it has into a user namespace of its child, each to
    itself: user_namespaces(7), "Defining user and group ID mappings"."""
    have = effective_capabilities()
    wanted = (_CAP_SETUID, _CAP_SETGID, _CAP_SETFCAP)
    return os.geteuid() == 0 and all(have >> number & 1 for number in wanted)


def _identity(kind: str) -> tuple[IdRange, ...]:
    """Every id of this user namespace, as itself, but for the last of all: runtimes take a map of
    the whole range for the host's own namespace, and make device nodes instead of binding them."""
    found = []
    with open(f"/proc/self/{kind}_map", encoding="ascii") as lines:
        for line in lines:
            first, _, count = map(int, line.split())
            found.append(IdRange(first, first, min(count, _ALL_IDS - 1)))
    return tuple(found)


def subordinate_ids_fix() -> str:
    """What gives this user subordinate ids."""
    return _FIX_SUBIDS.replace("NAME", _own_names()[-1])


def _own_names() -> list[str]:
    import pwd

    uid = os.geteuid()
    try:
        return [str(uid), pwd.getpwuid(uid).pw_name]
    except KeyError:
        return [str(uid)]


def _single(reason: str) -> IdMaps:
    return IdMaps(
        uids=(IdRange(0, os.geteuid(), 1),),
        gids=(IdRange(0, os.getegid(), 1),),
        single_id=True,
        reason=reason,
    )


def _laid_out(own: int, ranges: list[tuple[int, int]]) -> tuple[IdRange, ...]:
    """The own id becomes 0, the subordinate ids follow without a gap."""
    found = [IdRange(0, own, 1)]
    inside = 1
    for first, count in ranges:
        found.append(IdRange(inside, first, count))
        inside += count
    return tuple(found)


def write_id_maps(pid: int, maps: IdMaps) -> IdMaps:
    """Map the user namespace of the child `pid`; called outside of it, by its parent.

    Returns the maps that were written: those for a single id when newuidmap refuses.
    Raises `HostUnsupported` (`no-user-namespace`) when not even those can be written.
    """
    if not maps.single_id and may_map_all():
        try:
            for kind, ranges in (("gid", maps.gids), ("uid", maps.uids)):
                lines = "\n".join(f"{item.inside} {item.outside} {item.count}" for item in ranges)
                _write(f"/proc/{pid}/{kind}_map", lines)
        except OSError as error:
            raise no_user_namespace(error) from error
        return maps
    if not maps.single_id:
        refusal = _run_mapper("newuidmap", pid, maps.uids) or _run_mapper("newgidmap", pid, maps.gids)
        if not refusal:
            return maps
        maps = _single(refusal)
    try:
        _write(f"/proc/{pid}/setgroups", "deny")
        _write(f"/proc/{pid}/gid_map", f"0 {os.getegid()} 1")
        _write(f"/proc/{pid}/uid_map", f"0 {os.geteuid()} 1")
    except OSError as error:
        raise no_user_namespace(error, maps.reason) from error
    return maps


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _run_mapper(tool: str, pid: int, ranges: tuple[IdRange, ...]) -> str:
    """Run newuidmap or newgidmap; returns why it failed, or nothing."""
    argv = [tool, str(pid)]
    for item in ranges:
        argv += [str(item.inside), str(item.outside), str(item.count)]
    reader, writer = os.pipe()
    try:
        actions = [(os.POSIX_SPAWN_DUP2, writer, 2)]
        child = os.posix_spawnp(tool, argv, os.environ, file_actions=actions)
        os.close(writer)
        writer = -1
        said = os.read(reader, 4096).decode(errors="replace").strip()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except OSError as error:
        return f"{tool}: {error.strerror}"
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    return "" if status == 0 else said or f"{tool} failed with status {status}"


def enter_user_namespace() -> None:
    """Make a user namespace; its maps are then written by the parent process."""
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
    except OSError as error:
        raise no_user_namespace(error) from error


def become_namespace_root() -> None:
    """Take id 0 of the mapped user namespace."""
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def enter_mount_namespace() -> None:
    """A mount namespace that gets mounts of the host, sends none, and shares its own mounts with
    the namespaces that are cloned from it."""
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
    except OSError as error:
        raise mounts.refused("a private mount namespace", error) from error
    mounts.make_slave("/")
    mounts.make_shared("/")


def open_control_groups() -> int:
    """A descriptor of the control groups as they are now, or -1."""
    try:
        return os.open("/sys/fs/cgroup", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1


def settle_cgroups() -> tuple[str, ...]:
    """Make the control groups of this mount namespace harmless; returns what was done.

    crun 1.8 refuses a host with hybrid control groups unless the unified mount is hidden, and runc
    leaves groups behind that nobody removes after a kill unless the tree is read-only.
    """
    done = []
    root, unified = "/sys/fs/cgroup", "/sys/fs/cgroup/unified"
    try:
        if os.path.ismount(unified):
            mounts.tmpfs(unified, size=4096, mode=0o555)
            done.append("hid the unified control groups of a hybrid host")
        if os.path.ismount(root):
            mounts.bind(root, root, readonly=True, recursive=True)
            done.append("control groups are read-only")
    except (OSError, HostUnsupported) as error:
        done.append(f"control groups stay as they are: {error}")
    return tuple(done)


def no_user_namespace(error: OSError, reason: str = "") -> HostUnsupported:
    """The error for a host on which this user gets no user namespace."""
    found = HostUnsupported.of(
        "no-user-namespace",
        f"this user cannot make a user namespace: {error.strerror}",
        notes=(reason,) if reason else (),
        hint=_FIX_USERNS,
        details={"probe": {"errno": errno.errorcode.get(error.errno or 0, "")}, "fix": _FIX_USERNS},
    )
    assert isinstance(found, HostUnsupported)
    return found


def unmapped_id(kind: str, number: int, reason: str) -> HostUnsupported:
    """The error for a uid or gid that has no id outside of the user namespace."""
    found = HostUnsupported.of(
        "unmapped-id",
        f"{kind} {number} is not mapped for this user" + (f": {reason}" if reason else ""),
        hint=_FIX_SUBIDS,
        details={"probe": {"kind": kind, "id": number, "reason": reason}, "fix": _FIX_SUBIDS},
    )
    assert isinstance(found, HostUnsupported)
    return found
