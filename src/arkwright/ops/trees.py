"""Trees of layers, realised when a step needs them: fetched, unpacked, mounted, digested."""

from __future__ import annotations

import hashlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from arkwright.cache.imports import IMPORT_GROUP, Imports
from arkwright.cache.keys import KeyBuilder
from arkwright.diagnostics.errors import ArkwrightError, Cancelled
from arkwright.events.stream import EventStream
from arkwright.events.types import Declared, Failed, Finished, Progress, Started
from arkwright.graph.ops import CopyAction
from arkwright.layer.rooted import Root
from arkwright.oci.descriptor import Descriptor, layer_codec
from arkwright.oci.digest import sha256
from arkwright.ops.contexts import selected, selection_digest
from arkwright.ops.result import HostResult, LayeredResult
from arkwright.snapshot.base import Layer, Snapshotter
from arkwright.snapshot.layers import LayerRecords, chain_id
from arkwright.solver.result import Result
from arkwright.sources.base import ImageSource, PinnedImage
from arkwright.store.content import ContentStore

if TYPE_CHECKING:
    from arkwright.cache.selections import Selections

SOURCE_BLOB = "source"


class ImageLayers:
    """Layers of pinned images: known by id before a byte of them is here.

    An id is made of the chain of diffIDs and of the blob, so that a base keeps its own bytes even
    when another image holds the same files compressed differently.
    """

    def __init__(
        self, records: LayerRecords, images: ImageSource, imports: Callable[[], Imports] | None = None
    ) -> None:
        self._records = records
        self._images = images
        self._imports = imports
        self._origins: dict[str, tuple[PinnedImage, Descriptor, str]] = {}

    def declare(self, image: PinnedImage, vertex: str) -> LayeredResult:
        """The image as a result; its layers get records, their blobs stay where they are."""
        ids: list[str] = []
        for number, descriptor in enumerate(image.layers):
            chain = chain_id(image.diff_ids[: number + 1])
            layer_id = hashlib.sha256(f"{chain} {descriptor.digest}".encode()).hexdigest()
            if self._records.get(layer_id) is None:
                layer = Layer(
                    id=layer_id, parents=tuple(ids), origin="applied", unpacked=False,
                    diff_id=image.diff_ids[number], blobs={SOURCE_BLOB: descriptor},
                )  # fmt: skip
                self._records.put(layer)
            self._origins[layer_id] = (image, descriptor, vertex)
            ids.append(layer_id)
        return LayeredResult(tuple(ids))

    def knows(self, layer_id: str) -> bool:
        """Whether the layer's blob can be fetched from where an image of this build has it."""
        return layer_id in self._origins

    def fetch(self, layer_id: str, stream: EventStream) -> None:
        """Make the layer's blob present; nothing to do for layers of this store's own making."""
        origin = self._origins.get(layer_id)
        if origin is None:
            self._fetch_imported(layer_id, stream)
            return
        image, descriptor, vertex = origin

        def report(done: int, total: int) -> None:
            stream.emit(Progress(vertex=vertex, item=descriptor.digest, done=done, total=total))

        self._images.fetch(image, descriptor, report)

    def _fetch_imported(self, layer_id: str, stream: EventStream) -> None:
        layer = self._records.get(layer_id)
        if self._imports is None or layer is None or not layer.remote:
            return
        blob = next(iter(layer.blobs.values()))
        vertex = sha256(f"cache import {layer.remote} {layer_id}".encode())
        name = f"importing layer {layer.diff_id[:19]} from {layer.remote}"
        stream.emit(Declared(vertex=vertex, name=name, group=IMPORT_GROUP))
        stream.emit(Started(vertex=vertex))

        def report(done: int, total: int) -> None:
            stream.emit(Progress(vertex=vertex, item=blob.digest, done=done, total=total))

        try:
            self._imports().fetch(layer_id, report)
        except ArkwrightError as error:
            cancelled = isinstance(error, Cancelled)
            stream.emit(Failed(vertex=vertex, message=str(error), cancelled=cancelled))
            raise
        stream.emit(Finished(vertex=vertex))


