"""`copy`: an image from one place to others, in another format on the way if asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, UserError
from arkwright.images.convert import convert
from arkwright.images.deliver import ONE_PLATFORM, Delivered, deliver
from arkwright.images.fetch import fetch
from arkwright.images.graph import runnable
from arkwright.images.places import Place
from arkwright.layer.profile import Codec
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.formats import Format
from arkwright.oci.platform import Platform, host_platform
from arkwright.registry.access import Access
from arkwright.registry.pull import BlobProgress
from arkwright.store.store import Store

if TYPE_CHECKING:
    from arkwright.registry.copy import SourceImage


class CopyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`platform` None is all platforms, or for places that hold one only, that of this host, unless
    `every` asks for all. `form` and `codec` None keep what the image has. `referrers` takes along what
    refers to the image, from registry to registry."""

    platform: Platform | None = None
    every: bool = False
    form: Format | None = None
    codec: Codec | None = None
    preserve_digests: bool = False
    referrers: bool = False


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """One arrival; `lost` says what the format there cannot carry."""

    delivered: Delivered
    lost: tuple[str, ...] = ()
    referrers: int = 0


class Copying:
    """One source on its way to several targets: what was fetched for one serves the next."""

    def __init__(self, store: Store, source: Place, options: CopyOptions, *, access: Access) -> None:
        self._store = store
        self._source = source
        self._options = options
        self._access = access
        self._remote: SourceImage | None = None
        self._found: dict[Platform | None, tuple[Descriptor, tuple[str, ...]]] = {}

    def check(self, targets: Sequence[Place]) -> None:
        """Refuse before anything is done. Raises `UserError` `digest-not-preserved`,
        `invalid-place` for referrers that cannot go along."""
        if self._options.referrers and not all(self._is_direct(target) for target in targets):
            raise UserError.of(
                "invalid-place",
                "referrers are copied from registry to registry, and only of an image that stays as it is",
                hint="leave --referrers out, or copy docker://NAME to docker://NAME without a conversion",
            )
        if self._options.preserve_digests:
            _check_keeping(targets, self._options)

    def to(self, target: Place, progress: BlobProgress | None = None) -> Copied:
        """Bring the image to a target. From registry to registry only what it lacks is fetched.

        Raises `UserError` `docker-archive-platforms`; as `fetch`, `deliver`, `convert`,
        `registry.copy.copy_image`, `registry.attached.copy_attached`.
        """
        if self._is_direct(target):
            return self._between_registries(target, progress)
        image, lost = self._image(self._platform(target), progress)
        if target.transport in ONE_PLATFORM and self._options.every:
            _check_single(self._store, image, target)
        delivered = deliver(
            self._store,
            image,
            target,
            access=self._access,
            progress=progress,
            origin=self._source.reference if self._source.transport == "docker" else None,
        )
        return Copied(delivered=delivered, lost=lost)

    def _is_direct(self, target: Place) -> bool:
        converts = self._options.form is not None or self._options.codec is not None
        return self._source.transport == target.transport == "docker" and not converts

    def _between_registries(self, target: Place, progress: BlobProgress | None) -> Copied:
        from arkwright.registry.attached import Along, copy_attached
        from arkwright.registry.copy import copy_image, source_image

        assert self._source.reference is not None
        assert target.reference is not None
        content = self._store.content
        # Asked once: a tag may move meanwhile.
        found = self._remote or source_image(
            self._source.reference, content, self._options.platform, self._access
        )
        self._remote = found
        copy_image(found, target.reference, content, self._access, progress=progress)
        delivered = Delivered(name=f"docker://{target.reference}", digest=found.root.digest)
        along = Along()
        if self._options.referrers:
            along = copy_attached(found, self._source.reference, target.reference, content, self._access)
        lost = tuple(f"the tag {tag}, which holds there what the source does not have" for tag in along.kept)
        return Copied(delivered=delivered, referrers=along.count, lost=lost)

    def _platform(self, target: Place) -> Platform | None:
        """Of an index in a registry or a layout, no more is fetched than the target takes."""
        if self._options.platform is not None or self._options.every:
            return self._options.platform
        fetches = self._source.transport in ("docker", "oci", "dir")
        return host_platform() if target.transport in ONE_PLATFORM and fetches else None

    def _image(
        self, platform: Platform | None, progress: BlobProgress | None
    ) -> tuple[Descriptor, tuple[str, ...]]:
        if platform not in self._found:
            found = fetch(
                self._store, self._source, platform, access=self._access, progress=progress
            ).descriptor
            made = convert(
                self._store.content,
                found,
                form=self._options.form,
                codec=self._options.codec,
                progress=progress,
            )
            self._found[platform] = made.descriptor, made.lost
        return self._found[platform]


def _check_keeping(targets: Sequence[Place], options: CopyOptions) -> None:
    if options.form is not None or options.codec is not None:
        raise _not_preserved("another format or compression gives another digest")
    for target in targets:
        if target.transport in ONE_PLATFORM:
            raise _not_preserved(f"{target.transport}: has no place for a manifest")


def _not_preserved(why: str) -> ArkwrightError:
    return UserError.of(
        "digest-not-preserved",
        f"the digest cannot be preserved: {why}",
        hint="leave --preserve-digests out, or copy to a registry, oci:, oci-archive:, dir: or the store",
    )


def _check_single(store: Store, image: Descriptor, target: Place) -> None:
    count = len(runnable(store.content, image))
    if count != 1:
        raise UserError.of(
            "docker-archive-platforms",
            f"{target.transport}: holds one platform, this image has {count}",
            hint="choose one with --platform, or leave --all out for that of this host",
        )
