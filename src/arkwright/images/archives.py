"""Images as OCI layouts, OCI archives and docker archives, written from the content store.

An OCI archive is the tar of an OCI layout. A docker archive is the same tar with a `manifest.json`
beside it (`docker load` and `podman load` read that; a reader of OCI layouts reads the rest).
Equal images and names give equal bytes.
"""

from __future__ import annotations

import fcntl
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from typing import Literal

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.images.destination import copy_blob, not_writable, open_destination
from arkwright.images.folders import LayoutFolder, reachable
from arkwright.images.graph import closure, runnable
from arkwright.layer.entry import Change, Entry
from arkwright.layer.tar_write import write_tar
from arkwright.oci import manifest as image_manifest
from arkwright.oci.descriptor import INDEX, REF_NAME, Descriptor
from arkwright.oci.digest import parse_digest
from arkwright.oci.layout import Layout
from arkwright.oci.manifest import Index
from arkwright.oci.reference import parse_reference
from arkwright.store.content import ContentStore
from arkwright.store.space import space_needed

Format = Literal["oci-archive", "docker-archive", "oci-layout"]
Images = Iterable[tuple[Descriptor, tuple[str, ...]]]
Sink = Callable[[bytes], object]

GRACE_S = 3600.0
IMAGE_NAME = "io.containerd.image.name"
_LAYOUT_FILE = b'{"imageLayoutVersion":"1.0.0"}'


class DockerImage(msgspec.Struct, frozen=True, rename="pascal"):
    """One element of a docker archive's `manifest.json`."""

    config: str
    repo_tags: tuple[str, ...] | None
    layers: tuple[str, ...]


def save(content: ContentStore, images: Images, dest: str, form: Format) -> None:
    """Write images with their full names to `dest`: a path, a directory for `oci-layout`, or `-`.

    Raises `UserError` `missing-blob`, `docker-archive-platforms`, `output-not-writable`,
    `output-is-a-terminal`, `not-an-oci-layout`, `no-space`.
    """
    images = tuple(images)
    if form == "oci-layout":
        write_layout(content, images, dest)
        return
    write = write_oci_archive if form == "oci-archive" else write_docker_archive
    with open_destination(dest) as sink:
        write(content, images, sink)


def index_entries(images: Images) -> tuple[Descriptor, ...]:
    """The entries of a layout's `index.json`: one per name, with the name in the annotations."""
    entries = []
    for root, names in images:
        for name in names:
            tag = parse_reference(name).tag
            # A name with a digest has no tag, and must not seem to be `latest`.
            named = {IMAGE_NAME: name, **({REF_NAME: tag} if tag else {})}
            entries.append(msgspec.structs.replace(root, annotations={**root.annotations, **named}))
        if not names:
            entries.append(root)
    return tuple(entries)


def write_oci_archive(content: ContentStore, images: Images, sink: Sink) -> None:
    """The tar of an OCI layout (image specification, image-layout.md)."""
    write_oci_entries(content, index_entries(images), sink)


def write_oci_entries(content: ContentStore, entries: Sequence[Descriptor], sink: Sink) -> None:
    """The tar of an OCI layout with this index. Raises `UserError` `missing-blob`."""
    write_tar(_layout_files(content, entries), sink)


def write_docker_archive(content: ContentStore, images: Images, sink: Sink) -> None:
    """A tar for `docker load`. Raises `UserError` `docker-archive-platforms`."""
    images = tuple(images)
    entries = tuple(_docker_image(content, root, names) for root, names in images)
    manifest = _document("manifest.json", msgspec.json.encode(entries))
    write_tar(chain((manifest,), _layout_files(content, index_entries(images))), sink)


def write_layout(content: ContentStore, images: Images, path: str) -> None:
    """Add images to the OCI layout at `path`, made when it is not there; other images stay."""
    add_to_layout(content, index_entries(images), path)


def add_to_layout(
    content: ContentStore,
    entries: Sequence[Descriptor],
    path: str,
    copied: Callable[[Descriptor], None] = lambda _: None,
) -> int:
    """Add entries to the index of the OCI layout at `path`, made when it is not there, with their
    blobs; returns how many blobs were not there yet.

    The index is replaced last, so a kill leaves the layout as it was, with blobs to spare. Of
    several writers each waits for the one before.
    """
    blobs = _blobs(content, entries)
    layout = Layout.create(path)
    count = 0
    try:
        with space_needed(path, path), _alone_in(path):
            for descriptor in blobs:
                blob_path = layout.blob_path(descriptor.digest)
                os.makedirs(os.path.dirname(blob_path), exist_ok=True)
                count += copy_blob(content, descriptor, blob_path)
                copied(descriptor)
            layout.write_index(_merged(layout.index(), entries))
    except OSError as error:
        raise not_writable(path, error) from error
    return count


