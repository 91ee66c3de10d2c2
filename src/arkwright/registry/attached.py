"""What is attached to an image, copied along with it: referrers (see `registry.referrers`), and what cosign
keeps at tags made of a digest (`sha256-….sig`, `.att`, `.sbom`: cosign's SIGNATURE_SPEC, "Tag-based discovery").

A registry can list as much as it likes, and what is attached may have things attached itself. So all of it is
looked through first, within limits, and copied only then.
"""

from __future__ import annotations

from collections import deque

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, RemoteError, UserError
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.manifest import Manifest, parse
from arkwright.oci.reference import Reference
from arkwright.registry.access import Access
from arkwright.registry.client import MANIFEST_LIMIT, Registry, open_registries
from arkwright.registry.copy import SourceImage, copy_image, source_image
from arkwright.registry.referrers import attach, fallback_tag, list_referrers
from arkwright.store.content import ContentStore

COSIGN_KINDS = ("sig", "att", "sbom")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What may be copied along: manifests, bytes of manifests and blobs together, and how many times
    something attached to something attached is followed."""

    count: int = 1000
    size: int = 4 << 30
    depth: int = 8


class Along(msgspec.Struct, frozen=True, kw_only=True):
    """How many were brought, and which tags of the target were left as they are, because they hold what
    the source does not have."""

    count: int = 0
    kept: tuple[str, ...] = ()


class _Found(msgspec.Struct, frozen=True, kw_only=True):
    """One to be copied; `tag` is that of cosign, "" for a referrer."""

    image: SourceImage
    tag: str = ""


def copy_attached(
    source: SourceImage,
    origin: Reference,
    target: Reference,
    content: ContentStore,
    access: Access,
    limits: Limits = Limits(),  # noqa: B008
) -> Along:
    """Copy what is attached to the manifests of an image that `target` has already.

    Raises `UserError` `too-many-referrers`, and as `list_referrers`, `copy_image`, `attach`.
    """
    found = _Search(origin, content, access, limits).of(source)
    home = Reference(domain=target.domain, path=target.path)
    registry = open_registries(access, target, push=True)[0]
    count, kept = 0, []
    for one in found:
        if one.tag and not _adds(registry, one, content):
            kept.append(one.tag)
            continue
        place = (
            msgspec.structs.replace(home, tag=one.tag)
            if one.tag
            else msgspec.structs.replace(home, digest=one.image.root.digest)
        )
        copy_image(one.image, place, content, access)
        if not one.tag:
            attach(registry, one.image.root, content)
        count += 1
    return Along(count=count, kept=tuple(kept))


class _Search:
    def __init__(self, origin: Reference, content: ContentStore, access: Access, limits: Limits) -> None:
        self._home = Reference(domain=origin.domain, path=origin.path)
        self._content = content
        self._access = access
        self._limits = limits
        self._count = self._size = 0

    def of(self, source: SourceImage) -> list[_Found]:
        """Everything, what is attached to something after it."""
        waiting = deque((document.digest, 1) for document in source.documents)
        seen = {digest for digest, _ in waiting}
        found: list[_Found] = []
        while waiting:
            subject, depth = waiting.popleft()
            for one in (*self._referrers(source.registries[-1], subject, seen), *self._tagged(subject, seen)):
                if depth > self._limits.depth:
                    raise _too_many(f"they are attached to each other more than {self._limits.depth} deep")
                found.append(one)
                waiting.extend((document.digest, depth + 1) for document in one.image.documents)
        return found

    def _referrers(self, registry: Registry, subject: str, seen: set[str]) -> list[_Found]:
        found = []
        for listed in list_referrers(registry, subject):
            if listed.digest in seen:
                continue
            seen.add(listed.digest)
            image = self._image(msgspec.structs.replace(self._home, digest=listed.digest))
            document = parse(
                self._content.read(image.root.digest, limit=MANIFEST_LIMIT), image.root.media_type
            )
            # A list may be out of date, or wrong.
            if document.subject is not None and document.subject.digest == subject:
                found.append(_Found(image=image))
        return found

    def _tagged(self, subject: str, seen: set[str]) -> list[_Found]:
        found = []
        for kind in COSIGN_KINDS:
            tag = f"{fallback_tag(subject)}.{kind}"
            try:
                image = self._image(msgspec.structs.replace(self._home, tag=tag))
            except RemoteError as error:
                if error.code == "registry-not-found":
                    continue
                raise
            # The same may be a referrer too: it is wanted at both places.
            if tag not in seen:
                seen |= {tag, *(document.digest for document in image.documents)}
                found.append(_Found(image=image, tag=tag))
        return found

    def _image(self, reference: Reference) -> SourceImage:
        image = source_image(reference, self._content, None, self._access, self._charge)
        self._take(sum(blob.size for blob in image.blobs))
        return image

    def _charge(self, document: Descriptor) -> None:
        self._count += 1
        if self._count > self._limits.count:
            raise _too_many(f"there are more than {self._limits.count}")
        self._take(document.size)

    def _take(self, size: int) -> None:
        self._size += size
        if self._size > self._limits.size:
            raise _too_many(f"they have more than {self._limits.size} bytes")


def _adds(registry: Registry, one: _Found, content: ContentStore) -> bool:
    """Whether the tag may be set: it is not there, or what it has is in what it would have."""
    there = registry.head_manifest(one.tag)
    if there is None or there.digest == one.image.root.digest:
        return True
    theirs = _layers(registry.get_manifest(one.tag)[1], there.media_type)
    return theirs <= _layers(
        content.read(one.image.root.digest, limit=MANIFEST_LIMIT), one.image.root.media_type
    )


def _layers(data: bytes, media_type: str) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    """What a signature's or attestation's manifest holds. The signature itself is in the annotations."""
    document = parse(data, media_type)
    blobs: tuple[Descriptor, ...] = document.layers if isinstance(document, Manifest) else document.manifests
    return {(blob.digest, tuple(sorted(blob.annotations.items()))) for blob in blobs}


def _too_many(why: str) -> ArkwrightError:
    return UserError.of(
        "too-many-referrers",
        f"too much is attached to the image to be copied along: {why}",
        hint="copy the image without --referrers, and what is wanted of them by digest",
    )
