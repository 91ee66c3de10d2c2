"""From results to outputs: what must be made in the worker, and what this process writes after."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import msgspec

from arkwright.build.attesting import Attesting
from arkwright.build.means import Means
from arkwright.build.request import BuildRequest
from arkwright.cache.blobs import SOURCE_BLOB
from arkwright.events.types import Exported
from arkwright.exporters.base import AssembledImage, BuiltImage, ExportReport, Output
from arkwright.exporters.image import Restamp, assemble, missing_layers
from arkwright.exporters.means import ExportMeans
from arkwright.exporters.outputs import compression, output_annotations
from arkwright.exporters.table import exporter, needs_image, needs_trees
from arkwright.layer.profile import Profile, profile_for
from arkwright.layer.stamps import Stamps
from arkwright.oci import manifest as image_manifest
from arkwright.ops.result import LayeredResult


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What was written: the image's digests, one report per output, the compression profile. `digests` are
    those that the outputs gave the image, `digest` first."""

    digest: str = ""
    digests: tuple[str, ...] = ()
    config_digest: str = ""
    reports: tuple[ExportReport, ...] = ()
    profile: str = ""


class Exports:
    """The outputs of one request; no output means an image in the local store, as with docker, or
    with `only_trees` nothing but what the solver keeps."""

    def __init__(
        self,
        request: BuildRequest,
        built: tuple[BuiltImage, ...],
        epoch: int,
        *,
        as_index: bool = False,
        only_trees: bool = False,
        stamps: Stamps = Stamps(),  # noqa: B008 - frozen
    ) -> None:
        self._request = request
        self._built = built
        self._epoch = epoch
        self._stamps = stamps
        self._as_index = as_index
        self.outputs = () if only_trees else request.outputs or (Output(type="image"),)

    def need_worker(self, means: Means) -> bool:
        """Whether an output reads file trees, or a layer of our own has no blob yet."""
        if not self.outputs:
            return False
        if any(needs_trees(output) for output in self.outputs):
            return True
        missing = {
            layer
            for profile in self.profiles()
            for layer in missing_layers(self._built, means.layers, means.store.content, profile)
        }
        return any(_is_own(means, layer) for layer in missing)

    def in_worker(self, means: Means) -> tuple[ExportReport, ...]:
        """Make every blob that the outputs need, and write the outputs that are file trees."""
        for output in self.outputs:
            if needs_image(output):
                self._assemble(output, means)
        view = _view(means)
        return tuple(self._write(output, None, means, view) for output in self.outputs if needs_trees(output))

    def finish(self, means: Means, done: Sequence[ExportReport], attesting: Attesting) -> Outcome:
        """Write the other outputs, with what is attached to images; `done` are the reports of `in_worker`."""
        reports = list(done)
        first: AssembledImage | None = None
        digests: dict[str, None] = {}
        for output in self.outputs:
            if needs_image(output):
                plain = self._assemble(output, means)
                image = attesting.of(output, plain)
                first = first or image
                # What is inside of an index with statements is what a later build gives again.
                digests |= {image.root.digest: None, plain.root.digest: None}
                reports.append(self._write(output, image, means, None))
        for report in reports:
            means.stream.emit(
                Exported(
                    kind=report.type, destination=report.destination, digest=report.digest, names=report.names
                )
            )
        profile = self.profiles()[0].name
        if first is None:
            return Outcome(reports=tuple(reports), profile=profile)
        manifest = image_manifest.parse(means.store.content.read(first.manifests[0].digest))
        assert isinstance(manifest, image_manifest.Manifest)
        return Outcome(
            digest=first.root.digest,
            digests=tuple(digests),
            config_digest=manifest.config.digest,
            reports=tuple(reports),
            profile=profile,
        )

    def profiles(self) -> list[Profile]:
        """The compression profiles of the outputs; the first is that of the receipt."""
        codecs = {compression(output, self._request.compression): None for output in self.outputs}
        codecs = codecs or {self._request.compression: None}
        return [profile_for(codec) for codec in codecs]  # type: ignore[arg-type]

    def _assemble(self, output: Output, means: Means) -> AssembledImage:
        return assemble(
            self._built,
            layers=means.layers,
            content=means.store.content,
            snapshotter=None,
            profile=profile_for(compression(output, self._request.compression)),  # type: ignore[arg-type]
            epoch=self._epoch,
            force_index=self._as_index,
            annotations={**self._request.annotations, **output_annotations(output)},
            blobs=means.blobs,
            restamp=self._restamp(means),
        )

    def _restamp(self, means: Means) -> Restamp | None:
        """What gives layers their times as they leave, when they were made under other ones."""
        if self._stamps.made == self._stamps:
            return None
        from arkwright.exporters.restamp import restamped

        return lambda diff_id, blob, profile: restamped(means.store, diff_id, blob, profile, self._stamps)

    def _write(
        self, output: Output, image: AssembledImage | None, means: Means, view: View | None
    ) -> ExportReport:
        export_means = ExportMeans(
            store=means.store,
            view=view,
            keep_owner=means.keeps_owners,
            tls_verify=means.tls_verify,
            stamps=self._stamps,
        )
        return exporter(output, export_means)(output, image, self._built, self._request.names)


View = Callable[[Sequence[str]], AbstractContextManager[str]]


def _view(means: Means) -> View:
    @contextmanager
    def view(layers: Sequence[str]) -> Iterator[str]:
        with means.trees.view(LayeredResult(tuple(layers))) as path:
            yield path

    return view


def _is_own(means: Means, layer_id: str) -> bool:
    layer = means.layers.get(layer_id)
    return layer is None or SOURCE_BLOB not in layer.blobs
