"""The way out: an image of the local store goes to any place."""

from __future__ import annotations

from functools import partial

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.images.fetch import ENGINES
from arkwright.images.graph import runnable, select_platform
from arkwright.images.places import Place
from arkwright.oci.descriptor import REF_NAME, Descriptor, plain
from arkwright.oci.digest import is_digest
from arkwright.oci.platform import host_platform
from arkwright.oci.reference import Reference, parse_reference
from arkwright.registry.access import Access
from arkwright.registry.pull import BlobProgress
from arkwright.registry.push import push_image
from arkwright.store.content import ContentStore
from arkwright.store.store import Store

ONE_PLATFORM = frozenset({"docker-archive", *ENGINES})


class Delivered(msgspec.Struct, frozen=True, kw_only=True):
    """Where an image went. `name` is the whole spelling, `digest` that of what lies there now: a
    transport that converts gives another than what was sent (docker's and podman's own stores know
    an image by its config's digest)."""

    name: str
    digest: str


def deliver(
    store: Store,
    image: Descriptor,
    place: Place,
    *,
    access: Access | None = None,
    progress: BlobProgress | None = None,
    origin: Reference | None = None,
) -> Delivered:
    """Send a manifest or an index with all its images; to a place that holds one platform only
    (`ONE_PLATFORM`), that for this host, or the only one.

    `origin` is where in a registry the image came from: its blobs can be mounted within the same.
    Raises `UserError` `name-with-digest`, `no-matching-platform`, `missing-blob`; as
    `registry.push.push_image`, `archives.add_to_layout`, `directory.write_directory`,
    `destination.open_destination`, `transports.load_into`.
    """
    image = plain(image)
    if place.transport == "store":
        name = local_name(place)
        store.names.set(name, image)
        return Delivered(name=name, digest=image.digest)
    if place.transport == "docker" and place.reference is not None:
        return _to_registry(store.content, image, place.reference, access, progress, origin)
    if place.transport in ONE_PLATFORM:
        return _to_one_platform(store.content, image, place)
    return _to_files(store.content, image, place, progress)


def local_name(place: Place) -> str:
    """The full name that a place of the local store stands for, as a target.

    Raises `UserError` `invalid-reference`, `name-with-digest`.
    """
    reference = parse_reference(place.text)
    if reference.digest:
        raise UserError.of("name-with-digest", f"{place.text}: a name that is given cannot have a digest")
    return str(reference)


def _to_registry(
    content: ContentStore,
    image: Descriptor,
    target: Reference,
    access: Access | None,
    progress: BlobProgress | None,
    origin: Reference | None,
) -> Delivered:
    mount_from = None
    if origin is not None and access is not None:
        from arkwright.registry.copy import sibling

        repository = sibling(access, origin, target)
        mount_from = (lambda _: repository) if repository else None
    push_image(image, target, content, access=access, progress=progress, mount_from=mount_from)
    return Delivered(name=f"docker://{target}", digest=image.digest)


def _to_one_platform(content: ContentStore, image: Descriptor, place: Place) -> Delivered:
    chosen, config_digest = one_platform(content, image)
    if place.transport in ENGINES:
        from arkwright.images.transports import load_into

        name = str(place.reference) if place.reference else ""
        load_into(content, [(chosen, (name,) if name else ())], ENGINES[place.transport])
        return Delivered(name=f"{place.transport}:{name}", digest=config_digest)
    from arkwright.images.archives import write_docker_archive
    from arkwright.images.destination import open_destination

    names = (str(parse_reference(place.selector)),) if place.selector else ()
    with open_destination(place.path) as sink:
        write_docker_archive(content, [(chosen, names)], sink)
    return Delivered(name=place.text, digest=chosen.digest)


def one_platform(content: ContentStore, image: Descriptor) -> tuple[Descriptor, str]:
    """The only runnable image, else that for this host, and its config's digest.

    Raises `UserError` `no-matching-platform`.
    """
    found = runnable(content, image)
    chosen, manifest = found[0] if len(found) == 1 else select_platform(content, image, host_platform())
    return plain(chosen), manifest.config.digest


def _to_files(
    content: ContentStore, image: Descriptor, place: Place, progress: BlobProgress | None
) -> Delivered:
    if place.transport == "dir":
        from arkwright.images.directory import write_directory

        write_directory(content, image, place.path, progress)
        return Delivered(name=place.text, digest=image.digest)
    from arkwright.images.archives import add_to_layout, write_oci_entries

    entry = msgspec.structs.replace(image, annotations=entry_names(place, image))
    if place.transport == "oci":
        add_to_layout(content, (entry,), place.path, partial(_done, progress))
    else:
        from arkwright.images.destination import open_destination

        with open_destination(place.path) as sink:
            write_oci_entries(content, (entry,), sink)
    return Delivered(name=place.text, digest=image.digest)


def entry_names(place: Place, image: Descriptor) -> dict[str, str]:
    """The annotations that make `place`'s selector find the image: by other tools too, which compare
    the whole of it with the reference name.

    Raises `UserError` `push-digest-mismatch`, `invalid-reference`.
    """
    from arkwright.images.archives import IMAGE_NAME

    selector = place.selector
    if not selector:
        return {}
    if is_digest(selector):
        if selector != image.digest:
            raise UserError.of(
                "push-digest-mismatch",
                f"the image has the digest {image.digest}, and cannot be written as {place.text}",
                hint="leave the digest out",
            )
        return {}
    if "/" in selector or ":" in selector:
        return {IMAGE_NAME: str(parse_reference(selector)), REF_NAME: selector}
    parse_reference(f"name:{selector}")
    return {REF_NAME: selector}


def _done(progress: BlobProgress | None, blob: Descriptor) -> None:
    if progress is not None:
        progress(blob, blob.size, blob.size)
