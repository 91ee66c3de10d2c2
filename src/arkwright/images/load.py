"""Images from OCI archives, docker archives and OCI layouts, into the store.

An archive is read once, as a stream: files become blobs of the content store under the digest that
they really have, documents are kept in memory, and only when `index.json` or `manifest.json` has
been understood and everything that it names is there do images get names. Blobs that nothing
names are garbage for the store's clean-up.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from typing import BinaryIO

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, UserError
from arkwright.images.archives import IMAGE_NAME
from arkwright.images.folders import LayoutFolder, copy_in
from arkwright.images.graph import DOCUMENT_LIMIT, closure, manifests
from arkwright.layer import faults
from arkwright.layer.codec import codec_of, decompress
from arkwright.layer.tar_read import DEFAULT_LIMITS, read_tar
from arkwright.oci import config as image_config
from arkwright.oci import descriptor as media
from arkwright.oci import formats
from arkwright.oci import manifest as image_manifest
from arkwright.oci.descriptor import REF_NAME, Descriptor, plain
from arkwright.oci.digest import is_digest
from arkwright.oci.layout import Layout
from arkwright.oci.manifest import Index, Manifest
from arkwright.oci.reference import parse_reference
from arkwright.store.content import ContentStore
from arkwright.store.store import Store

FILES_LIMIT = 100_000
_DOCUMENTS = ("index.json", "manifest.json", "oci-layout", "repositories")
_COPY_SIZE = 1 << 20
_LINK_DEPTH = 8


class LoadedImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image that was in an archive, and the full names that it has now."""

    descriptor: Descriptor
    names: tuple[str, ...] = ()


class _DockerEntry(msgspec.Struct, rename="pascal"):
    config: str
    layers: tuple[str, ...]
    repo_tags: tuple[str, ...] | None = None


def load_archive(store: Store, stream: BinaryIO) -> list[LoadedImage]:
    """Load every image of an OCI or docker archive, plain or compressed, under the names that it has
    there. Raises as `read_archive`."""
    return publish(store, images_of(store.content, read_archive(store.content, stream)))


def load_layout(store: Store, path: str, selector: str = "") -> list[LoadedImage]:
    """Load an OCI layout directory: the image that `selector` names (see `Layout.find`), or all.

    Raises as `load_archive`, and `not-an-oci-layout`, `unknown-image`.
    """
    layout = Layout.open(path)
    entries = (layout.find(selector),) if selector else layout.index().manifests
    for entry in entries:
        copy_in(store.content, LayoutFolder(layout), entry)
    return publish(store, images_of(store.content, entries))


def read_archive(content: ContentStore, stream: BinaryIO) -> tuple[Descriptor, ...]:
    """Bring the images of an OCI or docker archive, plain or compressed, into the store; gives the
    entries of its index, or for a docker archive what they would be.

    Raises `UserError` `not-an-image-archive`, `corrupt-blob`, `missing-blob`, `layer-mismatch`,
    `invalid-manifest`, `invalid-image-config`, `no-space`, and the codes of `layer.tar_read`.
    """
    with decompress(stream, "auto") as tar:
        files = _read_files(content, tar)
    docker, index = files.documents.get("manifest.json"), files.documents.get("index.json")
    is_docker = docker is not None and _is_docker_list(docker)
    # With both, the layout tells more: a docker list knows no manifests, whose digest is the image's.
    if index is not None and ("oci-layout" in files.documents or not is_docker):
        return _index(index).manifests
    if docker is None or not is_docker:
        raise _not_an_archive("it has neither index.json nor manifest.json")
    return _docker_entries(content, files, docker)


def images_of(content: ContentStore, entries: Iterable[Descriptor]) -> list[LoadedImage]:
    """The images of index entries, each once with all of its full names, and whole.

    Raises `UserError` `missing-blob`, `corrupt-blob`, `invalid-manifest`.
    """
    found: dict[str, tuple[Descriptor, list[str]]] = {}
    for entry in entries:
        names = found.setdefault(entry.digest, (plain(entry), []))[1]
        name = entry_name(entry)
        if name:
            names.append(name)
    for descriptor, _ in found.values():
        check_whole(content, descriptor)
    return [LoadedImage(descriptor=descriptor, names=tuple(names)) for descriptor, names in found.values()]


def publish(store: Store, images: list[LoadedImage]) -> list[LoadedImage]:
    """Name them all in one transaction."""
    with store.metadata.transaction():
        for image in images:
            for name in image.names:
                store.names.set(name, image.descriptor)
    return images


class _Files:
    """What an archive held: documents by name, digests of files by name, links."""

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}
        self.digests: dict[str, str] = {}
        self.links: dict[str, str] = {}

    def digest(self, name: str) -> str:
        """The digest of a file by the name that `manifest.json` uses, links followed inside."""
        place = posixpath.normpath(name)
        for _ in range(_LINK_DEPTH):
            if place in self.digests:
                return self.digests[place]
            if place not in self.links:
                break
            place = self.links[place]
        raise UserError.of("missing-blob", f"the archive names {name!r} but does not hold it")


def _read_files(content: ContentStore, tar: BinaryIO) -> _Files:
    files = _Files()
    for number, (entry, data) in enumerate(read_tar(tar, raw=True)):
        if number >= FILES_LIMIT:
            raise _not_an_archive(f"it holds more than {FILES_LIMIT} files")
        if entry.type == "symlink":
            target = posixpath.join(posixpath.dirname(entry.path), entry.link)
            files.links[entry.path] = posixpath.normpath(target)
        elif entry.type == "hardlink":
            files.links[entry.path] = posixpath.normpath(entry.link)
        elif entry.type == "file" and data is not None:
            _read_file(content, files, entry.path, data, entry.size)
    return files


