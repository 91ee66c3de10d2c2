"""Virtual trees against the kernel: the same calls, the same answers."""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from arkwright.layer import files
from arkwright.layer.apply import apply_entries
from arkwright.layer.diff import diff
from arkwright.layer.entry import Entry
from arkwright.layer.rooted import DIRECTORY, REGULAR, Root, remove_tree
from arkwright.layer.tree import walk
from arkwright.layer.virtual_nodes import Spool, VirtualTree

NAMES = ("a", "b", "c", "ü")
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
SEQUENCES = 300


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(str(tmp_path))


def _attempt(call: Callable[[], object]) -> object:
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


class _Player:
    """Random calls on one tree; two players with one seed make the same calls."""

    def __init__(self, path: str, seed: int) -> None:
        self.root = Root(path)
        self.random = random.Random(seed)
        self.is_root = os.geteuid() == 0

    def step(self) -> object:
        pick = self.random
        where = "/".join(pick.choices(NAMES, k=pick.randrange(3)))
        name, other = pick.choice(NAMES), pick.choice(NAMES)
        number = pick.randrange(1 << 20)
        kinds = ["file", "file", "mkdir", "mkdir", "symlink", "link", "unlink", "rmdir", "stat", "list", "read",
                 "chmod", "utime", "fifo", "tree", "open", "readlink", "xattr", "hole"]  # fmt: skip
        kinds += ["chown", "node"] if self.is_root else []
        kind = pick.choice(kinds)

        def call() -> object:
            fd = self.root.open_dir(where, follow=False)
            try:
                return getattr(self, "_" + kind)(fd, name, other, number)
            finally:
                files.close(fd)

        return kind, where, name, _attempt(call)

    def _file(self, fd: int, name: str, other: str, number: int) -> object:
        new_fd = files.open(name, _CREATE, 0o600, dir_fd=fd)
        try:
            for part in range(number % 4):
                files.write(new_fd, b"%d" % part * (number % 5000))
            files.fchmod(new_fd, number & 0o777)
            return files.fstat(new_fd).st_size
        finally:
            files.close(new_fd)

    def _hole(self, fd: int, name: str, other: str, number: int) -> object:
        new_fd = files.open(name, _CREATE, 0o600, dir_fd=fd)
        try:
            files.write(new_fd, b"begin")
            files.skip(new_fd, number % 9000)
            files.write(new_fd, b"middle")
            files.ftruncate(new_fd, 20_000)
            return files.fstat(new_fd).st_size
        finally:
            files.close(new_fd)

    def _mkdir(self, fd: int, name: str, other: str, number: int) -> object:
        files.mkdir(name, 0o700, dir_fd=fd)
        return None

    def _symlink(self, fd: int, name: str, other: str, number: int) -> object:
        files.symlink(other, name, dir_fd=fd)
        return None

    def _link(self, fd: int, name: str, other: str, number: int) -> object:
        files.link(name, other, src_dir_fd=fd, dst_dir_fd=self.root.fd, follow_symlinks=False)
        return None

    def _unlink(self, fd: int, name: str, other: str, number: int) -> object:
        files.unlink(name, dir_fd=fd)
        return None

    def _rmdir(self, fd: int, name: str, other: str, number: int) -> object:
        files.rmdir(name, dir_fd=fd)
        return None

    def _tree(self, fd: int, name: str, other: str, number: int) -> object:
        remove_tree(fd, name)
        return None

    def _stat(self, fd: int, name: str, other: str, number: int) -> object:
        return _facts(files.stat(name, dir_fd=fd))

    def _list(self, fd: int, name: str, other: str, number: int) -> object:
        with files.scandir(fd) as entries:
            found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        assert sorted(files.listdir(fd)) == [name for name, _ in found]
        return found

    def _read(self, fd: int, name: str, other: str, number: int) -> object:
        read_fd = files.open(name, REGULAR, dir_fd=fd)
        if not stat.S_ISREG(files.fstat(read_fd).st_mode):
            files.close(read_fd)
            return "special"
        with files.fdopen(read_fd, "rb", 0) as file:
            file.seek(number % 100)
            return file.read(number % 7000), file.read()

    def _open(self, fd: int, name: str, other: str, number: int) -> object:
        inner_fd = files.open(name, DIRECTORY, dir_fd=fd)
        above_fd = files.open("..", DIRECTORY, dir_fd=inner_fd)
        same = files.fstat(above_fd).st_ino == files.fstat(fd).st_ino
        files.close(inner_fd)
        files.close(above_fd)
        return same

    def _readlink(self, fd: int, name: str, other: str, number: int) -> object:
        return files.readlink(name, dir_fd=fd)

    def _chmod(self, fd: int, name: str, other: str, number: int) -> object:
        if stat.S_ISLNK(files.stat(name, dir_fd=fd).st_mode):
            return "link"
        # Directories must stay open to the kernel's player when that is not root.
        files.chmod(name, number & 0o777 | 0o700, dir_fd=fd)
        return None

    def _chown(self, fd: int, name: str, other: str, number: int) -> object:
        files.chown(name, number % 7, number % 5, dir_fd=fd)
        return None

    def _node(self, fd: int, name: str, other: str, number: int) -> object:
        files.mknod(name, stat.S_IFCHR | 0o600, os.makedev(1, 3), dir_fd=fd)
        return None

    def _fifo(self, fd: int, name: str, other: str, number: int) -> object:
        files.mkfifo(name, 0o600, dir_fd=fd)
        return None

    def _utime(self, fd: int, name: str, other: str, number: int) -> object:
        files.utime(name, ns=(number, number), dir_fd=fd)
        return files.stat(name, dir_fd=fd).st_mtime_ns

    def _xattr(self, fd: int, name: str, other: str, number: int) -> object:
        key = f"user.{number % 3}"
        files.setxattr((fd, name), key, b"%d" % number)
        if number % 2:
            files.removexattr((fd, name), key)
        return sorted(files.listxattr((fd, name)))

    def look(self) -> list[object]:
        """All of the tree."""
        found = []
        for entry, status in walk(self.root):
            size = status.st_size if not stat.S_ISDIR(status.st_mode) else 0
            links = status.st_nlink if not stat.S_ISDIR(status.st_mode) else 0
            found.append((entry.path, entry.type, entry.mode, entry.uid, entry.gid, entry.link, size, links,
                          entry.major, entry.minor, entry.xattrs))  # fmt: skip
        return found


