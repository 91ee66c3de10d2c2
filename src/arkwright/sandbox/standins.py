"""What stands in a step's root in place of mounts, where nothing can be mounted.

Each stand-in is a copy, a directory or a device node at the very place; what was there is moved
aside beside the root. After the step it is taken away, what was there comes back, and the times of
the directory around are put back unless the step changed something in it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable

import msgspec

from arkwright.diagnostics.errors import HostUnsupported, UserError
from arkwright.layer.rooted import Root, remove_tree
from arkwright.linux import mounts
from arkwright.sandbox.mountpoints import MountPoints
from arkwright.snapshot.union import unite

_Fill = Callable[[str], None]
_DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
_DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "fd/0",
    "stdout": "fd/1",
    "stderr": "fd/2",
    "ptmx": "pts/ptmx",
}


class _Placed(msgspec.Struct):
    parent_fd: int
    name: str
    ino: int
    aside_path: str
    before: tuple[int, int]
    after: tuple[int, int]
    writeback_path: str


class StandIns:
    """Context manager. `aside_path`: a directory on the root's file system, which it makes."""

    def __init__(self, root: Root, points: MountPoints, aside_path: str) -> None:
        self._root = root
        self._points = points
        self._aside_path = aside_path
        self._placed: list[_Placed] = []
        self._bound: list[str] = []
        self._opened: list[int] = []

    def __enter__(self) -> StandIns:
        os.mkdir(self._aside_path, 0o700)
        return self

    def __exit__(self, *_: object) -> None:
        while self._bound:
            with contextlib.suppress(OSError, HostUnsupported):
                mounts.unmount(self._bound.pop())
        while self._opened:
            os.close(self._opened.pop())
        while self._placed:
            self._undo(self._placed.pop())
        parent_fd = os.open(os.path.dirname(self._aside_path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_tree(parent_fd, os.path.basename(self._aside_path))
        finally:
            os.close(parent_fd)

    def reserve(self, dests: Iterable[str]) -> None:
        """Make the directories around, all before the first stand-in: what is made and taken away
        after it would seem to be the step's own change."""
        for dest in dests:
            with contextlib.suppress(OSError):
                self._points.make_directory(os.path.dirname("/" + self._root.resolve(dest)))

    def mount(self, source: str, dest: str, *, is_dir: bool, readonly: bool) -> None:
        """Mount a file or directory at `dest`, on a stub. Raises as `place`."""
        stub = empty_directory(0o755) if is_dir else text_file(b"")
        self.bind(source, self.place(dest, stub, is_dir=is_dir), readonly=readonly)

    def place(self, dest: str, fill: _Fill, *, is_dir: bool, writeback_path: str = "") -> str:
        """Put at `dest` what `fill(path)` makes at a path of the builder's view; returns that path.

        `writeback_path`: what takes the stand-in's content after the step. Raises `UserError`
        (`bad-mount-target`).
        """
        try:
            canonical = self._root.resolve(dest)
            if not canonical:
                raise IsADirectoryError
            parent = os.path.dirname(canonical)
            self._points.make_directory(parent)
            found = self._root.lstat(canonical)
            parent_fd = self._root.open_dir(parent or "/")
        except OSError as error:
            raise _bad_target(dest, error) from error
        if found is not None and stat.S_ISDIR(found.st_mode) != is_dir:
            os.close(parent_fd)
            raise _bad_target(dest, NotADirectoryError() if is_dir else IsADirectoryError())
        name = os.path.basename(canonical)
        before = _times(parent_fd)
        aside_path = ""
        if found is not None:
            aside_path = os.path.join(self._aside_path, str(len(self._placed)))
            os.rename(name, aside_path, src_dir_fd=parent_fd)
        placed = _Placed(parent_fd, name, 0, aside_path, before, before, writeback_path)
        self._placed.append(placed)
        path = f"/proc/self/fd/{parent_fd}/{name}"
        fill(path)
        placed.ino = os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_ino
        placed.after = _times(parent_fd)
        return path

    def aside(self) -> str:
        """A path of no file yet, on the root's file system and out of the step's reach."""
        return os.path.join(self._aside_path, f"made-{os.urandom(6).hex()}")

    def renew(self, path: str, new_path: str) -> bool:
        """Put the file at `new_path` (see `aside`) in the place of the one that `place` made at `path`,
        unless the step has put another there; whether it did."""
        placed = next(one for one in self._placed if f"/proc/self/fd/{one.parent_fd}/{one.name}" == path)
        now = _times(placed.parent_fd)
        ino = os.stat(new_path, follow_symlinks=False).st_ino
        with contextlib.suppress(FileNotFoundError):
            if os.stat(placed.name, dir_fd=placed.parent_fd, follow_symlinks=False).st_ino == placed.ino:
                os.rename(new_path, placed.name, dst_dir_fd=placed.parent_fd)
                placed.ino = ino
                if now[1] == placed.after[1]:
                    placed.after = _times(placed.parent_fd)
                return True
        return False

    def bind(self, source: str, path: str, *, readonly: bool = False) -> None:
        """Mount `source` at a path of the builder's view until the end, where mounts are allowed.

        The directory around is held: the step may rename it, though not what is mounted on.
        """
        descriptor = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._opened.append(descriptor)
        place = f"/proc/self/fd/{descriptor}/{os.path.basename(path)}"
        mounts.bind(source, place, readonly=readonly, recursive=True)
        self._bound.append(place)

    def bind_directory(self, source: str, dest: str, *, readonly: bool = False) -> None:
        """Mount a directory of the builder's at a directory of the root that is there already."""
        descriptor = self._root.open_dir(self._root.resolve(dest))
        self._opened.append(descriptor)
        self.bind(source, f"/proc/self/fd/{descriptor}/.", readonly=readonly)

    def _undo(self, placed: _Placed) -> None:
        try:
            now = _times(placed.parent_fd)
            try:
                found = os.stat(placed.name, dir_fd=placed.parent_fd, follow_symlinks=False).st_ino
            except FileNotFoundError:
                found = -1
            if found in (-1, placed.ino):
                if found == placed.ino:
                    self._take_away(placed)
                if placed.aside_path:
                    os.rename(placed.aside_path, placed.name, dst_dir_fd=placed.parent_fd)
            unchanged = now[1] == placed.after[1]
            os.utime(placed.parent_fd, ns=placed.before if unchanged else now)
        finally:
            os.close(placed.parent_fd)

    def _take_away(self, placed: _Placed) -> None:
        if placed.writeback_path:
            path = f"/proc/self/fd/{placed.parent_fd}/{placed.name}"
            with contextlib.suppress(OSError):
                _write_back(path, placed.writeback_path)
                return
        remove_tree(placed.parent_fd, placed.name)


def _write_back(path: str, target_path: str) -> None:
    """Put a stand-in in the place of what it stood for; on one file system."""
    if stat.S_ISDIR(os.lstat(path).st_mode):
        former_path = f"{target_path}.{os.urandom(6).hex()}"
        os.rename(target_path, former_path)
        os.rename(path, target_path)
        parent_fd = os.open(os.path.dirname(former_path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_tree(parent_fd, os.path.basename(former_path))
        finally:
            os.close(parent_fd)
    else:
        os.rename(path, target_path)


def empty_directory(mode: int) -> _Fill:
    """Makes an empty directory."""

    def fill(path: str) -> None:
        os.mkdir(path, 0o700)
        os.chmod(path, mode)

    return fill


def copy_of(source: str) -> _Fill:
    """Makes a copy of a file or a directory tree, with its attributes."""

    def fill(path: str) -> None:
        status = os.stat(source)
        if stat.S_ISDIR(status.st_mode):
            os.mkdir(path, 0o700)
            unite([source], path, link=False)
            os.chown(path, status.st_uid, status.st_gid)
            os.chmod(path, stat.S_IMODE(status.st_mode))
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            return
        with open(source, "rb") as data:
            text_file(data.read(), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)(path)

    return fill


def text_file(data: bytes, mode: int = 0o644, uid: int = 0, gid: int = 0) -> _Fill:
    """Makes a regular file."""

    def fill(path: str) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as target:
            target.write(data)
            os.fchown(target.fileno(), uid, gid)
            os.fchmod(target.fileno(), mode)

    return fill


def devices(path: str, bind: Callable[[str, str], None] | None) -> None:
    """Makes a /dev: the six devices that every step has, and links. Where device nodes cannot be
    made, those of the builder are bound. Raises `OSError` when neither can be."""
    os.mkdir(path, 0o755)
    os.chmod(path, 0o755)
    for name, (major, minor) in _DEVICES.items():
        try:
            os.mknod(f"{path}/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))
        except OSError:
            if bind is None:
                raise
            text_file(b"", 0o666)(f"{path}/{name}")
            bind(f"/dev/{name}", f"{path}/{name}")
            continue
        os.chmod(f"{path}/{name}", 0o666)
    for name, target in _DEVICE_LINKS.items():
        os.symlink(target, f"{path}/{name}")
    empty_directory(0o1777)(f"{path}/shm")
    empty_directory(0o755)(f"{path}/pts")


def _times(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_atime_ns, found.st_mtime_ns


def _bad_target(path: str, error: OSError) -> UserError:
    reason = error.strerror or (
        "it is a directory" if isinstance(error, IsADirectoryError) else "it is a file"
    )
    found = UserError.of(
        "bad-mount-target",
        f"nothing can stand at {path}: {reason}",
        hint="mount a file on a file and a directory on a directory, below directories that exist or can be made",
    )
    assert isinstance(found, UserError)
    return found
