"""The images of the local store: list, name, forget."""

from __future__ import annotations

from typing import Any

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, UserError
from arkwright.images.graph import DOCUMENT_LIMIT, manifests, platform_of_manifest, select_platform
from arkwright.images.references import FoundImage, resolve
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.manifest import Manifest
from arkwright.oci.platform import Platform, host_platform
from arkwright.oci.reference import parse_reference
from arkwright.store.content import ContentStore
from arkwright.store.store import Store


class LocalImage(msgspec.Struct, frozen=True, kw_only=True):
    """One name. `size` is the bytes of config and layers, compressed, of this host's platform or
    the first; `created` is the config's RFC 3339 time, empty when unknown."""

    name: str
    digest: str
    config_digest: str = ""
    size: int = 0
    created: str = ""
    platforms: tuple[str, ...] = ()


def list_images(store: Store) -> list[LocalImage]:
    """All names, sorted; one whose documents are damaged or gone is listed without details."""
    return [_summary(store.content, name, root) for name, root in store.names.list()]


def remove(store: Store, text: str) -> list[str]:
    """Forget a name, or, for a digest, every name of the image; returns the names.

    The content stays until a clean-up finds that nothing needs it.
    Raises `UserError` `unknown-image`, also for an image that no name stands for.
    """
    found = resolve(store, text)
    named_here = bool(found.name) and not _is_digest_spelling(text, found)
    if named_here:
        gone = [found.name]
    else:
        gone = [name for name, root in store.names.list() if root.digest == found.digest]
    if not gone:
        raise UserError.of(
            "unknown-image",
            f"no name stands for {found.digest}, so there is none to remove",
            hint="a clean-up deletes it, unless it is a part of an image with a name",
        )
    for name in gone:
        store.names.remove(name)
    return gone


def read_config(content: ContentStore, manifest: Manifest) -> dict[str, Any]:
    """The config as it is, of whatever kind: `oci.config` would take an image's fields only.

    Raises `UserError` `missing-blob`, `invalid-image-config`.
    """
    try:
        fields = msgspec.json.decode(content.read(manifest.config.digest, limit=DOCUMENT_LIMIT))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError.of(
            "invalid-image-config", f"config {manifest.config.digest} is not JSON: {error}"
        ) from error
    if not isinstance(fields, dict):
        raise UserError.of("invalid-image-config", f"config {manifest.config.digest} is not a JSON object")
    return fields


def choose(content: ContentStore, root: Descriptor, platform: Platform | None) -> tuple[Descriptor, Manifest]:
    """The manifest for a platform (default: the host's, else the first that is there).

    Raises `UserError` `no-matching-platform`, `missing-blob`, `invalid-manifest`.
    """
    if platform is not None:
        return select_platform(content, root, platform)
    try:
        return select_platform(content, root, host_platform())
    except UserError as error:
        found = manifests(content, root) if error.code == "no-matching-platform" else []
        if not found:
            raise
        return found[0]


def platforms(content: ContentStore, root: Descriptor) -> tuple[str, ...]:
    """The platforms of the images that are there. Raises `UserError` `missing-blob`, `invalid-manifest`."""
    found = (platform_of_manifest(content, *item) for item in manifests(content, root))
    return tuple(str(platform) for platform in found if platform is not None)


def size_of(manifest: Manifest) -> int:
    """Bytes of config and layers, as stored."""
    return manifest.config.size + sum(layer.size for layer in manifest.layers)


def _summary(content: ContentStore, name: str, root: Descriptor) -> LocalImage:
    try:
        _, manifest = choose(content, root, None)
        config = read_config(content, manifest)
        found = platforms(content, root)
    except ArkwrightError:
        return LocalImage(name=name, digest=root.digest)
    return LocalImage(
        name=name,
        digest=root.digest,
        config_digest=manifest.config.digest,
        size=size_of(manifest),
        created=str(config.get("created") or ""),
        platforms=found,
    )


def _is_digest_spelling(text: str, found: FoundImage) -> bool:
    """Whether `text` was a digest, or the beginning of one, rather than the name that it led to."""
    try:
        return str(parse_reference(text)) != found.name and "@" not in text
    except UserError:
        return True
