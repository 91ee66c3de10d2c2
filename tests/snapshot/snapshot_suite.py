"""The contract of `snapshot.base.Snapshotter`, as checks that every implementation passes.

    class TestMine(SnapshotterSuite):
        @pytest.fixture
        def run(self, tmp_path):
            def run(check): check(Case(store, MySnapshotter(store)))
            return run

`run` may call the check in a process of its own.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import socket
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from arkwright.diagnostics.errors import ArkwrightError
from arkwright.layer.entry import Change, Entry
from arkwright.layer.rooted import Root
from arkwright.layer.tar_write import write_tar
from arkwright.layer.tree import walk
from arkwright.snapshot.base import Layer, Snapshotter
from arkwright.snapshot.layers import LayerRecords
from arkwright.snapshot.publish import discard_unrecorded
from arkwright.store.store import Store

OLD_NS = 1_000_000_000_000_000_000
CHECKS: list[Callable[[Case], None]] = []


def check(body: Callable[[Case], None]) -> Callable[[Case], None]:
    CHECKS.append(body)
    return body


class Case:
    """A snapshotter on an open, empty store. `can` lacks what the place cannot: `mount`, `device`, `chown`."""

    def __init__(
        self,
        store: Store,
        snapshotter: Snapshotter,
        can: frozenset[str],
        again: Callable[[Store], Snapshotter],
    ) -> None:
        self.store = store
        self.snapshotter = snapshotter
        self.records = LayerRecords(store.metadata)
        self.can = can
        # Makes another snapshotter of the kind, as another process would.
        self.again = again

    def layer(self, parents: Sequence[str], work: Callable[[Path], None], scrub: Sequence[str] = ()) -> str:
        """Commit what `work` does to the root of a tree; the new layer's id."""
        active = self.snapshotter.prepare(parents)
        try:
            work(Path(active.root))
        except BaseException:
            active.abort()
            raise
        return active.commit(scrub=scrub).id

    def diff(self, layer_id: str) -> dict[str, str]:
        """Path to type of every change, content appended for small files."""
        return {change.entry.path: _summary(change) for change in self.changes(layer_id)}

    def changes(self, layer_id: str) -> Iterator[Change]:
        layer = self.records.get(layer_id)
        assert layer is not None
        for change in self.snapshotter.diff(layer):
            if change.entry.path or not self._is_plain_root(change.entry):
                yield change

    def _is_plain_root(self, entry: Entry) -> bool:
        """Who may not change owners has made a root that is not 0:0, which is a difference."""
        return "chown" not in self.can and entry.mode == 0o755

    def tar(self, layer_id: str) -> bytes:
        sink = io.BytesIO()
        write_tar(self.changes(layer_id), sink.write, mtime_ns=None)
        return sink.getvalue()

    def tree(self, layers: Sequence[str]) -> list[tuple[object, ...]]:
        """All that can be seen in a view, hard-link groups included."""
        with self.snapshotter.view(layers) as path:
            return list(snapshot_of(path))


def snapshot_of(path: str) -> Iterator[tuple[object, ...]]:
    groups: dict[tuple[int, int], int] = {}
    with Root(path) as root:
        for entry, info in walk(root):
            group = groups.setdefault((info.st_dev, info.st_ino), len(groups)) if entry.type == "file" else -1
            content = (Path(path) / entry.path).read_bytes() if entry.type == "file" else b""
            # The time of the root is nobody's.
            yield (entry if entry.path else None, group, content)


def _summary(change: Change) -> str:
    entry = change.entry
    if entry.type == "file" and change.open is not None:
        with change.open() as stream:
            return f"file {stream.read().decode('utf-8', 'backslashreplace')}"
    return f"{entry.type} {entry.link}".rstrip()


