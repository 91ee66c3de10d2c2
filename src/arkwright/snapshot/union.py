"""Layer directories merged into one plain tree, as overlayfs would show them.

The work of the copy tier. A layer directory has overlayfs's format (overlayfs.rst, "whiteouts and
opaque directories"); the highest layer that has a name decides, directories merge. Either the
files are linked, for trees that are only read and must show the same hard links, or each name gets
a copy of its own, for trees that will be written.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence

from arkwright.layer.rooted import Root, set_mode
from arkwright.layer.tree import is_whiteout
from arkwright.snapshot.attributes import copy_attributes, copy_xattrs, is_opaque, make_directory

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_OLD = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 30
_NO_LINK = frozenset({errno.EMLINK, errno.EPERM, errno.EXDEV})
_NO_RANGE = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF})

Place = Callable[[int, str, int, os.stat_result], None]
Note = Callable[[str, os.stat_result], None]


def unite(tree_paths: Sequence[str], target_path: str, *, link: bool, note: Note | None = None) -> None:
    """Build in the empty directory `target_path` the union of layer directories, top first.

    `note` is told of each regular file that was made there.
    """
    place = _link if link else copy_entry
    roots = [Root(path) for path in tree_paths]
    try:
        with Root(target_path) as target:
            pending = [("", roots)]
            while pending:
                path, below = pending.pop()
                here = place if note is None else _noting(place, f"{path}/" if path else "", note)
                pending += _unite_directory(path, below, target, here)
    finally:
        for root in roots:
            root.close()


def _noting(place: Place, prefix: str, note: Note) -> Place:
    def placed(source_fd: int, name: str, target_fd: int, info: os.stat_result) -> None:
        place(source_fd, name, target_fd, info)
        if stat.S_ISREG(info.st_mode):
            note(prefix + name, os.stat(name, dir_fd=target_fd, follow_symlinks=False))

    return placed


def _unite_directory(
    path: str, roots: list[Root], target: Root, place: Place
) -> list[tuple[str, list[Root]]]:
    """Merge one directory, which all `roots` have; the subdirectories that are to follow."""
    target_fd = target.open_dir(path, follow=False)
    source_fds = [root.open_dir(path, follow=False) for root in roots]
    merged: dict[str, list[Root]] = {}
    closed: set[str] = set()
    try:
        for root, source_fd in zip(roots, source_fds, strict=True):
            with os.scandir(source_fd) as entries:
                for entry in entries:
                    _take(entry, root, source_fd, target_fd, place, merged, closed)
            if is_opaque(source_fd):
                break
        copy_attributes(source_fds[0], target_fd, os.fstat(source_fds[0]))
    finally:
        for fd in (target_fd, *source_fds):
            os.close(fd)
    prefix = f"{path}/" if path else ""
    return [(prefix + name, found) for name, found in merged.items()]


def _take(
    entry: os.DirEntry[str],
    root: Root,
    source_fd: int,
    target_fd: int,
    place: Place,
    merged: dict[str, list[Root]],
    closed: set[str],
) -> None:
    name = entry.name
    if name in closed:
        return
    if entry.is_dir(follow_symlinks=False):
        if name not in merged:
            make_directory(target_fd, name)
            merged[name] = []
        merged[name].append(root)
        return
    closed.add(name)
    if name not in merged:
        info = entry.stat(follow_symlinks=False)
        if not is_whiteout(info):
            place(source_fd, name, target_fd, info)


def _link(source_fd: int, name: str, target_fd: int, info: os.stat_result) -> None:
    try:
        os.link(name, name, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        copy_entry(source_fd, name, target_fd, info)


def copy_entry(source_fd: int, name: str, target_fd: int, info: os.stat_result) -> None:
    """Copy anything but a directory, with all attributes; never a hard link."""
    if stat.S_ISREG(info.st_mode):
        _copy_file(source_fd, name, target_fd, info)
        return
    if stat.S_ISLNK(info.st_mode):
        os.symlink(os.readlink(name, dir_fd=source_fd), name, dir_fd=target_fd)
    else:
        os.mknod(name, stat.S_IFMT(info.st_mode) | 0o600, info.st_rdev, dir_fd=target_fd)
    os.chown(name, info.st_uid, info.st_gid, dir_fd=target_fd, follow_symlinks=False)
    copy_xattrs(f"/proc/self/fd/{source_fd}/{name}", f"/proc/self/fd/{target_fd}/{name}")
    if not stat.S_ISLNK(info.st_mode):
        set_mode(target_fd, name, stat.S_IMODE(info.st_mode))
    times = (info.st_atime_ns, info.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=target_fd, follow_symlinks=False)


def _copy_file(source_fd: int, name: str, target_fd: int, info: os.stat_result) -> None:
    old_fd = os.open(name, _OLD, dir_fd=source_fd)
    try:
        new_fd = os.open(name, _NEW, 0o600, dir_fd=target_fd)
        try:
            _copy_data(old_fd, new_fd, info)
            copy_attributes(old_fd, new_fd, info)
        finally:
            os.close(new_fd)
    finally:
        os.close(old_fd)


def _copy_data(old_fd: int, new_fd: int, info: os.stat_result) -> None:
    """Copy the bytes, sharing extents where the file system can, and keep holes."""
    if info.st_blocks * 512 >= info.st_size:
        _copy_range(old_fd, new_fd, 0, info.st_size)
        return
    os.ftruncate(new_fd, info.st_size)
    end = 0
    while end < info.st_size:
        try:
            start = os.lseek(old_fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(old_fd, start, os.SEEK_HOLE)
        _copy_range(old_fd, new_fd, start, end)


def _copy_range(old_fd: int, new_fd: int, start: int, end: int) -> None:
    position = start
    try:
        while position < end:
            done = os.copy_file_range(old_fd, new_fd, min(end - position, _CHUNK), position, position)
            if done == 0:
                return
            position += done
    except OSError as error:
        if error.errno not in _NO_RANGE:
            raise
        while position < end and (data := os.pread(old_fd, min(end - position, 1 << 20), position)):
            position += os.pwrite(new_fd, data, position)
