"""How init starts a step without a container runtime: a keeper and the step below it.

The keeper (K) is forked by init (Z). It is the subreaper of everything that the step starts and
kills what is left when the step ends, when it is told to (SIGTERM) or when Z dies. The step's
process (C) joins or changes what the `Jail` names, gives privileges up, and becomes the command.

Sources: prctl(2) (PR_SET_CHILD_SUBREAPER, PR_CAPBSET_DROP), setns(2), chroot(2), pivot_root(2), capabilities(7).
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import time
from collections.abc import Mapping

import msgspec

from arkwright.linux import syscalls

SETUP_FAILED = b"setup "
EXEC_FAILED = b"exec "
_NAMESPACES = (
    ("ipc", syscalls.CLONE_NEWIPC),
    ("uts", syscalls.CLONE_NEWUTS),
    ("net", syscalls.CLONE_NEWNET),
    ("cgroup", syscalls.CLONE_NEWCGROUP),
)
_FIRST_FREE_FD = 3
_COMPLETE_WITHIN_S = 30.0
_LOOK_AGAIN_S = 0.001
_KILLED = 128 + signal.SIGKILL


class Jail(msgspec.Struct, frozen=True, kw_only=True):
    """What C does before it becomes the command, in this order.

    `group_fds`: descriptors (numbers of the child) of `cgroup.procs` files that it enters.
    `network_path`: the file of a network namespace that it joins.
    `join_pid`: a process of init's pid namespace whose namespaces it joins, and whose root.
    `join_root`: device and inode of that root, which tell that the namespaces are complete; the
    process is killed at the end. `root_path`: the directory that becomes its root; `cwd` is in there. `capabilities`: the mask
    that stays; -1: all. `groups` None: setgroups(2) is not to be called. `report_fd`: where a
    failure before the command is written. Without `keeper` C is Z's own child, which suits a
    command that cleans up after itself.
    """

    keeper: bool = True
    group_fds: tuple[int, ...] = ()
    network_path: str = ""
    join_pid: int = 0
    join_root: tuple[int, int] = (0, 0)
    root_path: str = ""
    cwd: str = "/"
    umask: int = -1
    rlimits: tuple[tuple[int, int, int], ...] = ()
    cpus: tuple[int, ...] = ()
    capabilities: int = -1
    seccomp: bytes = b""
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] | None = None
    report_fd: int = -1


class Command(msgspec.Struct, frozen=True):
    """`fds` maps descriptors of the command to ours."""

    argv: list[str]
    env: Mapping[str, str]
    fds: Mapping[int, int]
    setsid: bool = True


def start(command: Command, jail: Jail) -> int:
    """Fork K, or C without a keeper; returns its pid. For a process with one thread."""
    parent_pid = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.set_wakeup_fd(-1)
        if jail.keeper:
            _keep(command, jail, parent_pid)
        else:
            if command.setsid:
                os.setsid()
            else:
                os.setpgid(0, 0)
            _become(command, jail)
    finally:
        os._exit(126)


# --- K ---------------------------------------------------------------------------------------


def _keep(command: Command, jail: Jail, init_pid: int) -> None:
    """K from fork to end; never returns."""
    os.setpgid(0, 0)
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    watched = {signal.SIGTERM, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    # SIGTERM, so that what the step left is still killed when init is.
    syscalls.set_parent_death_signal(signal.SIGTERM)
    if os.getppid() != init_pid:
        os._exit(_KILLED)
    if jail.join_pid:
        _wait_for_root(jail, command.fds.get(jail.report_fd, -1))
        _join(jail.join_pid, "pid", syscalls.CLONE_NEWPID)
    child = os.fork()
    if child == 0:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
            if command.setsid:
                os.setsid()
            else:
                _take_terminal(command)
            _become(command, jail)
        finally:
            os._exit(126)
    with contextlib.suppress(OSError):
        syscalls.set_process_name("arkwright-keep")
    os.closerange(0, os.sysconf("SC_OPEN_MAX"))
    code = -1
    while code < 0:
        if signal.sigwait(watched) == signal.SIGTERM:
            code = _KILLED
        code = max(code, _reap(child))
    if jail.join_pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(jail.join_pid, signal.SIGKILL)
    _end_all()
    os._exit(code)


def _take_terminal(command: Command) -> None:
    """Become the foreground of the terminal on the command's standard input, if it is one."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    with contextlib.suppress(OSError, KeyError):
        os.tcsetpgrp(command.fds[0], os.getpgrp())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)