def _facts(status: os.stat_result) -> tuple[int, ...]:
    if stat.S_ISDIR(status.st_mode):
        return (status.st_mode,)
    return status.st_mode, status.st_nlink, status.st_uid, status.st_gid, status.st_size, status.st_rdev


def _xattrs_here(path: Path) -> bool:
    try:
        os.setxattr(path, "user.probe", b"x")
        os.removexattr(path, "user.probe")
    except OSError:
        return False
    return True


@pytest.mark.parametrize("first", range(0, SEQUENCES, 100))
def test_every_call_answers_as_the_kernels(tmp_path: Path, spool: Spool, first: int) -> None:
    if not _xattrs_here(tmp_path):
        pytest.skip("needs-xattrs: user.* extended attributes in the temporary directory")
    before = os.umask(0)
    try:
        for seed in range(first, first + 100):
            real_path = tmp_path / str(seed)
            real_path.mkdir(mode=0o755)
            tree = VirtualTree(spool)
            files.utime((fd := files.open_root(tree.path)), ns=(0, 0))
            files.close(fd)
            real, virtual = _Player(str(real_path), seed), _Player(tree.path, seed)
            if os.geteuid():
                virtual.is_root = real.is_root
                files.fchown(virtual.root.fd, os.geteuid(), os.getegid())
            with real.root, virtual.root:
                for number in range(150):
                    wanted, found = real.step(), virtual.step()
                    assert _without_owner(found) == _without_owner(wanted), (seed, number)
                assert _without_owner(virtual.look()) == _without_owner(real.look()), seed
    finally:
        os.umask(before)


def _without_owner(found: object) -> object:
    """What a plain user's kernel and a virtual tree agree upon: new files are the user's there."""
    if os.geteuid() == 0:
        return found
    return repr(found).replace(f"{os.geteuid()}, {os.getegid()}", "0, 0")


def test_limits_of_names_and_links(tmp_path: Path, spool: Spool) -> None:
    tree = VirtualTree(spool)
    for path in (str(tmp_path), tree.path):
        with Root(path) as root:
            for name in ("n" * 256, "ü" * 128):
                assert _attempt(lambda name=name: files.mkdir(name, 0o700, dir_fd=root.fd)) == "ENAMETOOLONG"  # type: ignore[misc]
            assert _attempt(lambda: files.symlink("x" * 4096, "l", dir_fd=root.fd)) == "ENAMETOOLONG"
            assert _attempt(lambda: files.symlink("", "l", dir_fd=root.fd)) == "ENOENT"
            files.mkdir("n" * 255, 0o700, dir_fd=root.fd)
            assert files.listdir(root.fd) == ["n" * 255] or path == str(tmp_path)


def test_attributes_follow_the_kernels_rules(spool: Spool) -> None:
    tree = VirtualTree(spool)
    with Root(tree.path) as root:
        files.symlink("x", "link", dir_fd=root.fd)
        files.mkdir("dir", 0o755, dir_fd=root.fd)
        assert _attempt(lambda: files.setxattr((root.fd, "link"), "user.a", b"")) == "EPERM"
        assert _attempt(lambda: files.setxattr((root.fd, "dir"), "security.capability", b"?")) == "EINVAL"
        assert _attempt(lambda: files.getxattr((root.fd, "dir"), "user.a")) == "ENODATA"
        assert _attempt(lambda: files.setxattr((root.fd, "dir"), "user.a", b"x" * 65537)) == "E2BIG"
        files.setxattr((root.fd, "dir"), "security.capability", b"\1\0\0\2" + bytes(16))
        assert files.listxattr((root.fd, "dir")) == ["security.capability"]


