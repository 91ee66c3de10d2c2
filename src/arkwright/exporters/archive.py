"""`type=oci` and `type=docker`: an image as a layout, an archive, or into docker or podman."""

from __future__ import annotations

from arkwright.exporters.base import AssembledImage, BuiltImage, ExportReport, Output
from arkwright.exporters.means import WithMeans
from arkwright.exporters.outputs import flag, names_of
from arkwright.images.archives import Format, save
from arkwright.oci.descriptor import Descriptor


class OciExporter(WithMeans):
    """An OCI archive, or with `tar=false` an OCI layout directory."""

    def __call__(
        self,
        output: Output,
        image: AssembledImage | None,
        built: tuple[BuiltImage, ...],
        names: tuple[str, ...],
    ) -> ExportReport:
        """Raises the codes of `images.archives.save`."""
        assert image is not None, "made before the exporters of images run"
        names = names_of(output, names)
        form: Format = "oci-archive" if flag(output, "tar", True) else "oci-layout"
        images: list[tuple[Descriptor, tuple[str, ...]]] = [(image.root, names)]
        if flag(output, "referrers", False):
            images += [(artifact, ()) for artifact in image.referrers]
        save(self._means.store.content, images, output.dest, form)
        return ExportReport(type="oci", destination=output.dest, digest=image.root.digest, names=names)


class DockerExporter(WithMeans):
    """A docker archive, or without `dest` straight into docker or podman."""

    def __call__(
        self,
        output: Output,
        image: AssembledImage | None,
        built: tuple[BuiltImage, ...],
        names: tuple[str, ...],
    ) -> ExportReport:
        """Raises the codes of `images.archives.save` and `images.transports.load_into`."""
        assert image is not None, "made before the exporters of images run"
        names = names_of(output, names)
        images = [(image.root, names)]
        destination = output.dest
        if destination:
            save(self._means.store.content, images, destination, "docker-archive")
        else:
            from arkwright.images.transports import load_into

            destination = load_into(self._means.store.content, images)
        return ExportReport(type="docker", destination=destination, digest=image.root.digest, names=names)
