"""Copying between trees, with the semantics of COPY and ADD.

The rules are BuildKit's, as measured in its observable behaviour, with extended attributes and
file capabilities kept: new top directories are 0755, existing ones keep mode and owner and take
the source's mtime, nested ones take the source's mode; links met inside a tree are copied as
links; hard links within one copy stay hard links; ownership of host files is dropped.

Both sides are walked by directory descriptors and nothing follows a link out of its root.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from arkwright.diagnostics.errors import UserError
from arkwright.layer import attributes
from arkwright.layer.rooted import DIRECTORY, REGULAR, Root, duplicate, set_mode
from arkwright.ops.modes import ModeChange

Excluded = Callable[[str, bool], bool]

_CHUNK = 1 << 24
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Copier:
    """Copies paths of `source` into `dest`.

    `owner` overrides ownership; else `keep_owner` says whether the source's is kept (trees of the
    build) or dropped to 0:0 (host trees). `mode` changes the mode of all that is created.
    `excluded(path, is_dir)` hides source paths, given relative to the source root.
    """

    def __init__(
        self,
        source: Root,
        dest: Root,
        *,
        owner: tuple[int, int] | None = None,
        keep_owner: bool = True,
        mode: ModeChange | None = None,
        excluded: Excluded | None = None,
    ) -> None:
        self._source = source
        self._dest = dest
        self._owner = owner
        self._keep_owner = keep_owner
        self._mode = mode
        self._excluded = excluded
        self._links: dict[tuple[int, int], str] = {}

    def copy(
        self, path: str, dest: str, *, contents: bool, follow: bool = True, hidden: Excluded | None = None
    ) -> None:
        """Copy one matched source path to `dest`, as written (a trailing slash means a directory).

        `contents` copies what is in a directory rather than the directory. `hidden` excludes
        more, by paths relative to the copied directory. Raises `UserError` `copy-type-conflict`.
        """
        found = self._source.resolve(path) if follow else path
        status = self._need(found, path)
        is_dir = stat.S_ISDIR(status.st_mode)
        as_dir = dest.endswith(("/", "/.")) or dest in ("", ".")
        self.make_dirs(dest if as_dir else os.path.dirname(dest.strip("/")))
        target = self._dest.resolve(dest)
        there = self._dest.lstat(target)
        if there is not None and stat.S_ISDIR(there.st_mode) and not (is_dir and contents):
            target = _join(target, os.path.basename(path.rstrip("/")))
            there = self._dest.lstat(target)
        elif is_dir and contents and there is None:
            self.make_dirs(target)
        self._copy_top(found, status, target, hidden)

    def copy_parents(self, path: str, pivot: str, dest: str, hidden: Excluded | None = None) -> None:
        """Copy a path with its parents below `pivot` (`COPY --parents`); they keep their modes."""
        relative = path[len(pivot) :].strip("/") if pivot else path
        self.make_dirs(dest)
        base = self._dest.resolve(dest)
        walked = pivot
        for name in relative.split("/")[:-1]:
            walked = _join(walked, name)
            base = _join(base, name)
            if self._dest.lstat(base) is None:
                self._make_dir(base, self._need(walked, walked))
        target = _join(base, relative.rpartition("/")[2])
        self._copy_top(path, self._need(path, path), target, hidden)

    def make_dirs(self, path: str, mode: int = 0o755) -> None:
        """Make a directory and its missing parents, following links inside the root.

        Raises `UserError` `copy-type-conflict` when a file is in the way.
        """
        resolved = self._dest.resolve(path)
        walked = ""
        for name in [part for part in resolved.split("/") if part]:
            walked = _join(walked, name)
            status = self._dest.lstat(walked)
            if status is None:
                parent_fd, last = self._dest.open_parent(walked)
                try:
                    os.mkdir(last, 0o700, dir_fd=parent_fd)
                    self._finish_dir(parent_fd, last, mode, self._owner or (0, 0), None)
                finally:
                    os.close(parent_fd)
            elif not stat.S_ISDIR(status.st_mode):
                raise _conflict(walked, "a directory is needed there, and it is a file")

    def _need(self, path: str, named: str) -> os.stat_result:
        status = self._source.lstat(path)
        if status is None:
            raise UserError.of("copy-source-missing", f"{named or '/'} does not exist")
        return status

    def _make_dir(self, target: str, like: os.stat_result) -> None:
        parent_fd, name = self._dest.open_parent(target)
        try:
            os.mkdir(name, 0o700, dir_fd=parent_fd)
            self._finish_dir(parent_fd, name, stat.S_IMODE(like.st_mode), self._owned(like), like.st_mtime_ns)
        finally:
            os.close(parent_fd)

    def _copy_top(self, path: str, status: os.stat_result, target: str, hidden: Excluded | None) -> None:
        source_fd, source_name = self._source.open_parent(path) if path else (duplicate(self._source.fd), ".")
        dest_fd, dest_name = self._dest.open_parent(target) if target else (duplicate(self._dest.fd), ".")
        try:
            if stat.S_ISDIR(status.st_mode):
                self._directory(
                    source_fd, source_name, path, "", dest_fd, dest_name, target, hidden, top=True
                )
            elif hidden is None or not hidden(os.path.basename(path), False):
                self._leaf(source_fd, source_name, status, dest_fd, dest_name, target)
        finally:
            os.close(source_fd)
            os.close(dest_fd)

    def _directory(
        self, source_fd: int, source_name: str, path: str, relative: str,
        dest_fd: int, dest_name: str, target: str, hidden: Excluded | None, *, top: bool = False,
    ) -> None:  # fmt: skip
        here_fd = os.open(source_name, DIRECTORY, dir_fd=source_fd)
        try:
            status = os.fstat(here_fd)
            created = self._enter(dest_fd, dest_name, target)
            there_fd = os.open(dest_name, DIRECTORY, dir_fd=dest_fd)
            try:
                self._children(here_fd, path, relative, there_fd, target, hidden)
            finally:
                os.close(there_fd)
            if created or not top:
                _copy_xattrs(source_fd, source_name, dest_fd, dest_name)
                mode = stat.S_IMODE(status.st_mode)
                self._finish_dir(dest_fd, dest_name, mode, self._owned(status), status.st_mtime_ns)
            else:
                os.utime(dest_name, ns=(status.st_mtime_ns,) * 2, dir_fd=dest_fd, follow_symlinks=False)
        finally:
            os.close(here_fd)

    def _enter(self, dest_fd: int, name: str, target: str) -> bool:
        try:
            os.mkdir(name, 0o700, dir_fd=dest_fd)
            return True
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=dest_fd, follow_symlinks=False).st_mode):
                raise _conflict(target, "a directory cannot replace what is there") from None
            return False

    def _children(
        self, here_fd: int, path: str, relative: str, there_fd: int, target: str, hidden: Excluded | None
    ) -> None:
        with os.scandir(here_fd) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        for entry in entries:
            child, inner = _join(path, entry.name), _join(relative, entry.name)
            is_dir = entry.is_dir(follow_symlinks=False)
            skip = (self._excluded and self._excluded(child, is_dir)) or (hidden and hidden(inner, is_dir))
            if is_dir:
                # A directory that is itself excluded may hold re-included paths: it is made then.
                if not skip or self._holds_included(here_fd, entry.name, child, inner, hidden):
                    self._directory(
                        here_fd,
                        entry.name,
                        child,
                        inner,
                        there_fd,
                        entry.name,
                        _join(target, entry.name),
                        hidden,
                    )
            elif not skip:
                status = entry.stat(follow_symlinks=False)
                self._leaf(here_fd, entry.name, status, there_fd, entry.name, _join(target, entry.name))

    def _holds_included(self, fd: int, name: str, path: str, relative: str, hidden: Excluded | None) -> bool:
        here_fd = os.open(name, DIRECTORY, dir_fd=fd)
        try:
            with os.scandir(here_fd) as listing:
                entries = list(listing)
            for entry in entries:
                child, inner = _join(path, entry.name), _join(relative, entry.name)
                is_dir = entry.is_dir(follow_symlinks=False)
                skip = (self._excluded and self._excluded(child, is_dir)) or (
                    hidden and hidden(inner, is_dir)
                )
                if not skip or (is_dir and self._holds_included(here_fd, entry.name, child, inner, hidden)):
                    return True
            return False
        finally:
            os.close(here_fd)

    def _leaf(
        self,
        source_fd: int,
        source_name: str,
        status: os.stat_result,
        dest_fd: int,
        dest_name: str,
        target: str,
    ) -> None:
        if not self._clear(dest_fd, dest_name, target):
            return
        identity = (status.st_dev, status.st_ino)
        if (
            status.st_nlink > 1
            and not stat.S_ISDIR(status.st_mode)
            and self._link(identity, dest_fd, dest_name)
        ):
            return
        if stat.S_ISREG(status.st_mode):
            node = self._recorded_node(source_fd, source_name, status)
            if node is None:
                self._file(source_fd, source_name, status, dest_fd, dest_name)
            else:
                make_node(dest_fd, dest_name, *node)
                self._finish_special(dest_fd, dest_name, status)
        elif stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(source_name, dir_fd=source_fd), dest_name, dir_fd=dest_fd)
            self._finish_special(dest_fd, dest_name, status, is_link=True)
        elif not stat.S_ISSOCK(status.st_mode):
            make_node(dest_fd, dest_name, status.st_mode, status.st_rdev)
            self._finish_special(dest_fd, dest_name, status)
        if status.st_nlink > 1:
            self._links[identity] = target

    def _clear(self, dest_fd: int, name: str, target: str) -> bool:
        try:
            there = os.stat(name, dir_fd=dest_fd, follow_symlinks=False)
        except FileNotFoundError:
            return True
        if stat.S_ISDIR(there.st_mode):
            raise _conflict(target, "a file cannot replace a directory")
        os.unlink(name, dir_fd=dest_fd)
        return True

    def _link(self, identity: tuple[int, int], dest_fd: int, name: str) -> bool:
        first = self._links.get(identity)
        if first is None:
            return False
        parent_fd, first_name = self._dest.open_parent(first)
        try:
            os.link(first_name, name, src_dir_fd=parent_fd, dst_dir_fd=dest_fd, follow_symlinks=False)
        finally:
            os.close(parent_fd)
        return True

    def _file(
        self, source_fd: int, source_name: str, status: os.stat_result, dest_fd: int, dest_name: str
    ) -> None:
        read_fd = os.open(source_name, REGULAR, dir_fd=source_fd)
        try:
            if not stat.S_ISREG(os.fstat(read_fd).st_mode):
                raise OSError(errno.ESTALE, "the file was replaced while it was copied", source_name)
            write_fd = os.open(dest_name, _CREATE, 0o600, dir_fd=dest_fd)
            try:
                copy_bytes(read_fd, write_fd)
                os.fchown(write_fd, *self._owned(status))
                # After chown, which clears file capabilities.
                _copy_xattrs(source_fd, source_name, dest_fd, dest_name)
                mode = stat.S_IMODE(status.st_mode)
                os.fchmod(write_fd, self._mode(mode, False) if self._mode else mode)
                os.utime(write_fd, ns=(status.st_mtime_ns, status.st_mtime_ns))
            finally:
                os.close(write_fd)
        finally:
            os.close(read_fd)

    def _recorded_node(
        self, source_fd: int, source_name: str, status: os.stat_result
    ) -> tuple[int, int] | None:
        """Mode and number of the device that an empty file of a build's tree stands for."""
        if status.st_size or not self._keep_owner:
            return None
        found = dict(attributes.read_all(source_fd, source_name)).get(attributes.NODE)
        node = None if found is None else attributes.decode_node(found)
        if node is None:
            return None
        return stat.S_IFCHR if node[0] == "c" else stat.S_IFBLK, os.makedev(*node[1:])

    def _finish_special(self, fd: int, name: str, status: os.stat_result, *, is_link: bool = False) -> None:
        uid, gid = self._owned(status)
        os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)
        if not is_link:
            mode = stat.S_IMODE(status.st_mode)
            set_mode(fd, name, self._mode(mode, False) if self._mode else mode)
        os.utime(name, ns=(status.st_mtime_ns, status.st_mtime_ns), dir_fd=fd, follow_symlinks=False)

    def _finish_dir(
        self, fd: int, name: str, mode: int, owner: tuple[int, int], mtime_ns: int | None
    ) -> None:
        here_fd = os.open(name, DIRECTORY, dir_fd=fd)
        try:
            os.fchown(here_fd, *owner)
            os.fchmod(here_fd, self._mode(mode, True) if self._mode else mode)
            if mtime_ns is not None:
                os.utime(here_fd, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(here_fd)

    def _owned(self, status: os.stat_result) -> tuple[int, int]:
        if self._owner is not None:
            return self._owner
        return (status.st_uid, status.st_gid) if self._keep_owner else (0, 0)


def copy_bytes(read_fd: int, write_fd: int) -> None:
    """Copy all content from one descriptor to the other, in the kernel where it can."""
    try:
        while os.copy_file_range(read_fd, write_fd, _CHUNK):
            pass
        return
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM):
            raise
    while data := os.read(read_fd, 1 << 20):
        view = memoryview(data)
        while view:
            view = view[os.write(write_fd, view) :]


