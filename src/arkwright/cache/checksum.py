"""Content digests of trees: what a step or a copy would see of them.

A digest covers, of everything at and below a path: names, types, modes (07777), owners (unless
told), sizes, link targets, device numbers, the content of files, and extended attributes as they
land in an image. Modification times and host inode numbers never count; sockets are no part of any
image. The name of the path itself does not count. Which paths are hard links of one file is told
apart (`TreeDigester.link_groups`), because it concerns all that is copied at once.

It is a Merkle tree of sha256: a node is a list of NUL-terminated fields (no field can hold a NUL),
whose number follows from its type; a directory's last field is the digest of its children's nodes,
sorted by name.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from stat import S_ISREG

import msgspec

from arkwright.cache.stat_cache import DirectoryStats, RootStats, StatCache, is_settled, now_ns
from arkwright.diagnostics.errors import UserError
from arkwright.layer import files
from arkwright.layer.attributes import NODE, carried, portable
from arkwright.layer.rooted import DirStack, Root

SCHEME = "arkwright-tree/1;sha256"

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOATIME
_CHUNK = 1 << 20
_NO_XATTRS = ""
_KINDS = {
    stat.S_IFREG: "f", stat.S_IFLNK: "l", stat.S_IFCHR: "c", stat.S_IFBLK: "b", stat.S_IFIFO: "p",
}  # fmt: skip
_TYPES = {"f": "file", "d": "dir", "l": "symlink", "c": "char", "b": "block", "p": "fifo"}

Excluded = Callable[[str, bool], bool]


class FileFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What counts of one path, to say later which path differs. `content` is the sha256 of a
    file, the target of a link, the numbers of a device, or the digest of a directory's children."""

    path: str
    type: str
    mode: int
    uid: int = -1
    gid: int = -1
    xattrs: str = ""
    content: str = ""


class _Frame:
    """A directory being read."""

    __slots__ = ("head", "lines", "path", "pending", "shown")

    def __init__(self, path: str, head: str, shown: bool) -> None:
        self.path = path
        self.head = head
        self.shown = shown
        self.lines: list[str] = []
        self.pending: list[tuple[str, str, bool]] = []


