"""System calls that the standard library of Python 3.11 lacks, as thin functions over libc.

The only module that uses ctypes besides `passwords`, and it does so on the first call. Every function raises
`OSError` with the kernel's errno; the other modules of this package turn that into
`HostUnsupported` where a user can see it. Constants are those of the kernel's uapi headers.
"""

from __future__ import annotations

import errno
import functools
import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000

MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8

FSOPEN_CLOEXEC = 0x1
FSMOUNT_CLOEXEC = 0x1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
MOVE_MOUNT_F_EMPTY_PATH = 0x4
OPEN_TREE_CLONE = 0x1
OPEN_TREE_CLOEXEC = 0x80000
MOUNT_ATTR_RDONLY = 0x1

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
_SECCOMP_MODE_FILTER = 2
_BPF_INSTRUCTION = 8  # bytes of one sock_filter
_LAST_CAPABILITY = 63

# Calls added since Linux 5.1 have one number on every architecture.
_NR_OPEN_TREE = 428
_NR_MOVE_MOUNT = 429
_NR_FSOPEN = 430
_NR_FSCONFIG = 431
_NR_FSMOUNT = 432
_NR_CLONE3 = 435
_NR_MOUNT_SETATTR = 442
_NR_PIVOT_ROOT = {"x86_64": 155, "i686": 217, "ppc64le": 203, "s390x": 217, "armv7l": 218}
_NR_PIVOT_ROOT_GENERIC = 41

_CAPABILITY_VERSION_3 = 0x20080522


@functools.cache
def _libc() -> ctypes.CDLL:
    import ctypes as c

    libc = c.CDLL(None, use_errno=True)
    libc.syscall.restype = c.c_long
    libc.mount.argtypes = (c.c_char_p, c.c_char_p, c.c_char_p, c.c_ulong, c.c_char_p)
    return libc


def _check(result: int, path: str | None = None) -> int:
    if result < 0:
        import ctypes as c

        number = c.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def _syscall(number: int, *args: int | bytes | None, path: str | None = None) -> int:
    """A raw system call: numbers travel as longs, byte strings as pointers."""
    import ctypes as c

    sent = [c.c_long(arg) if isinstance(arg, int) else c.c_char_p(arg) for arg in args]
    return _check(int(_libc().syscall(c.c_long(number), *sent)), path)


def syncfs(path: str) -> None:
    """Write everything of the file system that holds `path` to its disk; see syncfs(2)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc().syncfs(fd), path)
    finally:
        os.close(fd)


def mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    _check(
        _libc().mount(
            os.fsencode(source) or None,
            os.fsencode(target),
            fstype.encode() or None,
            flags,
            os.fsencode(data) or None,
        ),
        target,
    )


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc().umount2(os.fsencode(target), flags), target)


def fsopen(fstype: str) -> int:
    """fsopen(2): a descriptor for a file system that is being configured."""
    return _syscall(_NR_FSOPEN, fstype.encode(), FSOPEN_CLOEXEC)


def fsconfig_string(fs_fd: int, key: str, value: str) -> None:
    """fsconfig(2) with FSCONFIG_SET_STRING; the kernel takes at most 255 bytes."""
    _syscall(_NR_FSCONFIG, fs_fd, FSCONFIG_SET_STRING, key.encode(), os.fsencode(value), 0, path=value)


def fsconfig_flag(fs_fd: int, key: str) -> None:
    """fsconfig(2) with FSCONFIG_SET_FLAG."""
    _syscall(_NR_FSCONFIG, fs_fd, FSCONFIG_SET_FLAG, key.encode(), None, 0)


def fsconfig_create(fs_fd: int) -> None:
    """fsconfig(2) with FSCONFIG_CMD_CREATE: make the superblock."""
    _syscall(_NR_FSCONFIG, fs_fd, FSCONFIG_CMD_CREATE, None, None, 0)


def fsmount(fs_fd: int, attributes: int = 0) -> int:
    """fsmount(2): a descriptor of the detached mount."""
    return _syscall(_NR_FSMOUNT, fs_fd, FSMOUNT_CLOEXEC, attributes)


def move_mount(mount_fd: int, target: str) -> None:
    """move_mount(2): attach a detached mount at `target`."""
    _syscall(
        _NR_MOVE_MOUNT,
        mount_fd,
        b"",
        AT_FDCWD,
        os.fsencode(target),
        MOVE_MOUNT_F_EMPTY_PATH,
        path=target,
    )


def open_tree(path: str, *, recursive: bool = False) -> int:
    """open_tree(2) with OPEN_TREE_CLONE: a detached copy of the mount at `path`."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    return _syscall(_NR_OPEN_TREE, AT_FDCWD, os.fsencode(path), flags, path=path)


