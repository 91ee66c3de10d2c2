"""Mounts of the worker's private mount namespace.

Nothing here is undone on exit: the namespace dies with its last process, and its mounts with it.
Functions raise `HostUnsupported` (code `mount-refused`) when the kernel lacks the file system,
an option or the permission, and `OSError` when a path is wrong.

Sources: fsopen(2), fsconfig(2), mount_setattr(2), Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence

import msgspec

from arkwright.diagnostics.errors import HostUnsupported
from arkwright.linux import syscalls

_HOST_ERRNOS = frozenset(
    (
        errno.EPERM,
        errno.EACCES,
        errno.ENODEV,
        errno.ENOSYS,
        errno.EINVAL,
        errno.EOPNOTSUPP,
        errno.E2BIG,
        errno.EMFILE,
        errno.ENOSPC,
    )
)
_OVERLAY_FLAGS = ("userxattr",)
# userxattr turns redirect_dir off, and conflicts with naming it.
_OVERLAY_OPTIONS = (("metacopy", "off"), ("index", "off"))
_FSCONFIG_LIMIT = 255  # bytes of one value
_CLASSIC_LIMIT = os.sysconf("SC_PAGESIZE") - 1  # bytes of mount(2) data
_MAX_LOWERS = 500  # OVL_MAX_STACK


class _Overlay(msgspec.Struct, frozen=True):
    lowers: Sequence[str]
    upper: str | None
    work: str | None
    target: str
    volatile: bool


def overlay(
    lowers: Sequence[str],
    upper: str | None,
    work: str | None,
    target: str,
    *,
    volatile: bool = False,
) -> None:
    """Mount the directories `lowers` (top first) under `upper` at the directory `target`.

    Without `upper` and `work` the mount is read-only. The kernel wants two directories at least;
    a single one becomes a bind mount. Paths may hold any byte. `userxattr,metacopy=off,index=off`
    are set in every mode, so that uppers mean the same to root and to others. `volatile` drops
    the fsync calls of steps; the upper cannot then be mounted with its `work` directory again.
    """
    if (upper is None) != (work is None):
        raise ValueError("an upper directory needs a work directory")
    if len(lowers) + (upper is not None) == 1:
        bind(upper or lowers[0], target, readonly=upper is None)
        return
    if not lowers or len(lowers) > _MAX_LOWERS:
        raise ValueError(f"overlay takes 1 to {_MAX_LOWERS} lower directories, not {len(lowers)}")
    wanted = _Overlay(lowers, upper, work, target, volatile)
    with _host_errors("overlay", target), contextlib.ExitStack() as opened:
        try:
            _overlay_by_fsconfig(wanted, opened)
        except OSError as error:
            # lowerdir+ came with Linux 6.8; fsopen of overlay with 6.5.
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EPERM):
                raise
            _overlay_by_mount(wanted, opened)


def _overlay_by_fsconfig(wanted: _Overlay, opened: contextlib.ExitStack) -> None:
    fs_fd = _closing(syscalls.fsopen("overlay"), opened)
    for flag in _OVERLAY_FLAGS + (("volatile",) if wanted.volatile and wanted.upper else ()):
        syscalls.fsconfig_flag(fs_fd, flag)
    for key, value in _OVERLAY_OPTIONS:
        syscalls.fsconfig_string(fs_fd, key, value)
    for lower in wanted.lowers:
        syscalls.fsconfig_string(fs_fd, "lowerdir+", _spelled(lower, opened))
    if wanted.upper is not None and wanted.work is not None:
        syscalls.fsconfig_string(fs_fd, "upperdir", _spelled(wanted.upper, opened))
        syscalls.fsconfig_string(fs_fd, "workdir", _spelled(wanted.work, opened))
    syscalls.fsconfig_create(fs_fd)
    attributes = 0 if wanted.upper else syscalls.MOUNT_ATTR_RDONLY
    mount_fd = _closing(syscalls.fsmount(fs_fd, attributes), opened)
    syscalls.move_mount(mount_fd, wanted.target)


def _overlay_by_mount(wanted: _Overlay, opened: contextlib.ExitStack) -> None:
    options = [*_OVERLAY_FLAGS, *(f"{key}={value}" for key, value in _OVERLAY_OPTIONS)]
    options.append("lowerdir=" + ":".join(_by_fd(lower, opened) for lower in wanted.lowers))
    if wanted.upper is not None and wanted.work is not None:
        options += [f"upperdir={_by_fd(wanted.upper, opened)}", f"workdir={_by_fd(wanted.work, opened)}"]
        options += ["volatile"] if wanted.volatile else []
    data = ",".join(options)
    if len(data) > _CLASSIC_LIMIT:
        raise OSError(errno.E2BIG, f"{len(wanted.lowers)} lower directories need Linux 6.8", wanted.target)
    syscalls.mount("overlay", wanted.target, "overlay", 0 if wanted.upper else syscalls.MS_RDONLY, data)


def _spelled(path: str, opened: contextlib.ExitStack) -> str:
    """The path as overlay's option parser reads it back: itself, or a short name without the
    bytes that the parser gives a meaning."""
    if len(os.fsencode(path)) <= _FSCONFIG_LIMIT and not any(byte in path for byte in "\\,:"):
        return path
    return _by_fd(path, opened)


def _by_fd(path: str, opened: contextlib.ExitStack) -> str:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY)
    return f"/proc/self/fd/{_closing(descriptor, opened)}"


def _closing(descriptor: int, opened: contextlib.ExitStack) -> int:
    opened.callback(os.close, descriptor)
    return descriptor


def bind(source: str, target: str, readonly: bool = False, recursive: bool = False) -> None:
    """Make the file or directory `source` visible at `target`, which must be of the same kind.

    `readonly` with `recursive` covers the mounts below as well.
    """
    with _host_errors("bind", target), contextlib.ExitStack() as opened:
        try:
            tree_fd = _closing(syscalls.open_tree(source, recursive=recursive), opened)
            if readonly:
                syscalls.mount_setattr(
                    tree_fd, set_attributes=syscalls.MOUNT_ATTR_RDONLY, recursive=recursive
                )
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            _bind_by_mount(source, target, readonly, recursive)
        else:
            syscalls.move_mount(tree_fd, target)


def _bind_by_mount(source: str, target: str, readonly: bool, recursive: bool) -> None:
    """Before Linux 5.12; mounts below stay writable there."""
    flags = syscalls.MS_BIND | (syscalls.MS_REC if recursive else 0)
    syscalls.mount(source, target, "", flags)
    if readonly:
        # A remount must repeat the flags that a user namespace has locked.
        locked = os.statvfs(target).f_flag & (syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
        flags = syscalls.MS_BIND | syscalls.MS_REMOUNT | syscalls.MS_RDONLY | locked
        syscalls.mount("", target, "", flags)


def tmpfs(target: str, size: int = 0, mode: int = 0o755) -> None:
    """An empty memory file system; `size` in bytes, 0 for the kernel's default of half the RAM."""
    options = f"mode={mode:o}" + (f",size={size}" if size else "")
    with _host_errors("tmpfs", target):
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
        syscalls.mount("tmpfs", target, "tmpfs", flags, options)


