"""`type=image` and `type=registry`: names in the local store, and a push."""

from __future__ import annotations

from arkwright.diagnostics.errors import UserError
from arkwright.exporters.base import AssembledImage, BuiltImage, ExportReport, Output
from arkwright.exporters.means import ExportMeans, WithMeans
from arkwright.exporters.outputs import flag, names_of
from arkwright.oci.reference import parse_reference


class ImageExporter(WithMeans):
    """Names the image in the local store; with `push=true` it is pushed too."""

    def __call__(
        self,
        output: Output,
        image: AssembledImage | None,
        built: tuple[BuiltImage, ...],
        names: tuple[str, ...],
    ) -> ExportReport:
        """An image without names stays in the store under its digest."""
        assert image is not None, "made before the exporters of images run"
        names = names_of(output, names)
        store = self._means.store
        with store.metadata.transaction():
            for name in names:
                store.names.set(name, image.root)
        if flag(output, "push", False):
            push(self._means, output, image, names)
        return ExportReport(
            type=output.type, destination="local store", digest=image.root.digest, names=names
        )


class RegistryExporter(WithMeans):
    """Pushes the image to every name that it has."""

    def __call__(
        self,
        output: Output,
        image: AssembledImage | None,
        built: tuple[BuiltImage, ...],
        names: tuple[str, ...],
    ) -> ExportReport:
        """Raises `UserError` `push-without-name` and the errors of `registry.push`."""
        assert image is not None, "made before the exporters of images run"
        names = names_of(output, names)
        push(self._means, output, image, names)
        return ExportReport(
            type=output.type, destination=", ".join(names), digest=image.root.digest, names=names
        )


def push(means: ExportMeans, output: Output, image: AssembledImage, names: tuple[str, ...]) -> None:
    """Push to all names; the first failure ends it."""
    from arkwright.registry.push import push_image

    if not names:
        raise UserError.of(
            "push-without-name",
            f"--output type={output.type} has no name to push to",
            hint="give one with --tag, or with the attribute name=",
        )
    tls_verify = False if flag(output, "registry.insecure", False) else means.tls_verify
    for name in names:
        push_image(image.root, parse_reference(name), means.store.content, tls_verify=tls_verify)
        if image.referrers:
            _attach(means, image, name, tls_verify)


def _attach(means: ExportMeans, image: AssembledImage, name: str, tls_verify: bool | None) -> None:
    """Have the registry list what refers to the image."""
    from arkwright.registry.access import Access
    from arkwright.registry.client import open_registries
    from arkwright.registry.referrers import attach

    with Access(tls_verify=tls_verify) as access:
        registry = open_registries(access, parse_reference(name), push=True)[0]
        for artifact in image.referrers:
            attach(registry, artifact, means.store.content)