def _wait_for_root(jail: Jail, report_fd: int) -> None:
    """Until the process has the root; there is nothing that could be waited for instead."""
    deadline_s = time.monotonic() + _COMPLETE_WITHIN_S
    while time.monotonic() < deadline_s:
        try:
            found = os.stat(f"/proc/{jail.join_pid}/root/")
        except OSError:
            break
        if (found.st_dev, found.st_ino) == jail.join_root:
            return
        time.sleep(_LOOK_AGAIN_S)
    _report(report_fd, SETUP_FAILED + b"the namespaces were not completed")
    os._exit(126)


def _reap(child: int) -> int:
    """Take what has ended; the exit status of `child` as a shell gives it, or -1."""
    code = -1
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                status = os.waitstatus_to_exitcode(ended[1])
                code = 128 - status if status < 0 else status
    return code


def _end_all() -> None:
    """Kill every descendant, and those that come while this is going on."""
    own = os.getpid()
    while True:
        for pid in filter(None, descendants(own)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return
        _reap(0)


def descendants(top_pid: int) -> list[int]:
    """Every process below `top_pid`, from one look at /proc."""
    children = children_by_parent()
    found: list[int] = []
    shown = int(os.readlink("/proc/self"))
    foreign = shown != os.getpid()
    waiting = [shown if foreign and top_pid == os.getpid() else top_pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return [own_pid(pid) for pid in found] if foreign else found


def own_pid(shown_pid: int) -> int:
    """The pid here of a process that /proc, being that of an outer pid namespace, shows as
    another: the last field of NSpid, proc_pid_status(5). An ended process is pid 0."""
    with contextlib.suppress(OSError):
        with open(f"/proc/{shown_pid}/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("NSpid:"):
                    return int(line.split()[-1])
    return 0


def children_by_parent() -> dict[int, list[int]]:
    """Every process of this /proc, by its parent."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError, IndexError, ValueError):
                descriptor = os.open(f"/proc/{name}/stat", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    fields = os.read(descriptor, 1024).rpartition(b")")[2].split()
                finally:
                    os.close(descriptor)
                children.setdefault(int(fields[1]), []).append(int(name))
    return children


# --- C ---------------------------------------------------------------------------------------


def _become(command: Command, jail: Jail) -> None:
    """C from fork to the command."""
    report_fd = _place_descriptors(command, jail)
    try:
        _confine(jail, kept_fd=report_fd)
    except (OSError, ValueError) as error:
        _report(report_fd, SETUP_FAILED + str(error).encode())
        os._exit(126)
    try:
        os.execvpe(command.argv[0], command.argv, dict(command.env))  # noqa: S606
    except OSError as error:
        reason = error.strerror or "cannot be executed"
        text = f"{command.argv[0]}: {reason}\n".encode(errors="surrogateescape")
        with contextlib.suppress(OSError):
            os.write(2, text)
        _report(report_fd, EXEC_FAILED)
        os._exit(127 if isinstance(error, FileNotFoundError | NotADirectoryError) else 126)


def _place_descriptors(command: Command, jail: Jail) -> int:
    """Give the command its descriptors and close all others; the one for reports closes on exec."""
    if 0 not in command.fds:
        null_fd = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null_fd, 0)
        os.close(null_fd)
    for number, source in command.fds.items():
        os.dup2(source, number)
    kept = sorted({*command.fds, 0, 1, 2})
    last = _FIRST_FREE_FD - 1
    for number in (item for item in kept if item >= _FIRST_FREE_FD):
        os.closerange(last + 1, number)
        last = number
    os.closerange(last + 1, os.sysconf("SC_OPEN_MAX"))
    if jail.report_fd >= 0:
        os.set_inheritable(jail.report_fd, False)
    return jail.report_fd


def _confine(jail: Jail, *, kept_fd: int) -> None:
    for number in jail.group_fds:
        os.write(number, b"0")
        os.close(number)
    if jail.network_path:
        _join_file(jail.network_path, syscalls.CLONE_NEWNET)
    if jail.join_pid:
        for name, kind in _NAMESPACES:
            _join(jail.join_pid, name, kind)
        _enter_root(jail)
    if jail.root_path:
        _change_root(jail.root_path)
    if jail.root_path or jail.join_pid:
        os.chdir(jail.cwd)
    if jail.umask >= 0:
        os.umask(jail.umask)
    for kind_of, soft, hard in jail.rlimits:
        resource.setrlimit(kind_of, (soft, hard))
    if jail.cpus:
        os.sched_setaffinity(0, jail.cpus)
    _give_up(jail)


def _change_root(path: str) -> None:
    """Filters of containers without CAP_SYS_CHROOT refuse chroot(2) even in a user namespace, where
    they admit pivot_root(2): its man page has this way of a directory on itself."""
    try:
        os.chroot(path)
    except PermissionError as error:
        try:
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
            syscalls.mount(path, path, "", syscalls.MS_BIND | syscalls.MS_REC)
            os.chdir(path)
            syscalls.pivot_root(".", ".")
            syscalls.umount(".", syscalls.MNT_DETACH)
        except OSError:
            raise error from None


def _give_up(jail: Jail) -> None:
    """Capabilities, seccomp and ids, in the one order that the kernel lets pass."""
    if jail.capabilities >= 0:
        syscalls.limit_bounding_set(jail.capabilities)
    if jail.seccomp:
        syscalls.set_seccomp_filter(jail.seccomp)
    if jail.groups is not None:
        os.setgroups(jail.groups)
    if (jail.uid, jail.gid) != (os.getuid(), os.getgid()):
        os.setresgid(jail.gid, jail.gid, jail.gid)
        os.setresuid(jail.uid, jail.uid, jail.uid)
    if jail.capabilities >= 0:
        kept = jail.capabilities if jail.uid == 0 else 0
        syscalls.capset(kept, kept, 0)


def _enter_root(jail: Jail) -> None:
    """Join the mount namespace until its root is the one that is wanted: for a moment the former
    one lies on top."""
    namespace_fd = os.open(f"/proc/{jail.join_pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        deadline_s = time.monotonic() + _COMPLETE_WITHIN_S
        while time.monotonic() < deadline_s:
            syscalls.setns(namespace_fd, syscalls.CLONE_NEWNS)
            found = os.stat("/")
            if (found.st_dev, found.st_ino) == jail.join_root:
                return
            time.sleep(_LOOK_AGAIN_S)
    finally:
        os.close(namespace_fd)
    raise OSError(errno.ETIMEDOUT, "the root of the namespace never came")


def _join_file(path: str, kind: int) -> None:
    namespace_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(namespace_fd, kind)
    finally:
        os.close(namespace_fd)


def _join(pid: int, name: str, kind: int) -> None:
    namespace_fd = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        own = os.stat(f"/proc/self/ns/{name}")
        there = os.fstat(namespace_fd)
        if (own.st_dev, own.st_ino) != (there.st_dev, there.st_ino):
            syscalls.setns(namespace_fd, kind)
    finally:
        os.close(namespace_fd)


def _report(report_fd: int, text: bytes) -> None:
    if report_fd >= 0:
        with contextlib.suppress(OSError):
            os.write(report_fd, text)
