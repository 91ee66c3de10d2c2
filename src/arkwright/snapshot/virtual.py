"""Trees that exist in this process only: no mount, no namespace, no file of another owner.

The tier of builds without steps. A layer is kept as its blob and nothing else: the canonical tar is the
record of owners, devices and attributes, and any other tier unpacks it as it unpacks a base layer. Only
the times of its entries, which an export makes one constant, are kept beside it. Trees are made of blobs when something reads them, contents lie in one file without a name, and everything is
gone with the process.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import msgspec

from arkwright.layer import files
from arkwright.layer.apply import Item, apply_entries
from arkwright.layer.diff import Stamp, diff, diff_facts
from arkwright.layer.entry import Change, Entry
from arkwright.layer.export import export_layer
from arkwright.layer.profile import Profile
from arkwright.layer.rooted import DIRECTORY, Root
from arkwright.layer.stamps import Stamps
from arkwright.layer.tree import Fact, fact_at, facts
from arkwright.layer.virtual_nodes import Node, Spool, VirtualTree
from arkwright.snapshot.base import Layer
from arkwright.snapshot.contents import layer_diff, unpack
from arkwright.snapshot.layers import LayerRecords, new_id
from arkwright.store.space import space_needed
from arkwright.store.store import Store

Key = tuple[str, ...]


class VirtualSnapshotter:
    """Implements `snapshot.base.Snapshotter` without trees on disk; blobs are made under `profile` and
    with the times of `stamps`, what else has to be on disk is in `scratch_path`, a directory that somebody else removes.

    Besides what the contract says, methods raise `UserError` `no-space`. Layers that are not in memory
    are applied first (`has`), even if another tier unpacked them.
    """

    name = "virtual"

    def __init__(
        self,
        store: Store,
        profile: Profile,
        scratch_path: str,
        stamps: Stamps = Stamps(),  # noqa: B008 - frozen
    ) -> None:
        self._store = store
        self._profile = profile
        self._stamps = stamps
        self._records = LayerRecords(store.metadata)
        self._scratch_path = scratch_path
        self._spool = Spool(scratch_path)
        # By layer: the tree on its own parents; for one made on nothing, with its whiteouts.
        self._own: dict[str, VirtualTree] = {}
        self._stacks: dict[Key, VirtualTree] = {(): self._empty()}
        self._lock = threading.RLock()

    def has(self, layer: Layer) -> bool:
        return layer.id in self._own

    def prepare(self, layers: Sequence[str]) -> VirtualActive:
        """A clone of the tree of `layers`."""
        below = self._stack(tuple(layers))
        return VirtualActive(self, tuple(layers), below, below.clone())

    @contextmanager
    def view(self, layers: Sequence[str]) -> Iterator[str]:
        """The tree of `layers`, which cannot be written."""
        yield self._stack(tuple(layers)).path

    def apply(self, layers: Sequence[str], layer: Layer, tar: BinaryIO) -> Layer:
        """Read a layer tar into memory. A layer without a record gets one, and a blob."""
        with self._lock:
            known = self._records.get(layer.id)
            if layer.id in self._own:
                return known or layer
            parents = tuple(layers) if known is None else known.parents
            tree = self._stack(parents).clone() if parents else VirtualTree(self._spool)
            with space_needed(self._scratch_path, f"layer {layer.id}"):
                unpack(tar, tree.path, on_nothing=not parents, times_ns=self._records.times(layer.id))
            tree.freeze()
            self._own[layer.id] = tree
            if known is not None:
                return known
            return self._record(msgspec.structs.replace(layer, parents=parents))

    def diff(self, layer: Layer) -> Iterator[Change]:
        """The canonical diff of a layer."""
        tree = self._own[layer.id]
        if not layer.parents:
            return layer_diff(tree.path, (), self.view)
        return _changes(self._stack(layer.parents), tree, self._stamps.of)

    def remove(self, layer_id: str) -> None:
        self._own.pop(layer_id, None)
        self._records.forget_tree(layer_id)

    def close(self) -> None:
        """Nothing is kept."""

    def commit(self, parents: Key, tree: VirtualTree) -> Layer:
        """A finished tree as a layer: its blob is written and recorded."""
        tree.freeze()
        layer = Layer(id=new_id(), parents=parents)
        with self._lock:
            self._own[layer.id] = tree
        return self._record(layer)

    def scratch_directory(self) -> str:
        """A new directory on disk."""
        path = f"{self._scratch_path}/{os.urandom(8).hex()}"
        os.mkdir(path, 0o700)
        return path

    def _record(self, layer: Layer) -> Layer:
        with space_needed(self._scratch_path, f"layer {layer.id}"):
            times_ns: list[int] = []
            changes = _noting(self.diff(layer), times_ns)
            diff_id, blob = export_layer(changes, self._store.content, self._profile, stamp=self._stamps.of)
        made = msgspec.structs.replace(
            layer, origin="imported", ownership="records", unpacked=False, diff_id=diff_id,
            blobs={self._profile.name: blob}, created_at=int(time.time()),
        )  # fmt: skip
        self._records.put_times(made.id, times_ns)
        self._records.put(made)
        return made

    def _empty(self) -> VirtualTree:
        tree = VirtualTree(self._spool)
        tree.freeze()
        return tree

    def _stack(self, layers: Key) -> VirtualTree:
        """The tree of a list of layers, frozen."""
        # Of a layer that stands there twice only the upper one counts.
        wanted = tuple(reversed(dict.fromkeys(reversed(layers))))
        with self._lock:
            found = self._stacks.get(wanted)
            if found is None:
                found = self._stacks[wanted] = self._stacked(wanted)
            return found

    def _stacked(self, layers: Key) -> VirtualTree:
        layer_id, below = layers[-1], layers[:-1]
        record = self._records.get(layer_id)
        assert record is not None, f"layer {layer_id} has no record"
        if record.parents and record.parents == below:
            return self._own[layer_id]
        tree = self._stack(below).clone()
        with space_needed(self._scratch_path, "a tree"), Root(tree.path) as root:
            apply_entries(self._items(record), root)
        tree.freeze()
        return tree

    def _items(self, layer: Layer) -> Iterator[Item]:
        """A layer as entries that can be put on anything."""
        tree = self._own[layer.id]
        if not layer.parents:
            with Root(tree.path) as root:
                for fact in facts(root, xattrs=False, overlay=True):
                    if fact.opaque:
                        yield Entry(path=fact.entry.path, type="opaque"), None
        for change in self.diff(layer):
            if change.open is None:
                yield change.entry, None
            else:
                with change.open() as content:
                    yield change.entry, content


class VirtualActive:
    """Implements `snapshot.base.Active`."""

    def __init__(
        self, snapshotter: VirtualSnapshotter, parents: Key, below: VirtualTree, tree: VirtualTree
    ) -> None:
        self._snapshotter = snapshotter
        self._parents = parents
        self._below = below
        self._tree = tree

    @property
    def root(self) -> str:
        """A path that only `layer.files` can open."""
        return self._tree.path

    def fill(self, write: Callable[[str], None]) -> None:
        """Take over what `write` leaves in a directory on disk."""
        path = self._snapshotter.scratch_directory()
        write(path)
        with Root(path) as source, Root(self._tree.path) as target:
            apply_entries(_unowned(diff(None, source)), target)

    def commit(self, *, scrub: Sequence[str] = ()) -> Layer:
        """Make what differs from the parents a layer, and write its blob."""
        assert not scrub, "only steps leave something to scrub"
        return self._snapshotter.commit(self._parents, self._tree)

    def abort(self) -> None:
        """Nothing is left of the tree when it is forgotten."""


def _noting(changes: Iterator[Change], times_ns: list[int]) -> Iterator[Change]:
    for change in changes:
        times_ns.append(change.entry.mtime_ns)
        yield change


def _unowned(changes: Iterable[Change]) -> Iterator[Item]:
    for change in changes:
        if change.entry.path:
            entry = msgspec.structs.replace(change.entry, uid=0, gid=0)
            if change.open is None:
                yield entry, None
            else:
                with change.open() as content:
                    yield entry, content


def _changes(lower: VirtualTree, upper: VirtualTree, stamp: Stamp) -> Iterator[Change]:
    with Root(lower.path) as below, Root(upper.path) as above:
        yield from diff_facts(below, above, _facts(lower.root, upper.root, above), stamp=stamp)


def _facts(lower: Node, upper: Node, root: Root) -> Iterator[Fact]:
    """What may have changed, with all ancestors: every file that the two trees do not share."""
    top = fact_at(root.fd, ".", "")
    assert top is not None
    yield top
    levels = [_Level("", files.duplicate(root.fd), lower, upper)]
    while levels:
        level = levels[-1]
        for name in level.names:
            there, here = level.lower.get(name), level.upper.get(name)
            path = level.prefix + name
            if here is None:
                yield Fact(Entry(path=path, type="whiteout"), None)
            elif here is not there and (fact := fact_at(level.fd, name, path)) is not None:
                yield fact
                if here.is_dir:
                    child_fd = files.open(name, DIRECTORY, dir_fd=level.fd)
                    levels.append(_Level(path + "/", child_fd, there, here))
                    break
        else:
            files.close(levels.pop().fd)


class _Level:
    """A directory of two trees."""

    __slots__ = ("fd", "lower", "names", "prefix", "upper")

    def __init__(self, prefix: str, fd: int, lower: Node | None, upper: Node) -> None:
        self.prefix = prefix
        self.fd = fd
        self.lower = lower.children if lower is not None else {}
        self.upper = upper.children
        self.names = iter(sorted({*self.lower, *self.upper}, key=os.fsencode))
