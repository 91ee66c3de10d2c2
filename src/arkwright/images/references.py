"""All spellings by which commands name an image of the local store.

`debian`, `debian:bookworm`, `registry.example/team/app:1`; `NAME@sha256:…`; the digest of a
manifest, an index or a config; or the beginning of one, at least six hex digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, UserError
from arkwright.diagnostics.suggest import nearest
from arkwright.images.graph import DOCUMENT_LIMIT, manifests, read_document
from arkwright.images.places import TRANSPORTS
from arkwright.oci import manifest as image_manifest
from arkwright.oci.descriptor import INDEX, INDEXES, MANIFEST, MANIFESTS, Descriptor, plain
from arkwright.oci.digest import is_digest
from arkwright.oci.manifest import Index, Manifest
from arkwright.oci.reference import Reference, parse_reference
from arkwright.store.content import ContentStore
from arkwright.store.store import Store

_PREFIX = re.compile(r"(?:sha256:)?([a-f0-9]{6,64})")


class FoundImage(msgspec.Struct, frozen=True, kw_only=True):
    """What a text stands for: the manifest or index, and the full name, empty when the text was a
    digest that no name leads to directly."""

    descriptor: Descriptor
    name: str = ""

    @property
    def digest(self) -> str:
        return self.descriptor.digest


def resolve(store: Store, text: str) -> FoundImage:
    """Find an image.

    A name wins over a digest's beginning that is spelled alike.
    Raises `UserError` `unknown-image`, `ambiguous-image`, `invalid-reference`.
    """
    if is_digest(text):
        return _by_digest(store, text) or _unknown(store, text)
    prefix = _PREFIX.fullmatch(text)
    try:
        reference = parse_reference(text)
    except UserError:
        if prefix is None:
            raise
        reference = None
    if reference is not None:
        found = _by_reference(store, reference)
        if found is not None:
            return found
    if prefix is not None:
        return _by_prefix(store, prefix[1], text) or _unknown(store, text)
    return _unknown(store, text)


def _by_reference(store: Store, reference: Reference) -> FoundImage | None:
    if not reference.digest:
        descriptor = store.names.get(str(reference))
        return None if descriptor is None else FoundImage(descriptor=descriptor, name=str(reference))
    exact = store.names.get(str(reference))
    if exact is not None:
        return FoundImage(descriptor=exact, name=str(reference))
    for name, root in store.names.list():
        if name.startswith((f"{reference.name}:", f"{reference.name}@")):
            found = _within(store.content, root, reference.digest.__eq__)
            if found:
                return FoundImage(descriptor=found[0], name=name if found[0] == root else "")
    return None


def _by_digest(store: Store, digest: str) -> FoundImage | None:
    found = _named(store, digest.__eq__)
    if found:
        return next(iter(found.values()))
    # An image without a name, such as what a build without --tag leaves.
    descriptor = describe(store.content, digest) if store.content.has(digest) else None
    descriptor = descriptor or _of_config(store.content, digest)
    return None if descriptor is None else FoundImage(descriptor=descriptor)


def _by_prefix(store: Store, prefix: str, text: str) -> FoundImage | None:
    wanted = f"sha256:{prefix}"
    found = _named(store, lambda digest: digest.startswith(wanted))
    if not found:
        for digest in store.content.digests():
            if digest.startswith(wanted):
                one = _by_digest(store, digest)
                if one is not None:
                    found[one.digest] = one
    if len(found) > 1:
        raise UserError.of(
            "ambiguous-image",
            f"{text} is the beginning of several digests",
            hint="write more digits: " + ", ".join(sorted(found)),
        )
    return next(iter(found.values()), None)


def _named(store: Store, match: Callable[[str], bool]) -> dict[str, FoundImage]:
    """Images below any name with a digest that matches, by manifest or index digest. What the name
    itself stands for comes first."""
    found: dict[str, FoundImage] = {}
    for name, root in store.names.list():
        for descriptor in _within(store.content, root, match):
            found.setdefault(
                descriptor.digest,
                FoundImage(descriptor=descriptor, name=name if descriptor.digest == root.digest else ""),
            )
    return found


def _within(content: ContentStore, root: Descriptor, match: Callable[[str], bool]) -> list[Descriptor]:
    """The root, or manifests below it, whose digest or config's digest matches. A damaged image
    matches by its own digest only: it must not hide the others."""
    if match(root.digest):
        return [root]
    try:
        found = manifests(content, root)
    except ArkwrightError:
        return []
    return [
        plain(descriptor)
        for descriptor, manifest in found
        if match(descriptor.digest) or match(manifest.config.digest)
    ]


def describe(content: ContentStore, digest: str) -> Descriptor | None:
    """The descriptor of a blob that is a manifest or an index; None for anything else."""
    size = content.size(digest)
    if size > DOCUMENT_LIMIT:
        return None
    try:
        document = image_manifest.parse(content.read(digest, limit=DOCUMENT_LIMIT))
    except ArkwrightError:
        return None
    media_type = document.media_type
    if media_type not in MANIFESTS | INDEXES:
        media_type = MANIFEST if isinstance(document, Manifest) else INDEX
    return Descriptor(media_type=media_type, digest=digest, size=size)


def _of_config(content: ContentStore, digest: str) -> Descriptor | None:
    """The manifest of an unnamed image, by its config's digest: every small blob is looked at."""
    for descriptor in _documents(content):
        document = read_document(content, descriptor)
        if isinstance(document, Manifest) and document.config.digest == digest:
            return descriptor
    return None


def _documents(content: ContentStore) -> Iterator[Descriptor]:
    for digest in sorted(content.digests()):
        with content.open(digest) as blob:
            looks_like_json = blob.read(1) == b"{"
        descriptor = describe(content, digest) if looks_like_json else None
        if descriptor is not None:
            yield descriptor


def _unknown(store: Store, text: str) -> FoundImage:
    # By each spelling, with and without its tag, the name that it would have been.
    spelled: dict[str, str] = {}
    for name, _ in store.names.list():
        reference = parse_reference(name)
        spelled[reference.familiar()] = reference.familiar()
        spelled.setdefault(Reference(reference.domain, reference.path).familiar(), reference.familiar())
    near = nearest(text, sorted(spelled))
    place = _misspelt_place(text)
    raise UserError.of(
        "unknown-image",
        f"the local store has no image {text}",
        hint=f"did you mean {spelled[near]}?"
        if near
        else f"did you mean {place}?"
        if place
        else "`arkwright images` lists them, `arkwright pull` fetches one",
    )


def _misspelt_place(text: str) -> str:
    """What a text would be with its transport spelt right; "" when it looks like none."""
    name, _, rest = text.partition(":")
    transport = nearest(name, TRANSPORTS) if rest and "-" in name else None
    return f"{transport}:{rest}" if transport else ""


def is_index(content: ContentStore, descriptor: Descriptor) -> bool:
    """Whether the descriptor is of an index. Raises `UserError` `missing-blob`, `invalid-manifest`."""
    return isinstance(read_document(content, descriptor), Index)
