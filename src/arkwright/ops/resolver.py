"""From vertices to operations: the only place that knows which class serves which op."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from arkwright.cache.imports import Imports
from arkwright.diagnostics.errors import UserError
from arkwright.graph.definition import Vertex, VertexMetadata
from arkwright.graph.ops import DiffOp, ExecOp, FileOp, MergeOp, PassthroughOp, SourceOp
from arkwright.layer.stamps import Stamps
from arkwright.oci.platform import Platform, host_platform
from arkwright.ops.contexts import ContextReader
from arkwright.ops.exec import ExecMeans, ExecOperation
from arkwright.ops.file import FileOperation
from arkwright.ops.result import LayeredResult
from arkwright.ops.source import ContextOperation, FileSourceOperation, ImageOperation, Pins
from arkwright.ops.trees import ImageLayers, Trees
from arkwright.snapshot.layers import LayerRecords
from arkwright.solver.result import Operation
from arkwright.sources.base import FileSource, ImageSource, Pinned, PinnedImage, Session


class OpResolver:
    """Operations for one build on one side of the fork.

    `means` gives what only the worker has (trees, sandbox); before the fork it must not be asked.
    `trees` gives what the operations on files work on, with or without a worker, and `readable(layer)`
    says whether a recorded layer is of use there. `scrub` lists the paths whose changes by steps are dropped. `pins` and `readers` are carried
    over the fork, so that nothing is pinned or digested twice. `stamps` is the rule for times in layers.
    """

    def __init__(
        self,
        *,
        session: Session,
        images: ImageSource,
        file_sources: Callable[[str], FileSource],
        layers: LayerRecords,
        image_layers: ImageLayers,
        means: Callable[[], ExecMeans],
        pins: Pins,
        readers: dict[str, ContextReader],
        reader_for: Callable[[str], ContextReader],
        scrub: tuple[str, ...],
        imports: Imports,
        trees: Callable[[], Trees],
        readable: Callable[[str], bool],
        stamps: Stamps = Stamps(),  # noqa: B008 - frozen
    ) -> None:
        self._session = session
        self._imports = imports
        self._trees = trees
        self._readable = readable
        self._images = images
        self._file_sources = file_sources
        self._layers = layers
        self._image_layers = image_layers
        self._means = means
        self._pins = pins
        self._readers = readers
        self._reader_for = reader_for
        self._scrub = scrub
        self._stamps = stamps
        self._contexts: dict[str, str] = {}

    def operation(self, digest: str, vertex: Vertex, metadata: VertexMetadata) -> Operation:
        """Raises `UserError` `unsupported-graph` for an op that cannot be solved yet."""
        op = vertex.op
        if isinstance(op, SourceOp):
            return self._source(digest, vertex, op)
        if isinstance(op, ExecOp):
            return ExecOperation(digest, vertex, self._reader_of, self._means, self._scrub, self._stamps)
        if isinstance(op, FileOp):
            return FileOperation(vertex, self._reader_of, self._trees, self._stamps)
        if isinstance(op, MergeOp | DiffOp | PassthroughOp):
            from arkwright.ops.merge_diff import JoinOperation

            return JoinOperation(op, self._trees, self._stamps)
        raise UserError.of("unsupported-graph", f"the op {op.__struct_config__.tag} cannot be solved yet")

    def decode(self, data: bytes) -> LayeredResult | None:
        """A recorded result whose layers are all here, or can be had from where they were imported."""
        try:
            result = msgspec.json.decode(data, type=LayeredResult)
        except msgspec.MsgspecError:
            return None
        known = [self._layers.get(layer) for layer in result.layers]
        usable = all(layer is not None and self._imports.usable(layer) for layer in known)
        return result if usable and all(map(self._readable, result.layers)) else None

    def _source(self, digest: str, vertex: Vertex, op: SourceOp) -> Operation:
        scheme, _, rest = op.identifier.partition("://")
        if scheme == "local":
            self._contexts[digest] = rest
            return ContextOperation(rest, self._session.context(rest))
        if scheme in ("docker-image", "oci-layout"):
            platform = vertex.platform or host_platform()
            return ImageOperation(lambda: self._pin_image(digest, op, platform), self._image_layers, digest)
        source = self._file_sources(scheme)
        return FileSourceOperation(
            source, lambda: self._pin_files(digest, op, source), lambda: self._trees().snapshotter,
            self._stamps,
        )  # fmt: skip

    def _pin_image(self, digest: str, op: SourceOp, platform: Platform) -> PinnedImage:
        if digest not in self._pins.images:
            self._pins.images[digest] = self._images.pin(op, platform)
        return self._pins.images[digest]

    def _pin_files(self, digest: str, op: SourceOp, source: FileSource) -> Pinned:
        if digest not in self._pins.files:
            self._pins.files[digest] = source.pin(op)
        return self._pins.files[digest]

    def _reader_of(self, digest: str) -> ContextReader | None:
        name = self._contexts.get(digest)
        if name is None:
            return None
        if name not in self._readers:
            self._readers[name] = self._reader_for(name)
        return self._readers[name]
