"""What was put into repositories besides names: pushed manifests and blobs, and what refers to what.

A name (see `names`) leads to an image and keeps it. These records keep nothing by themselves: they say
what a repository's digests are, as long as the content is there. The exception is a referrer (OCI
distribution specification, "Listing Referrers"), which lives as long as its subject.
"""

from __future__ import annotations

import msgspec

from arkwright.oci.descriptor import Descriptor
from arkwright.store.content import ContentStore
from arkwright.store.metadata import Metadata

_MANIFESTS = "repository-manifests"
_BLOBS = "repository-blobs"
_REFERRERS = "referrers"


class Referrer(msgspec.Struct, frozen=True):
    """A manifest that refers to another: in which repository (`docker.io/team/app`), to which digest;
    the descriptor has its artifact type and its annotations."""

    repository: str
    subject_digest: str
    descriptor: Descriptor


class Repositories:
    """The records. Thread-safe. A repository is written as in `oci.reference.Reference.name`."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    def add_manifest(self, repository: str, descriptor: Descriptor) -> None:
        """Let the repository have a manifest by its digest."""
        key = f"{repository}@{descriptor.digest}"
        self._metadata.put(_MANIFESTS, key, msgspec.json.encode(descriptor))

    def manifest(self, repository: str, digest: str) -> Descriptor | None:
        """The manifest of this digest that was added, or None."""
        data = self._metadata.get(_MANIFESTS, f"{repository}@{digest}")
        return None if data is None else msgspec.json.decode(data, type=Descriptor)

    def manifests(self, repository: str) -> list[Descriptor]:
        """All that were added."""
        found = self._metadata.items(_MANIFESTS, f"{repository}@")
        return [msgspec.json.decode(data, type=Descriptor) for _, data in found]

    def remove_manifest(self, repository: str, digest: str) -> bool:
        """Forget it, also as a referrer; whether it was known."""
        with self._metadata.transaction():
            known = self._metadata.get(_MANIFESTS, f"{repository}@{digest}") is not None
            self._metadata.delete(_MANIFESTS, f"{repository}@{digest}")
            for key, _ in self._metadata.items(_REFERRERS, f"{repository}@"):
                if key.endswith(f"@{digest}"):
                    self._metadata.delete(_REFERRERS, key)
        return known

    def add_blob(self, repository: str, digest: str) -> None:
        """Let the repository have a blob."""
        self._metadata.put(_BLOBS, f"{repository}@{digest}", b"")

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether it was added."""
        return self._metadata.get(_BLOBS, f"{repository}@{digest}") is not None

    def remove_blob(self, repository: str, digest: str) -> bool:
        """Forget it; whether it was known."""
        with self._metadata.transaction():
            known = self.has_blob(repository, digest)
            self._metadata.delete(_BLOBS, f"{repository}@{digest}")
        return known

    def has_any(self, repository: str) -> bool:
        """Whether anything was added."""
        buckets = (_MANIFESTS, _BLOBS, _REFERRERS)
        return any(self._metadata.items(bucket, f"{repository}@") for bucket in buckets)

    def add_referrer(self, repository: str, subject_digest: str, descriptor: Descriptor) -> None:
        """Note that a manifest of the repository refers to another, which need not be there."""
        key = f"{repository}@{subject_digest}@{descriptor.digest}"
        self._metadata.put(_REFERRERS, key, msgspec.json.encode(descriptor))

    def referrers(self, repository: str, subject_digest: str) -> list[Descriptor]:
        """What refers to a digest in a repository, by digest."""
        found = self._metadata.items(_REFERRERS, f"{repository}@{subject_digest}@")
        return [msgspec.json.decode(data, type=Descriptor) for _, data in found]

    def all_referrers(self) -> list[Referrer]:
        """Those of all repositories."""
        found = []
        for key, data in self._metadata.items(_REFERRERS):
            repository, subject, _ = key.split("@")
            found.append(Referrer(repository, subject, msgspec.json.decode(data, type=Descriptor)))
        return found

    def forget_missing(self, content: ContentStore) -> None:
        """Drop the records of content that is no longer there."""
        for bucket in (_MANIFESTS, _BLOBS, _REFERRERS):
            for key, _ in self._metadata.items(bucket):
                if not content.has(key.rpartition("@")[2]):
                    self._metadata.delete(bucket, key)
