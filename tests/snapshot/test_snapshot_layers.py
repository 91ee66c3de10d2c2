"""Records, ids, directories, and what only one tier or one place shows."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from snapshot_suite import Case, base, write

from arkwright.diagnostics.errors import UserError
from arkwright.linux import mounts
from arkwright.oci.descriptor import LAYER_TAR, Descriptor
from arkwright.snapshot.base import Layer, Snapshotter
from arkwright.snapshot.copy import CopySnapshotter
from arkwright.snapshot.layers import LayerRecords, chain_id, directory_path, new_id, tree_path
from arkwright.snapshot.overlay import OverlaySnapshotter
from arkwright.snapshot.publish import discard_unrecorded
from arkwright.snapshot.sharing import SharedTrees, Tree
from arkwright.store.store import Store

BLOB = Descriptor(media_type=LAYER_TAR, digest="sha256:" + "a" * 64, size=3)


@pytest.fixture
def store(tmp_path: Path):
    with Store.open(str(tmp_path / "store")) as opened:
        yield opened


def case_of(store: Store, snapshotter: Snapshotter) -> Case:
    return Case(store, snapshotter, frozenset({"chown"}), lambda other: snapshotter)


def test_chain_id() -> None:
    one, two, three = ("sha256:" + digit * 64 for digit in "123")
    assert chain_id([one]) == one
    both = "sha256:" + hashlib.sha256(f"{one} {two}".encode()).hexdigest()
    assert chain_id([one, two]) == both
    assert chain_id([one, two, three]) == "sha256:" + hashlib.sha256(f"{both} {three}".encode()).hexdigest()
    with pytest.raises(ValueError):
        chain_id([])


def test_directories_have_names_that_mount_options_can_hold() -> None:
    assert tree_path("/s", "sha256:" + "1" * 64) == "/s/layers/" + "1" * 64 + "/fs"
    assert directory_path("/s", "ab" * 16) == "/s/layers/" + "ab" * 16
    assert directory_path("/s", new_id())
    for bad in ("", "..", "../" + "a" * 32, "a,b" * 8, "a:b" * 8, "A" * 32, "a" * 32 + "\n"):
        with pytest.raises(ValueError):
            directory_path("/s", bad)


def test_records(store: Store) -> None:
    records = LayerRecords(store.metadata)
    layer = Layer(id="1" * 32, parents=("0" * 32,), blobs={"gzip": BLOB})
    assert records.get(layer.id) is None
    records.put(layer)
    assert records.get(layer.id) == layer
    changed = records.update(layer.id, diff_id="sha256:" + "b" * 64)
    assert records.get(layer.id) == changed
    assert (changed.diff_id, changed.blobs) == ("sha256:" + "b" * 64, {"gzip": BLOB})
    assert records.all() == [changed]
    with pytest.raises(KeyError):
        records.update("2" * 32, diff_id="")


def test_a_record_with_blobs_outlives_its_directory(store: Store) -> None:
    case = case_of(store, CopySnapshotter(store))
    first = case.layer((), base)
    case.records.update(first, blobs={"gzip": BLOB})
    case.snapshotter.remove(first)
    kept = case.records.get(first)
    assert kept is not None
    assert not kept.unpacked
    assert not os.path.exists(directory_path(store.root_path, first))


def test_unrecorded_directories_are_discarded(store: Store) -> None:
    case = case_of(store, CopySnapshotter(store))
    first = case.layer((), base)
    os.makedirs(tree_path(store.root_path, "f" * 32))
    with store.exclusive():
        discard_unrecorded(store)
    assert os.listdir(os.path.join(store.root_path, "layers")) == [first]
    assert case.diff(first)


def test_a_half_made_directory_is_replaced(store: Store) -> None:
    case = case_of(store, CopySnapshotter(store))
    tar = case.tar(case.layer((), base))
    layer = Layer(id="f" * 32, origin="applied")
    os.makedirs(tree_path(store.root_path, layer.id) + "/torn")
    import io

    case.snapshotter.apply((), layer, io.BytesIO(tar))
    assert case.tar(layer.id) == tar


def test_the_copy_tier_needs_no_linux_package() -> None:
    script = (
        "import sys; import arkwright.snapshot.copy;"
        "bad = [name for name in sys.modules if name.startswith(('arkwright.linux', 'ctypes', 'subprocess'))];"
        "sys.exit(repr(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("tier", ["overlay", "copy"])
def test_no_space_is_told_and_leaves_nothing(make_place, tier: str) -> None:
    def inside(path: str) -> None:
        root_path = path + "/store"
        os.mkdir(root_path)
        mounts.tmpfs(root_path, size=4 << 20)
        with Store.open(root_path) as store:
            snapshotter = (OverlaySnapshotter if tier == "overlay" else CopySnapshotter)(store)
            case = case_of(store, snapshotter)
            first = case.layer((), lambda root: write(root / "x", "x" * (1 << 20)))
            filler = os.path.join(root_path, "filler")

            def fill_up(leave: int) -> None:
                info = os.statvfs(root_path)
                with open(filler, "wb") as file:
                    file.write(b"\0" * (info.f_bavail * info.f_frsize - leave))

            if tier == "copy":
                fill_up(1 << 16)
                with pytest.raises(UserError) as caught:
                    snapshotter.prepare([first])
                assert caught.value.code == "no-space"
                os.unlink(filler)
            tar = case.tar(case.layer((), lambda root: write(root / "big", "b" * (1 << 20))))
            fill_up(1 << 16)
            import io

            with pytest.raises(UserError) as caught:
                snapshotter.apply((), Layer(id="e" * 32, origin="applied"), io.BytesIO(tar))
            assert caught.value.code == "no-space"
            assert case.records.get("e" * 32) is None
            assert os.listdir(root_path + "/work") == []
            os.unlink(filler)
            store.empty_trash()
            snapshotter.apply((), Layer(id="e" * 32, origin="applied"), io.BytesIO(tar))
            assert case.tar("e" * 32) == tar

    make_place("root").run(inside)


def test_overlay_layers_hold_only_what_changed(make_place) -> None:
    def inside(path: str) -> None:
        with Store.open(path + "/store") as store:
            case = case_of(store, OverlaySnapshotter(store))
            first = case.layer((), base)

            def work(root: Path) -> None:
                write(root / "new", "n")
                with open(root / "dir/sub/c", "r+b"):
                    pass
                os.chmod(root / "etc/conf", 0o644)

            second = case.layer([first], work)
            tree = tree_path(store.root_path, second)
            assert [os.path.join(at, name) for at, dirs, files in os.walk(tree) for name in dirs + files] == [
                tree + "/new"
            ]
            assert os.listxattr(tree) == []

    make_place("root").run(inside)


def test_a_diff_reads_what_the_layer_holds(make_place) -> None:
    def inside(path: str) -> None:
        with Store.open(path + "/store") as store:
            case = case_of(store, OverlaySnapshotter(store))

            def many(root: Path) -> None:
                for number in range(2000):
                    write(root / f"d{number % 50}/f{number}")

            first = case.layer((), many)
            second = case.layer([first], lambda root: write(root / "d7/new"))
            seen = []
            sys.setprofile(lambda frame, event, call: seen.append(call) if event == "c_call" else None)
            try:
                assert case.diff(second) == {"d7": "dir", "d7/new": "file x"}
            finally:
                sys.setprofile(None)
            assert len([call for call in seen if call in (os.stat, os.lstat, os.open)]) < 100

    make_place("root").run(inside)


def test_a_tree_that_cannot_be_made_is_tried_again() -> None:
    made: list[str] = []

    def make(key: tuple[str, ...]) -> Tree:
        made.append(key[0])
        if len(made) == 1:
            raise RuntimeError
        return Tree("/tree", lambda: made.append("disposed"))

    trees = SharedTrees(make)
    with pytest.raises(RuntimeError), trees.use(("a",)):
        pass
    with trees.use(("a",)) as path:
        assert path == "/tree"
    assert made == ["a", "a", "disposed"]


def test_shared_trees_are_made_once_for_many_threads() -> None:
    made: list[str] = []
    barrier = threading.Barrier(8)
    trees = SharedTrees(lambda key: made.append("made") or Tree("/tree", lambda: made.append("disposed")))

    def use() -> None:
        with trees.use(("a",)):
            barrier.wait(10)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == ["made", "disposed"]
