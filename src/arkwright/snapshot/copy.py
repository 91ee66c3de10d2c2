"""Trees as plain directories: works wherever files can be written, with no mount at all.

Layers have the same format as those of the overlay tier, so both can use one store. `prepare`
builds the whole tree, unless it was kept (see `kept`), and gives each name a file of its own: on
overlay, too, writing one of two linked names of a lower layer leaves the other alone. Links that a step
makes itself stay. A view is built of links to the layers' own files, with the links between them as overlay shows them;
nothing but good manners makes it read-only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from typing import BinaryIO

import msgspec

from arkwright.layer.entry import Change
from arkwright.layer.rooted import Root
from arkwright.layer.stamps import Stamps
from arkwright.snapshot.base import Layer
from arkwright.snapshot.contents import View, layer_diff, unpack
from arkwright.snapshot.extract import extract
from arkwright.snapshot.kept import KeptTrees, Looked, add_layer, restore, with_ancestors
from arkwright.snapshot.layers import new_id, tree_path
from arkwright.snapshot.publish import Publisher, discard, make_work_directory
from arkwright.snapshot.sharing import Key, SharedTrees, Tree
from arkwright.snapshot.union import unite
from arkwright.snapshot.untouched import Copied
from arkwright.snapshot.upper import make_canonical
from arkwright.store.leases import Claim
from arkwright.store.space import space_needed
from arkwright.store.store import Store


class CopySnapshotter:
    """Implements `snapshot.base.Snapshotter` with plain directories.

    Besides what the contract says, methods raise `UserError` `no-space`. `stamps` is the rule for the times of
    layers: what differs in a time that no layer says is no change.
    """

    name = "copy"

    def __init__(
        self,
        store: Store,
        *,
        sync: Callable[[], None] = os.sync,
        stamps: Stamps = Stamps(),  # noqa: B008 - frozen
    ) -> None:
        self._store = store
        self._stamps = stamps
        self._publisher = Publisher(store, sync)
        self._views = SharedTrees(self._build_view)
        self._kept = KeptTrees(store)

    def has(self, layer: Layer) -> bool:
        """Whether the layer's directory is there."""
        return layer.unpacked

    def prepare(self, layers: Sequence[str]) -> CopyActive:
        """A copy of the tree of `layers`."""
        key = tuple(layers)
        claim, copied = self._again(key) or self._anew(key)
        return CopyActive(self._store, self._publisher, claim, key, self.view, copied, self._kept)

    def view(self, layers: Sequence[str]) -> AbstractContextManager[str]:
        """A tree of `layers`, to be read only; shared by those who view the same list."""
        return self._views.use(tuple(layers))

    def apply(self, layers: Sequence[str], layer: Layer, tar: BinaryIO) -> Layer:
        """Unpack a layer tar as `layer.id`, if it is not there yet.

        A layer whose record names its parents is unpacked on these, so that its content does not
        depend on the list in which it was met first. Waits while another process does the same.
        """
        with self._publisher.making(layer.id) as known:
            if known is not None and known.unpacked:
                return known
            active = self.prepare(layers if known is None else known.parents)
            return active.unpack(layer, tar)

    def diff(self, layer: Layer) -> Iterator[Change]:
        """The canonical diff of a layer."""
        path = tree_path(self._store.root_path, layer.id)
        return layer_diff(path, layer.parents, self.view, self._stamps.of)

    def remove(self, layer_id: str) -> None:
        self._publisher.remove(layer_id)

    def close(self) -> None:
        """Throw away what was kept for the next step."""
        self._kept.close()

    def _anew(self, layers: Key) -> tuple[Claim, Copied]:
        copied = Copied()
        return self._build(layers, link=False, copied=copied), copied

    def _again(self, layers: Key) -> tuple[Claim, Copied] | None:
        """The tree in which the last of the layers was made, complete again."""
        found = self._kept.take(layers)
        if found is None:
            return None
        claim, copied = found
        try:
            with (
                space_needed(claim.path, "a copy of a tree"),
                Root(tree_path(self._store.root_path, layers[-1])) as layer,
                Root(claim.path + "/tree") as tree,
            ):
                add_layer(layer, tree, copied)
                copied.complete(claim.path)
        except BaseException as error:
            discard(self._store, claim)
            if isinstance(error, OSError):
                return None
            raise
        return claim, copied

    def _build_view(self, layers: Key) -> Tree:
        claim = self._build(layers, link=True)
        return Tree(claim.path + "/tree", lambda: discard(self._store, claim))

    def _build(self, layers: Key, *, link: bool, copied: Copied | None = None) -> Claim:
        claim = self._store.claim_work()
        try:
            target_path = claim.path + "/tree"
            with space_needed(target_path, "a copy of a tree"):
                make_work_directory(target_path)
                # Of a layer that stands there twice, the upper one hides the other wholly.
                names = dict.fromkeys(reversed(layers))
                trees = [tree_path(self._store.root_path, name) for name in names]
                if trees:
                    unite(trees, target_path, link=link, note=None if copied is None else copied.note)
                if copied is not None:
                    copied.complete(claim.path)
        except BaseException:
            discard(self._store, claim)
            raise
        return claim


