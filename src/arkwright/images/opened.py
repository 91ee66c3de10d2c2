"""An image to look at, from any place: its documents, and its layers where they are needed.

Documents are kept as they are, fields that nobody knows included.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.images.fetch import fetch
from arkwright.images.graph import (
    DOCUMENT_LIMIT,
)
from arkwright.images.listing import list_layer
from arkwright.images.local import choose, read_config
from arkwright.images.places import Place
from arkwright.images.references import FoundImage
from arkwright.images.view import View, Watcher
from arkwright.oci.descriptor import INDEXES, MANIFESTS, Descriptor
from arkwright.oci.layout import Layout
from arkwright.oci.manifest import Index, Manifest, parse
from arkwright.oci.platform import Platform, host_platform
from arkwright.oci.reference import Reference
from arkwright.registry.access import Access
from arkwright.registry.pull import BlobProgress
from arkwright.store.content import ContentStore
from arkwright.store.store import Store


class OpenedImage(msgspec.Struct, frozen=True, kw_only=True):
    """One image. `root` is what the place names, `chosen` the manifest for the platform: the same,
    unless the root is an index. `name` is the full name in the local store, if it has one."""

    place: Place
    root: Descriptor
    chosen: Descriptor
    manifest: Manifest
    config: dict[str, Any]
    name: str = ""


def open_documents(
    store: Store, place: Place, platform: Platform | None = None, *, access: Access | None = None
) -> OpenedImage:
    """The documents of an image for a platform (default: the host's, else the first).

    Of an image in a registry no layer is fetched. Raises as `images.fetch.fetch`, and `UserError`
    `no-matching-platform`, `invalid-image-config`.
    """
    if place.transport == "docker" and place.reference is not None:
        return _in_registry(store, place, place.reference, platform, access)
    if place.transport == "oci":
        found = _in_layout(store, place)
    else:
        found = _fetched(store, place, platform, access, None)
    return _opened(store.content, place, found, platform)


def open_image(
    store: Store,
    place: Place,
    platform: Platform | None = None,
    *,
    access: Access | None = None,
    progress: BlobProgress | None = None,
) -> OpenedImage:
    """As `open_documents`, with the layers of the platform's image in the store."""
    if place.transport == "docker" and place.reference is not None:
        image = _in_registry(store, place, place.reference, platform, access)
        exact = Reference(place.reference.domain, place.reference.path, "", image.chosen.digest)
        fetch(store, msgspec.structs.replace(place, reference=exact), access=access, progress=progress)
        return image
    return _opened(store.content, place, _fetched(store, place, platform, access, progress), platform)


def open_view(store: Store, image: OpenedImage, watcher: Watcher | None = None) -> View:
    """The files of an image. Raises as `View.add_layer` and `listing.list_layer`."""
    view = View(watcher)
    for layer in image.manifest.layers:
        view.add_layer(list_layer(store, layer))
    return view


def _opened(content: ContentStore, place: Place, found: FoundImage, platform: Platform | None) -> OpenedImage:
    chosen, manifest = choose(content, found.descriptor, platform)
    return OpenedImage(
        place=place,
        root=found.descriptor,
        chosen=chosen,
        manifest=manifest,
        config=read_config(content, manifest),
        name=found.name,
    )


def _fetched(
    store: Store,
    place: Place,
    platform: Platform | None,
    access: Access | None,
    progress: BlobProgress | None,
) -> FoundImage:
    """What the place holds for the platform; whatever there is, if it has none of the host's. The
    store and archives give all they have at no further cost."""
    if platform is not None and place.transport != "store":
        return fetch(store, place, platform, access=access, progress=progress)
    if place.transport not in ("oci", "dir"):
        return fetch(store, place, access=access, progress=progress)
    try:
        return fetch(store, place, host_platform(), access=access, progress=progress)
    except UserError as error:
        if error.code != "no-matching-platform":
            raise
    return fetch(store, place, access=access, progress=progress)


def _in_registry(
    store: Store, place: Place, reference: Reference, platform: Platform | None, access: Access | None
) -> OpenedImage:
    from arkwright.registry.client import open_registries
    from arkwright.registry.pull import fetch_manifest, resolve_image

    assert access is not None, "an image of a registry needs an access"
    content = store.content
    name = reference.digest or reference.tag or "latest"
    root, data = fetch_manifest(open_registries(access, reference), name, content)
    exact = Reference(reference.domain, reference.path, "", root.digest)
    try:
        found = resolve_image(exact, content, platform or host_platform(), access)
    except UserError as error:
        first = None if platform is not None else _first_platform(parse(data, root.media_type))
        if error.code != "no-matching-platform" or first is None:
            raise
        found = resolve_image(exact, content, first, access)
    return OpenedImage(
        place=place,
        root=root,
        chosen=found.manifest,
        manifest=found.document,
        config=read_config(content, found.document),
    )


def _first_platform(document: Manifest | Index) -> Platform | None:
    children = document.manifests if isinstance(document, Index) else ()
    named = (child.platform for child in children if child.platform is not None)
    return next((platform for platform in named if platform.os != "unknown"), None)


def _in_layout(store: Store, place: Place) -> FoundImage:
    """The documents of a layout's image, without its layers."""
    layout = Layout.open(place.path)
    root = layout.find(place.selector)

    def read(descriptor: Descriptor) -> bytes:
        data = layout.read(descriptor.digest, limit=DOCUMENT_LIMIT)
        store.content.write(data)
        return data

    pending = [root]
    seen = set()
    while pending:
        one = pending.pop()
        if one.digest in seen or not os.path.exists(layout.blob_path(one.digest)):
            continue
        seen.add(one.digest)
        document = parse(read(one), one.media_type)
        if isinstance(document, Manifest):
            read(document.config)
        else:
            pending += [child for child in document.manifests if child.media_type in MANIFESTS | INDEXES]
    return FoundImage(descriptor=root)
