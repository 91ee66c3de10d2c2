"""Indexes and annotations: documents without layers of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.images.graph import DOCUMENT_LIMIT, platform_of_manifest, read_document
from arkwright.images.mutate import (
    Changed,
    Fields,
    Image,
    as_oci,
    duplicate_platform,
    edit_images,
    platform_name,
    read_image,
    write_index,
)
from arkwright.oci import descriptor as media
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.manifest import Manifest
from arkwright.oci.platform import Platform, matches, parse_platform
from arkwright.store.content import ContentStore

Where = Literal["root", "index", "manifests"]


def annotate(
    content: ContentStore,
    root: Descriptor,
    values: Mapping[str, str],
    *,
    remove: Sequence[str] = (),
    where: Where = "root",
    platform: Platform | None = None,
) -> Changed:
    """Set and remove annotations of what `root` is, of the index, or of the manifests (`platform`: of
    that one). Documents of Docker's media types become OCI's, which alone have annotations.

    Raises `UserError` `index-annotation` for an index that there is not, and as `edit_images`.
    """
    is_index = not isinstance(read_document(content, root), Manifest)
    if where == "index" and not is_index:
        raise UserError.of(
            "index-annotation",
            "an annotation is for the image's index, but an image of one platform has none",
            hint="leave --index away",
        )
    if is_index and platform is None and where != "manifests":
        fields = msgspec.json.decode(content.read(root.digest, limit=DOCUMENT_LIMIT))
        made = write_index(content, root, _oci_index(_annotated(fields, values, remove)))
        return Changed(descriptor=made)

    def edit(image: Image) -> Image:
        changed = _annotated(image.manifest, values, remove)
        if changed == image.manifest:
            return image
        return as_oci(msgspec.structs.replace(image, manifest=changed))

    return edit_images(content, root, edit, platform=platform)


def create_index(content: ContentStore, images: Sequence[tuple[str, Descriptor]]) -> Descriptor:
    """An index of images, each given as its user's word and its manifest; platforms are those of
    the configs.

    Raises `UserError` `nested-index`, `duplicate-platform`, `invalid-image-config`, `missing-blob`.
    """
    fields: Fields = {"schemaVersion": 2, "mediaType": media.INDEX, "manifests": []}
    return _kept(content, _with(content, fields, images))


def add_to_index(
    content: ContentStore, root: Descriptor, images: Sequence[tuple[str, Descriptor]]
) -> Descriptor:
    """The index with more images. Raises as `create_index`, and `UserError` `not-an-index`."""
    return _kept(content, _with(content, _oci_index(_index(content, root)), images))


def remove_from_index(content: ContentStore, root: Descriptor, names: Sequence[str]) -> Changed:
    """The index without images, named by platform or by digest or its beginning; their attestations
    go with them.

    Raises `UserError` `not-an-index`, `no-matching-platform`.
    """
    fields = _index(content, root)
    gone: set[str] = set()
    for name in names:
        found = {item["digest"] for item in fields["manifests"] if _is(content, item, name)}
        if not found:
            have = ", ".join(
                platform_name(item.get("platform") or {}) or item["digest"] for item in fields["manifests"]
            )
            raise UserError.of(
                "no-matching-platform", f"the index has no image {name}", hint=f"it has: {have or 'none'}"
            )
        gone |= found
    kept, notes = [], []
    for item in fields["manifests"]:
        about = (item.get("annotations") or {}).get(media.REFERENCE_DIGEST)
        if about in gone and item["digest"] not in gone:
            notes.append(f"an attestation of {about} was left out with it")
        elif item["digest"] not in gone:
            kept.append(item)
    made = write_index(content, root, {**fields, "manifests": kept})
    return Changed(descriptor=made, notes=tuple(notes))


def _with(content: ContentStore, fields: Fields, images: Sequence[tuple[str, Descriptor]]) -> Fields:
    items = list(fields["manifests"])
    taken = {
        platform_name(item["platform"]): item["digest"]
        for item in items
        if item.get("platform") and media.REFERENCE_DIGEST not in (item.get("annotations") or {})
    }
    for text, descriptor in images:
        if not isinstance(read_document(content, descriptor), Manifest):
            raise UserError.of(
                "nested-index",
                f"{text} is an index itself: indexes are not nested",
                hint="name one of its images by digest, or choose one with --platform",
            )
        image = read_image(content, descriptor)
        platform = _platform(image.config)
        name = platform_name(platform)
        if name in taken and taken[name] == descriptor.digest:
            continue
        if name in taken:
            raise duplicate_platform(f"{name}: {taken[name]} and {text}")
        taken[name] = descriptor.digest
        items.append(
            {"mediaType": image.manifest.get("mediaType") or descriptor.media_type, "digest": descriptor.digest,
             "size": descriptor.size, "platform": platform}
        )  # fmt: skip
    return {**fields, "manifests": items}


def _platform(config: Fields) -> Fields:
    found = {
        key: config[key]
        for key in ("architecture", "os", "os.version", "os.features", "variant")
        if config.get(key)
    }
    if not {"architecture", "os"} <= found.keys():
        raise UserError.of(
            "invalid-image-config",
            "the image's config names no platform",
            hint="`arkwright config IMAGE --os linux --arch amd64` gives it one",
        )
    return found


def _is(content: ContentStore, item: Fields, name: str) -> bool:
    digest = item["digest"]
    if digest == name or (
        len(name) >= 6 and digest.partition(":")[2].startswith(name.removeprefix("sha256:"))
    ):
        return True
    child = msgspec.convert(item, Descriptor)
    have = child.platform
    if have is None and content.has(digest):
        document = read_document(content, child)
        have = platform_of_manifest(content, child, document) if isinstance(document, Manifest) else None
    try:
        return have is not None and have.os != "unknown" and matches(have, parse_platform(name))
    except UserError:
        return False


def _index(content: ContentStore, root: Descriptor) -> Fields:
    if isinstance(read_document(content, root), Manifest):
        raise UserError.of(
            "not-an-index",
            f"{root.digest} is the image of one platform, not an index",
            hint="`arkwright index create` makes an index of images",
        )
    fields: Fields = msgspec.json.decode(content.read(root.digest, limit=DOCUMENT_LIMIT))
    return fields


def _oci_index(fields: Fields) -> Fields:
    """An index of Docker's type, which holds Docker's manifests and no annotations, as OCI's."""
    return {**fields, "mediaType": media.INDEX}


def _kept(content: ContentStore, fields: Fields) -> Descriptor:
    data = msgspec.json.encode(fields, order="sorted")
    return Descriptor(media_type=media.INDEX, digest=content.write(data), size=len(data))


def _annotated(fields: Fields, values: Mapping[str, str], remove: Sequence[str]) -> Fields:
    old = fields.get("annotations") or {}
    annotations = {key: value for key, value in old.items() if key not in remove} | dict(values)
    if annotations == old:
        return fields
    changed = {key: value for key, value in fields.items() if key != "annotations"}
    return {**changed, "annotations": annotations} if annotations else changed
