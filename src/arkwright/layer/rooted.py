"""Paths beneath a root directory, resolved as the kernel would after `chroot(2)`.

Every step opens one component with `O_NOFOLLOW` against the descriptor of its parent, so neither
a hostile link nor a concurrent rename leads outside; links are read and followed here, absolute
ones from the root, and `..` stops at the root. Lookups raise plain `OSError`s
(`FileNotFoundError`, `NotADirectoryError`, `ELOOP` after 40 links); callers give them words.
A `Root` belongs to one thread.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from arkwright.layer import files

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
REGULAR = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

# path_resolution(7): at most 40 links. The bound on steps stops `a/../a/../…` from being quadratic.
_MAX_LINKS = 40
_MAX_STEPS = 1 << 16
# Directories that a DirStack keeps open; RLIMIT_NOFILE is often 1024 and trees may be deeper.
_KEPT_OPEN = 128

Create = Callable[[int, str, str], None]


class Root:
    """An open root directory. `path` is trusted and may be a link; nothing below it is.

    `widen` is for trees of our own: a file there that its mode forbids to us is opened all the
    same (`open_at`). In a directory of the user's nothing may be changed: give False.
    """

    def __init__(self, path: str, *, widen: bool = True) -> None:
        self.path = os.path.abspath(path)
        self.widen = widen
        self.fd = files.open_root(path)

    def __enter__(self) -> Root:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor; what was opened through the root stays open."""
        if self.fd >= 0:
            files.close(self.fd)
            self.fd = -1

    def open_parent(self, path: str, *, create: Create | None = None) -> tuple[int, str]:
        """The directory that holds `path`, and the last name in it; the caller closes the fd.

        Follows links in the parents, not the last name. The root itself, and a path that ends
        with `..`, give the directory and the name `.`. See `open_directories` for `create`.
        """
        fd, _, name = self.locate(path, create=create)
        return fd, name

    def locate(self, path: str, *, create: Create | None = None) -> tuple[int, str, str]:
        """As `open_parent`, with the parent's canonical path in the middle."""
        parts = [part for part in path.split("/") if part not in ("", ".")]
        name = parts.pop() if parts and parts[-1] != ".." else "."
        fd, canonical = self.open_directories(parts, create=create)
        return fd, canonical, name

    def open_directories(self, parts: list[str], *, create: Create | None = None) -> tuple[int, str]:
        """Open a directory, links followed: its fd, which the caller closes, and canonical path.

        `create(parent_fd, name, canonical_path)` is called for a component that is missing or not
        a directory; it makes a directory or a link there, which is then looked at again, or raises.
        """
        fd, canonical, rest = self._descend(parts, create, stop=False)
        assert not rest
        return fd, "/".join(canonical)

    def open_canonical(self, path: str) -> int:
        """A descriptor of the directory at a canonical path; a link in it is `ENOTDIR`."""
        fd = duplicate(self.fd)
        for name in path.split("/") if path else ():
            try:
                child_fd = open_at(fd, name, DIRECTORY, widen=self.widen)
            finally:
                files.close(fd)
            fd = child_fd
        return fd

    def open_dir(self, path: str, *, follow: bool = True) -> int:
        """A descriptor of the directory `path`; the last name, too, may be a link unless told."""
        if follow:
            return self.open_directories(path.split("/"))[0]
        parent_fd, name = self.open_parent(path)
        try:
            return open_at(parent_fd, name, DIRECTORY, widen=self.widen)
        finally:
            files.close(parent_fd)

    def open_file(self, path: str, flags: int = os.O_RDONLY, *, special: bool = False) -> int:
        """A descriptor of the file `path`, whose last name must not be a link (`ELOOP`).

        Anything but a regular file is refused (`OSError` `EINVAL`) unless `special`.
        """
        parent_fd, name = self.open_parent(path)
        try:
            if not special:
                _require_regular(files.stat(name, dir_fd=parent_fd, follow_symlinks=False), path)
            fd = open_at(parent_fd, name, flags | REGULAR, widen=self.widen)
        finally:
            files.close(parent_fd)
        if not special:
            try:
                _require_regular(files.fstat(fd), path)
            except OSError:
                files.close(fd)
                raise
        return fd

    def resolve(self, path: str) -> str:
        """The canonical path, links followed, the last too; `""` is the root.

        Components that are missing, or below something that is not a directory, stay as written.
        """
        fd, canonical, rest = self._descend(path.split("/"), None, stop=True)
        files.close(fd)
        for part in rest:
            if part == "..":
                canonical = canonical[:-1]
            elif part not in ("", "."):
                canonical.append(part)
        return "/".join(canonical)

    def lstat(self, path: str) -> os.stat_result | None:
        """Status of `path`, a last link not followed; None when it does not exist."""
        try:
            parent_fd, name = self.open_parent(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return files.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        finally:
            files.close(parent_fd)

    def readlink(self, path: str) -> str:
        """The target of the link `path`, as stored."""
        parent_fd, name = self.open_parent(path)
        try:
            return files.readlink(name, dir_fd=parent_fd)
        finally:
            files.close(parent_fd)

    def _descend(
        self, parts: list[str], create: Create | None, *, stop: bool
    ) -> tuple[int, list[str], list[str]]:
        """Walk down: fd, canonical components, and with `stop` the components not walked."""
        pending = parts[::-1]
        canonical: list[str] = []
        fd = duplicate(self.fd)
        links = steps = 0
        try:
            while pending:
                name = pending.pop()
                steps += 1
                if name in ("", "."):
                    continue
                if steps > _MAX_STEPS:
                    raise _loop(parts)
                if name == "..":
                    # Walked again from the root: `openat(fd, "..")` would trust a directory that
                    # somebody may be moving.
                    pending.extend(reversed(canonical[:-1]))
                    canonical = []
                    fd = _swap(fd, duplicate(self.fd))
                    continue
                try:
                    fd = _swap(fd, open_at(fd, name, DIRECTORY, widen=self.widen))
                    canonical.append(name)
                    continue
                except FileNotFoundError:
                    target = None
                except NotADirectoryError:
                    target = _link_target(fd, name)
                if target is None:
                    if create is not None:
                        create(fd, name, "/".join((*canonical, name)))
                        pending.append(name)
                        continue
                    if stop:
                        return fd, canonical, [name, *reversed(pending)]
                    raise _missing(fd, name, parts)
                links += 1
                if links > _MAX_LINKS:
                    raise _loop(parts)
                if target.startswith("/"):
                    canonical = []
                    fd = _swap(fd, duplicate(self.fd))
                pending.extend(reversed(target.split("/")))
        except BaseException:
            files.close(fd)
            raise
        return fd, canonical, []


class DirStack:
    """Descriptors of the directories from a top down to the current one, for deep walks.

    Only the deepest few stay open. A directory further up is opened again through `..` and must
    then have the device and inode that it had (`OSError` `ESTALE` otherwise).
    """

    def __init__(self, fd: int, *, widen: bool = True) -> None:
        """Takes `fd` over; `widen` as for `Root`."""
        self._fds = [fd]
        self._widen = widen
        self._idents: list[tuple[int, int]] = []

    @property
    def fd(self) -> int:
        return self._fds[-1]

    def __len__(self) -> int:
        return len(self._fds)

    def push(self, name: str) -> int:
        """Go down into `name`, which must be a directory and no link."""
        fd = open_at(self._fds[-1], name, DIRECTORY, widen=self._widen)
        self._fds.append(fd)
        oldest = len(self._fds) - 1 - _KEPT_OPEN
        # The top stays open: `..` of a root that was pushed as `.` would be outside.
        if oldest > len(self._idents):
            status = files.fstat(self._fds[oldest])
            self._idents.append((status.st_dev, status.st_ino))
            files.close(self._fds[oldest])
            self._fds[oldest] = -1
        return fd

    def pop(self) -> None:
        """Go up again; popping the top ends the stack."""
        fd = self._fds.pop()
        try:
            if self._fds and self._fds[-1] < 0:
                self._fds[-1] = files.open("..", DIRECTORY, dir_fd=fd)
                status = files.fstat(self._fds[-1])
                if self._idents.pop() != (status.st_dev, status.st_ino):
                    raise OSError(errno.ESTALE, "a directory was moved while its tree was read")
        finally:
            files.close(fd)

    def close(self) -> None:
        """Close whatever is open."""
        for fd in self._fds:
            if fd >= 0:
                files.close(fd)
        self._fds.clear()


def open_at(dir_fd: int, name: str, flags: int, *, widen: bool = True) -> int:
    """`openat(2)`; where our own file forbids it to us, its mode is widened for that moment.

    Without `widen` it is plain `openat(2)`. A directory opened so can be listed; to look names up in it still needs its search permission.
    """
    try:
        return files.open(name, flags, dir_fd=dir_fd)
    except PermissionError:
        if not widen:
            raise
        return _open_forbidden(dir_fd, name, flags)


def remove_tree(dir_fd: int, name: str) -> None:
    """Remove `name` and all below it; never follows a link, never leaves the tree."""
    try:
        files.unlink(name, dir_fd=dir_fd)
        return
    except IsADirectoryError:
        pass
    except PermissionError:
        # unlink(2): POSIX has EPERM for a directory.
        if not stat.S_ISDIR(files.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode):
            raise
    stack = DirStack(duplicate(dir_fd))
    try:
        names = [name]
        stack.push(name)
        listings = [_listing(stack.fd)]
        while names:
            if not listings[-1]:
                listings.pop()
                stack.pop()
                files.rmdir(names.pop(), dir_fd=stack.fd)
                continue
            child, is_dir = listings[-1].pop()
            if is_dir:
                stack.push(child)
                names.append(child)
                listings.append(_listing(stack.fd))
            else:
                files.unlink(child, dir_fd=stack.fd)
    finally:
        stack.close()


def duplicate(fd: int) -> int:
    """A copy of a descriptor, close-on-exec."""
    return files.duplicate(fd)


def set_mode(dir_fd: int, name: str, mode: int) -> None:
    """`chmod(2)` that never follows a link, for what must not be opened (devices, fifos)."""
    files.chmod(name, mode, dir_fd=dir_fd)


def _listing(fd: int) -> list[tuple[str, bool]]:
    if os.geteuid():
        files.fchmod(fd, 0o700)
    with files.scandir(fd) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]


def _open_forbidden(dir_fd: int, name: str, flags: int) -> int:
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        status = os.fstat(handle)
        is_dir = stat.S_ISDIR(status.st_mode)
        if status.st_uid != os.geteuid() or not (is_dir or stat.S_ISREG(status.st_mode)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        path = f"/proc/self/fd/{handle}"
        mode = stat.S_IMODE(status.st_mode)
        os.chmod(path, mode | (0o700 if is_dir else 0o600))
        try:
            return os.open(path, flags & ~os.O_NOFOLLOW)
        finally:
            os.chmod(path, mode)
    finally:
        os.close(handle)


def _link_target(dir_fd: int, name: str) -> str | None:
    try:
        return files.readlink(name, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return None
        raise


def _missing(dir_fd: int, name: str, parts: list[str]) -> OSError:
    try:
        files.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/".join(parts))
    return NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), "/".join(parts))


def _loop(parts: list[str]) -> OSError:
    return OSError(errno.ELOOP, os.strerror(errno.ELOOP), "/".join(parts))


def _require_regular(status: os.stat_result, path: str) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)


def _swap(old_fd: int, new_fd: int) -> int:
    files.close(old_fd)
    return new_fd