def write(path: Path, text: str = "x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def age(root: Path) -> None:
    """Give everything below an old time, so that any touch shows."""
    for directory, directories, files in os.walk(root, topdown=False):
        for name in (*directories, *files):
            os.utime(os.path.join(directory, name), ns=(OLD_NS, OLD_NS), follow_symlinks=False)


def base(root: Path) -> None:
    """A small tree with a bit of everything."""
    write(root / "etc/conf", "one")
    write(root / "etc/other", "two")
    write(root / "dir/a", "a")
    write(root / "dir/b", "b")
    write(root / "dir/sub/c", "c")
    write(root / "linked/x", "same")
    os.link(root / "linked/x", root / "linked/y")
    os.symlink("conf", root / "etc/link")
    os.symlink("/dir", root / "to-dir")
    age(root)


@check
def a_tree_made_on_nothing(case: Case) -> None:
    layer = case.layer((), base)
    assert case.diff(layer) == {
        "dir": "dir", "dir/a": "file a", "dir/b": "file b", "dir/sub": "dir", "dir/sub/c": "file c",
        "etc": "dir", "etc/conf": "file one", "etc/link": "symlink conf", "etc/other": "file two",
        "linked": "dir", "linked/x": "file same", "linked/y": "hardlink linked/x", "to-dir": "symlink /dir",
    }  # fmt: skip
    with case.snapshotter.view([layer]) as path:
        assert Path(path, "etc/conf").read_text() == "one"
    record = case.records.get(layer)
    assert record is not None
    assert (record.parents, record.origin, record.unpacked) == ((), "executed", True)
    assert record.created_at > 0


@check
def an_empty_view_and_an_empty_layer(case: Case) -> None:
    with case.snapshotter.view(()) as path:
        assert os.listdir(path) == []
    layer = case.layer((), lambda root: None)
    assert case.diff(layer) == {}
    assert case.diff(case.layer([layer], lambda root: None)) == {}
    with case.snapshotter.view([layer]) as path:
        assert os.listdir(path) == []


@check
def changes_on_top(case: Case) -> None:
    def work(root: Path) -> None:
        write(root / "etc/conf", "changed")
        os.unlink(root / "etc/other")
        write(root / "new/file", "new")

    first = case.layer((), base)
    second = case.layer([first], work)
    assert case.diff(second) == {
        "etc": "dir", "etc/conf": "file changed", "etc/other": "whiteout", "new": "dir", "new/file": "file new",
    }  # fmt: skip
    with case.snapshotter.view([first, second]) as path:
        assert sorted(os.listdir(path + "/etc")) == ["conf", "link"]
        assert Path(path, "etc/conf").read_text() == "changed"
    with case.snapshotter.view([first]) as path:
        assert Path(path, "etc/conf").read_text() == "one"
        assert Path(path, "etc/other").read_text() == "two"
    record = case.records.get(second)
    assert record is not None
    assert record.parents == (first,)


@check
def an_aborted_tree_leaves_nothing(case: Case) -> None:
    first = case.layer((), base)
    for parents in ((), [first]):
        active = case.snapshotter.prepare(parents)
        write(Path(active.root, "file"))
        active.abort()
    assert len(case.records.all()) == 1
    case.snapshotter.close()
    assert os.listdir(os.path.join(case.store.root_path, "work")) == []
    assert len(os.listdir(os.path.join(case.store.root_path, "layers"))) == 1


@check
def what_was_changed_and_changed_back_is_no_change(case: Case) -> None:
    def work(root: Path) -> None:
        mode = (root / "etc/conf").stat().st_mode
        os.chmod(root / "etc/conf", 0o600)
        os.chmod(root / "etc/conf", stat.S_IMODE(mode))
        with open(root / "dir/a", "r+b"):
            pass
        with open(root / "dir/b", "r+b") as file:
            file.write(b"b")
        os.utime(root / "dir/b", ns=(OLD_NS, OLD_NS))
        write(root / "dir/sub/temporary")
        os.unlink(root / "dir/sub/temporary")
        os.utime(root / "dir/sub", ns=(OLD_NS, OLD_NS))

    first = case.layer((), base)
    assert case.diff(case.layer([first], work)) == {}


@check
def same_size_and_time_but_other_content(case: Case) -> None:
    def work(root: Path) -> None:
        (root / "etc/conf").write_text("eno")
        os.utime(root / "etc/conf", ns=(OLD_NS, OLD_NS))

    first = case.layer((), base)
    assert case.diff(case.layer([first], work)) == {"etc": "dir", "etc/conf": "file eno"}


@check
def single_attributes(case: Case) -> None:
    def work(root: Path) -> None:
        os.chmod(root / "etc/conf", 0o4711)
        os.utime(root / "etc/other", ns=(OLD_NS, OLD_NS + 1))
        os.setxattr(root / "dir/a", "user.note", b"v")
        os.setxattr(root / "dir/sub", "user.note", b"w")
        if "chown" in case.can:
            os.chown(root / "dir/b", 7, 8)
            os.chown(root / "etc/link", 9, 10, follow_symlinks=False)

    first = case.layer((), base)
    entries = {change.entry.path: change.entry for change in case.changes(case.layer([first], work))}
    assert entries["etc/conf"].mode == 0o4711
    assert entries["etc/other"].mtime_ns == OLD_NS + 1
    assert entries["dir/a"].xattrs == (("user.note", b"v"),)
    assert entries["dir/sub"].xattrs == (("user.note", b"w"),)
    expected = {"etc", "etc/conf", "etc/other", "dir", "dir/a", "dir/sub"}
    if "chown" in case.can:
        assert (entries["dir/b"].uid, entries["dir/b"].gid) == (7, 8)
        assert (entries["etc/link"].uid, entries["etc/link"].gid) == (9, 10)
        expected |= {"dir/b", "etc/link"}
    assert set(entries) == expected


@check
def a_replaced_directory_is_whiteouts_by_name(case: Case) -> None:
    def work(root: Path) -> None:
        shutil.rmtree(root / "dir")
        write(root / "dir/b", "new b")
        write(root / "dir/sub/d", "d")

    first = case.layer((), base)
    second = case.layer([first], work)
    expected = {
        "dir": "dir", "dir/a": "whiteout", "dir/b": "file new b", "dir/sub": "dir", "dir/sub/c": "whiteout",
        "dir/sub/d": "file d",
    }  # fmt: skip
    assert case.diff(second) == expected
    with case.snapshotter.view([first, second]) as path:
        assert sorted(os.listdir(path + "/dir")) == ["b", "sub"]
        assert os.listdir(path + "/dir/sub") == ["d"]


@check
def types_replace_each_other(case: Case) -> None:
    def work(root: Path) -> None:
        os.unlink(root / "etc/conf")
        write(root / "etc/conf/inside", "i")
        shutil.rmtree(root / "dir")
        write(root / "dir", "file now")
        os.unlink(root / "to-dir")
        write(root / "to-dir/real", "r")
        os.unlink(root / "etc/other")
        os.symlink("nowhere", root / "etc/other")

    first = case.layer((), base)
    second = case.layer([first], work)
    assert case.diff(second) == {
        "dir": "file file now", "etc": "dir", "etc/conf": "dir", "etc/conf/inside": "file i",
        "etc/other": "symlink nowhere", "to-dir": "dir", "to-dir/real": "file r",
    }  # fmt: skip

    def back(root: Path) -> None:
        shutil.rmtree(root / "etc/conf")
        write(root / "etc/conf", "one")
        os.unlink(root / "dir")
        write(root / "dir/a", "a")

    third = case.layer([first, second], back)
    assert case.diff(third) == {
        "dir": "dir", "dir/a": "file a", "etc": "dir", "etc/conf": "file one",
    }  # fmt: skip
    with case.snapshotter.view([first, second, third]) as path:
        assert os.listdir(path + "/dir") == ["a"]


@check
def a_renamed_tree(case: Case) -> None:
    first = case.layer((), base)
    second = case.layer([first], lambda root: shutil.move(root / "dir", root / "moved"))
    assert case.diff(second) == {
        "dir": "whiteout", "moved": "dir", "moved/a": "file a", "moved/b": "file b", "moved/sub": "dir",
        "moved/sub/c": "file c",
    }  # fmt: skip


@check
def a_new_link_to_a_lower_file_brings_the_file(case: Case) -> None:
    first = case.layer((), base)
    second = case.layer([first], lambda root: os.link(root / "etc/conf", root / "etc/again"))
    assert case.diff(second) == {"etc": "dir", "etc/again": "file one", "etc/conf": "hardlink etc/again"}


@check
def writing_one_of_two_lower_links_splits_them(case: Case) -> None:
    first = case.layer((), base)
    second = case.layer([first], lambda root: (root / "linked/x").write_text("changed"))
    assert case.diff(second) == {"linked": "dir", "linked/x": "file changed"}
    with case.snapshotter.view([first, second]) as path:
        assert Path(path, "linked/y").read_text() == "same"
    third = case.layer([first], lambda root: os.link(root / "linked/x", root / "linked/z"))
    assert case.diff(third) == {"linked": "dir", "linked/x": "file same", "linked/z": "hardlink linked/x"}


@check
def links_of_one_step_stay_links(case: Case) -> None:
    first = case.layer((), base)

    def link(root: Path) -> None:
        write(root / "new/1", "n")
        os.link(root / "new/1", root / "new/2")

    second = case.layer([first], link)
    assert case.diff(second) == {"new": "dir", "new/1": "file n", "new/2": "hardlink new/1"}
    with case.snapshotter.view([first, second]) as path:
        assert os.stat(path + "/new/1").st_ino == os.stat(path + "/new/2").st_ino
        assert os.stat(path + "/linked/x").st_ino == os.stat(path + "/linked/y").st_ino

    def break_up(root: Path) -> None:
        os.unlink(root / "new/1")

    third = case.layer([first, second], break_up)
    assert case.diff(third) == {"new": "dir", "new/1": "whiteout"}


@check
def touching_a_link_of_the_same_step_brings_all_names(case: Case) -> None:
    def link(root: Path) -> None:
        os.link(root / "linked/x", root / "linked/z")
        os.chmod(root / "linked/z", 0o600)

    first = case.layer((), base)
    entries = {change.entry.path: change.entry for change in case.changes(case.layer([first], link))}
    assert {path: entry.type for path, entry in entries.items()} == {
        "linked": "dir", "linked/x": "file", "linked/z": "hardlink",
    }  # fmt: skip
    assert entries["linked/x"].mode == 0o600


@check
def overlay_attributes_are_never_shown(case: Case) -> None:
    def work(root: Path) -> None:
        write(root / "fresh/file")
        for path in (root / "fresh", root / "fresh/file", root / "dir"):
            os.setxattr(path, "user.overlay.note", b"x")
            os.setxattr(path, "user.mine", b"y")

    first = case.layer((), base)
    for layer in (case.layer([first], work), case.layer((), work_after(base, work))):
        for change in case.changes(layer):
            assert not [name for name, _ in change.entry.xattrs if name != "user.mine"]
    assert case.diff(case.layer([first], lambda root: os.setxattr(root / "dir", "user.overlay.x", b""))) == {}


def work_after(*works: Callable[[Path], None]) -> Callable[[Path], None]:
    def all_of_them(root: Path) -> None:
        for work in works:
            work(root)

    return all_of_them


@check
def file_capabilities(case: Case) -> None:
    if "device" not in case.can and "chown" not in case.can:
        pytest.skip("needs CAP_SETFCAP")
    value = bytes.fromhex("0100000200200000000000000000000000000000")

    def work(root: Path) -> None:
        os.setxattr(root / "etc/conf", "security.capability", value)

    first = case.layer((), base)
    second = case.layer([first], work)
    entries = {change.entry.path: change.entry for change in case.changes(second)}
    assert entries["etc/conf"].xattrs == (("security.capability", value),)
    third = case.layer([first, second], lambda root: os.chmod(root / "etc/conf", 0o700))
    entries = {change.entry.path: change.entry for change in case.changes(third)}
    assert entries["etc/conf"].xattrs == (("security.capability", value),)
    assert case.diff(case.layer([first, second], lambda root: os.utime(root / "dir/a"))).keys() == {
        "dir",
        "dir/a",
    }


@check
def special_files(case: Case) -> None:
    def work(root: Path) -> None:
        os.mkfifo(root / "fifo", 0o640)
        with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(root):
            listener.bind("socket")
            os.unlink("etc/conf")
            with socket.socket(socket.AF_UNIX) as other:
                other.bind("etc/conf")
        if "device" in case.can:
            os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))

    first = case.layer((), base)
    second = case.layer([first], work)
    expected = {"fifo": "fifo", "etc": "dir", "etc/conf": "whiteout"}
    if "device" in case.can:
        expected["null"] = "char"
        entries = {change.entry.path: change.entry for change in case.changes(second)}
        assert (entries["null"].major, entries["null"].minor) == (1, 3)
    assert case.diff(second) == expected
    third = case.layer([first, second], lambda root: os.chmod(root / "fifo", 0o600))
    assert case.diff(third) == {"fifo": "fifo"}
    assert case.diff(case.layer((), work_after(base, work))).keys() & {"socket"} == set()


