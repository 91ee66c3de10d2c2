"""Where a store may be: a directory of ours, on a local file system."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from arkwright.diagnostics.errors import HostUnsupported, UserError

_REFUSALS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ELOOP, errno.EISDIR})
_NETWORK = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "9p", "afs", "ceph", "glusterfs", "lustre", "gfs2",
    "ocfs2", "coda", "beegfs", "orangefs", "pvfs2", "gpfs", "davfs", "fuse",
})  # fmt: skip
# FUSE servers whose files are on this machine; any other subtype may be somewhere else.
_LOCAL_FUSE = frozenset({
    "fuse-overlayfs", "unionfs", "mergerfs", "bindfs", "ntfs-3g", "exfat", "ext2", "fuse2fs", "gocryptfs",
    "encfs", "cryfs", "lxcfs", "zfs", "portal",
})  # fmt: skip


def default_root() -> str:
    """The store's path when nobody says: `$ARKWRIGHT_ROOT`, else `/var/lib/arkwright` for uid 0, else
    `arkwright` below `$XDG_DATA_HOME` (`~/.local/share`)."""
    if given := os.environ.get("ARKWRIGHT_ROOT"):
        return os.path.abspath(given)
    if os.geteuid() == 0:
        return "/var/lib/arkwright"
    data_path = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(data_path):
        data_path = os.path.expanduser("~/.local/share")
    return os.path.join(data_path, "arkwright")


def make_directory(path: str) -> None:
    """Make a directory and its missing parents, with mode 0700 whatever the umask.

    Raises `UserError` `store-not-writable`.
    """
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for directory_path in reversed(missing):
        with writable(directory_path), suppress(FileExistsError):
            os.mkdir(directory_path, 0o700)
            os.chmod(directory_path, 0o700)


def check_location(root_path: str) -> None:
    """Raise `HostUnsupported` `store-of-another-user` or `store-on-network-file-system`."""
    root_fd = os.open(root_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        owner = os.fstat(root_fd).st_uid
        file_system = file_system_of(root_fd)
    finally:
        os.close(root_fd)
    # Within a user namespace both numbers are those of the inside, so this holds there as well.
    if owner != os.geteuid():
        raise HostUnsupported.of(
            "store-of-another-user",
            f"the store {root_path} belongs to uid {owner}, and this process runs as uid {os.geteuid()}",
            hint="a store has one owner: run as that user, or use another store with --root or ARKWRIGHT_ROOT",
            details={"probe": {"owner": owner, "uid": os.geteuid()}, "fix": "use a store of your own"},
        )
    if is_network(file_system):
        raise HostUnsupported.of(
            "store-on-network-file-system",
            f"the store {root_path} is on a file system of type {file_system}, which other machines can change",
            hint="put the store on a local disk with --root or ARKWRIGHT_ROOT; to share images, `arkwright export` them",
            details={"probe": {"file_system": file_system}, "fix": "use a local file system"},
        )


def is_network(file_system: str) -> bool:
    """Whether a file system type of mountinfo may be shared with other machines."""
    kind, _, subtype = file_system.partition(".")
    return subtype not in _LOCAL_FUSE if kind == "fuse" and subtype else kind in _NETWORK


def file_system_of(fd: int, mountinfo_path: str = "/proc/self/mountinfo") -> str:
    """The type of the file system that holds an open file, as in mountinfo; "" if unknown.

    By mount id (proc(5), fdinfo and mountinfo), as device numbers are ambiguous on btrfs.
    """
    mount_id = ""
    with suppress(OSError), open(f"/proc/self/fdinfo/{fd}") as lines:
        mount_id = next((line.split()[1] for line in lines if line.startswith("mnt_id:")), "")
    with suppress(OSError), open(mountinfo_path, errors="surrogateescape") as mounts:
        for line in mounts:
            if line.split(" ", 1)[0] == mount_id:
                return line.partition(" - ")[2].split(" ", 1)[0]
    return ""


@contextmanager
def writable(path: str) -> Iterator[None]:
    """Turn what says that `path` cannot be made into `UserError` `store-not-writable`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise UserError.of(
            "store-not-writable",
            f"cannot write the store at {path}: {error.strerror}",
            hint="use another store with --root or ARKWRIGHT_ROOT",
        ) from error