class CopyActive:
    """Implements `snapshot.base.Active`."""

    def __init__(
        self,
        store: Store,
        publisher: Publisher,
        claim: Claim,
        parents: Key,
        view: View,
        copied: Copied,
        kept: KeptTrees,
    ) -> None:
        self._copied = copied
        self._kept = kept
        self._whole = False
        self._given = False
        self._store = store
        self._publisher = publisher
        self._claim = claim
        self._parents = parents
        self._view = view

    @property
    def root(self) -> str:
        return self._claim.path + "/tree"

    def fill(self, write: Callable[[str], None]) -> None:
        """Let `write` put files into the tree."""
        write(self.root)

    def commit(self, *, scrub: Sequence[str] = ()) -> Layer:
        """Make what differs from the parents a layer."""
        try:
            with space_needed(self.root, "a layer"):
                if self._parents:
                    whiteouts = self._extract(scrub)
                else:
                    with Root(self.root) as tree:
                        whiteouts = make_canonical(tree, None, scrub)
            layer = Layer(id=new_id(), parents=self._parents, origin="executed")
            return self._published(layer, whiteouts)
        finally:
            self._end()

    def abort(self) -> None:
        """Throw the copy away."""
        discard(self._store, self._claim)

    def unpack(self, layer: Layer, tar: BinaryIO) -> Layer:
        """Unpack a tar into the tree and commit it as `layer`; ends the active tree in any case."""
        layer = msgspec.structs.replace(layer, parents=self._parents, origin="applied", ownership="native")
        try:
            with space_needed(self.root, f"layer {layer.id}"):
                times = self._publisher.records.times(layer.id)
                whiteouts = unpack(tar, self.root, on_nothing=not self._parents, times_ns=times)
                if self._parents:
                    whiteouts = self._extract(())
            return self._published(layer, whiteouts)
        finally:
            self._end()

    def _published(self, layer: Layer, whiteouts: Sequence[str]) -> Layer:
        made = self._publisher.publish(self._layer_path, layer, whiteouts)
        if self._whole:
            self._kept.put((*self._parents, made.id), self._claim, self._copied)
            self._given = True
        return made

    def _end(self) -> None:
        if not self._given:
            discard(self._store, self._claim)

    @property
    def _layer_path(self) -> str:
        return self._claim.path + "/fs" if self._parents else self.root

    def _extract(self, patterns: Sequence[str]) -> list[str]:
        """Move what differs from the parents into a layer directory."""
        make_work_directory(self._layer_path)
        with self._view(self._parents) as parent_path:
            with Root(parent_path) as parent, Root(self.root) as tree, Root(self._layer_path) as upper:
                make_canonical(tree, None)
                looked = Looked(self.root, self._copied)
                changes = extract(parent, tree, upper, looked.untouched)
                whiteouts = make_canonical(upper, parent, patterns)
                changed = {change.entry.path for change in changes if change.entry.type != "whiteout"}
                # What cannot be put back, as a directory's mode is against it, is copied anew.
                with suppress(OSError):
                    restore(parent, tree, upper, with_ancestors(changed | looked.touched), self._copied)
                    self._whole = True
                return whiteouts