def make_node(fd: int, name: str, mode: int, device: int) -> None:
    """Make a fifo or device; where devices cannot be made, an empty file that records one."""
    if stat.S_ISFIFO(mode):
        os.mkfifo(name, 0o600, dir_fd=fd)
        return
    # overlayfs takes character device 0/0 for a deletion.
    if device or not stat.S_ISCHR(mode):
        try:
            os.mknod(name, stat.S_IFMT(mode) | 0o600, device, dir_fd=fd)
            return
        except PermissionError:
            pass
    kind = "c" if stat.S_ISCHR(mode) else "b"
    record_fd = os.open(name, _CREATE, 0o600, dir_fd=fd)
    try:
        record = attributes.encode_node(kind, os.major(device), os.minor(device))
        os.setxattr(record_fd, attributes.NODE, record)
    finally:
        os.close(record_fd)


def _copy_xattrs(source_fd: int, source_name: str, dest_fd: int, dest_name: str) -> None:
    """What a layer carries; a file system without attributes loses them."""
    found = attributes.read_all(source_fd, source_name)
    if found:
        attributes.set_all(dest_fd, dest_name, tuple(found))


def _join(parent: str, name: str) -> str:
    return f"{parent}/{name}" if parent else name


def _conflict(path: str, why: str) -> UserError:
    error = UserError.of("copy-type-conflict", f"cannot copy to /{path}: {why}")
    assert isinstance(error, UserError)
    return error
