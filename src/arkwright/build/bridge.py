"""The bridge that the build offers to front ends."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence

from arkwright.diagnostics.errors import ArkwrightError, Diagnostic, Label, UserError
from arkwright.diagnostics.spans import Span
from arkwright.frontends.base import ResolvedImage, context_keys
from arkwright.graph.definition import Definition
from arkwright.graph.ops import SourceOp
from arkwright.layer.rooted import Root
from arkwright.oci import config as image_config
from arkwright.oci.platform import Platform, host_platform
from arkwright.sources.base import FileSource, HostTree, ImageSource, PinnedImage

PinTogether = Callable[[Sequence[tuple[SourceOp, Platform]]], list[PinnedImage | None]]


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
        times: dict[str, int] | None = None,
        file_source: Callable[[str], FileSource] | None = None,
        pin_together: PinTogether | None = None,
    ) -> None:
        self._trees = trees
        self._inputs = inputs
        self._times = times or {}
        self._file_source = file_source
        self._pin_together = pin_together
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

    def prepare(self, names: Sequence[tuple[str, Platform]]) -> None:
        unknown = [key for key in dict.fromkeys(names) if key not in self._pinned]
        if len(unknown) < 2 or self._pin_together is None:
            return
        slow = [key for key in unknown if self._is_slow(*key)]
        if len(slow) < 2:
            return
        found = self._pin_together([(self._source(*key), key[1]) for key in slow])
        for key, pinned in zip(slow, found, strict=True):
            if pinned is not None:
                self._pinned[key] = pinned

    def _is_slow(self, name: str, platform: Platform) -> bool:
        """Whether a registry would have to be asked."""
        op = self._source(name, platform)
        if not op.identifier.startswith("docker-image://"):
            return False
        if self._resolve_mode == "pull":
            return True
        try:
            self._images.pin(SourceOp(identifier=op.identifier, attrs=(("resolve-mode", "never"),)), platform)
        except ArkwrightError:
            return True
        return False

    def _source(self, name: str, platform: Platform) -> SourceOp:
        for key in context_keys(name, platform):
            identifier = self._inputs.get(key)
            if identifier is not None and not identifier.startswith("local://"):
                return SourceOp(identifier=identifier)
        attrs = (("resolve-mode", self._resolve_mode),) if self._resolve_mode != "default" else ()
        return SourceOp(identifier=f"docker-image://{name}", attrs=attrs)

    def read_file(self, reference: str, path: str) -> bytes | None:
        with self._root(reference) as root:
            found = root.resolve(path)
            status = root.lstat(found)
            if status is None or not stat.S_ISREG(status.st_mode):
                return None
            with os.fdopen(root.open_file(found), "rb") as file:
                return file.read()

    def stat(self, reference: str, path: str) -> tuple[int, int] | None:
        with self._root(reference) as root:
            status = root.lstat(root.resolve(path))
        return None if status is None else (status.st_mode, status.st_size)

    def read_dir(self, reference: str, path: str) -> list[str]:
        with self._root(reference) as root:
            directory_fd = root.open_dir(root.resolve(path))
            try:
                return sorted(os.listdir(directory_fd))
            finally:
                os.close(directory_fd)

    def source_time(self, op: SourceOp) -> int | None:
        scheme, _, rest = op.identifier.partition("://")
        if scheme == "local":
            return self._times.get(rest)
        if scheme in ("docker-image", "oci-layout"):
            config = image_config.parse(self._images.pin(op, host_platform()).config)
            return image_config.seconds(config.created)
        if self._file_source is None:
            return None
        source = self._file_source(scheme)
        return source.time(source.pin(op))

    def inputs(self) -> dict[str, str]:
        return self._inputs

    def warn(self, diagnostic: Diagnostic) -> None:
        self._warn(diagnostic)

    def _root(self, reference: str) -> Root:
        tree = self._tree(reference)
        return Root(tree.root, widen=tree.own)

    def _tree(self, reference: str) -> HostTree:
        tree = self._trees.get(reference.removeprefix("local://"))
        if tree is None:
            raise UserError.of("unknown-context", f"there is no context {reference}")
        return tree