def mount_setattr(mount_fd: int, *, set_attributes: int, recursive: bool = False) -> None:
    """mount_setattr(2) on a mount's descriptor."""
    attributes = struct.pack("=QQQQ", set_attributes, 0, 0, 0)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _syscall(_NR_MOUNT_SETATTR, mount_fd, b"", flags, attributes, len(attributes))


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    number = _NR_PIVOT_ROOT.get(os.uname().machine, _NR_PIVOT_ROOT_GENERIC)
    _syscall(number, os.fsencode(new_root), os.fsencode(put_old), path=new_root)


def unshare(flags: int) -> None:
    """unshare(2). Only the calling thread moves: call it before any other thread was made."""
    _check(_libc().unshare(flags))


def fork_into(flags: int) -> int:
    """`os.fork` whose child lives in the new namespaces of `flags`.

    After `unshare(CLONE_NEWPID)` a process can never make a thread again (clone(2), EINVAL), so
    the namespace must come with the child. The caller must have one thread only.
    """
    import ctypes as c
    import signal

    # clone_args of VER0: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls
    arguments = struct.pack("=8Q", flags, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    python = c.pythonapi  # keeps the interpreter's lock, as os.fork does
    libc = c.PyDLL(None, use_errno=True)
    libc.syscall.restype = c.c_long
    number, size = c.c_long(_NR_CLONE3), c.c_size_t(len(arguments))
    pointer = c.c_char_p(arguments)
    python.PyOS_BeforeFork()
    pid = int(libc.syscall(number, pointer, size))
    if pid == 0:
        python.PyOS_AfterFork_Child()
        return 0
    python.PyOS_AfterFork_Parent()
    return _check(pid)


def setns(namespace_fd: int, kind: int = 0) -> None:
    """setns(2)."""
    _check(_libc().setns(namespace_fd, kind))


def prctl(option: int, value: int) -> None:
    """prctl(2) with one number."""
    _check(_libc().prctl(option, value, 0, 0, 0))


def set_process_name(name: str) -> None:
    """PR_SET_NAME: what `ps` and `/proc/PID/comm` show, at most 15 bytes."""
    import ctypes as c

    _check(_libc().prctl(PR_SET_NAME, c.c_char_p(name.encode()[:15]), 0, 0, 0))


def set_parent_death_signal(number: int) -> None:
    """PR_SET_PDEATHSIG: the signal that this process gets when the *thread* that forked it ends."""
    prctl(PR_SET_PDEATHSIG, number)


def limit_bounding_set(mask: int) -> None:
    """PR_CAPBSET_DROP of every capability that is not in `mask`."""
    for number in range(_LAST_CAPABILITY + 1):
        if not mask >> number & 1:
            try:
                prctl(PR_CAPBSET_DROP, number)
            except OSError as error:
                if error.errno == errno.EINVAL:
                    return  # past the kernel's last one
                raise


def set_seccomp_filter(program: bytes) -> None:
    """PR_SET_SECCOMP with a filter in the kernel's form: an array of `struct sock_filter`."""
    import ctypes as c

    class Program(c.Structure):
        _fields_ = (("length", c.c_ushort), ("filters", c.c_char_p))

    found = Program(len(program) // _BPF_INSTRUCTION, program)
    _check(
        _libc().prctl(
            PR_SET_SECCOMP, c.c_long(_SECCOMP_MODE_FILTER), c.byref(found), c.c_long(0), c.c_long(0)
        )
    )


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) for the calling thread, from 64-bit masks."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    low, high = 0xFFFFFFFF, 32
    data = struct.pack(
        "=IIIIII",
        effective & low,
        permitted & low,
        inheritable & low,
        effective >> high,
        permitted >> high,
        inheritable >> high,
    )
    _check(_libc().capset(header, data))
