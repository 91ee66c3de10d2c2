"""Trees as overlay mounts: the tier of choice.

A layer is an upper directory, made canonical (see `upper`) when it is committed, so that any list
of layers is a stack of lower directories. Mounts are made with the same options by root and
by others, in the worker's mount namespace, and vanish with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import BinaryIO

import msgspec

from arkwright.layer.entry import Change
from arkwright.layer.rooted import Root
from arkwright.layer.stamps import Stamps
from arkwright.linux import mounts
from arkwright.linux.syscalls import syncfs
from arkwright.snapshot.attributes import copy_attributes
from arkwright.snapshot.base import Layer
from arkwright.snapshot.contents import View, layer_diff, unpack
from arkwright.snapshot.layers import FLOOR, directory_path, new_id, tree_path
from arkwright.snapshot.publish import Publisher, discard, make_work_directory
from arkwright.snapshot.sharing import Key, SharedTrees, Tree
from arkwright.snapshot.upper import make_canonical
from arkwright.store.leases import Claim
from arkwright.store.space import space_needed
from arkwright.store.store import Store


class OverlaySnapshotter:
    """Implements `snapshot.base.Snapshotter` with overlayfs, inside the worker process.

    Besides what the contract says, methods raise `HostUnsupported` (`mount-refused`) and
    `UserError` (`no-space`). `stamps` is the rule for the times of layers: what differs in a time that no
    layer says is no change.
    """

    name = "overlay"

    def __init__(
        self,
        store: Store,
        *,
        sync: Callable[[], None] | None = None,
        stamps: Stamps = Stamps(),  # noqa: B008 - frozen
    ) -> None:
        self._store = store
        self._stamps = stamps
        self._publisher = Publisher(store, sync or (lambda: syncfs(store.root_path)))
        self._views = SharedTrees(self._mount_view)
        # Of layers with a tree, which stays as it is: their parents, and their floor if there is one.
        self._standing: dict[str, tuple[Key | None, str]] = {}

    def has(self, layer: Layer) -> bool:
        """Whether the layer's directory is there."""
        return layer.unpacked

    def prepare(self, layers: Sequence[str]) -> OverlayActive:
        """A writable mount on top of `layers`; on nothing, just a directory."""
        return self._prepare(tuple(layers))

    def view(self, layers: Sequence[str]) -> AbstractContextManager[str]:
        """A read-only mount of `layers`, shared by those who view the same list."""
        return self._views.use(tuple(layers))

    def apply(self, layers: Sequence[str], layer: Layer, tar: BinaryIO) -> Layer:
        """Unpack a layer tar as `layer.id`, if it is not there yet.

        A layer whose record names its parents is unpacked on these, so that its content does not
        depend on the list in which it was met first. Waits while another process does the same.
        """
        with self._publisher.making(layer.id) as known:
            if known is not None and known.unpacked:
                return known
            active = self._prepare(tuple(layers) if known is None else known.parents)
            return active.unpack(layer, tar)

    def diff(self, layer: Layer) -> Iterator[Change]:
        """The canonical diff of a layer; reads what the layer holds and nothing else."""
        path = tree_path(self._store.root_path, layer.id)
        return layer_diff(path, layer.parents, self.view, self._stamps.of)

    def remove(self, layer_id: str) -> None:
        self._standing.pop(layer_id, None)
        self._publisher.remove(layer_id)

    def close(self) -> None:
        """Nothing is kept."""

    def _prepare(self, layers: Key) -> OverlayActive:
        claim = self._store.claim_work()
        try:
            with space_needed(claim.path, "a tree"):
                for name in ("fs", "work", "merged") if layers else ("fs",):
                    make_work_directory(f"{claim.path}/{name}")
                if layers:
                    self._mount_active(claim.path, layers)
        except BaseException:
            discard(self._store, claim)
            raise
        return OverlayActive(self._store, self._publisher, claim, layers, self.view)

    def _mount_active(self, path: str, layers: Key) -> None:
        top_path = tree_path(self._store.root_path, layers[-1])
        with Root(top_path) as top, Root(path + "/fs") as upper:
            # The root of the tree has the attributes of the upper directory.
            copy_attributes(top.fd, upper.fd, os.fstat(top.fd))
        lowers = self.lowers(layers)
        # Volatile: fsync calls of a step, of which package managers make many, do nothing. What
        # counts is the sync at commit.
        mounts.overlay(lowers, path + "/fs", path + "/work", path + "/merged", volatile=True)

    def _mount_view(self, layers: Key) -> Tree:
        claim = self._store.claim_work()
        target_path = claim.path + "/merged"
        make_work_directory(target_path)
        try:
            if layers:
                lowers = self.lowers(layers)
                if len(lowers) == 1 and not self._made_on_nothing(layers[0]):
                    # Overlay hides whiteouts, a bind mount would not, and overlay wants two.
                    empty_path = claim.path + "/empty"
                    make_work_directory(empty_path)
                    lowers.append(empty_path)
                mounts.overlay(lowers, None, None, target_path)
        except BaseException:
            discard(self._store, claim)
            raise

        def dispose() -> None:
            if layers:
                mounts.unmount(target_path)
            discard(self._store, claim)

        return Tree(target_path, dispose)

    def lowers(self, layers: Key) -> list[str]:
        """The lower directories of a list of layers, top first.

        Of a layer that stands there twice only the upper one counts: it hides the other wholly, and
        overlayfs refuses a directory twice. The floors of layers that do not stand on their own
        parents come last.
        """
        root_path = self._store.root_path
        floors = []
        for number, layer_id in enumerate(layers):
            parents, floor_path = self._stands(layer_id)
            if floor_path and (not parents or parents != layers[:number]):
                floors.append(floor_path)
        return list(dict.fromkeys([*(tree_path(root_path, name) for name in reversed(layers)), *floors]))

    def _stands(self, layer_id: str) -> tuple[Key | None, str]:
        if layer_id not in self._standing:
            record = self._publisher.records.get(layer_id)
            floor_path = directory_path(self._store.root_path, layer_id) + FLOOR
            there = os.path.isdir(floor_path)
            self._standing[layer_id] = (
                None if record is None else record.parents,
                floor_path if there else "",
            )
        return self._standing[layer_id]

    def _made_on_nothing(self, layer_id: str) -> bool:
        record = self._publisher.records.get(layer_id)
        return record is not None and record.origin == "executed" and not record.parents