def proc(target: str) -> None:
    """The /proc of the caller's pid namespace."""
    with _host_errors("proc", target):
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
        syscalls.mount("proc", target, "proc", flags)


def unmount(target: str, detach: bool = True) -> None:
    """Take the topmost mount at `target` away; `detach` does not wait for its users."""
    with _host_errors("umount", target):
        syscalls.umount(target, syscalls.UMOUNT_NOFOLLOW | (syscalls.MNT_DETACH if detach else 0))


def make_private(target: str = "/") -> None:
    """Neither send nor receive mounts, for `target` and all below."""
    _propagate(target, syscalls.MS_PRIVATE)


def make_slave(target: str = "/") -> None:
    """Receive mounts from the peers, send none, for `target` and all below."""
    _propagate(target, syscalls.MS_SLAVE)


def make_shared(target: str = "/") -> None:
    """Share mounts with namespaces that are cloned from this one, for `target` and all below."""
    _propagate(target, syscalls.MS_SHARED)


def _propagate(target: str, kind: int) -> None:
    with _host_errors("propagation", target):
        syscalls.mount("", target, "", kind | syscalls.MS_REC)


@contextlib.contextmanager
def _host_errors(what: str, target: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _HOST_ERRNOS:
            raise
        raise refused(what, error) from error


def refused(what: str, error: OSError) -> HostUnsupported:
    """The error for a mount that this host does not allow."""
    found = HostUnsupported.of(
        "mount-refused",
        f"this host refuses the mount of {what}: {error.strerror}",
        hint=_fix(what, error),
        details={"probe": {"mount": what, "errno": error.errno}, "fix": _fix(what, error)},
    )
    assert isinstance(found, HostUnsupported)
    return found


def _fix(what: str, error: OSError) -> str:
    if error.errno == errno.ENODEV:
        return f"load the kernel module of {what} as root: modprobe {what}"
    if error.errno == errno.E2BIG:
        return "use Linux 6.8 or later, or fewer layers"
    if what == "overlay":
        return "use Linux 5.11 or later and a store on ext4, xfs or btrfs"
    return "allow user and mount namespaces, or run as root outside of a restricted container"
