"""Images out of directories, into the content store: OCI layouts, and the `dir:` of skopeo.

A `dir:` holds a `manifest.json`, each blob in a file named by the hex digits of its digest, and, for
an index, each of its manifests as `<hex digits>.manifest.json` (containers-transports(5)). What is
read is verified by the content store; links in a directory are followed, as some tools make them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from functools import partial
from typing import BinaryIO, Protocol

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, UserError
from arkwright.images.graph import DOCUMENT_LIMIT
from arkwright.oci import descriptor as media
from arkwright.oci import manifest as image_manifest
from arkwright.oci.descriptor import Descriptor, plain
from arkwright.oci.digest import parse_digest, sha256
from arkwright.oci.layout import Layout
from arkwright.oci.manifest import Index, Manifest
from arkwright.oci.platform import Platform
from arkwright.oci.selection import select
from arkwright.store.content import ContentStore

Report = Callable[[Descriptor, int, int], None]

_COPY_SIZE = 1 << 20
_DEPTH = 4


class Folder(Protocol):
    """A directory with the blobs of images."""

    path: str

    def file_path(self, descriptor: Descriptor) -> str:
        """Where the blob is, or would be."""
        ...


class LayoutFolder:
    """An OCI layout."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.path = layout.path

    def file_path(self, descriptor: Descriptor) -> str:
        return self.layout.blob_path(descriptor.digest)


class DirFolder:
    """A `dir:`, whose own manifest is `root`."""

    def __init__(self, path: str, root: Descriptor) -> None:
        self.path = path
        self.root = root

    def file_path(self, descriptor: Descriptor) -> str:
        if descriptor.digest == self.root.digest:
            return os.path.join(self.path, "manifest.json")
        return os.path.join(self.path, dir_file(descriptor))


def dir_file(descriptor: Descriptor) -> str:
    """The name of a blob's file in a `dir:`; the algorithm is told unless it is sha256."""
    algorithm, encoded = parse_digest(descriptor.digest)
    name = encoded if algorithm == "sha256" else f"{algorithm}-{encoded}"
    return f"{name}.manifest.json" if descriptor.media_type in media.MANIFESTS | media.INDEXES else name


def open_dir(path: str) -> DirFolder:
    """Raises `UserError` `not-an-image-directory`, `invalid-manifest`, `schema-1-manifest`."""
    manifest_path = os.path.join(path, "manifest.json")
    try:
        with _open_regular(manifest_path) as file:
            data = file.read(DOCUMENT_LIMIT + 1)
    except OSError as error:
        raise _not_a_dir(path, f"manifest.json: {error.strerror or error}") from error
    if len(data) > DOCUMENT_LIMIT:
        raise _not_a_dir(path, f"manifest.json is larger than {DOCUMENT_LIMIT} bytes")
    document = image_manifest.parse(data)
    media_type = document.media_type
    if media_type not in media.MANIFESTS | media.INDEXES:
        media_type = media.INDEX if isinstance(document, Index) else media.MANIFEST
    return DirFolder(path, Descriptor(media_type=media_type, digest=sha256(data), size=len(data)))


def copy_in(
    content: ContentStore,
    folder: Folder,
    root: Descriptor,
    platform: Platform | None = None,
    report: Report | None = None,
) -> Descriptor:
    """Bring an image into the store, of an index those manifests that are there, or the one for
    `platform`; returns what it is.

    Raises `UserError` `missing-blob`, `corrupt-blob`, `invalid-manifest`, `no-matching-platform`.
    """
    root = plain(root)
    if platform is not None:
        read = partial(_read, folder)
        document = image_manifest.parse(read(root), root.media_type)
        if isinstance(document, Index):
            here = tuple(one for one in document.manifests if os.path.lexists(folder.file_path(one)))
            document = msgspec.structs.replace(document, manifests=here)
        root = select(root, document, platform, read, f"the image in {folder.path}")[0]
        root = plain(root)
    _copy_graph(content, folder, root, set(), report, _DEPTH)
    return root


def reachable(folder: Folder, roots: Iterable[Descriptor]) -> set[str]:
    """The digests of all that these images consist of, there or not. Raises as `copy_in`."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        one = waiting.pop()
        if one.digest in found:
            continue
        found.add(one.digest)
        is_document = one.media_type in media.MANIFESTS | media.INDEXES
        if is_document and os.path.lexists(folder.file_path(one)):
            document = image_manifest.parse(_read(folder, one), one.media_type)
            if isinstance(document, Index):
                waiting.extend(document.manifests)
            else:
                waiting.extend((document.config, *document.layers))
    return found


def _copy_graph(
    content: ContentStore,
    folder: Folder,
    root: Descriptor,
    copied: set[str],
    report: Report | None,
    depth: int,
) -> None:
    if root.digest in copied:
        return
    copied.add(root.digest)
    if root.media_type not in media.MANIFESTS | media.INDEXES:
        _copy_blob(content, folder, root, report)
        return
    document = image_manifest.parse(_read(folder, root), root.media_type)
    if isinstance(document, Manifest):
        for descriptor in (document.config, *document.layers):
            _copy_blob(content, folder, descriptor, report)
    elif depth:
        for child in document.manifests:
            if os.path.lexists(folder.file_path(child)):
                _copy_graph(content, folder, child, copied, report, depth - 1)
    _copy_blob(content, folder, root, None)


def _read(folder: Folder, descriptor: Descriptor) -> bytes:
    """A document, verified: what is read decides what is copied."""
    with _open_blob(folder, descriptor) as blob:
        data = blob.read(DOCUMENT_LIMIT + 1)
    if descriptor.digest.startswith("sha256:") and sha256(data) != descriptor.digest:
        raise UserError.of("corrupt-blob", f"blob {descriptor.digest} in {folder.path} has other content")
    return data


def _copy_blob(content: ContentStore, folder: Folder, descriptor: Descriptor, report: Report | None) -> None:
    if not content.has(descriptor.digest):
        if descriptor.urls and not os.path.lexists(folder.file_path(descriptor)):
            return
        with (
            _open_blob(folder, descriptor) as source,
            content.ingest(expected=descriptor.digest, size=descriptor.size) as ingest,
        ):
            while chunk := source.read(_COPY_SIZE):
                ingest.write(chunk)
                if report is not None:
                    report(descriptor, ingest.offset, descriptor.size)
            ingest.commit()
    elif report is not None:
        report(descriptor, descriptor.size, descriptor.size)


def _open_blob(folder: Folder, descriptor: Descriptor) -> BinaryIO:
    try:
        return _open_regular(folder.file_path(descriptor))
    except OSError as error:
        raise UserError.of(
            "missing-blob",
            f"{folder.path} has no readable blob {descriptor.digest}: {error.strerror or error}",
        ) from error


def _open_regular(path: str) -> BinaryIO:
    # A FIFO among the blobs would block an ordinary open.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError("not a regular file")
    return open(fd, "rb")


def _not_a_dir(path: str, why: str) -> ArkwrightError:
    return UserError.of(
        "not-an-image-directory",
        f"{path} holds no image as `skopeo copy … dir:` writes it: {why}",
        hint="an OCI layout is written oci:DIR",
    )
