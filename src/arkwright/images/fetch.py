"""The way in: an image from any place becomes content of the local store.

The store is the hub of every command: what comes in is verified there by digest, and a transfer that
was interrupted goes on from there.
"""

from __future__ import annotations

from arkwright.diagnostics.errors import UserError
from arkwright.images.places import Place
from arkwright.images.references import FoundImage, resolve
from arkwright.oci.platform import Platform
from arkwright.registry.access import Access
from arkwright.registry.pull import BlobProgress, pull_image
from arkwright.store.store import Store


def fetch(
    store: Store,
    place: Place,
    platform: Platform | None = None,
    *,
    access: Access | None = None,
    progress: BlobProgress | None = None,
) -> FoundImage:
    """Make the image whole in the store, without giving it a name.

    `platform` None keeps an index with all of its images; else it is the manifest for that platform.
    Nothing is fetched of an image of the local store, whose index may be sparse.
    Raises as `references.resolve`, `registry.pull.pull_image`, and by transport.
    """
    if place.transport == "store":
        return resolve(store, place.text)
    if place.transport == "docker" and place.reference is not None:
        descriptor = pull_image(place.reference, store.content, platform, access=access, progress=progress)
        return FoundImage(descriptor=descriptor)
    raise UserError.of("unknown-transport", f"{place.transport}: cannot be read yet")