class OverlayActive:
    """Implements `snapshot.base.Active`."""

    def __init__(self, store: Store, publisher: Publisher, claim: Claim, parents: Key, view: View) -> None:
        self._store = store
        self._publisher = publisher
        self._claim = claim
        self._parents = parents
        self._view = view
        self._fs_path = claim.path + "/fs"

    @property
    def root(self) -> str:
        return self._claim.path + "/merged" if self._parents else self._fs_path

    def fill(self, write: Callable[[str], None]) -> None:
        """Let `write` put files into the tree."""
        write(self.root)

    def commit(self, *, scrub: Sequence[str] = ()) -> Layer:
        """Make the upper directory a layer, and unmount."""
        try:
            self._unmount()
            whiteouts = self._make_canonical(scrub)
            layer = Layer(id=new_id(), parents=self._parents, origin="executed")
            return self._publisher.publish(self._fs_path, layer, whiteouts)
        finally:
            discard(self._store, self._claim)

    def abort(self) -> None:
        """Unmount, and throw the upper directory away."""
        try:
            self._unmount()
        finally:
            discard(self._store, self._claim)

    def unpack(self, layer: Layer, tar: BinaryIO) -> Layer:
        """Unpack a tar into the tree and commit it as `layer`; ends the active tree in any case."""
        try:
            try:
                with space_needed(self.root, f"layer {layer.id}"):
                    times = self._publisher.records.times(layer.id)
                    whiteouts = unpack(tar, self.root, on_nothing=not self._parents, times_ns=times)
            finally:
                self._unmount()
            if self._parents:
                whiteouts = self._make_canonical(())
            layer = msgspec.structs.replace(
                layer, parents=self._parents, origin="applied", ownership="native"
            )
            return self._publisher.publish(self._fs_path, layer, whiteouts)
        finally:
            discard(self._store, self._claim)

    def _unmount(self) -> None:
        if self._parents:
            mounts.unmount(self.root)

    def _make_canonical(self, patterns: Sequence[str]) -> list[str]:
        with ExitStack() as stack:
            stack.enter_context(space_needed(self._fs_path, "a layer"))
            parent = None
            if self._parents:
                parent = stack.enter_context(Root(stack.enter_context(self._view(self._parents))))
            upper = stack.enter_context(Root(self._fs_path))
            return make_canonical(upper, parent, patterns)
