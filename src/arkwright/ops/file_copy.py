"""Copying between trees, with the semantics of COPY and ADD.

The rules are BuildKit's, as measured in its observable behaviour, with extended attributes and
file capabilities kept: new top directories are 0755, existing ones keep mode and owner and take
the source's mtime, nested ones take the source's mode; links met inside a tree are copied as
links; hard links within one copy stay hard links; ownership of host files is dropped.

What is there already, equal but for its mtime, is left alone: whether a layer names it must not
depend on when its source was last touched, which no cache key knows.

Both sides are walked by directory descriptors and nothing follows a link out of its root.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from arkwright.diagnostics.errors import UserError
from arkwright.layer import attributes, files
from arkwright.layer.rooted import DIRECTORY, REGULAR, Root, duplicate, set_mode
from arkwright.ops.file_bytes import copy_bytes, same_bytes
from arkwright.ops.modes import ModeChange

Excluded = Callable[[str, bool], bool]

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Copier:
    """Copies paths of `source` into `dest`.

    `owner` overrides ownership; else `keep_owner` says whether the source's is kept (trees of the
    build) or dropped to 0:0 (host trees). `mode` changes the mode of all that is created.
    `excluded(path, is_dir)` hides source paths, given relative to the source root;
    `may_prune(directory)` tells that a hidden one holds nothing that is not, so that it is not read. `time_ns`
    stands in the place of the source's own times.
    """

    def __init__(
        self, source: Root, dest: Root, *,
        owner: tuple[int, int] | None = None, keep_owner: bool = True, mode: ModeChange | None = None,
        excluded: Excluded | None = None, may_prune: Callable[[str], bool] | None = None,
        time_ns: int | None = None,
    ) -> None:  # fmt: skip
        self._source = source
        self._time_ns = time_ns
        self._dest = dest
        self._owner = owner
        self._keep_owner = keep_owner
        self._mode = mode
        self._excluded = excluded
        self._may_prune = may_prune
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
        if is_dir or hidden is None or not hidden(os.path.basename(path.rstrip("/")), False):
            self._copy_top(found, status, target, hidden)

    def copy_parents(self, path: str, pivot: str, dest: str, hidden: Excluded | None = None) -> None:
        """Copy a path with its parents below `pivot` (`COPY --parents`); they keep their modes.

        `hidden` counts from the pivot; nothing is made for a path that it hides as a whole.
        """
        relative = path[len(pivot) :].strip("/") if pivot else path
        status = self._need(path, path)
        within = None if hidden is None else _below(relative, hidden)
        if within is not None and not self._shows(path, status, within):
            return
        self.make_dirs(dest)
        base = self._dest.resolve(dest)
        walked = pivot
        for name in relative.split("/")[:-1]:
            walked = _join(walked, name)
            base = _join(base, name)
            if self._dest.lstat(base) is None:
                self._make_dir(base, self._need(walked, walked))
        target = _join(base, relative.rpartition("/")[2])
        self._copy_top(path, status, target, within)

    def _shows(self, path: str, status: os.stat_result, hidden: Excluded) -> bool:
        is_dir = stat.S_ISDIR(status.st_mode)
        if not hidden("", is_dir) or not is_dir:
            return not hidden("", is_dir)
        source_fd, name = self._source.open_parent(path) if path else (duplicate(self._source.fd), ".")
        try:
            return self._holds_included(source_fd, name, path, "", hidden)
        finally:
            files.close(source_fd)

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
                    files.mkdir(last, 0o700, dir_fd=parent_fd)
                    self._finish_dir(parent_fd, last, mode, self._owner or (0, 0), None)
                finally:
                    files.close(parent_fd)
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
            files.mkdir(name, 0o700, dir_fd=parent_fd)
            mode, time_ns = stat.S_IMODE(like.st_mode), self._timed(like)
            self._finish_dir(parent_fd, name, mode, self._owned(like), time_ns)
        finally:
            files.close(parent_fd)

    def _copy_top(self, path: str, status: os.stat_result, target: str, hidden: Excluded | None) -> None:
        source_fd, source_name = self._source.open_parent(path) if path else (duplicate(self._source.fd), ".")
        dest_fd, dest_name = self._dest.open_parent(target) if target else (duplicate(self._dest.fd), ".")
        try:
            if stat.S_ISDIR(status.st_mode):
                self._directory(
                    source_fd, source_name, path, "", dest_fd, dest_name, target, hidden, top=True
                )
            else:
                self._leaf(source_fd, source_name, status, dest_fd, dest_name, target)
        finally:
            files.close(source_fd)
            files.close(dest_fd)

    def _directory(
        self, source_fd: int, source_name: str, path: str, relative: str,
        dest_fd: int, dest_name: str, target: str, hidden: Excluded | None, *, top: bool = False,
    ) -> None:  # fmt: skip
        here_fd = files.open(source_name, DIRECTORY, dir_fd=source_fd)
        try:
            status = files.fstat(here_fd)
            created = self._enter(dest_fd, dest_name, target)
            there_fd = files.open(dest_name, DIRECTORY, dir_fd=dest_fd)
            try:
                before_ns = files.fstat(there_fd).st_mtime_ns
                self._children(here_fd, path, relative, there_fd, target, hidden)
                touched = created or files.fstat(there_fd).st_mtime_ns != before_ns
            finally:
                files.close(there_fd)
            mtime_ns = self._timed(status) if touched else None
            if created or not top:
                _copy_xattrs(source_fd, source_name, dest_fd, dest_name)
                mode = stat.S_IMODE(status.st_mode)
                self._finish_dir(dest_fd, dest_name, mode, self._owned(status), mtime_ns)
            elif mtime_ns is not None:
                files.utime(dest_name, ns=(mtime_ns, mtime_ns), dir_fd=dest_fd, follow_symlinks=False)
        finally:
            files.close(here_fd)

    def _enter(self, dest_fd: int, name: str, target: str) -> bool:
        try:
            files.mkdir(name, 0o700, dir_fd=dest_fd)
            return True
        except FileExistsError:
            if not stat.S_ISDIR(files.stat(name, dir_fd=dest_fd, follow_symlinks=False).st_mode):
                raise _conflict(target, "a directory cannot replace what is there") from None
            return False

    def _children(
        self, here_fd: int, path: str, relative: str, there_fd: int, target: str, hidden: Excluded | None
    ) -> None:
        with files.scandir(here_fd) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        for entry in entries:
            child, inner = _join(path, entry.name), _join(relative, entry.name)
            is_dir = entry.is_dir(follow_symlinks=False)
            skip = (self._excluded and self._excluded(child, is_dir)) or (hidden and hidden(inner, is_dir))
            if is_dir:
                # A directory that is itself excluded may hold re-included paths: it is made then.
                if not skip or (
                    not self._pruned(child)
                    and self._holds_included(here_fd, entry.name, child, inner, hidden)
                ):
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
        here_fd = files.open(name, DIRECTORY, dir_fd=fd)
        try:
            with files.scandir(here_fd) as listing:
                entries = list(listing)
            for entry in entries:
                child, inner = _join(path, entry.name), _join(relative, entry.name)
                is_dir = entry.is_dir(follow_symlinks=False)
                skip = (self._excluded and self._excluded(child, is_dir)) or (
                    hidden and hidden(inner, is_dir)
                )
                if not skip:
                    return True
                if not is_dir or self._pruned(child):
                    continue
                if self._holds_included(here_fd, entry.name, child, inner, hidden):
                    return True
            return False
        finally:
            files.close(here_fd)

    def _pruned(self, path: str) -> bool:
        return self._may_prune is not None and self._may_prune(path)

    def _leaf(
        self,
        source_fd: int,
        source_name: str,
        status: os.stat_result,
        dest_fd: int,
        dest_name: str,
        target: str,
    ) -> None:
        identity = (status.st_dev, status.st_ino)
        there = self._equal(source_fd, source_name, status, dest_fd, dest_name)
        if there is None:
            self._replace(source_fd, source_name, status, dest_fd, dest_name, target)
        elif there.st_nlink == 1 and identity not in self._links:
            # How many other names the source has is no part of any key; those that are copied follow.
            if status.st_nlink > 1:
                self._links[identity] = target
        else:
            # Only which names are one file may change.
            before_ns = files.fstat(dest_fd).st_mtime_ns
            self._replace(source_fd, source_name, status, dest_fd, dest_name, target)
            kept = (there.st_mtime_ns, there.st_mtime_ns)
            files.utime(dest_name, ns=kept, dir_fd=dest_fd, follow_symlinks=False)
            files.utime(dest_fd, ns=(before_ns, before_ns))

    def _replace(
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
            files.symlink(files.readlink(source_name, dir_fd=source_fd), dest_name, dir_fd=dest_fd)
            self._finish_special(dest_fd, dest_name, status, is_link=True)
        elif not stat.S_ISSOCK(status.st_mode):
            make_node(dest_fd, dest_name, status.st_mode, status.st_rdev)
            self._finish_special(dest_fd, dest_name, status)
        if status.st_nlink > 1:
            self._links[identity] = target

    def _equal(
        self, source_fd: int, source_name: str, status: os.stat_result, dest_fd: int, dest_name: str
    ) -> os.stat_result | None:
        """The file or link that is there already, if the copy would change nothing of it but a time and
        its hard links."""
        try:
            there = files.stat(dest_name, dir_fd=dest_fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        kind, mode = stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode)
        if kind == stat.S_IFREG and self._mode:
            mode = self._mode(mode, False)
        if (
            there.st_mode != kind | mode
            or there.st_size != status.st_size
            or (there.st_uid, there.st_gid) != self._owned(status)
            or _carried(source_fd, source_name) != _carried(dest_fd, dest_name)
        ):
            return None
        if kind == stat.S_IFLNK:
            same = files.readlink(source_name, dir_fd=source_fd) == files.readlink(dest_name, dir_fd=dest_fd)
        else:
            same = kind == stat.S_IFREG and same_bytes(source_fd, source_name, dest_fd, dest_name)
        return there if same else None

    def _clear(self, dest_fd: int, name: str, target: str) -> bool:
        try:
            there = files.stat(name, dir_fd=dest_fd, follow_symlinks=False)
        except FileNotFoundError:
            return True
        if stat.S_ISDIR(there.st_mode):
            raise _conflict(target, "a file cannot replace a directory")
        files.unlink(name, dir_fd=dest_fd)
        return True

    def _link(self, identity: tuple[int, int], dest_fd: int, name: str) -> bool:
        first = self._links.get(identity)
        if first is None:
            return False
        parent_fd, first_name = self._dest.open_parent(first)
        try:
            files.link(first_name, name, src_dir_fd=parent_fd, dst_dir_fd=dest_fd, follow_symlinks=False)
        finally:
            files.close(parent_fd)
        return True

    def _file(
        self, source_fd: int, source_name: str, status: os.stat_result, dest_fd: int, dest_name: str
    ) -> None:
        read_fd = files.open(source_name, REGULAR, dir_fd=source_fd)
        try:
            opened = files.fstat(read_fd)
            if not stat.S_ISREG(opened.st_mode):
                raise OSError(errno.ESTALE, "the file was replaced while it was copied", source_name)
            write_fd = files.open(dest_name, _CREATE, 0o600, dir_fd=dest_fd)
            try:
                copy_bytes(read_fd, write_fd, opened.st_size)
                files.fchown(write_fd, *self._owned(status))
                # After chown, which clears file capabilities.
                _copy_xattrs(source_fd, source_name, dest_fd, dest_name)
                mode = stat.S_IMODE(status.st_mode)
                files.fchmod(write_fd, self._mode(mode, False) if self._mode else mode)
                files.utime(write_fd, ns=(self._timed(status), self._timed(status)))
            finally:
                files.close(write_fd)
        finally:
            files.close(read_fd)

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
        files.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)
        if not is_link:
            mode = stat.S_IMODE(status.st_mode)
            set_mode(fd, name, self._mode(mode, False) if self._mode else mode)
        files.utime(name, ns=(self._timed(status), self._timed(status)), dir_fd=fd, follow_symlinks=False)

    def _finish_dir(
        self, fd: int, name: str, mode: int, owner: tuple[int, int], mtime_ns: int | None
    ) -> None:
        here_fd = files.open(name, DIRECTORY, dir_fd=fd)
        try:
            files.fchown(here_fd, *owner)
            files.fchmod(here_fd, self._mode(mode, True) if self._mode else mode)
            if mtime_ns is not None:
                files.utime(here_fd, ns=(mtime_ns, mtime_ns))
        finally:
            files.close(here_fd)

    def _owned(self, status: os.stat_result) -> tuple[int, int]:
        if self._owner is not None:
            return self._owner
        return (status.st_uid, status.st_gid) if self._keep_owner else (0, 0)

    def _timed(self, status: os.stat_result) -> int:
        return status.st_mtime_ns if self._time_ns is None else self._time_ns


def _carried(fd: int, name: str) -> list[tuple[str, bytes | None]]:
    found = attributes.read_all(fd, name)
    return [
        (key, value if key == attributes.NODE else attributes.portable(key, value))
        for key, value in found
        if key == attributes.NODE or attributes.carried(key)
    ]


def make_node(fd: int, name: str, mode: int, device: int) -> None:
    """Make a fifo or device; where devices cannot be made, an empty file that records one."""
    if stat.S_ISFIFO(mode):
        files.mkfifo(name, 0o600, dir_fd=fd)
        return
    # overlayfs takes character device 0/0 for a deletion.
    if device or not stat.S_ISCHR(mode):
        try:
            files.mknod(name, stat.S_IFMT(mode) | 0o600, device, dir_fd=fd)
            return
        except PermissionError:
            pass
    kind = "c" if stat.S_ISCHR(mode) else "b"
    record_fd = files.open(name, _CREATE, 0o600, dir_fd=fd)
    try:
        record = attributes.encode_node(kind, os.major(device), os.minor(device))
        files.setxattr(record_fd, attributes.NODE, record)
    finally:
        files.close(record_fd)


def _copy_xattrs(source_fd: int, source_name: str, dest_fd: int, dest_name: str) -> None:
    """What a layer carries; a file system without attributes loses them."""
    found = attributes.read_all(source_fd, source_name)
    if found:
        attributes.set_all(dest_fd, dest_name, tuple(found))


def _below(base: str, hidden: Excluded) -> Excluded:
    """The predicate for paths relative to `base`; `""` is the base itself."""
    return lambda path, is_dir: hidden(_join(base, path) if path else base, is_dir)


def _join(parent: str, name: str) -> str:
    return f"{parent}/{name}" if parent else name


def _conflict(path: str, why: str) -> UserError:
    error = UserError.of("copy-type-conflict", f"cannot copy to /{path}: {why}")
    assert isinstance(error, UserError)
    return error
