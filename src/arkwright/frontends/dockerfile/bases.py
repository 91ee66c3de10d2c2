"""Where trees come from: images, named contexts, nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, Label, UserError
from arkwright.diagnostics.spans import Span
from arkwright.frontends.base import Bridge, ResolvedImage, context_keys
from arkwright.frontends.dockerfile.stages import StageTable
from arkwright.frontends.dockerfile.tokens import Token
from arkwright.oci.platform import Platform
from arkwright.oci.reference import parse_reference

SCRATCH = "scratch"
_NEVER_CONTEXTS = (SCRATCH, "context")
_IMAGE_SCHEMES = ("docker-image://", "oci-layout://")


class Scratch(msgspec.Struct, frozen=True):
    """The empty tree."""


class StageBase(msgspec.Struct, frozen=True):
    """An earlier stage."""

    index: int


class ImageBase(msgspec.Struct, frozen=True):
    """A pinned image: `identifier` is that of a `SourceOp`, "" when the image has no layers."""

    identifier: str
    image: ResolvedImage
    platform: Platform


class ContextBase(msgspec.Struct, frozen=True):
    """A named context that is a tree of files, not an image."""

    identifier: str
    name: str


External = Scratch | ImageBase | ContextBase
Base = External | StageBase


class Bases:
    """Resolves names of images and named contexts, each once."""

    def __init__(self, bridge: Bridge, table: StageTable) -> None:
        self._bridge = bridge
        self._table = table
        self._contexts: Mapping[str, str] = bridge.inputs()
        self._images: dict[tuple[str, Platform], ImageBase] = {}

    def named_context(self, name: str, platform: Platform) -> str | None:
        """The identifier of the named context that this name means; None when there is none.

        Tried are the name for this platform and for all, as written and in the spellings that an
        image of this name has.
        """
        if not self._contexts or name.lower() in _NEVER_CONTEXTS:
            return None
        keys = context_keys(name, platform)
        return next((self._contexts[key] for key in keys if key in self._contexts), None)

    def prepare(self, names: Iterable[tuple[str, Platform]]) -> None:
        """Let images be looked up side by side before they are asked for one by one."""
        images = []
        for name, platform in names:
            context = self.named_context(name, platform)
            is_tree = context is not None and not context.startswith(_IMAGE_SCHEMES)
            if name != SCRATCH and not is_tree and (context is not None or _is_reference(name)):
                images.append((name, platform))
        if len(images) > 1:
            self._bridge.prepare(images)

    def external(self, name: Token, platform: Platform, what: str) -> External:
        """What a name stands for that is no stage of the file.

        Raises `UserError` `unknown-stage` when nothing has that name, else what the image's source
        raised, with the name's place.
        """
        if name.text == SCRATCH:
            return Scratch()
        identifier = self.named_context(name.text, platform)
        if identifier is not None and not identifier.startswith(_IMAGE_SCHEMES):
            return ContextBase(identifier, name.text)
        key = (name.text, platform)
        if key not in self._images:
            self._images[key] = self._resolve(name, platform, what, identifier)
        return self._images[key]

    def _resolve(self, name: Token, platform: Platform, what: str, context: str | None) -> ImageBase:
        try:
            if context is None:
                parse_reference(name.text)
            image = self._bridge.resolve_image_config(name.text, platform, span=name.span)
        except ArkwrightError as error:
            better = self._unknown(name, what, error)
            if better is not None:
                raise better from error
            raise error.with_label(Label(name.span)) from error
        return ImageBase(_identifier(image, context), image, platform)

    def _unknown(self, name: Token, what: str, error: ArkwrightError) -> ArkwrightError | None:
        similar = self._table.similar(name.text) if _looks_like_a_stage(name.text) else None
        if similar is None and error.code not in ("unknown-image", "invalid-reference"):
            return None
        if similar is None and what.startswith("FROM"):
            return None
        label = Label(name.span, similar or "")
        return UserError.of(
            "unknown-stage", f"{what} names no stage, image or context", label, notes=(str(error),)
        )


def _is_reference(name: str) -> bool:
    try:
        parse_reference(name)
    except UserError:
        return False
    return True


def _looks_like_a_stage(name: str) -> bool:
    return not any(char in name for char in "/:@")


def _identifier(image: ResolvedImage, context: str | None) -> str:
    """The source of exactly this image, "" for an image without layers: that is the empty tree."""
    config = image.config
    if not config.rootfs.diff_ids and all(entry.empty_layer for entry in config.history):
        return ""
    place = f"docker-image://{image.reference}"
    if context is not None and context.startswith("oci-layout://"):
        place = context
    return place if place.endswith("@" + image.digest) else f"{place.partition('@')[0]}@{image.digest}"


def describe(base: External, span: Span) -> tuple[str, tuple[Span, ...]]:
    """What to call the source, and its place."""
    if isinstance(base, ImageBase):
        return f"FROM {base.identifier.partition('://')[2]}", (span,)
    if isinstance(base, ContextBase):
        return f"[context {base.name}] load {base.identifier}", (span,)
    return "FROM scratch", (span,)