class Trees:
    """Views and content digests of layered results, inside the worker."""

    def __init__(
        self,
        snapshotter: Snapshotter,
        records: LayerRecords,
        content: ContentStore,
        images: ImageLayers,
        stream: EventStream,
        selections: Selections,
    ) -> None:
        self.snapshotter = snapshotter
        self.records = records
        self._content = content
        self._images = images
        self._stream = stream
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._guard = threading.Lock()
        # The store's lease, which a build holds, keeps layers that were there once.
        self._ready: set[str] = set()
        self._kept_selections = selections
        self._selections: dict[tuple[object, ...], str] = {}

    def ensure(self, layers: Sequence[str]) -> None:
        """Unpack what is known only as a blob, lowest first."""
        for number, layer_id in enumerate(layers):
            if layer_id in self._ready:
                continue
            with self._guard:
                lock = self._locks[layer_id]
            with lock:
                layer = self.records.get(layer_id)
                if layer is None or not self.snapshotter.has(layer):
                    assert layer is not None, f"layer {layer_id} has no record"
                    self._unpack(layers[:number], layer)
                self._ready.add(layer_id)

    def _unpack(self, below: Sequence[str], layer: Layer) -> None:
        from arkwright.layer.codec import decompress

        # A difference may stand on layers that are not in the list.
        self.ensure([one for one in layer.parents if one not in below])
        blobs = layer.blobs
        descriptor = blobs.get(SOURCE_BLOB) or next(
            (blob for blob in blobs.values() if self._content.has(blob.digest)), next(iter(blobs.values()))
        )
        if layer.remote or not self._content.has(descriptor.digest):
            self._images.fetch(layer.id, self._stream)
            layer = self.records.get(layer.id) or layer
        with self._content.open(descriptor.digest) as blob:
            with decompress(blob, layer_codec(descriptor.media_type)) as tar:
                self.snapshotter.apply(below, layer, tar)

    @contextmanager
    def view(self, result: LayeredResult) -> Iterator[str]:
        """A read-only tree; the value is its root path."""
        self.ensure(result.layers)
        with self.snapshotter.view(result.layers) as root:
            yield root

    def diff_id(self, layer_id: str) -> str:
        """The digest of a layer's canonical diff: its diffID, computed at the first asking."""
        layer = self.records.get(layer_id)
        assert layer is not None, f"layer {layer_id} has no record"
        if not layer.diff_id:
            from arkwright.layer.tar_write import write_tar

            self.ensure([*layer.parents, layer_id])
            hasher = hashlib.sha256()
            write_tar(self.snapshotter.diff(layer), hasher.update)
            layer = self.records.update(layer_id, diff_id="sha256:" + hasher.hexdigest())
        return layer.diff_id

    def same(self, have: Result, other: Result, seen: Sequence[CopyAction] | None) -> bool:
        """Whether two inputs are equal in what is seen of them: what copies take, or None for all."""
        if isinstance(have, HostResult) or isinstance(other, HostResult):
            return have == other
        assert isinstance(have, LayeredResult)
        assert isinstance(other, LayeredResult)
        if seen is None:
            return self.same_tree(have, other)
        return all(self.selection(have, action) == self.selection(other, action) for action in seen)

    def content(self, have: Result, seen: Sequence[CopyAction] | None) -> str:
        """A digest of what is seen of an input, by content alone; equal digests mean `same`."""
        builder = KeyBuilder("input content")
        # What is read of a context is part of the op's own key.
        if isinstance(have, LayeredResult):
            if seen is None:
                builder.field("layers", *map(self.diff_id, have.layers))
            else:
                builder.field("selections", *(self.selection(have, action) for action in seen))
        return builder.digest()

    def same_tree(self, first: LayeredResult, second: LayeredResult) -> bool:
        """Whether two trees are made of equal layers."""
        return len(first.layers) == len(second.layers) and all(
            have == other or self.diff_id(have) == self.diff_id(other)
            for have, other in zip(first.layers, second.layers, strict=True)
        )

    def selection(self, result: LayeredResult, action: CopyAction) -> str:
        """A digest of what a copy would take from a tree, computed once."""
        wanted = (result.layers, selected(action))
        if wanted not in self._selections:
            what = repr(wanted[1])
            known = self._kept_selections.get(result.layers, what)
            if known is None:
                with self.view(result) as root_path, Root(root_path) as root:
                    known = selection_digest(root, action, ownership=True)
                self._kept_selections.put(result.layers, what, known)
            self._selections[wanted] = known
        return self._selections[wanted]