def _tree(spool: Spool, entries: list[tuple[Entry, bytes]]) -> VirtualTree:
    tree = VirtualTree(spool)
    put(tree, entries)
    tree.freeze()
    return tree


def put(tree: VirtualTree, entries: list[tuple[Entry, bytes]]) -> None:
    import io

    items: Iterator[tuple[Entry, io.BytesIO | None]] = (
        (entry, io.BytesIO(data) if entry.type == "file" else None) for entry, data in entries
    )
    with Root(tree.path) as root:
        apply_entries(items, root)  # type: ignore[arg-type]


def _file(path: str, data: bytes = b"", **more: int) -> tuple[Entry, bytes]:
    return Entry(path=path, type="file", mode=0o644, size=len(data), **more), data  # type: ignore[arg-type]


def _read(tree: VirtualTree, path: str) -> bytes:
    with Root(tree.path) as root, files.fdopen(root.open_file(path), "rb") as file:
        return file.read()


def test_a_clone_changes_nothing_below(spool: Spool) -> None:
    below = _tree(spool, [_file("d/e/f", b"old"), _file("d/g", b"kept"), _file("h", b"gone")])
    with Root(below.path) as root:
        before = [(entry, status.st_ino) for entry, status in walk(root)]
    above = below.clone()
    with Root(above.path) as root:
        remove_tree(root.fd, "h")
        files.chmod("g", 0o600, dir_fd=(fd := root.open_dir("d")))
        files.close(fd)
    put(above, [_file("d/e/f", b"new", uid=7, gid=8)])
    assert (_read(above, "d/e/f"), _read(below, "d/e/f")) == (b"new", b"old")
    with Root(below.path) as root:
        assert [(entry, status.st_ino) for entry, status in walk(root)] == before
    with Root(below.path) as lower, Root(above.path) as upper:
        paths = {change.entry.path: change.entry.type for change in diff(lower, upper)}
    assert paths == {"d": "dir", "d/e": "dir", "d/e/f": "file", "d/g": "file", "h": "whiteout"}


def test_linked_names_are_split_by_a_change_as_on_overlayfs(spool: Spool) -> None:
    below = _tree(spool, [_file("one", b"x"), (Entry(path="two", type="hardlink", link="one"), b"")])
    above = below.clone()
    with Root(above.path) as root:
        assert files.stat("one", dir_fd=root.fd).st_nlink == 2
        files.chmod("one", 0o600, dir_fd=root.fd)
        one, two = (files.stat(name, dir_fd=root.fd) for name in ("one", "two"))
    assert one.st_ino != two.st_ino
    assert (one.st_nlink, two.st_nlink) == (1, 2)
    assert stat.S_IMODE(two.st_mode) == 0o644


def test_a_frozen_tree_cannot_be_written(spool: Spool) -> None:
    tree = _tree(spool, [_file("f", b"x")])
    with Root(tree.path) as root:
        calls: list[Callable[[], object]] = [
            lambda: files.mkdir("d", 0o755, dir_fd=root.fd),
            lambda: files.unlink("f", dir_fd=root.fd),
            lambda: files.chmod("f", 0o600, dir_fd=root.fd),
            lambda: files.fchmod(root.fd, 0o700),
            lambda: files.link("f", "g", src_dir_fd=root.fd, dst_dir_fd=root.fd),
        ]
        assert [_attempt(call) for call in calls] == ["EROFS"] * len(calls)


def test_a_tree_that_nobody_refers_to_is_gone(spool: Spool) -> None:
    tree = VirtualTree(spool)
    path = tree.path
    Root(path).close()
    del tree
    with pytest.raises(FileNotFoundError):
        Root(path)
    with pytest.raises(OSError, match="Not a directory"):
        os.open(path, os.O_RDONLY)


@pytest.mark.parametrize("size", [0, 1, 1 << 16, (1 << 16) + 1, 3_000_000])
def test_contents_come_over_from_files_and_between_trees(tmp_path: Path, spool: Spool, size: int) -> None:
    data = random.Random(size).randbytes(size)
    (tmp_path / "source").write_bytes(data)
    first, second = VirtualTree(spool), VirtualTree(spool)
    with Root(first.path) as one, Root(second.path) as two:
        fd = files.open("f", _CREATE, dir_fd=one.fd)
        with open(tmp_path / "source", "rb", buffering=0) as source:
            files.take(source.fileno(), fd)
        files.close(fd)
        read_fd, write_fd = files.open("f", REGULAR, dir_fd=one.fd), files.open("g", _CREATE, dir_fd=two.fd)
        files.take(read_fd, write_fd)
        files.write(write_fd, b"end")
        files.close(read_fd)
        files.close(write_fd)
    first.freeze()
    second.freeze()
    assert _read(first, "f") == data
    assert _read(second, "g") == data + b"end"


def test_closed_and_unknown_handles_are_refused(spool: Spool) -> None:
    tree = VirtualTree(spool)
    fd = files.open_root(tree.path)
    files.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        files.close(fd)
