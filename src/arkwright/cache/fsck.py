"""The check of a store: what its records say against what is there.

Under the exclusive lease and in the worker, as clean-up. A repair removes what is wrong and all
that stands on it, so that the next build makes it anew; it never invents anything. The blob of a step's
layer is made again from the layer's tree, if that gives the same digest.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable

import msgspec

from arkwright.cache.inventory import (
    CONTAINERS,
    FAILED_STEPS,
    Inventory,
    layers_of,
    take_inventory,
)
from arkwright.cache.items import HTTP, downloads
from arkwright.cache.reach import reach
from arkwright.cache.records import RECORDS, SIBLINGS
from arkwright.cache.remake import remake
from arkwright.diagnostics.errors import ArkwrightError
from arkwright.events.journal import journal_path, read_journal
from arkwright.snapshot.base import Layer, Snapshotter
from arkwright.snapshot.layers import BUCKET as LAYERS
from arkwright.snapshot.layers import FS, LayerRecords, directory_path
from arkwright.store.store import Store

_READ = 1 << 20
# What belongs into the directory of a cache mount (see `cache.mounts`).
_MOUNT_PART = re.compile(r"id|build|lock|seed\.lock|shared|private-[0-9]+(\.lock)?")


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong: `kind` is a fixed word, `subject` a digest, id, key or name.

    `garbage` is what a killed process may leave: it takes disk and does no harm. `remade` tells that a
    repair made it again; what it removed instead is not there any more.
    """

    kind: str
    subject: str
    message: str
    garbage: bool = False
    remade: bool = False


def check(
    store: Store, *, repair: bool = False, snapshotter: Callable[[], Snapshotter] | None = None
) -> list[Finding]:
    """Everything that is wrong; with `repair`, it is removed, or made again if there is a `snapshotter`.

    A repair may uncover what stood on what was removed: it goes on until nothing is found.
    """
    checked: dict[str, bool] = {}
    found = _Check(store, checked).run()
    if not repair:
        return found
    done: list[Finding] = []
    while found:
        remade = _remade(store, found, snapshotter) if snapshotter is not None else set()
        for finding in found:
            if finding.subject not in remade:
                _remove(store, finding)
        checked.update(dict.fromkeys(remade, True))
        done += [msgspec.structs.replace(one, remade=one.subject in remade) for one in found]
        os.sync()
        known = {(one.kind, one.subject) for one in done}
        found = [one for one in _Check(store, checked).run() if (one.kind, one.subject) not in known]
    store.empty_trash()
    return done


def _remade(store: Store, found: list[Finding], snapshotter: Callable[[], Snapshotter]) -> set[str]:
    """The digests of corrupt blobs that have their right bytes again; they were replaced as a whole."""
    lost = {one.subject for one in found if one.kind == "corrupt-blob"}
    layers = take_inventory(store.metadata).layers.values() if lost else ()
    return {
        blob.digest
        for layer in layers
        for name, blob in layer.blobs.items()
        if blob.digest in lost and remake(store.content, layer, name, snapshotter())
    }


