"""Images made of other images: content and a descriptor go in, a new descriptor comes out.

Documents are edited as they are, with every field that we do not know; nothing that exists is changed. An
edit of an index is one of its images, of all or of one platform; other entries keep their bytes. What
attests an image says nothing about the new one, so it is left out, and that is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.images.graph import DOCUMENT_LIMIT, platform_of_manifest, select_platform
from arkwright.images.layer_trees import Layer
from arkwright.images.local import read_config
from arkwright.oci import config as image_config
from arkwright.oci import descriptor as media
from arkwright.oci import formats
from arkwright.oci import manifest as image_manifest
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.manifest import Manifest
from arkwright.oci.platform import Platform, parse_platform, platform_of
from arkwright.store.content import ContentStore

Fields = dict[str, Any]

_DEPTH = 4
_PLATFORM_FIELDS = ("os", "architecture", "variant", "os.version", "os.features")


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """One image's documents, as decoded JSON. An edit makes new ones with `msgspec.structs.replace`, and
    never changes these."""

    descriptor: Descriptor
    manifest: Fields
    config: Fields

    @property
    def layers(self) -> tuple[Layer, ...]:
        """DiffIDs and blobs, lowest first."""
        blobs = msgspec.convert(self.manifest["layers"], tuple[Descriptor, ...])
        return tuple(zip(self.config["rootfs"]["diff_ids"], blobs, strict=True))


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """A new image, and what its user should know: `notes` are sentences."""

    descriptor: Descriptor
    notes: tuple[str, ...] = ()


Edit = Callable[[Image], Image]


def read_image(content: ContentStore, descriptor: Descriptor) -> Image:
    """The documents of a manifest.

    Raises `UserError` `missing-blob`, `invalid-manifest`, and `invalid-image-config` for what is no
    image (an artifact) or has not one diffID for each layer.
    """
    data = content.read(descriptor.digest, limit=DOCUMENT_LIMIT)
    parsed = image_manifest.parse(data, descriptor.media_type)
    if not isinstance(parsed, Manifest):
        raise UserError.of("invalid-manifest", f"{descriptor.digest} is an index, not a manifest")
    config_digest = parsed.config.digest
    config = read_config(content, parsed)
    try:
        diff_ids = msgspec.convert(config["rootfs"]["diff_ids"] or [], list[str])
    except (msgspec.ValidationError, LookupError, TypeError) as error:
        raise _no_config(config_digest, "it does not say what its layers are") from error
    if len(diff_ids) != len(parsed.layers):
        raise _no_config(config_digest, f"it has {len(diff_ids)} diffIDs for {len(parsed.layers)} layers")
    image_config.check(config)
    return Image(descriptor=descriptor, manifest=msgspec.json.decode(data), config=config)


def write_image(content: ContentStore, old: Image, new: Image) -> Descriptor:
    """Keep the documents; a document that is as it was keeps its bytes. The descriptor has a platform
    if the old one had."""
    manifest = dict(new.manifest)
    if new.config != old.config:
        config = _without_content(manifest["config"]) | _written(content, new.config)
        manifest["config"] = config
    if manifest == old.manifest:
        return old.descriptor
    media_type = manifest.get("mediaType") or old.descriptor.media_type
    written = msgspec.convert({"mediaType": media_type, **_written(content, manifest)}, Descriptor)
    platform = old.descriptor.platform
    if platform is not None and _platform(new.config) != _platform(old.config):
        platform = msgspec.convert(_platform(new.config), Platform)
    return msgspec.structs.replace(
        written,
        platform=platform,
        annotations=old.descriptor.annotations,
        artifact_type=old.descriptor.artifact_type,
    )


def edit_images(
    content: ContentStore, root: Descriptor, edit: Edit, *, platform: Platform | None = None
) -> Changed:
    """The image, or each image of an index (`platform`: only that one), edited.

    Of an index that is not here as a whole, without `platform`, the new one has what is here.
    Raises as `read_image` and `edit`, and `UserError` `no-matching-platform`, `duplicate-platform`.
    """
    only = "" if platform is None else select_platform(content, root, platform)[0].digest
    notes: list[str] = []
    made = _edited(content, root, edit, only, notes, _DEPTH)
    return Changed(descriptor=made, notes=tuple(dict.fromkeys(notes)))


def _edited(
    content: ContentStore, root: Descriptor, edit: Edit, only: str, notes: list[str], depth: int
) -> Descriptor:
    data = content.read(root.digest, limit=DOCUMENT_LIMIT)
    document = image_manifest.parse(data, root.media_type)
    if isinstance(document, Manifest):
        old = read_image(content, root)
        return write_image(content, old, edit(old))
    if not depth:
        raise UserError.of("invalid-manifest", f"{root.digest}: indexes are nested too deeply")
    fields = msgspec.json.decode(data)
    made: list[Fields] = []
    new_digests: dict[str, str] = {}
    for item, child in zip(fields["manifests"], document.manifests, strict=True):
        if not _is_image(content, child) or (only and not _holds(content, child, only)):
            made.append(item)
        elif not only and not content.has(child.digest):
            notes.append(
                f"{child.platform or child.digest} is not in the local store, and not in the new index"
            )
            new_digests[child.digest] = ""
        else:
            new = _edited(content, child, edit, only, notes, depth - 1)
            new_digests[child.digest] = new.digest
            made.append(item if new.digest == child.digest else _entry(item, child, new))
    if new_digests and not any(new_digests.values()):
        raise UserError.of(
            "missing-blob",
            f"the store has none of the images of the index {root.digest}",
            hint="`arkwright pull --all-platforms` fetches them",
        )
    fields = {**fields, "manifests": _without_stale(made, new_digests, notes)}
    return write_index(content, root, fields)


def write_index(content: ContentStore, old: Descriptor, fields: Fields) -> Descriptor:
    """Keep an index; one that is as it was keeps its bytes.

    Raises `UserError` `duplicate-platform` for two images of one platform that the old one had not.
    """
    before = msgspec.json.decode(content.read(old.digest, limit=DOCUMENT_LIMIT))
    if fields == before:
        return old
    known = _doubles(before["manifests"])
    for name in _doubles(fields["manifests"]):
        if name not in known:
            raise duplicate_platform(name)
    media_type = fields.get("mediaType") or old.media_type
    return msgspec.convert({"mediaType": media_type, **_written(content, fields)}, Descriptor)


def duplicate_platform(name: str) -> UserError:
    error = UserError.of(
        "duplicate-platform",
        f"the index would have two images for {name}",
        hint="an index has one image for each platform; take the other one out first",
    )
    assert isinstance(error, UserError)
    return error


def platform_name(fields: Fields) -> str:
    """A platform of an index as text, with its version, which makes Windows images differ."""
    parts = [str(fields.get(key) or "") for key in ("os", "architecture", "variant")]
    version = str(fields.get("os.version") or "")
    return "/".join(part for part in parts if part) + (f" ({version})" if version else "")


def normal_platform(config: Fields) -> Platform:
    """The platform of a config as others write it too: arm64 is v8, and arm v7, without being said."""
    platform = platform_of(config)
    try:
        return msgspec.structs.replace(
            parse_platform(str(platform)), os_version=str(config.get("os.version") or "")
        )
    except UserError:
        return platform


def with_layers(image: Image, layers: Sequence[Layer], *, config: Fields | None = None) -> Image:
    """The image with other layers; layers that are new get the media types of its kind."""
    docker = image.manifest.get("mediaType") == media.DOCKER_MANIFEST
    old = {item["digest"]: item for item in image.manifest["layers"]}
    items = []
    for _, blob in layers:
        media_type = formats.docker_layer(blob.media_type) if docker else blob.media_type
        item = {**msgspec.to_builtins(blob), "mediaType": media_type}
        items.append(old.get(blob.digest, item))
    fields = dict(image.config if config is None else config)
    fields["rootfs"] = {**fields["rootfs"], "diff_ids": [diff_id for diff_id, _ in layers]}
    made = msgspec.structs.replace(image, manifest={**image.manifest, "layers": items}, config=fields)
    # Docker's manifests know no zstd: podman and containerd take it in OCI's only.
    return as_oci(made) if docker and any(blob.media_type == media.LAYER_ZSTD for _, blob in layers) else made


def as_oci(image: Image) -> Image:
    """The image with the media types of OCI, which alone has annotations."""
    manifest = {**image.manifest, "mediaType": media.MANIFEST}
    manifest["config"] = _as_oci(manifest["config"])
    manifest["layers"] = [_as_oci(item) for item in manifest["layers"]]
    return msgspec.structs.replace(image, manifest=manifest)


def put_field(fields: Fields, key: str, value: Any) -> None:
    """Set a field of a document that is being made; what is empty is not written."""
    if value in (None, "", [], {}):
        fields.pop(key, None)
    else:
        fields[key] = value


def with_history(config: Fields, entry: Fields, *, layers: int, created: str) -> Fields:
    """The config with one more entry of history, for an image that had `layers` layers before, and
    with its time of creation."""
    history = [*aligned(config, layers), {"created": created, **entry}]
    return {**config, "created": created, "history": history}


def aligned(config: Fields, layers: int) -> list[Fields]:
    """The history with exactly one entry that is not empty for each layer: readers pair them from the
    front (image specification, config.md, "history")."""
    history = config.get("history")
    found: list[Fields] = []
    used = 0
    for entry in history if isinstance(history, list) else ():
        if isinstance(entry, dict):
            used += not entry.get("empty_layer")
            surplus = used > layers and not entry.get("empty_layer")
            found.append({**entry, "empty_layer": True} if surplus else entry)
    return found + [{"comment": "a layer without a history"}] * max(0, layers - used)


def require_first(image: Image, base: Image, name: str) -> int:
    """How many layers a base has, which must be the first ones of the image.

    Raises `UserError` `not-the-base`.
    """
    ours = [diff_id for diff_id, _ in image.layers]
    theirs = [diff_id for diff_id, _ in base.layers]
    if ours[: len(theirs)] != theirs:
        alike = next(i for i, one in enumerate(theirs) if ours[i : i + 1] != [one])
        raise UserError.of(
            "not-the-base",
            f"{image.descriptor.digest} is not made on {name}: its layer {alike + 1} is another",
            hint="name the very image that it was built from, by digest",
            details={"expected": theirs[alike], "layer": alike},
        )
    return len(theirs)


def _written(content: ContentStore, fields: Fields) -> Fields:
    data = msgspec.json.encode(fields, order="sorted")
    return {"digest": content.write(data), "size": len(data)}


def _without_content(item: Fields) -> Fields:
    return {key: value for key, value in item.items() if key not in media.OF_CONTENT}


def _entry(item: Fields, old: Descriptor, new: Descriptor) -> Fields:
    made = {**_without_content(item), "mediaType": new.media_type, "digest": new.digest, "size": new.size}
    if new.platform is not None and new.platform != old.platform:
        made["platform"] = msgspec.to_builtins(new.platform)
    return made


def _as_oci(item: Fields) -> Fields:
    return {**item, "mediaType": formats.as_oci(item["mediaType"])}


def _is_image(content: ContentStore, child: Descriptor) -> bool:
    if child.media_type in media.INDEXES:
        return True
    if child.media_type not in media.MANIFESTS or media.REFERENCE_DIGEST in child.annotations:
        return False
    if not content.has(child.digest):
        return child.platform is None or child.platform.os != "unknown"
    document = image_manifest.parse(content.read(child.digest, limit=DOCUMENT_LIMIT), child.media_type)
    return isinstance(document, Manifest) and platform_of_manifest(content, child, document) is not None


def _holds(content: ContentStore, child: Descriptor, digest: str) -> bool:
    if child.digest == digest:
        return True
    if child.media_type not in media.INDEXES or not content.has(child.digest):
        return False
    document = image_manifest.parse(content.read(child.digest, limit=DOCUMENT_LIMIT), child.media_type)
    return not isinstance(document, Manifest) and any(
        _holds(content, one, digest) for one in document.manifests
    )


def _without_stale(items: list[Fields], new_digests: dict[str, str], notes: list[str]) -> list[Fields]:
    kept = []
    for item in items:
        about = (item.get("annotations") or {}).get(media.REFERENCE_DIGEST, "")
        if about and new_digests.get(about, about) != about:
            notes.append(f"an attestation of {about} was left out: it says nothing about the new image")
        else:
            kept.append(item)
    return kept


def _doubles(items: list[Fields]) -> list[str]:
    seen: set[str] = set()
    found = []
    for item in items:
        platform = item.get("platform")
        if (
            platform
            and platform.get("os") != "unknown"
            and media.REFERENCE_DIGEST not in (item.get("annotations") or {})
        ):
            name = platform_name(platform)
            if name in seen:
                found.append(name)
            seen.add(name)
    return found


def _platform(config: Fields) -> Fields:
    return {key: config[key] for key in _PLATFORM_FIELDS if config.get(key)}


def _no_config(digest: str, why: str) -> UserError:
    error = UserError.of("invalid-image-config", f"{digest} is not the config of an image: {why}")
    assert isinstance(error, UserError)
    return error
