"""The virtual tier against the copy tier: equal work gives equal layers, in either store and from either."""

from __future__ import annotations

import hashlib
import io
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from arkwright.layer import files
from arkwright.layer.codec import decompress
from arkwright.layer.entry import Change, Entry
from arkwright.layer.profile import profile_for
from arkwright.layer.rooted import Root, remove_tree
from arkwright.layer.tar_write import write_tar
from arkwright.layer.tree import walk
from arkwright.oci.descriptor import layer_codec
from arkwright.snapshot.base import Layer, Snapshotter
from arkwright.snapshot.copy import CopySnapshotter
from arkwright.snapshot.layers import LayerRecords
from arkwright.snapshot.virtual import VirtualSnapshotter
from arkwright.store.store import Store

NAMES = ("a", "b", "c", "d")
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@pytest.fixture
def make_store(tmp_path: Path) -> Iterator[Callable[[str], Store]]:
    stores: list[Store] = []

    def make(name: str) -> Store:
        stores.append(Store.open(str(tmp_path / name)))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


def virtual(store: Store, tmp_path: Path) -> VirtualSnapshotter:
    return VirtualSnapshotter(store, profile_for("none"), str(tmp_path))


def native(store: Store) -> CopySnapshotter:
    return CopySnapshotter(store, sync=lambda: None)


def change(root: Root, seed: int) -> None:
    """Random work on a tree; the same for the same tree and seed."""
    pick = random.Random(seed)
    for number in range(12):
        path = "/".join(pick.choices(NAMES, k=pick.randrange(1, 4)))
        kind = pick.choice(["file", "file", "dir", "symlink", "link", "remove", "own"])
        value = pick.randrange(1 << 16)
        try:
            parent_fd, name = root.open_parent(path, create=_make_directory)
        except OSError:
            continue
        try:
            _one(root, kind, parent_fd, name, value, number)
        except OSError:
            pass
        finally:
            files.close(parent_fd)


def _make_directory(fd: int, name: str, path: str) -> None:
    files.mkdir(name, 0o755, dir_fd=fd)
    files.chown(name, 0, 0, dir_fd=fd)


def _one(root: Root, kind: str, fd: int, name: str, value: int, number: int) -> None:
    if kind == "remove":
        remove_tree(fd, name)
    elif kind == "own":
        files.chown(name, value % 5, value % 7, dir_fd=fd)
    elif kind == "link":
        files.link(name, NAMES[value % 4], src_dir_fd=fd, dst_dir_fd=root.fd)
    else:
        if kind == "file":
            new_fd = files.open(name, _CREATE, 0o600, dir_fd=fd)
            files.write(new_fd, b"%d" % value * (value % 50))
            files.close(new_fd)
            files.chmod(name, 0o600 | value & 0o177, dir_fd=fd)
        elif kind == "dir":
            files.mkdir(name, 0o755, dir_fd=fd)
        else:
            files.symlink(NAMES[value % 4], name, dir_fd=fd)
        files.chown(name, value % 3, 0, dir_fd=fd)


def digest(snapshotter: Snapshotter, layer: Layer) -> str:
    hasher = hashlib.sha256()
    write_tar(snapshotter.diff(layer), hasher.update)
    return "sha256:" + hasher.hexdigest()


def looks(snapshotter: Snapshotter, layers: list[str]) -> list[Entry]:
    with snapshotter.view(layers) as path, Root(path) as root:
        return [msgspec.structs.replace(entry, mtime_ns=0) for entry, _ in walk(root)]


@contextmanager
def blob(store: Store, layer: Layer) -> Iterator[object]:
    found = next(iter(layer.blobs.values()))
    with store.content.open(found.digest) as packed, decompress(packed, layer_codec(found.media_type)) as tar:
        yield tar


def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs-root: the copy tier gives files to others")


@pytest.mark.parametrize("seed", range(12))
def test_equal_work_gives_equal_layers(tmp_path: Path, make_store: Callable[[str], Store], seed: int) -> None:
    needs_root()
    one, two = make_store("one"), make_store("two")
    tiers: list[Snapshotter] = [native(one), virtual(two, tmp_path)]
    lists: list[list[str]] = [[], []]
    for number in range(4):
        digests = []
        for tier, layers in zip(tiers, lists, strict=True):
            active = tier.prepare(layers)
            with Root(active.root) as root:
                change(root, seed * 100 + number)
            layer = active.commit()
            digests.append(digest(tier, layer))
            assert layer.diff_id in ("", digests[-1])
            layers.append(layer.id)
        assert digests[0] == digests[1], number
        assert looks(tiers[0], lists[0]) == looks(tiers[1], lists[1])


