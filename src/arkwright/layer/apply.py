"""Layers unpacked into trees.

Names and the parents in them resolve inside the root as in a chroot: absolute names and merged
`/usr` links are legal, and nothing is written outside whatever the archive says. What the
archive does not mention but needs becomes 0755, 0:0, with the constant time; directories that it
does not mention keep their own time. Modes do not depend on the umask. Attributes are taken as
`attributes` says. A device that cannot be made (no privilege), and every character device 0/0,
which overlayfs takes for a deletion, becomes a record: an empty file with the attribute
`user.arkwright.node`, which `tree` reads as the device.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from typing import BinaryIO, Literal, TypeVar

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, HostUnsupported, UserError
from arkwright.layer import attributes, faults, files
from arkwright.layer.entry import Entry
from arkwright.layer.made import Made
from arkwright.layer.parents import Parents
from arkwright.layer.rooted import DIRECTORY, Root, duplicate, open_at, remove_tree, set_mode
from arkwright.layer.tar_read import DEFAULT_LIMITS, Limits, read_tar
from arkwright.layer.tar_source import SparseContent
from arkwright.layer.virtual_calls import File as VirtualFile
from arkwright.layer.whiteouts import Deleting, Marking, Removing
from arkwright.store.space import no_space

Whiteouts = Literal["remove", "overlay"]
Item = tuple[Entry, BinaryIO | None]

_T = TypeVar("_T")
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK = 1 << 18
_ROOT = Entry(path="", type="dir")


class ApplyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was unpacked: numbers of entries and content bytes, the devices that became records,
    and how often which attribute was left out."""

    entries: int
    bytes: int
    devices: tuple[Entry, ...]
    dropped_xattrs: dict[str, int]


def apply(
    tar: BinaryIO,
    root: Root,
    *,
    whiteouts: Whiteouts = "remove",
    limits: Limits = DEFAULT_LIMITS,
    require_end: bool = False,
) -> ApplyReport:
    """Unpack an uncompressed layer tar into the tree at `root`.

    `whiteouts` is `remove` for a tree of whole files (a directory or a mounted overlay), and
    `overlay` to write an upper directory of overlayfs that was empty; lower layers are not seen in
    that: parents that the archive does not mention are made there, plain. The tar is read to its end mark, see `read_tar` for `require_end`.

    Raises what `read_tar` raises, and `UserError` `path-escapes-root`, `not-a-directory`,
    `symlink-loop`, `name-too-long`, `missing-link-target`, `invalid-archive`, `no-space`;
    `HostUnsupported` `owner-not-mapped`, `no-user-xattrs`, `unsupported-root-opaque`,
    `tree-unwritable`.
    """
    return apply_entries(read_tar(tar, limits=limits, require_end=require_end), root, whiteouts=whiteouts)


def apply_entries(items: Iterable[Item], root: Root, *, whiteouts: Whiteouts = "remove") -> ApplyReport:
    """As `apply`, for entries with the content of their regular files."""
    unpacking = _Unpacking(root, whiteouts)
    try:
        entry = _ROOT
        for entry, content in items:
            unpacking.add(entry, content)
        entry = _ROOT
        return unpacking.finish()
    except OSError as error:
        raise _explain(root, entry, error) from error
    finally:
        unpacking.close()


