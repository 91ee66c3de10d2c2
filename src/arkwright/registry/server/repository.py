"""A repository, as the local store has it.

The repository `team/app` is what the store calls `docker.io/team/app`, `app` is
`docker.io/library/app`, and one that begins with a host, `registry.example/team/app`, is itself: a
repository's path is read as every image name is (see `oci.reference`). It has the images that names
lead to, whoever made them, and what was pushed into it. A blob of another repository, or of the build
cache, is not there, whoever knows its digest.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from contextlib import suppress

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, UserError
from arkwright.oci.descriptor import INDEXES, MANIFESTS, Descriptor
from arkwright.oci.digest import is_digest
from arkwright.oci.manifest import Manifest, parse
from arkwright.oci.reference import DEFAULT_DOMAIN, parse_reference
from arkwright.registry.server.answers import Problem
from arkwright.store.repositories import Repositories
from arkwright.store.store import Store

MANIFEST_LIMIT = 4 << 20  # bytes: what the specification asks registries to take at least
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_DEPTH = 4
_KEPT = 512


class Below(msgspec.Struct, frozen=True):
    """What is below an image: manifests and indexes, itself among them, and the digests of the blobs;
    `referrers` are those of the manifests that name a subject, with it."""

    manifests: dict[str, Descriptor]
    blobs: frozenset[str]
    referrers: tuple[tuple[str, Descriptor], ...]


class Images:
    """What is below the images that were asked for lately. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Below] = OrderedDict()

    def below(self, store: Store, root: Descriptor) -> Below:
        """What the store has below a manifest or an index; what cannot be read is left out."""
        with self._lock:
            known = self._known.get(root.digest)
        if known is not None:
            return known
        walk = _Walk(store)
        walk.visit(root, _DEPTH)
        found = Below(walk.manifests, frozenset(walk.blobs), tuple(walk.referrers))
        if walk.whole:
            with self._lock:
                self._known[root.digest] = found
                while len(self._known) > _KEPT:
                    self._known.popitem(last=False)
        return found


class _Walk:
    def __init__(self, store: Store) -> None:
        self._content = store.content
        self.manifests: dict[str, Descriptor] = {}
        self.blobs: set[str] = set()
        self.referrers: list[tuple[str, Descriptor]] = []
        self.whole = True

    def visit(self, found: Descriptor, depth: int) -> None:
        if found.digest in self.manifests:
            return
        try:
            data = self._content.read(found.digest, limit=2 * MANIFEST_LIMIT)
            document = parse(data, found.media_type)
        except ArkwrightError:
            # An index may be sparse; the rest may come later.
            self.whole = False
            return
        plain = Descriptor(media_type=found.media_type, digest=found.digest, size=len(data))
        self.manifests[found.digest] = plain
        if document.subject is not None:
            self.referrers.append((document.subject.digest, referrer(data, plain)))
        if isinstance(document, Manifest):
            self.blobs.update(one.digest for one in (document.config, *document.layers))
            return
        for child in document.manifests:
            if child.media_type not in MANIFESTS | INDEXES:
                self.blobs.add(child.digest)
            elif depth:
                self.visit(child, depth - 1)


def referrer(data: bytes, plain: Descriptor) -> Descriptor:
    """A manifest as the list of referrers has it: with its artifact type, which falls back to the media
    type of the config, and with its annotations."""
    document = parse(data, plain.media_type)
    artifact_type = document.artifact_type
    if not artifact_type and isinstance(document, Manifest):
        artifact_type = document.config.media_type
    return msgspec.structs.replace(plain, artifact_type=artifact_type, annotations=document.annotations)


class Repository:
    """One repository. For one request: nothing of it is kept."""

    def __init__(self, store: Store, images: Images, path: str) -> None:
        """Raises `Problem` NAME_INVALID."""
        self.path = path
        self.store = store
        self._images = images
        self.name = full_name(path)
        self.records = Repositories(store.metadata)

    def tags(self) -> dict[str, Descriptor]:
        """What each tag stands for, ordered as the specification asks."""
        prefix = f"{self.name}:"
        found = {name[len(prefix) :]: root for name, root in self.store.names.list(prefix)}
        return {tag: found[tag] for tag in sorted(found) if TAG.fullmatch(tag)}

    def roots(self) -> list[Descriptor]:
        """What the names of the repository lead to."""
        pairs = [pair for mark in ":@" for pair in self.store.names.list(f"{self.name}{mark}")]
        return list({root.digest: root for _, root in pairs}.values())

    def exists(self) -> bool:
        return bool(self.roots()) or self.records.has_any(self.name)

    def find(self, reference: str) -> Descriptor | None:
        """The manifest of a tag or of a digest, if its content is there."""
        found = self._of_digest(reference) if is_digest(reference) else self._of_tag(reference)
        return found if found is not None and self.store.content.has(found.digest) else None

    def has_blob(self, digest: str) -> bool:
        """Whether the blob is there for this repository."""
        if not self.store.content.has(digest):
            return False
        return self.records.has_blob(self.name, digest) or self.needs(digest)

    def needs(self, digest: str) -> bool:
        """Whether an image with a name has this manifest or this blob."""
        for root in self.roots():
            below = self._images.below(self.store, root)
            if digest in below.blobs or digest in below.manifests:
                return True
        return False

    def referrers(self, subject_digest: str) -> list[Descriptor]:
        """What refers to the digest: what was pushed, and what names lead to."""
        found = {one.digest: one for one in self.records.referrers(self.name, subject_digest)}
        for root in self.roots():
            for subject, descriptor in self._images.below(self.store, root).referrers:
                if subject == subject_digest:
                    found.setdefault(descriptor.digest, descriptor)
        has = self.store.content.has
        return [found[digest] for digest in sorted(found) if has(digest)]

    def names_of(self, digest: str) -> list[str]:
        """The full names of this repository that lead to the digest directly."""
        return [
            name
            for mark in ":@"
            for name, root in self.store.names.list(f"{self.name}{mark}")
            if root.digest == digest
        ]

    def _of_tag(self, tag: str) -> Descriptor | None:
        return self.store.names.get(f"{self.name}:{tag}") if TAG.fullmatch(tag) else None

    def _of_digest(self, digest: str) -> Descriptor | None:
        known = self.records.manifest(self.name, digest)
        if known is not None:
            return known
        for root in self.roots():
            found = self._images.below(self.store, root).manifests.get(digest)
            if found is not None:
                return found
        return None


def full_name(path: str) -> str:
    """The store's name of a repository. Raises `Problem` NAME_INVALID."""
    # What looks like a host and cannot be one is a part of the path.
    for spelling in (path, f"{DEFAULT_DOMAIN}/{path}"):
        if _NAME.fullmatch(path):
            with suppress(UserError):
                return parse_reference(spelling, default_tag="").name
    raise Problem(400, "NAME_INVALID", "this is not the name of a repository", detail={"name": path[:300]})


def catalog(store: Store) -> list[str]:
    """The paths of all repositories with an image, sorted. Names that no path can have (those of a
    registry with a port) are left out."""
    found = set()
    for name, _ in store.names.list():
        try:
            reference = parse_reference(name)
        except UserError:
            continue
        path = msgspec.structs.replace(reference, tag="", digest="").familiar()
        if _NAME.fullmatch(path):
            found.add(path)
    return sorted(found)