def prune_layout(path: str, *, grace_s: float = GRACE_S) -> int:
    """Delete the blobs of an OCI layout that its index does not lead to, and what killed writers left;
    returns how many files.

    Other tools write blobs first and the index last, and know no lock of ours: what came within the
    last `grace_s` seconds, by the clock of the file system, stays. Raises `UserError` `not-an-oci-layout`,
    `output-not-writable`, and what a damaged document raises, before anything is deleted.
    """
    layout = Layout.open(path)
    gone = 0
    try:
        with _alone_in(path):
            before = _clock_of(path) - grace_s
            unneeded = list(_unneeded(layout, before))
            # Who wrote while we looked: the index that is there now counts.
            kept = _needed(layout)
            for blob_path in unneeded:
                if blob_path not in kept:
                    os.unlink(blob_path)
                    gone += 1
    except OSError as error:
        raise not_writable(path, error) from error
    return gone


def _needed(layout: Layout) -> set[str]:
    return {layout.blob_path(digest) for digest in reachable(LayoutFolder(layout), layout.index().manifests)}


def _unneeded(layout: Layout, before_s: float) -> Iterator[str]:
    """Files among the blobs that nothing leads to, and that have been there since before a moment."""
    kept = _needed(layout)
    for directory_path, _, names in os.walk(os.path.join(layout.path, "blobs")):
        for name in names:
            blob_path = os.path.join(directory_path, name)
            if blob_path not in kept:
                found = os.lstat(blob_path)
                # Who copies with times, as rsync does, cannot set that of the inode.
                if max(found.st_mtime, found.st_ctime) <= before_s:
                    yield blob_path


def _clock_of(path: str) -> float:
    """What time it is for the file system, whose clock may be another machine's."""
    with tempfile.TemporaryFile(dir=path) as file:
        file.write(b"x")
        file.flush()
        return os.fstat(file.fileno()).st_mtime


@contextmanager
def _alone_in(path: str) -> Iterator[None]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Some network file systems have no locks; there the last writer of an index wins.
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _merged(index: Index, entries: Sequence[Descriptor]) -> Index:
    """The index with the new entries; an old entry goes when a new one has its name, or, unnamed,
    its digest."""
    keys = {_entry_key(entry) for entry in entries}
    tags = {entry.annotations[REF_NAME] for entry in entries if set(entry.annotations) == {REF_NAME}}
    kept = (_without_tag(entry, tags) for entry in index.manifests if _entry_key(entry) not in keys)
    merged = (*(entry for entry in kept if entry is not None), *entries)
    return msgspec.structs.replace(index, media_type=INDEX, manifests=merged)


def _entry_key(entry: Descriptor) -> str:
    return entry.annotations.get(IMAGE_NAME) or entry.annotations.get(REF_NAME) or entry.digest


def _without_tag(entry: Descriptor, tags: set[str]) -> Descriptor | None:
    """An old entry beside new ones that have these tags and no full name; None when its tag was all
    that it had."""
    if entry.annotations.get(REF_NAME) not in tags:
        return entry
    rest = {key: value for key, value in entry.annotations.items() if key != REF_NAME}
    return msgspec.structs.replace(entry, annotations=rest) if IMAGE_NAME in rest else None


def _index(entries: Sequence[Descriptor]) -> bytes:
    document = Index(schema_version=2, media_type=INDEX, manifests=tuple(entries))
    return image_manifest.encode(document)


def _blobs(content: ContentStore, roots: Iterable[Descriptor]) -> list[Descriptor]:
    found = {blob.digest: blob for root in roots for blob in closure(content, root)}
    return list(found.values())


def _layout_files(content: ContentStore, entries: Sequence[Descriptor]) -> Iterator[Change]:
    """The documents first: a reader of the stream then knows what it wants."""
    blobs = _blobs(content, entries)
    yield _document("oci-layout", _LAYOUT_FILE)
    yield _document("index.json", _index(entries))
    yield Change(Entry(path="blobs", type="dir", mode=0o755))
    for algorithm in sorted({parse_digest(blob.digest)[0] for blob in blobs}):
        yield Change(Entry(path=f"blobs/{algorithm}", type="dir", mode=0o755))
    for blob in blobs:
        entry = Entry(path=_blob_name(blob), type="file", mode=0o644, size=blob.size)
        yield Change(entry, partial(content.open, blob.digest))


def _document(name: str, data: bytes) -> Change:
    return Change(Entry(path=name, type="file", mode=0o644, size=len(data)), partial(io.BytesIO, data))


def _blob_name(blob: Descriptor) -> str:
    algorithm, encoded = parse_digest(blob.digest)
    return f"blobs/{algorithm}/{encoded}"


def _docker_image(content: ContentStore, root: Descriptor, names: tuple[str, ...]) -> DockerImage:
    found = runnable(content, root)
    if len(found) != 1:
        raise UserError.of(
            "docker-archive-platforms",
            f"a docker archive holds one platform, this image has {len(found)}",
            hint="use type=oci, or build for one platform",
        )
    manifest = found[0][1]
    # Full names: docker shortens them itself, podman would take short ones for localhost's.
    return DockerImage(_blob_name(manifest.config), names or None, tuple(map(_blob_name, manifest.layers)))
