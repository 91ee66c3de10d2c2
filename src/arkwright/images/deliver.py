"""The way out: an image of the local store goes to any place."""

from __future__ import annotations

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.images.places import Place
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.reference import parse_reference
from arkwright.registry.access import Access
from arkwright.registry.pull import BlobProgress
from arkwright.registry.push import push_image
from arkwright.store.store import Store


class Delivered(msgspec.Struct, frozen=True, kw_only=True):
    """Where an image went. `name` is the whole spelling, `digest` that of what lies there now: a
    transport that converts gives another than what was sent."""

    name: str
    digest: str


def deliver(
    store: Store,
    image: Descriptor,
    place: Place,
    *,
    access: Access | None = None,
    progress: BlobProgress | None = None,
) -> Delivered:
    """Send a manifest or an index with all its images.

    Raises `UserError` `name-with-digest`, as `registry.push.push_image`, and by transport.
    """
    if place.transport == "store":
        reference = parse_reference(place.text)
        if reference.digest:
            raise UserError.of("name-with-digest", f"{place.text}: a name that is given cannot have a digest")
        store.names.set(str(reference), image)
        return Delivered(name=str(reference), digest=image.digest)
    if place.transport == "docker" and place.reference is not None:
        push_image(image, place.reference, store.content, access=access, progress=progress)
        return Delivered(name=f"docker://{place.reference}", digest=image.digest)
    raise UserError.of("unknown-transport", f"{place.transport}: cannot be written yet")