def made(tier: VirtualSnapshotter, seed: int, count: int = 3) -> list[Layer]:
    layers: list[Layer] = []
    for number in range(count):
        active = tier.prepare([one.id for one in layers])
        with Root(active.root) as root:
            change(root, seed * 100 + number)
        layers.append(active.commit())
    return layers


@pytest.mark.parametrize("seed", range(20, 26))
def test_layers_are_unpacked_by_another_tier_as_they_were(
    tmp_path: Path, make_store: Callable[[str], Store], seed: int
) -> None:
    """From the blob, with the times that the tar does not say; and again in memory, by another process."""
    needs_root()
    store = make_store("store")
    first = virtual(store, tmp_path)
    layers = made(first, seed)
    ids = [layer.id for layer in layers]
    assert all(not layer.unpacked and layer.ownership == "records" for layer in layers)
    for tier in (native(store), virtual(store, tmp_path)):
        for number, layer in enumerate(layers):
            assert not tier.has(layer)
            with blob(store, layer) as tar:
                tier.apply(ids[:number], layer, tar)  # type: ignore[arg-type]
        assert looks(tier, ids) == looks(first, ids)
        with tier.view(ids) as path, first.view(ids) as other, Root(path) as here, Root(other) as there:
            times = [(e.path, e.mtime_ns) for e, _ in walk(here) if e.type != "dir"]
            assert times == [(e.path, e.mtime_ns) for e, _ in walk(there) if e.type != "dir"]
    records = LayerRecords(store.metadata)
    after = [records.get(name) for name in ids]
    assert all(layer is not None and layer.unpacked and layer.ownership == "native" for layer in after)
    assert [layer.diff_id for layer in after if layer is not None] == [layer.diff_id for layer in layers]


@pytest.mark.parametrize("seed", range(30, 36))
def test_layers_stand_on_others_than_they_were_made_on(
    tmp_path: Path, make_store: Callable[[str], Store], seed: int
) -> None:
    """Differences, links and deletions land on other trees as in the copy tier."""
    needs_root()
    store = make_store("store")
    first = virtual(store, tmp_path)
    base, one, two = made(first, seed)
    (other,) = made(first, seed + 50, count=1)
    copies = native(store)
    for number, layer in enumerate((base, one, two)):
        with blob(store, layer) as tar:
            copies.apply([base.id, one.id][:number], layer, tar)  # type: ignore[arg-type]
    with blob(store, other) as tar:
        copies.apply([], other, tar)  # type: ignore[arg-type]
    for layers in (
        [other.id, two.id],
        [base.id, two.id],
        [base.id, other.id, one.id],
        [one.id, base.id, one.id],
    ):
        assert looks(first, layers) == looks(copies, layers), layers


def test_whiteouts_of_a_layer_on_nothing_are_kept(tmp_path: Path, make_store: Callable[[str], Store]) -> None:
    store = make_store("store")
    tier = virtual(store, tmp_path)
    active = tier.prepare([])
    with Root(active.root) as root:
        for name in ("gone", "kept"):
            files.mkdir(name, 0o755, dir_fd=root.fd)
    below = active.commit()
    spool = io.BytesIO()
    write_tar([Change(Entry(path="gone", type="whiteout"))], spool.write)
    spool.seek(0)
    layer = tier.apply([], Layer(id="f" * 32, origin="applied"), spool)
    assert [change.entry.type for change in tier.diff(layer)] == ["whiteout"]
    assert [entry.path for entry in looks(tier, [below.id, layer.id])] == ["", "kept"]
    assert [entry.path for entry in looks(tier, [layer.id])] == [""]


def test_files_from_a_directory_belong_to_root(tmp_path: Path, make_store: Callable[[str], Store]) -> None:
    tier = virtual(make_store("store"), tmp_path)
    active = tier.prepare([])

    def write(directory: str) -> None:
        Path(directory, "f").write_bytes(b"content")
        os.link(f"{directory}/f", f"{directory}/g")
        os.utime(f"{directory}/f", ns=(5, 7_000_000_000))

    active.fill(write)
    layer = active.commit()
    found = {change.entry.path: change.entry for change in tier.diff(layer)}
    assert (found["f"].uid, found["f"].gid, found["f"].mtime_ns) == (0, 0, 7_000_000_000)
    assert (found["g"].type, found["g"].link) == ("hardlink", "f")


def test_nothing_is_left_of_what_was_not_committed(
    tmp_path: Path, make_store: Callable[[str], Store]
) -> None:
    store = make_store("store")
    tier = virtual(store, tmp_path)
    active = tier.prepare([])
    with Root(active.root) as root:
        files.mkdir("d", 0o755, dir_fd=root.fd)
    active.abort()
    assert LayerRecords(store.metadata).all() == []
    assert os.listdir(os.path.join(str(tmp_path), "store", "layers")) == []
    layer = tier.prepare([]).commit()
    tier.remove(layer.id)
    assert not tier.has(layer)
