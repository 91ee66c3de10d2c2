"""What an image consists of: the documents and blobs below a manifest or an index."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.oci import manifest as image_manifest
from arkwright.oci.descriptor import INDEXES, MANIFESTS, Descriptor
from arkwright.oci.manifest import Index, Manifest
from arkwright.oci.platform import Platform, platform_of
from arkwright.oci.selection import select
from arkwright.store.content import ContentStore

DOCUMENT_LIMIT = 8 << 20
_DEPTH = 4


def read_document(content: ContentStore, descriptor: Descriptor) -> Manifest | Index:
    """The manifest or index. Raises `UserError` `missing-blob`, `invalid-manifest`."""
    return image_manifest.parse(_read(content, descriptor), descriptor.media_type)


def manifests(content: ContentStore, root: Descriptor) -> list[tuple[Descriptor, Manifest]]:
    """The manifests below `root` that the store has, in order; an index may be sparse, because a
    pull for one platform fetches only that one.

    Raises `UserError` `missing-blob` when the root itself is not there, `invalid-manifest`.
    """
    return list(_manifests(content, root, {}, _DEPTH))


def _manifests(
    content: ContentStore, root: Descriptor, known: dict[str, Manifest | None], depth: int
) -> Iterator[tuple[Descriptor, Manifest]]:
    """`known` keeps documents by digest, None for indexes: an index that names another a thousand
    times, which does the same, must not cost a million."""
    if root.digest in known:
        manifest = known[root.digest]
        if manifest is not None:
            yield root, manifest
        return
    document = read_document(content, root)
    known[root.digest] = document if isinstance(document, Manifest) else None
    if isinstance(document, Manifest):
        yield root, document
        return
    if not depth:
        raise UserError.of("invalid-manifest", f"{root.digest}: indexes are nested too deeply")
    for child in document.manifests:
        if child.media_type in MANIFESTS | INDEXES and content.has(child.digest):
            yield from _manifests(content, child, known, depth - 1)


def runnable(content: ContentStore, root: Descriptor) -> list[tuple[Descriptor, Manifest]]:
    """The manifests that are images: an index also names attestations, of platform unknown.

    Raises as `manifests`.
    """
    found = manifests(content, root)
    return [item for item in found if platform_of_manifest(content, *item) is not None] or found


def closure(content: ContentStore, root: Descriptor) -> list[Descriptor]:
    """Every blob of the image once: documents before what they name. Children of a sparse index
    are left out.

    Raises `UserError` `missing-blob` naming a blob that an image which is there needs,
    `corrupt-blob` when a descriptor states another size, `invalid-manifest`.
    """
    found: dict[str, Descriptor] = {}
    _collect(content, root, found, set(), _DEPTH)
    return list(found.values())


def _collect(
    content: ContentStore, root: Descriptor, found: dict[str, Descriptor], read: set[str], depth: int
) -> None:
    _add(content, root, found)
    if root.digest in read:
        return
    read.add(root.digest)
    document = read_document(content, root)
    if isinstance(document, Manifest):
        for descriptor in (document.config, *document.layers):
            _add(content, descriptor, found)
        return
    for child in document.manifests if depth else ():
        if content.has(child.digest):
            if child.media_type in MANIFESTS | INDEXES:
                _collect(content, child, found, read, depth - 1)
            else:
                _add(content, child, found)


def _add(content: ContentStore, blob: Descriptor, found: dict[str, Descriptor]) -> None:
    size = found[blob.digest].size if blob.digest in found else content.size(blob.digest)
    if blob.size != size:
        raise UserError.of(
            "corrupt-blob", f"blob {blob.digest} has {size} bytes, its descriptor says {blob.size}"
        )
    found.setdefault(blob.digest, blob)


def select_platform(content: ContentStore, root: Descriptor, want: Platform) -> tuple[Descriptor, Manifest]:
    """The manifest for a platform, of those that the store has; a root that is a manifest is taken
    as it is.

    Raises `UserError` `no-matching-platform`, `missing-blob`, `invalid-manifest`.
    """
    document = read_document(content, root)
    if isinstance(document, Index):
        here = tuple(child for child in document.manifests if content.has(child.digest))
        document = msgspec.structs.replace(document, manifests=here)
    return select(root, document, want, partial(_read, content), f"the image {root.digest}")


def _read(content: ContentStore, descriptor: Descriptor) -> bytes:
    return content.read(descriptor.digest, limit=DOCUMENT_LIMIT)


def platform_of_manifest(
    content: ContentStore, descriptor: Descriptor, manifest: Manifest
) -> Platform | None:
    """The platform that the index names, else the config's; None for what is no runnable image."""
    if descriptor.platform is not None:
        return None if descriptor.platform.os == "unknown" else descriptor.platform
    try:
        fields = msgspec.json.decode(content.read(manifest.config.digest, limit=DOCUMENT_LIMIT))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return platform_of(fields) if isinstance(fields, dict) and fields.get("architecture") else None