class _Unpacking:
    def __init__(self, root: Root, whiteouts: Whiteouts) -> None:
        self._root = root
        self._made = Made(root)
        self._parents = Parents(root, self._create_parent, self._made.enter)
        self._deleting: Deleting = (
            Removing(root, self._parents, self._made)
            if whiteouts == "remove"
            else Marking(self._parents, self._made)
        )
        self._entries = 0
        self._bytes = 0
        self._devices: list[Entry] = []
        self._dropped: dict[str, int] = {}
        self._makers: dict[str, Callable[[int, str, str, Entry], None]] = {
            "dir": self._make_dir, "symlink": self._make_symlink, "hardlink": self._make_hardlink,
            "char": self._make_device, "block": self._make_device, "fifo": self._make_fifo,
        }  # fmt: skip

    def add(self, entry: Entry, content: BinaryIO | None) -> None:
        """Make one entry."""
        self._entries += 1
        if entry.type == "whiteout":
            self._deleting.whiteout(entry.path)
        elif entry.type == "opaque":
            self._deleting.opaque(entry.path)
        elif not entry.path:
            self._make_root(entry)
        else:
            dir_fd, canonical, name = self._parents.of(entry.path)
            if entry.type == "file":
                self._make_file(dir_fd, name, entry, content)
            else:
                self._makers[entry.type](dir_fd, name, canonical, entry)
            self._made.add(canonical)

    def finish(self) -> ApplyReport:
        """Settle the directories."""
        self._parents.close()
        self._made.finish()
        return ApplyReport(
            entries=self._entries,
            bytes=self._bytes,
            devices=tuple(self._devices),
            dropped_xattrs=self._dropped,
        )

    def close(self) -> None:
        self._parents.close()

    def _make_file(
        self, dir_fd: int, name: str, entry: Entry, content: BinaryIO | None, record: bytes = b""
    ) -> None:
        fd = self._new(dir_fd, name, lambda: files.open(name, _CREATE, 0o600, dir_fd=dir_fd))
        try:
            if content is not None and entry.size:
                self._bytes += _copy(content, fd)
            files.fchown(fd, entry.uid, entry.gid)
            # After chown, which clears file capabilities, and while the mode still lets us.
            if entry.xattrs:
                self._set_xattrs(dir_fd, name, entry)
            if record:
                files.setxattr(fd, attributes.NODE, record)
            files.fchmod(fd, entry.mode)
            files.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            files.close(fd)

    def _make_dir(self, dir_fd: int, name: str, canonical: str, entry: Entry) -> None:
        fresh = replaced = False
        try:
            files.mkdir(name, 0o700, dir_fd=dir_fd)
            fresh = True
        except FileExistsError:
            if not stat.S_ISDIR(files.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode):
                self._clear(dir_fd, name)
                files.mkdir(name, 0o700, dir_fd=dir_fd)
                fresh = replaced = True
        fd = open_at(dir_fd, name, DIRECTORY)
        try:
            if not fresh:
                self._made.enter(fd, canonical)
                attributes.clear(dir_fd, name)
            if replaced:
                self._deleting.replaced(fd)
            files.fchown(fd, entry.uid, entry.gid)
            self._set_xattrs(dir_fd, name, entry)
        finally:
            files.close(fd)
        self._made.directory(canonical, entry.mode, entry.mtime_ns)

    def _make_root(self, entry: Entry) -> None:
        if entry.type != "dir":
            raise faults.invalid(f"the root is a {entry.type}")
        attributes.clear(self._root.fd, ".")
        files.fchown(self._root.fd, entry.uid, entry.gid)
        self._set_xattrs(self._root.fd, ".", entry)
        self._made.directory("", entry.mode, entry.mtime_ns)

    def _make_symlink(self, dir_fd: int, name: str, canonical: str, entry: Entry) -> None:
        if not entry.link:
            raise faults.invalid(f"the symbolic link {entry.path!r} has no target")
        self._new(dir_fd, name, lambda: files.symlink(entry.link, name, dir_fd=dir_fd))
        self._finish_node(dir_fd, name, entry)

    def _make_hardlink(self, dir_fd: int, name: str, canonical: str, entry: Entry) -> None:
        if not entry.link:
            raise faults.invalid(f"{entry.path!r} is a hard link to the root")
        # The search for the target may close the parent.
        dir_fd = duplicate(dir_fd)
        try:
            target_fd, _, target = self._parents.of(entry.link, create=False)
            status = files.stat(target, dir_fd=target_fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                raise faults.invalid(f"{entry.path!r} is a hard link to the directory {entry.link!r}")
            if _is_same(dir_fd, name, status):
                return
            self._new(
                dir_fd,
                name,
                lambda: files.link(
                    target, name, src_dir_fd=target_fd, dst_dir_fd=dir_fd, follow_symlinks=False
                ),
            )
        except FileNotFoundError as error:
            raise UserError.of(
                "missing-link-target",
                f"{entry.path!r} is a hard link to {entry.link!r}, which does not exist",
            ) from error
        finally:
            files.close(dir_fd)

    def _make_fifo(self, dir_fd: int, name: str, canonical: str, entry: Entry) -> None:
        self._new(dir_fd, name, lambda: files.mkfifo(name, 0o600, dir_fd=dir_fd))
        self._finish_node(dir_fd, name, entry)

    def _make_device(self, dir_fd: int, name: str, canonical: str, entry: Entry) -> None:
        kind = stat.S_IFCHR if entry.type == "char" else stat.S_IFBLK
        if (entry.type, entry.major, entry.minor) != ("char", 0, 0):
            device = _device_number(entry)
            try:
                self._new(dir_fd, name, lambda: files.mknod(name, kind | 0o600, device, dir_fd=dir_fd))
                self._finish_node(dir_fd, name, entry)
                return
            except PermissionError:
                pass
        record = attributes.encode_node(entry.type[0], entry.major, entry.minor)
        self._make_file(dir_fd, name, entry, None, record)
        self._devices.append(entry)

    def _finish_node(self, dir_fd: int, name: str, entry: Entry) -> None:
        """Owner, mode, attributes and time of what must not be opened."""
        files.chown(name, entry.uid, entry.gid, dir_fd=dir_fd, follow_symlinks=False)
        if entry.type != "symlink":
            set_mode(dir_fd, name, entry.mode)
        if entry.xattrs:
            self._set_xattrs(dir_fd, name, entry)
        files.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=dir_fd, follow_symlinks=False)

    def _set_xattrs(self, dir_fd: int, name: str, entry: Entry) -> None:
        for key in attributes.set_all(dir_fd, name, entry.xattrs):
            self._dropped[key] = self._dropped.get(key, 0) + 1

    def _new(self, dir_fd: int, name: str, make: Callable[[], _T]) -> _T:
        """Make something in the place of whatever is there."""
        try:
            return make()
        except FileExistsError:
            self._clear(dir_fd, name)
            return make()

    def _clear(self, dir_fd: int, name: str) -> None:
        remove_tree(dir_fd, name)
        self._parents.forget()

    def _create_parent(self, dir_fd: int, name: str, canonical: str) -> None:
        self._made.enter(dir_fd, canonical.rpartition("/")[0])
        try:
            status = files.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            replaced = False
        else:
            if not self._deleting.is_mark(status):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), canonical)
            files.unlink(name, dir_fd=dir_fd)
            replaced = True
        files.mkdir(name, 0o700, dir_fd=dir_fd)
        fd = open_at(dir_fd, name, DIRECTORY)
        try:
            if replaced:
                self._deleting.replaced(fd)
            if os.geteuid() == 0 or files.is_virtual(fd):
                files.fchown(fd, 0, 0)
        finally:
            files.close(fd)
        self._made.implied(canonical)