class _Check:
    """One pass. `checked` remembers which blobs were read and whether they were whole."""

    def __init__(self, store: Store, checked: dict[str, bool]) -> None:
        self._store = store
        self._checked = checked
        self._found: list[Finding] = []

    def run(self) -> list[Finding]:
        inventory = take_inventory(self._store.metadata)
        for bucket, key in inventory.unreadable:
            self._add("unreadable-entry", f"{bucket}/{key}", f"the entry {key} of {bucket} cannot be read")
        self._blobs()
        self._names()
        self._layers(inventory)
        self._directories(inventory)
        self._users(inventory)
        self._downloads()
        self._journals()
        self._mounts()
        return self._found

    def _add(self, kind: str, subject: str, message: str, *, garbage: bool = False) -> None:
        self._found.append(Finding(kind, subject, message, garbage))

    def _blobs(self) -> None:
        content = self._store.content
        for digest in sorted(content.digests()):
            if not self._whole(digest):
                names = [
                    name
                    for name, root in self._store.names.list()
                    if digest in reach(content, [root]).present
                ]
                whose = f"; it is part of {', '.join(names)}" if names else ""
                self._add("corrupt-blob", digest, f"blob {digest} does not have this digest{whose}")

    def _whole(self, digest: str) -> bool:
        path = blob_path(self._store, digest)
        if digest not in self._checked:
            algorithm = digest.partition(":")[0]
            hasher = hashlib.new(algorithm)
            with open(path, "rb", buffering=0) as blob:
                while chunk := blob.read(_READ):
                    hasher.update(chunk)
            self._checked[digest] = digest == f"{algorithm}:{hasher.hexdigest()}"
        return self._checked[digest]

    def _names(self) -> None:
        for name, root in self._store.names.list():
            missing = sorted(reach(self._store.content, [root]).missing)
            if missing:
                more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
                self._add("incomplete-image", name, f"{name} lacks blob {missing[0]}{more}")

    def _layers(self, inventory: Inventory) -> None:
        for layer_id, layer in inventory.layers.items():
            lost = [parent for parent in layer.parents if parent not in inventory.layers]
            if lost:
                self._add(
                    "layer-without-parent", layer_id, f"layer {layer_id} stands on {lost[0]}, which is gone"
                )
            elif layer.unpacked and not self._has_tree(layer):
                self._add("layer-without-directory", layer_id, f"layer {layer_id} has no directory")

    def _has_tree(self, layer: Layer) -> bool:
        return os.path.isdir(directory_path(self._store.root_path, layer.id) + FS)

    def _directories(self, inventory: Inventory) -> None:
        root_path = self._store.root_path
        known = {directory_path(root_path, id) for id, layer in inventory.layers.items() if layer.unpacked}
        layers_path = os.path.join(root_path, "layers")
        for name in sorted(os.listdir(layers_path)):
            if os.path.join(layers_path, name) not in known:
                self._add(
                    "orphan-directory",
                    name,
                    f"the directory layers/{name} belongs to no layer",
                    garbage=True,
                )

    def _users(self, inventory: Inventory) -> None:
        for key, record in inventory.records.items():
            lost = [id for id in layers_of(record.results) if id not in inventory.layers]
            if lost:
                self._add("record-without-layer", key, f"record {key} gives layer {lost[0]}, which is gone")
        for name, step in inventory.failed.items():
            lost = [id for id in step.layers if id not in inventory.layers]
            if lost:
                self._add(
                    "failed-step-without-layer", name, f"failed step {name} needs {lost[0]}, which is gone"
                )
        for name, container in inventory.containers.items():
            lost = [id for id in container.held if id not in inventory.layers]
            if lost:
                self._add("container-without-layer", name, f"container {name} needs {lost[0]}, which is gone")
            elif reach(self._store.content, container.roots).missing & {
                one.digest for one in container.roots
            }:
                self._add(
                    "container-without-base", name, f"container {name} has lost the manifest of its base"
                )
        for name, _ in self._store.metadata.items(SIBLINGS):
            if name.partition("/")[2] not in inventory.records:
                self._add("stray-index-entry", name, f"the index of records names {name}, which is gone")

    def _downloads(self) -> None:
        for key, digest in downloads(self._store):
            if not digest or not self._store.content.has(digest):
                self._add("download-without-blob", key, f"download {key} has lost its file {digest}")

    def _journals(self) -> None:
        root_path = self._store.root_path
        for build in sorted(os.listdir(os.path.join(root_path, "history"))):
            path = journal_path(root_path, build)
            if not os.path.isfile(path):
                self._add("empty-history", build, f"history/{build} has no journal", garbage=True)
                continue
            try:
                for _ in read_journal(path):
                    pass
            except ArkwrightError as error:
                self._add("corrupt-journal", build, f"the journal of build {build} cannot be read: {error}")

    def _mounts(self) -> None:
        """Trees that were being made for a cache mount when their maker was killed."""
        base_path = os.path.join(self._store.root_path, "cache-mounts")
        for name in sorted(os.listdir(base_path)):
            for part in sorted(os.listdir(os.path.join(base_path, name))):
                if not _MOUNT_PART.fullmatch(part):
                    self._add(
                        "half-made-mount", f"{name}/{part}", f"cache-mounts/{name}/{part} is half-made",
                        garbage=True,
                    )  # fmt: skip


def blob_path(store: Store, digest: str) -> str:
    """Where a blob is, also one whose name is no digest at all."""
    algorithm, _, encoded = digest.partition(":")
    return os.path.join(store.root_path, "blobs", algorithm, encoded)


def _remove(store: Store, finding: Finding) -> None:
    subject, metadata = finding.subject, store.metadata
    if finding.kind == "corrupt-blob":
        store.trash(blob_path(store, subject))
    elif finding.kind == "incomplete-image":
        store.names.remove(subject)
    elif finding.kind == "layer-without-directory":
        _forget_tree(store, subject)
    elif finding.kind in _DIRECTORIES:
        store.trash(os.path.join(store.root_path, _DIRECTORIES[finding.kind], subject))
    else:
        bucket = _BUCKETS.get(finding.kind)
        if bucket is None:
            bucket, _, subject = subject.partition("/")
        metadata.delete(bucket, subject)


_DIRECTORIES = {
    "orphan-directory": "layers",
    "empty-history": "history",
    "corrupt-journal": "history",
    "half-made-mount": "cache-mounts",
}
_BUCKETS = {
    "layer-without-parent": LAYERS,
    "record-without-layer": RECORDS,
    "failed-step-without-layer": FAILED_STEPS,
    "container-without-layer": CONTAINERS,
    "container-without-base": CONTAINERS,
    "stray-index-entry": SIBLINGS,
    "download-without-blob": HTTP,
}


def _forget_tree(store: Store, layer_id: str) -> None:
    """A layer that came as a blob can be unpacked again; one that a step made is made again."""
    records = LayerRecords(store.metadata)
    layer = records.get(layer_id)
    if layer is not None and layer.origin == "applied":
        records.forget_tree(layer_id)
    else:
        store.metadata.delete(LAYERS, layer_id)