def _read_file(content: ContentStore, files: _Files, name: str, data: BinaryIO, size: int) -> None:
    if name in _DOCUMENTS:
        if size > DOCUMENT_LIMIT:
            raise _not_an_archive(f"{name} is larger than {DOCUMENT_LIMIT} bytes")
        files.documents[name] = data.read()
        return
    parts = name.split("/")
    expected = f"{parts[1]}:{parts[2]}" if len(parts) == 3 and parts[0] == "blobs" else ""
    if expected and not is_digest(expected):
        raise _not_an_archive(f"{name} is not named by a digest")
    files.digests[name] = _ingest(content, data, expected, size)


def _ingest(content: ContentStore, data: BinaryIO, expected: str, size: int) -> str:
    with content.ingest(expected=expected, size=size) as ingest:
        while chunk := data.read(_COPY_SIZE):
            ingest.write(chunk)
        return ingest.commit()


# --- OCI ---------------------------------------------------------------------------------------


def _index(data: bytes) -> Index:
    document = image_manifest.parse(data)
    if not isinstance(document, Index):
        raise _not_an_archive("index.json is not an image index")
    return document


def check_whole(content: ContentStore, root: Descriptor) -> None:
    """Raises `UserError` `missing-blob`, `corrupt-blob`, `invalid-manifest`."""
    closure(content, root)
    if not manifests(content, root):
        raise UserError.of("missing-blob", f"the archive holds none of the manifests of index {root.digest}")


def entry_name(entry: Descriptor) -> str:
    """The full name that an entry states; a bare tag (as some tools write) is not a name."""
    for text in (entry.annotations.get(IMAGE_NAME, ""), entry.annotations.get(REF_NAME, "")):
        if "/" in text or ":" in text:
            try:
                return str(parse_reference(text))
            except UserError:
                continue
    return ""


# --- Docker ------------------------------------------------------------------------------------


def _is_docker_list(data: bytes) -> bool:
    return data.lstrip()[:1] == b"["


def _docker_entries(content: ContentStore, files: _Files, data: bytes) -> tuple[Descriptor, ...]:
    try:
        listed = msgspec.json.decode(data, type=list[_DockerEntry])
    except msgspec.MsgspecError as error:
        raise _not_an_archive(f"manifest.json: {error}") from error
    found: list[Descriptor] = []
    layers: dict[str, tuple[str, Descriptor]] = {}
    for entry in listed:
        names = [str(parse_reference(tag)) for tag in entry.repo_tags or ()]
        manifest = _docker_manifest(content, files, entry, layers)
        found.extend(
            msgspec.structs.replace(manifest, annotations={IMAGE_NAME: name} if name else {})
            for name in names or [""]
        )
    return tuple(found)


def _docker_manifest(
    content: ContentStore, files: _Files, entry: _DockerEntry, known: dict[str, tuple[str, Descriptor]]
) -> Descriptor:
    """An OCI manifest for an image of a docker archive, whose layers are checked against the
    config's diffIDs: a docker archive says nothing else about them. `known` are layers by the
    digest of their file."""
    config_digest = files.digest(entry.config)
    config = image_config.parse(content.read(config_digest, limit=DOCUMENT_LIMIT))
    if len(config.rootfs.diff_ids) != len(entry.layers):
        raise UserError.of(
            "layer-mismatch",
            f"{entry.config} names {len(config.rootfs.diff_ids)} layers, manifest.json {len(entry.layers)}",
        )
    layers = tuple(
        _docker_layer(content, files.digest(name), diff_id, name, known)
        for name, diff_id in zip(entry.layers, config.rootfs.diff_ids, strict=True)
    )
    manifest = Manifest(
        schema_version=2,
        media_type=media.MANIFEST,
        config=Descriptor(media_type=media.CONFIG, digest=config_digest, size=content.size(config_digest)),
        layers=layers,
    )
    encoded = image_manifest.encode(manifest)
    return Descriptor(media_type=media.MANIFEST, digest=content.write(encoded), size=len(encoded))


def _docker_layer(
    content: ContentStore, digest: str, diff_id: str, name: str, known: dict[str, tuple[str, Descriptor]]
) -> Descriptor:
    if digest not in known:
        known[digest] = _measured_layer(content, digest)
    found, layer = known[digest]
    if found != diff_id:
        raise UserError.of(
            "layer-mismatch",
            f"layer {name} has the diffID {found}, the image's config says {diff_id}",
            hint="the archive is damaged or was altered; save it again",
        )
    return layer


def _measured_layer(content: ContentStore, digest: str) -> tuple[str, Descriptor]:
    """The diffID and the descriptor of a layer; one in a compression that OCI layers do not have
    is kept without."""
    import hashlib

    hasher = hashlib.sha256()
    length = 0
    with content.open(digest) as blob, content.ingest() as plain:
        media_type = formats.oci_layer(codec_of(blob.read(6)))
        blob.seek(0)
        with decompress(blob, "auto") as tar:
            while chunk := tar.read(_COPY_SIZE):
                length += len(chunk)
                if length > DEFAULT_LIMITS.max_bytes:
                    raise faults.too_large(f"a layer of more than {DEFAULT_LIMITS.max_bytes} bytes")
                hasher.update(chunk)
                if not media_type:
                    plain.write(chunk)
        if not media_type:
            digest, media_type = plain.commit(), media.LAYER_TAR
    layer = Descriptor(media_type=media_type, digest=digest, size=content.size(digest))
    return f"sha256:{hasher.hexdigest()}", layer


def _not_an_archive(why: str) -> ArkwrightError:
    return UserError.of(
        "not-an-image-archive",
        f"not an image archive: {why}",
        hint="an archive comes from `arkwright save`, `docker save`, `podman save` or --output type=oci",
    )