class TreeDigester:
    """Digests of paths in one tree, remembered for the life of the object. For one thread.

    `ownership` says whether uid and gid count (they do not where a copy drops them). `excluded`
    hides paths below the one asked for, by their canonical path in the tree; a hidden directory
    counts when something below it is not hidden. `may_prune(directory)`, if given, tells that
    nothing below a hidden directory is shown, which saves reading it. `stat_cache` saves reading
    files that have not changed since; the caller flushes it.
    """

    def __init__(
        self,
        root: Root,
        *,
        ownership: bool,
        excluded: Excluded | None = None,
        stat_cache: StatCache | None = None,
        may_prune: Callable[[str], bool] | None = None,
    ) -> None:
        self._root = root
        self._ownership = ownership
        self._excluded = excluded
        self._may_prune = may_prune
        self._stats: RootStats | None = stat_cache.root(root.path) if stat_cache is not None else None
        self._memo: dict[tuple[str, bool], str] = {}
        self._linked: dict[tuple[int, int, int], str] = {}
        self._members: dict[tuple[int, int], set[str]] = {}
        self._facts: list[FileFacts] | None = None

    def digest(self, path: str, *, follow: bool = True, contents: bool = False) -> str:
        """The digest of what is at `path`, `sha256:…`; a link at its end is followed if told.

        With `contents`, the mode, owner and attributes of a directory itself do not count.
        Raises `UserError` `path-missing`, `unreadable-path`.
        """
        real = self._real(path, follow)
        if (real, contents) not in self._memo:
            node = self._node(real)
            if contents and node.startswith("\0d\0"):
                node = node[:-1].rpartition("\0")[2]
            self._memo[real, contents] = _sha256(f"{SCHEME}\0{node}")
        return self._memo[real, contents]

    def digest_many(self, paths: Iterable[str], *, follow: bool = True) -> dict[str, str]:
        """The digests of several paths."""
        return {path: self.digest(path, follow=follow) for path in paths}

    def link_groups(self) -> list[tuple[str, ...]]:
        """The paths, of all that was digested until now, that are one file (hard links); sorted."""
        groups = (tuple(sorted(paths)) for paths in self._members.values() if len(paths) > 1)
        return sorted(groups)

    def _note_link(self, path: str, status: os.stat_result) -> None:
        self._members.setdefault((status.st_dev, status.st_ino), set()).add(path)

    def facts(self, path: str, *, follow: bool = True) -> list[FileFacts]:
        """What counts of the path and of all below it, sorted; reads the tree again."""
        self._facts = []
        try:
            real = self._real(path, follow)
            self._facts.append(_facts_of("", self._node(real)))
            return sorted(self._facts, key=lambda facts: facts.path)
        finally:
            self._facts = None

    def _real(self, path: str, follow: bool) -> str:
        try:
            if follow:
                return self._root.resolve(path)
            fd, parent, name = self._root.locate(path)
            files.close(fd)
            return parent if name == "." else f"{parent}/{name}".lstrip("/")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _missing(path) from error
        except OSError as error:
            raise _unreadable(path, error) from error

    def _node(self, path: str) -> str:
        """The node of a canonical path, with an empty name."""
        try:
            return self._read_top(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _missing(path) from error
        except OSError as error:
            raise _unreadable(path, error) from error

    def _read_top(self, path: str) -> str:
        parent_fd, name = self._root.open_parent(path)
        try:
            status = files.stat(name, dir_fd=parent_fd, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                if status.st_nlink > 1:
                    self._note_link(path, status)
                stats = self._stats.directory(files.fstat(parent_fd)) if self._stats else None
                node = self._leaf("", status, parent_fd, name, stats)
                if node is None:
                    raise FileNotFoundError(f"{path} is a socket")
                return node
        finally:
            files.close(parent_fd)
        fd = self._root.open_dir(path, follow=False) if path else files.duplicate(self._root.fd)
        head = self._directory_head("", files.fstat(fd), None, fd, ".")
        return self._directory(fd, path, head)

    def _directory(self, fd: int, top: str, head: str) -> str:
        """The node of a directory. Takes `fd` over."""
        stack = DirStack(fd, widen=self._root.widen)
        frames = [_Frame(top, head, True)]
        try:
            self._list(stack.fd, frames[-1])
            while True:
                frame = frames[-1]
                if frame.pending:
                    name, child_head, shown = frame.pending.pop()
                    stack.push(name)
                    path = f"{frame.path}/{name}" if frame.path else name
                    frames.append(_Frame(path, child_head, shown))
                    self._list(stack.fd, frames[-1])
                    continue
                frames.pop()
                node = self._close(frame, top)
                if not frames:
                    return node
                stack.pop()
                if frame.shown or frame.lines:
                    frames[-1].lines.append(node)
        except OSError as error:
            if isinstance(error.filename, str) and not error.filename.startswith("/"):
                error.filename = f"{frames[-1].path}/{error.filename}".lstrip("/")
            raise
        finally:
            stack.close()

    def _close(self, frame: _Frame, top: str) -> str:
        # A NUL sorts before every byte of a name, so nodes sort as their names do.
        frame.lines.sort()
        if self._facts is not None:
            base = frame.path[len(top) :].lstrip("/")
            self._facts.extend(_facts_of(base, line) for line in frame.lines)
        return f"{frame.head}{_sha256(''.join(frame.lines))}\0"

    def _list(self, fd: int, frame: _Frame) -> None:
        stats = self._stats.directory(files.fstat(fd)) if self._stats is not None else None
        known, fresh_ns = (stats.known, stats.fresh_ns) if stats is not None else ({}, 0)
        excluded, plain = self._excluded, not self._ownership
        prefix = f"{frame.path}/" if frame.path else ""
        inodes: list[int] = []
        with files.scandir(fd) as entries:
            for entry in entries:
                name = entry.name
                is_dir = entry.is_dir(follow_symlinks=False)
                hidden = excluded is not None and excluded(prefix + name, is_dir)
                if hidden and not is_dir:
                    continue
                status = entry.stat(follow_symlinks=False)
                inodes.append(status.st_ino)
                if is_dir:
                    if not (hidden and self._may_prune is not None and self._may_prune(prefix + name)):
                        head = self._directory_head(name, status, stats, fd, name)
                        frame.pending.append((name, head, not hidden))
                    continue
                # The warm path of a big context: no call per file but the stat.
                if status.st_nlink > 1:
                    self._note_link(prefix + name, status)
                found = known.get(status.st_ino)
                if (
                    found is not None
                    and found.ctime_ns == status.st_ctime_ns
                    and found.ctime_ns < fresh_ns
                    and found.mtime_ns == status.st_mtime_ns
                    and found.size == status.st_size
                    and found.mode == status.st_mode
                    and plain
                    and S_ISREG(found.mode)
                ):
                    frame.lines.append(name + "\0f\0-\0-" + found.tail)
                    continue
                node = self._leaf(name, status, fd, name, stats)
                if node is not None:
                    frame.lines.append(node)
        if stats is not None:
            stats.keep_only(inodes)

    def _directory_head(
        self, name: str, status: os.stat_result, stats: DirectoryStats | None, dir_fd: int, entry: str
    ) -> str:
        known = stats.find(status) if stats is not None else None
        if known is not None:
            return self._start(name, "d", status) + known.tail
        read_at = now_ns()
        tail = f"\0{status.st_mode & 0o7777:o}\0{_xattrs_at(dir_fd, entry)}\0"
        if stats is not None:
            stats.learn(status, read_at, tail)
        return self._start(name, "d", status) + tail

    def _leaf(
        self, name: str, status: os.stat_result, dir_fd: int, entry: str, stats: DirectoryStats | None
    ) -> str | None:
        """The node of anything but a directory; None for what no image can hold."""
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            return None
        known = stats.find(status) if stats is not None else None
        if known is not None:
            return self._start(name, kind, status) + known.tail
        linked = (status.st_dev, status.st_ino, status.st_ctime_ns)
        tail = self._linked.get(linked)
        if tail is None:
            read_at = now_ns()
            status, tail, settled = _read(kind, status, dir_fd, entry, ask=stats is not None)
            if status.st_nlink > 1:
                self._linked[linked] = tail
            # Link targets may hold bytes that are not UTF-8, which the cache's encoding refuses.
            if stats is not None and settled and kind in "fl" and tail.isascii():
                stats.learn(status, read_at, tail)
        return self._start(name, kind, status) + tail

    def _start(self, name: str, kind: str, status: os.stat_result) -> str:
        if self._ownership:
            return f"{name}\0{kind}\0{status.st_uid}\0{status.st_gid}"
        return f"{name}\0{kind}\0-\0-"


def _read(
    kind: str, status: os.stat_result, dir_fd: int, name: str, *, ask: bool
) -> tuple[os.stat_result, str, bool]:
    """Status before the read, the end of a node (mode, attributes, content), and whether that holds
    as long as the status does, if that was to be asked."""
    if kind == "f":
        status, content, xattrs, settled = _read_file(dir_fd, name, ask=ask)
        tail = f"\0{status.st_mode & 0o7777:o}\0{xattrs}\0{status.st_size} {content}\0"
        return status, tail, settled
    xattrs = _xattrs_at(dir_fd, name)
    if kind == "l":
        # The mode of a link means nothing (symlink(7)).
        return status, f"\x00777\0{xattrs}\0{files.readlink(name, dir_fd=dir_fd)}\0", True
    numbers = "" if kind == "p" else f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    return status, f"\0{status.st_mode & 0o7777:o}\0{xattrs}\0{numbers}\0", True


def _read_file(dir_fd: int, name: str, *, ask: bool) -> tuple[os.stat_result, str, str, bool]:
    """Status before the read, sha256 and attributes of a regular file, and whether nobody can write
    to it unnoticed, if that was to be asked."""
    try:
        fd = files.open(name, _FLAGS, dir_fd=dir_fd)
    except PermissionError:
        # O_NOATIME is for the owner only (open(2)).
        fd = files.open(name, _FLAGS & ~os.O_NOATIME, dir_fd=dir_fd)
    try:
        status = files.fstat(fd)
        if not S_ISREG(status.st_mode):
            raise OSError(errno.ESTALE, "the file was replaced while it was read", name)
        # Before the read: a writer that comes after it moves the times.
        settled = ask and not files.is_virtual(fd) and is_settled(fd, status)
        hashed = hashlib.sha256()
        while chunk := files.read(fd, min(_CHUNK, status.st_size + 1)):
            hashed.update(chunk)
        return status, hashed.hexdigest(), _xattrs(fd), settled
    finally:
        files.close(fd)


def _xattrs_at(dir_fd: int, name: str) -> str:
    return _xattrs((dir_fd, name))


def _xattrs(target: files.Place) -> str:
    """The digest of the attributes that an image keeps; empty for none."""
    try:
        names = files.listxattr(target)
    except OSError:  # a file system without attributes
        return _NO_XATTRS
    if not names:
        return _NO_XATTRS
    hashed = hashlib.sha256()
    count = 0
    for name in sorted(names):
        if not (carried(name) or name == NODE):
            continue
        value: bytes | None = files.getxattr(target, name)
        assert value is not None
        value = value if name == NODE else portable(name, value)
        if value is not None:
            hashed.update(b"%b\0%d\0%b" % (os.fsencode(name), len(value), value))
            count += 1
    return hashed.hexdigest() if count else _NO_XATTRS


def _facts_of(base: str, line: str) -> FileFacts:
    name, kind, uid, gid, mode, xattrs, content, _ = line.split("\0")
    return FileFacts(
        path=f"{base}/{name}".strip("/"),
        type=_TYPES[kind],
        mode=int(mode, 8),
        uid=-1 if uid == "-" else int(uid),
        gid=-1 if gid == "-" else int(gid),
        xattrs=xattrs,
        content=content,
    )


def _sha256(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _missing(path: str) -> UserError:
    error = UserError.of("path-missing", f"{path or '/'} does not exist")
    assert isinstance(error, UserError)
    return error


def _unreadable(path: str, error: OSError) -> UserError:
    shown = error.filename if isinstance(error.filename, str) else path
    wrapped = UserError.of(
        "unreadable-path",
        f"cannot read {shown or path or '/'}: {error.strerror}",
        hint="let the user who builds read it, or hide it with the ignore file",
    )
    assert isinstance(wrapped, UserError)
    return wrapped
