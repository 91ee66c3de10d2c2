"""The way in: an image from any place becomes content of the local store.

The store is the hub of every command: what comes in is verified there by digest, and a transfer that
was interrupted goes on from there.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO

from arkwright.diagnostics.errors import UserError
from arkwright.images.folders import LayoutFolder, copy_in, open_dir
from arkwright.images.graph import read_document, select_platform
from arkwright.images.load import check_whole, entry_name, read_archive
from arkwright.images.places import Place
from arkwright.images.references import FoundImage, resolve
from arkwright.oci.descriptor import Descriptor, plain
from arkwright.oci.layout import Layout, find_entry
from arkwright.oci.manifest import Index
from arkwright.oci.platform import Platform
from arkwright.registry.access import Access
from arkwright.registry.pull import BlobProgress, pull_image
from arkwright.store.content import ContentStore
from arkwright.store.store import Store

ENGINES = {"containers-storage": "podman", "docker-daemon": "docker"}


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
    Nothing is fetched of an image of the local store, whose index may be sparse; only there does
    what is found have a name.
    Raises as `references.resolve`, `registry.pull.pull_image`, `load.read_archive`, `folders.copy_in`,
    `Layout.find`, `transports.saved_by`; and `UserError` `no-matching-platform`, `unreadable-file`.
    """
    if place.transport == "store":
        found = resolve(store, place.text)
        if platform is None:
            return found
        chosen = select_platform(store.content, found.descriptor, platform)[0]
        return FoundImage(descriptor=plain(chosen), name=found.name)
    entry = fetch_entry(store, place, platform, access=access, progress=progress)
    return FoundImage(descriptor=plain(entry))


def fetch_entry(
    store: Store,
    place: Place,
    platform: Platform | None = None,
    *,
    access: Access | None = None,
    progress: BlobProgress | None = None,
) -> Descriptor:
    """As `fetch`, for a place other than the store; with the annotations that name the image there."""
    content = store.content
    if place.transport == "docker" and place.reference is not None:
        return pull_image(place.reference, content, platform, access=access, progress=progress)
    if place.transport == "oci":
        layout = Layout.open(place.path)
        number = _number(place.selector)
        if number is None:
            entry = layout.find(place.selector)
        else:
            entry = _numbered(layout.index().manifests, number, place.path)
        return _named(entry, copy_in(content, LayoutFolder(layout), entry, platform, progress))
    if place.transport == "dir":
        folder = open_dir(place.path)
        return copy_in(content, folder, folder.root, platform, progress)
    if place.transport in ENGINES:
        from arkwright.images.transports import saved_by

        with saved_by(ENGINES[place.transport], place.text) as stream:
            return _of_archive(content, stream, "", place.text, platform)
    with opened(place.path) as stream:
        return _of_archive(content, stream, place.selector, place.path, platform)


def full_name(place: Place, entry: Descriptor) -> str:
    """The full name by which the local store may keep what `fetch_entry` gave, "" when the place says
    none."""
    if place.reference is not None:
        return str(place.reference)
    return entry_name(entry)


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """An archive's bytes; `-` is standard input. Raises `UserError` `unreadable-file`."""
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.close(fd)
            raise IsADirectoryError(21, "it is a directory")
    except OSError as error:
        raise UserError.of("unreadable-file", f"cannot read {path}: {error.strerror}") from error
    with os.fdopen(fd, "rb") as stream:
        yield stream


def _of_archive(
    content: ContentStore, stream: BinaryIO, selector: str, where: str, platform: Platform | None
) -> Descriptor:
    entries = read_archive(content, stream)
    number = _number(selector)
    if number is None:
        entry = find_entry(entries, selector, where, partial(_nested, content))
    else:
        entry = _numbered(entries, number, where)
    check_whole(content, entry)
    if platform is None:
        return entry
    return _named(entry, select_platform(content, plain(entry), platform)[0])


def _number(selector: str) -> int | None:
    """skopeo's `@N`: an image by its position, for those without a name."""
    return int(selector[1:]) if selector.startswith("@") and selector[1:].isdecimal() else None


def _numbered(entries: tuple[Descriptor, ...], number: int, where: str) -> Descriptor:
    distinct = list({entry.digest: entry for entry in entries}.values())
    if number >= len(distinct):
        raise UserError.of("unknown-image", f"{where} has no image @{number}; it holds {len(distinct)}")
    return distinct[number]


def _nested(content: ContentStore, entry: Descriptor) -> Index | None:
    if not content.has(entry.digest):
        return None
    document = read_document(content, entry)
    return document if isinstance(document, Index) else None


def _named(entry: Descriptor, found: Descriptor) -> Descriptor:
    return Descriptor(
        media_type=found.media_type, digest=found.digest, size=found.size, annotations=entry.annotations
    )