@check
def odd_names_and_deep_trees(case: Case) -> None:
    deep = "/".join(["d" * 200] * 30)

    def work(root: Path) -> None:
        write(root / "with space, comma:colon\\back")
        (root / os.fsdecode(b"\xff\xfe")).write_text("bytes")
        fd = os.open(root, os.O_RDONLY)
        for name in deep.split("/"):
            os.mkdir(name, dir_fd=fd)
            below = os.open(name, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(os.open("end", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.close(fd)

    first = case.layer((), work)
    assert {"with space, comma:colon\\back", os.fsdecode(b"\xff\xfe"), deep + "/end"} <= case.diff(
        first
    ).keys()
    second = case.layer([first], lambda root: write(root / "x"))
    assert case.diff(second) == {"x": "file x"}
    third = case.layer([first, second], lambda root: os.unlink(root / os.fsdecode(b"\xff\xfe")))
    assert case.diff(third) == {os.fsdecode(b"\xff\xfe"): "whiteout"}


@check
def the_next_tree_is_as_a_new_one(case: Case) -> None:
    """Whatever a step did to its tree, the next one gets what the layers say."""
    default_acl = b"\2\0\0\0" + b"".join(tag + b"\7\0" + b"\xff" * 4 for tag in (b"\1\0", b"\4\0", b"\x20\0"))

    def work(root: Path) -> None:
        (root / "linked/x").write_text("changed")
        os.link(root / "dir/a", root / "dir/again")
        shutil.rmtree(root / "dir/sub")
        os.chmod(root / "etc/other", 0o600)
        os.chmod(root / "etc/other", 0o644)
        write(root / "var/log/old.log", "not kept")
        write(root / "var/log/apt/more/deep", "not kept")
        os.mkdir(root / "var/cache/apt/kept")
        with contextlib.suppress(OSError):
            os.setxattr(root / "opt", "system.posix_acl_default", default_acl)
        with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(root):
            listener.bind("etc/socket")

    def both(root: Path) -> None:
        base(root)
        logs(root)
        os.mkdir(root / "opt")
        age(root)

    layers = [case.layer((), both)]
    layers.append(case.layer(layers, lambda root: write(root / "etc/first", "1")))
    layers.append(case.layer(layers, work, SCRUB))
    trees = []
    for snapshotter in (case.snapshotter, case.again(case.store)):
        active = snapshotter.prepare(layers)
        trees.append(list(snapshot_of(active.root)))
        names = os.listxattr(active.root + "/opt")
        active.abort()
        assert not [name for name in names if name.startswith("system.")]
    assert trees[0] == trees[1]
    assert case.diff(case.layer(layers, lambda root: None)) == {}
    last = case.layer(layers, lambda root: (root / "dir/again").write_text("alone"))
    assert case.diff(last) == {"dir": "dir", "dir/again": "file alone"}


@check
def sparse_files_stay_small(case: Case) -> None:
    def work(root: Path) -> None:
        with open(root / "sparse", "wb") as file:
            file.seek(64 << 20)
            file.write(b"end")

    first = case.layer((), work)
    active = case.snapshotter.prepare([first])
    info = os.stat(active.root + "/sparse")
    assert info.st_size == (64 << 20) + 3
    assert info.st_blocks * 512 < 1 << 20
    with open(active.root + "/sparse", "rb") as file:
        file.seek(64 << 20)
        assert file.read() == b"end"
    active.abort()


@check
def deleted_and_made_again_over_three_layers(case: Case) -> None:
    first = case.layer((), base)
    second = case.layer([first], lambda root: shutil.rmtree(root / "dir"))
    assert case.diff(second) == {"dir": "whiteout"}
    third = case.layer([first, second], lambda root: write(root / "dir/b", "again"))
    assert case.diff(third) == {"dir": "dir", "dir/b": "file again"}
    with case.snapshotter.view([first, second, third]) as path:
        assert os.listdir(path + "/dir") == ["b"]
    fourth = case.layer([first, second, third], lambda root: shutil.rmtree(root / "dir"))
    assert case.diff(fourth) == {"dir": "whiteout"}
    with case.snapshotter.view([first, second, third, fourth]) as path:
        assert not os.path.exists(path + "/dir")


@check
def restrictive_directories(case: Case) -> None:
    def work(root: Path) -> None:
        write(root / "closed/inner/file")
        os.chmod(root / "closed/inner", 0o500)
        os.chmod(root / "closed", 0o100)
        os.chmod(root, 0o711)

    first = case.layer((), work)
    entries = {change.entry.path: change.entry for change in case.changes(first)}
    assert entries["closed"].mode == 0o100
    assert entries["closed/inner"].mode == 0o500
    assert entries[""].mode == 0o711
    second = case.layer([first], lambda root: write(root / "x"))
    assert case.diff(second) == {"x": "file x"}
    third = case.layer([first, second], lambda root: os.chmod(root, 0o750))
    assert case.diff(third) == {"": "dir"}


@check
def writes_do_not_reach_the_layers_below(case: Case) -> None:
    first = case.layer((), base)
    before = case.tree([first])
    tar = case.tar(first)

    def work(root: Path) -> None:
        for directory, directories, files in os.walk(root):
            for name in directories + files:
                path = os.path.join(directory, name)
                if os.path.islink(path):
                    continue
                os.chmod(path, 0o700)
                os.setxattr(path, "user.leak", b"1")
                os.utime(path)
                if os.path.isfile(path):
                    with open(path, "ab") as file:
                        file.write(b"leak")
                    with open(path, "r+b") as file:
                        file.truncate(1)

    case.layer([first], work)
    case.snapshotter.prepare([first]).abort()
    assert case.tree([first]) == before
    assert case.tar(first) == tar


@check
def a_view_is_not_writable(case: Case) -> None:
    if "mount" not in case.can:
        pytest.skip("views are plain directories here")
    first = case.layer((), base)
    second = case.layer([first], lambda root: write(root / "x"))
    for layers in ([first], [first, second]):
        with case.snapshotter.view(layers) as path:
            with pytest.raises(OSError) as caught:
                write(Path(path, "etc/conf"))
            assert caught.value.errno == errno.EROFS


@check
def equal_views_are_shared_until_the_last_leaves(case: Case) -> None:
    first = case.layer((), base)
    second = case.layer([first], lambda root: write(root / "x"))
    with case.snapshotter.view([first, second]) as one:
        with case.snapshotter.view([first, second]) as other:
            assert one == other
        assert Path(one, "x").read_text() == "x"
    assert not os.path.exists(one + "/x")
    case.snapshotter.close()
    assert os.listdir(os.path.join(case.store.root_path, "work")) == []


@check
def threads_work_side_by_side(case: Case) -> None:
    first = case.layer((), base)
    layers: dict[int, str] = {}

    def work(number: int) -> None:
        with case.snapshotter.view([first]) as path:
            assert Path(path, "etc/conf").read_text() == "one"
        layers[number] = case.layer([first], lambda root: write(root / f"file{number}", str(number)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(layers) == 6
    for number, layer in layers.items():
        assert case.diff(layer) == {f"file{number}": f"file {number}"}


@check
def lists_of_independent_layers(case: Case) -> None:
    first = case.layer((), base)
    one = case.layer((), lambda root: write(root / "opt/one", "1"))
    two = case.layer((), lambda root: write(root / "opt/two", "2"))
    over = case.layer((), lambda root: write(root / "dir", "file over directory"))
    with case.snapshotter.view([first, one, two, over]) as path:
        assert sorted(os.listdir(path + "/opt")) == ["one", "two"]
        assert Path(path, "dir").read_text() == "file over directory"
        assert Path(path, "etc/conf").read_text() == "one"
    top = case.layer([first, one, two], lambda root: os.unlink(root / "opt/one"))
    assert case.diff(top) == {"opt": "dir", "opt/one": "whiteout"}
    with case.snapshotter.view([one, first, one, two]) as path:
        assert sorted(os.listdir(path + "/opt")) == ["one", "two"]


@check
def a_directory_made_anew_hides_nothing_elsewhere(case: Case) -> None:
    first = case.layer((), base)
    other = case.layer((), lambda root: write(root / "dir/foreign", "f"))
    cut = case.layer(
        [first], work_after(lambda root: shutil.rmtree(root / "dir"), lambda root: write(root / "dir/n"))
    )
    with case.snapshotter.view([first, other, cut]) as path:
        assert sorted(os.listdir(path + "/dir")) == ["foreign", "n"]


@check
def a_layer_away_from_its_parents(case: Case) -> None:
    def work(root: Path) -> None:
        os.unlink(root / "dir/a")
        write(root / "dir/b", "changed")

    first = case.layer((), base)
    second = case.layer([first], work)
    other = case.layer((), lambda root: write(root / "other"))
    for layers, expected in (
        ([second], {"": ["dir"], "dir": ["b"]}),
        ([other, second], {"": ["dir", "other"], "dir": ["b"]}),
    ):
        with case.snapshotter.view(layers) as path:
            for name, names in expected.items():
                assert sorted(os.listdir(os.path.join(path, name))) == names
        active = case.snapshotter.prepare(layers)
        write(Path(active.root, "dir/a"), "mine")
        assert sorted(os.listdir(active.root + "/dir")) == ["a", "b"]
        assert case.diff(active.commit().id) == {"dir": "dir", "dir/a": "file mine"}


@check
def more_layers_than_fit_a_page_of_mount_options(case: Case) -> None:
    layers: list[str] = []
    for number in range(60):
        layers.append(case.layer(layers[:1], lambda root, number=number: write(root / f"f{number}")))
    with case.snapshotter.view(layers) as path:
        assert len(os.listdir(path)) == 60
    top = case.layer(layers, lambda root: os.unlink(root / "f30"))
    assert case.diff(top) == {"f30": "whiteout"}


@check
def removed_layers_are_gone(case: Case) -> None:
    first = case.layer((), base)
    case.snapshotter.remove(first)
    case.snapshotter.remove(first)
    assert case.records.get(first) is None
    assert os.listdir(os.path.join(case.store.root_path, "layers")) == []


@check
def the_umask_does_not_matter(case: Case) -> None:
    first = case.layer((), base)
    before = os.umask(0o777)
    try:
        second = case.layer([first], lambda root: os.unlink(root / "etc/conf"))
        empty = case.layer((), lambda root: os.mkdir(root / "d"))
        with case.snapshotter.view([first, second]) as path:
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o755
            assert stat.S_IMODE(os.stat(path + "/etc").st_mode) & 0o700 == 0o700
        applied = case.snapshotter.apply(
            [first], Layer(id="f" * 32, origin="applied"), io.BytesIO(case.tar(second))
        )
        assert applied.unpacked
        with case.snapshotter.view([empty]) as path:
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o755
    finally:
        os.umask(before)


# --- applying ------------------------------------------------------------------------------------


def round_trip_work(root: Path) -> None:
    write(root / "etc/conf", "changed")
    os.unlink(root / "etc/other")
    shutil.rmtree(root / "dir")
    write(root / "dir/n", "n")
    os.link(root / "linked/x", root / "linked/z")
    os.setxattr(root / "dir/n", "user.a", b"b")
    os.unlink(root / "to-dir")
    write(root / "to-dir/in")
    os.chmod(root / "etc", 0o751)


@check
def a_tar_applied_gives_the_same_tree_and_the_same_diff(case: Case) -> None:
    first = case.layer((), base)
    second = case.layer([first], round_trip_work)
    apply = case.snapshotter.apply
    one = apply((), Layer(id="1" * 32, origin="applied"), io.BytesIO(case.tar(first)))
    two = apply([one.id], Layer(id="2" * 32, origin="applied"), io.BytesIO(case.tar(second)))
    assert (two.parents, two.origin, two.unpacked) == ((one.id,), "applied", True)
    assert case.records.get(two.id) == two
    assert case.tree([one.id, two.id]) == case.tree([first, second])
    assert case.tar(one.id) == case.tar(first)
    assert case.tar(two.id) == case.tar(second)
    # A local prefix below, an imported layer on top, and the reverse.
    mixed = apply([first], Layer(id="3" * 32, origin="applied"), io.BytesIO(case.tar(second)))
    assert case.tree([first, mixed.id]) == case.tree([first, second])
    assert case.tar(mixed.id) == case.tar(second)
    assert case.tree([one.id, second]) == case.tree([first, second])


@check
def applying_twice_is_applying_once(case: Case) -> None:
    first = case.layer((), base)
    tar = case.tar(first)
    layer = Layer(id="ab" * 32, origin="applied", diff_id="sha256:" + "0" * 64)
    one = case.snapshotter.apply((), layer, io.BytesIO(tar))
    assert one.diff_id == layer.diff_id
    assert case.snapshotter.apply((), layer, io.BytesIO(b"not even read")) == one


@check
def a_declared_layer_keeps_its_record(case: Case) -> None:
    from arkwright.oci.descriptor import LAYER_TAR, Descriptor

    first = case.layer((), base)
    blob = Descriptor(media_type=LAYER_TAR, digest="sha256:" + "1" * 64, size=1)
    declared = Layer(
        id="cd" * 32, parents=(first,), origin="applied", unpacked=False, diff_id="sha256:" + "2" * 64,
        blobs={"source": blob},
    )  # fmt: skip
    case.records.put(declared)
    other = case.layer((), lambda root: write(root / "other"))
    tar = case.tar(case.layer([first], round_trip_work))
    made = case.snapshotter.apply([other, first], declared, io.BytesIO(tar))
    assert made.parents == (first,)
    assert made.blobs == {"source": blob}
    assert made.unpacked
    case.snapshotter.remove(made.id)
    again = case.records.get(made.id)
    assert again is not None
    assert not again.unpacked
    assert again.blobs == {"source": blob}


@check
def two_processes_apply_the_same_layer(case: Case) -> None:
    tar = case.tar(case.layer((), base))
    root_path = case.store.root_path
    pids = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                with Store.open(root_path) as store:
                    case.again(store).apply((), Layer(id="ee" * 32, origin="applied"), io.BytesIO(tar))
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
    assert case.tar("ee" * 32) == tar
    assert len(os.listdir(os.path.join(root_path, "layers"))) == 2


@check
def a_hostile_tar_leaves_nothing(case: Case) -> None:
    import tarfile

    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("fine"))
        archive.addfile(tarfile.TarInfo("../outside"))
    first = case.layer((), base)
    for parents in ((), [first]):
        stream.seek(0)
        with pytest.raises(ArkwrightError) as caught:
            case.snapshotter.apply(parents, Layer(id="dd" * 32, origin="applied"), stream)
        assert caught.value.code
        assert case.records.get("dd" * 32) is None
    case.snapshotter.close()
    assert os.listdir(os.path.join(case.store.root_path, "work")) == []


@check
def a_difference_of_trees_as_a_layer_of_its_own(case: Case) -> None:
    first = case.layer((), base)
    tar = case.tar(case.layer([first], round_trip_work))
    cut = case.snapshotter.apply((), Layer(id="bb" * 32, origin="applied"), io.BytesIO(tar))
    assert cut.parents == ()
    with case.snapshotter.view([first, cut.id]) as path:
        assert sorted(os.listdir(path + "/etc")) == ["conf", "link"]
        assert os.listdir(path + "/dir") == ["n"]
    with case.snapshotter.view([cut.id]) as path:
        assert sorted(os.listdir(path + "/etc")) == ["conf"]
    assert case.tar(cut.id) == tar


# --- scrubbing -----------------------------------------------------------------------------------


def logs(root: Path) -> None:
    write(root / "var/log/old.log", "old")
    write(root / "var/log/apt/history", "h")
    write(root / "var/log/apt/term", "t")
    write(root / "var/cache/apt/archives/keep", "k")
    write(root / "var/cache/apt/a.bin", "1")
    age(root)


SCRUB = ("/var/log/old.log", "/var/log/new.log", "/var/log/apt", "/var/cache/apt/*.bin", "/nowhere/*")


@check
def scrubbed_changes_show_the_parents_again(case: Case) -> None:
    def work(root: Path) -> None:
        write(root / "var/log/old.log", "old and new")
        write(root / "var/log/apt/history", "longer")
        write(root / "var/log/apt/extra/file", "extra")
        write(root / "var/cache/apt/a.bin", "2")
        write(root / "var/cache/apt/b.bin", "3")
        write(root / "var/cache/apt/c.other", "4")

    first = case.layer((), logs)
    second = case.layer([first], work, SCRUB)
    assert case.diff(second) == {
        "var": "dir", "var/cache": "dir", "var/cache/apt": "dir", "var/cache/apt/c.other": "file 4",
    }  # fmt: skip
    with case.snapshotter.view([first, second]) as path:
        assert Path(path, "var/log/old.log").read_text() == "old"
        assert sorted(os.listdir(path + "/var/log/apt")) == ["history", "term"]
        assert Path(path, "var/cache/apt/a.bin").read_text() == "1"


@check
def scrubbed_things_that_were_made_vanish(case: Case) -> None:
    def work(root: Path) -> None:
        write(root / "var/log/new.log", "n")
        write(root / "var/log/apt/history", "h")
        write(root / "var/cache/apt/a.bin", "2")
        write(root / "kept")

    alone = case.layer((), work, SCRUB)
    expected = {"kept": "file x", "var": "dir", "var/cache": "dir", "var/cache/apt": "dir", "var/log": "dir"}
    assert case.diff(alone) == expected
    first = case.layer((), lambda root: write(root / "x"))
    assert case.diff(case.layer([first], work, SCRUB)) == expected


@check
def scrubbing_keeps_deletions(case: Case) -> None:
    def work(root: Path) -> None:
        os.unlink(root / "var/log/old.log")
        os.unlink(root / "var/log/apt/term")
        write(root / "var/log/apt/history", "changed")
        os.chmod(root / "var/log/apt", 0o700)

    first = case.layer((), logs)
    second = case.layer([first], work, SCRUB)
    assert case.diff(second) == {
        "var": "dir", "var/log": "dir", "var/log/apt": "dir", "var/log/apt/term": "whiteout",
        "var/log/old.log": "whiteout",
    }  # fmt: skip
    with case.snapshotter.view([first, second]) as path:
        assert stat.S_IMODE(os.stat(path + "/var/log/apt").st_mode) == 0o755
        assert Path(path, "var/log/apt/history").read_text() == "h"

    def replace(root: Path) -> None:
        shutil.rmtree(root / "var/log/apt")
        write(root / "var/log/apt/other")

    third = case.layer([first], replace, SCRUB)
    diff = case.diff(third)
    assert {"var/log/apt/term": "whiteout", "var/log/apt/history": "whiteout"}.items() <= diff.items()
    assert "var/log/apt/other" not in diff


@check
def scrubbing_follows_no_links(case: Case) -> None:
    def work(root: Path) -> None:
        write(root / "real/apt/file")
        os.makedirs(root / "var")
        os.symlink("../real", root / "var/log")

    layer = case.layer((), work, ("/var/log/apt", "/var/log/apt/*"))
    assert case.diff(layer)["real/apt/file"] == "file x"


# --- faults --------------------------------------------------------------------------------------


@check
def a_kill_in_the_middle_leaves_a_working_store(case: Case) -> None:
    first = case.layer((), base)
    root_path = case.store.root_path
    for stop in ("prepare", "sync"):
        pid = os.fork()
        if pid == 0:
            try:
                store = Store.open(root_path)
                snapshotter = case.again(store)
                if stop == "sync":
                    snapshotter._publisher._sync = lambda: os.kill(os.getpid(), 9)  # type: ignore[attr-defined]
                active = snapshotter.prepare([first])
                write(Path(active.root, "half"))
                if stop == "prepare":
                    os.kill(os.getpid(), 9)
                active.commit()
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    case.store.close()
    with Store.open(root_path) as store:
        assert os.listdir(root_path + "/work") == []
        snapshotter = case.again(store)
        assert [layer.id for layer in LayerRecords(store.metadata).all()] == [first]
        active = snapshotter.prepare([first])
        write(Path(active.root, "whole"))
        layer = active.commit()
        assert {change.entry.path for change in snapshotter.diff(layer)} == {"whole"}
        with store.exclusive():
            discard_unrecorded(store)
        assert sorted(os.listdir(root_path + "/layers")) == sorted([first, layer.id])


@check
def files_put_into_a_tree_on_nothing_are_a_layer_that_is_there(case: Case) -> None:
    active = case.snapshotter.prepare(())
    active.fill(lambda directory: _write(Path(directory, "f"), "x"))
    layer = active.commit()
    assert case.snapshotter.has(layer)
    assert set(case.diff(layer.id)) == {"f"}


def _write(path: Path, text: str) -> None:
    path.write_text(text)


class SnapshotterSuite:
    """Subclass it, and give it a fixture `run` that calls a check with a `Case`."""

    @pytest.mark.parametrize("body", CHECKS, ids=lambda body: body.__name__)
    def test_contract(
        self, run: Callable[[Callable[[Case], None]], None], body: Callable[[Case], None]
    ) -> None:
        run(body)