def _copy(content: BinaryIO, fd: int) -> int:
    if files.is_virtual(fd) and isinstance(content, VirtualFile):
        return content.share(fd)
    sparse = isinstance(content, SparseContent)
    total = 0
    while data := content.read(_BLOCK):
        total += len(data)
        if sparse and not data.strip(b"\0"):
            files.skip(fd, len(data))
            continue
        written = files.write(fd, data)
        while written < len(data):
            written += files.write(fd, data[written:])
    if sparse:
        files.ftruncate(fd, total)
    return total


def _is_same(dir_fd: int, name: str, status: os.stat_result) -> bool:
    try:
        found = files.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (status.st_dev, status.st_ino)


def _device_number(entry: Entry) -> int:
    # Linux has 12 bits of major and 20 of minor numbers.
    if not (0 <= entry.major < 1 << 12 and 0 <= entry.minor < 1 << 20):
        raise faults.invalid(f"{entry.path!r} has the device number {entry.major}:{entry.minor}")
    return os.makedev(entry.major, entry.minor)


_USER_FAULTS = {
    errno.ENOTDIR: ("not-a-directory", "a parent is a file"),
    errno.ELOOP: ("symlink-loop", "its parents are links in a circle"),
    errno.ENAMETOOLONG: ("name-too-long", "a name has more bytes than the file system allows"),
}


def _explain(root: Root, entry: Entry, error: OSError) -> ArkwrightError:
    """The operating system's error in our words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return no_space(root.path, f"layer entry {entry.path!r}")
    if error.errno in _USER_FAULTS:
        code, why = _USER_FAULTS[error.errno]
        return UserError.of(code, f"cannot unpack {entry.path!r}: {why}")
    if error.errno in (errno.EPERM, errno.EINVAL) and (entry.uid, entry.gid) != _ids():
        return HostUnsupported.of(
            "owner-not-mapped",
            f"cannot give {entry.path!r} the owner {entry.uid}:{entry.gid}",
            hint="give the user more subordinate ids in /etc/subuid and /etc/subgid",
            details={"probe": f"chown {entry.uid}:{entry.gid}", "fix": "usermod --add-subuids"},
        )
    return HostUnsupported.of(
        "tree-unwritable",
        f"cannot unpack {entry.path!r}: {error.strerror or error}",
        details={"probe": f"errno {error.errno}", "fix": "check the file system of the store"},
    )


def _ids() -> tuple[int, int]:
    return os.geteuid(), os.getegid()
