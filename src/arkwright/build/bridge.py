"""The bridge that the build offers to front ends."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from arkwright.diagnostics.errors import ArkwrightError, Diagnostic, Label, UserError
from arkwright.diagnostics.spans import Span
from arkwright.frontends.base import ResolvedImage, context_keys
from arkwright.graph.definition import Definition
from arkwright.graph.ops import SourceOp
from arkwright.layer.rooted import Root
from arkwright.oci import config as image_config
from arkwright.oci.platform import Platform
from arkwright.sources.base import HostTree, ImageSource, PinnedImage


class BuildBridge:
    """Answers from the request's contexts and from image sources; each image is pinned once."""

    def __init__(
        self,
        *,
        trees: dict[str, HostTree],
        inputs: dict[str, str],
        images: ImageSource,
        resolve_mode: str,
        warn: Callable[[Diagnostic], None],
    ) -> None:
        self._trees = trees
        self._inputs = inputs
        self._images = images
        self._resolve_mode = resolve_mode
        self._warn = warn
        self._pinned: dict[tuple[str, Platform], PinnedImage] = {}

    def solve(self, definition: Definition) -> str:
        raise UserError.of("unsupported-graph", "front ends cannot solve during compilation yet")

    def resolve_image_config(
        self, name: str, platform: Platform, *, span: Span | None = None
    ) -> ResolvedImage:
        if (name, platform) not in self._pinned:
            try:
                self._pinned[name, platform] = self._images.pin(self._source(name, platform), platform)
            except ArkwrightError as error:
                if span is None:
                    raise
                raise error.with_label(Label(span)) from error
        pinned = self._pinned[name, platform]
        return ResolvedImage(
            reference=pinned.reference,
            digest=pinned.manifest.digest,
            config=image_config.parse(pinned.config),
        )

    def _source(self, name: str, platform: Platform) -> SourceOp:
        for key in context_keys(name, platform):
            identifier = self._inputs.get(key)
            if identifier is not None and not identifier.startswith("local://"):
                return SourceOp(identifier=identifier)
        attrs = (("resolve-mode", self._resolve_mode),) if self._resolve_mode != "default" else ()
        return SourceOp(identifier=f"docker-image://{name}", attrs=attrs)

    def read_file(self, reference: str, path: str) -> bytes | None:
        with Root(self._tree(reference).root) as root:
            found = root.resolve(path)
            status = root.lstat(found)
            if status is None or not stat.S_ISREG(status.st_mode):
                return None
            with os.fdopen(root.open_file(found), "rb") as file:
                return file.read()

    def stat(self, reference: str, path: str) -> tuple[int, int] | None:
        with Root(self._tree(reference).root) as root:
            status = root.lstat(root.resolve(path))
        return None if status is None else (status.st_mode, status.st_size)

    def read_dir(self, reference: str, path: str) -> list[str]:
        with Root(self._tree(reference).root) as root:
            directory_fd = root.open_dir(root.resolve(path))
            try:
                return sorted(os.listdir(directory_fd))
            finally:
                os.close(directory_fd)

    def inputs(self) -> dict[str, str]:
        return self._inputs

    def warn(self, diagnostic: Diagnostic) -> None:
        self._warn(diagnostic)

    def _tree(self, reference: str) -> HostTree:
        tree = self._trees.get(reference.removeprefix("local://"))
        if tree is None:
            raise UserError.of("unknown-context", f"there is no context {reference}")
        return tree
