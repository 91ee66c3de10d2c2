"""Images from registry to registry: what the target has is not fetched, and within one registry blobs
are mounted from the source's repository (OCI distribution specification, "Mounting a blob")."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from arkwright.net.retry import cancelled
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.manifest import Manifest, parse
from arkwright.oci.platform import Platform
from arkwright.oci.reference import Reference
from arkwright.oci.selection import descendants, select
from arkwright.registry.access import Access
from arkwright.registry.client import Registry, open_registries
from arkwright.registry.parallel import run_all
from arkwright.registry.pull import (
    JOBS,
    BlobProgress,
    DocumentReader,
    fetch_blob,
    fetch_manifest,
)
from arkwright.registry.push import Counted, PushReport, check_digest, put_documents
from arkwright.registry.upload import Outcome, mount_blob, push_blob
from arkwright.store.content import ContentStore


class SourceImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image in a registry whose documents are in the store; its blobs need not be.

    `documents` are manifests and indexes, children first, the image itself last; `registries` are
    the places to ask for the blobs.
    """

    documents: tuple[Descriptor, ...]
    blobs: tuple[Descriptor, ...]
    registries: tuple[Registry, ...]

    @property
    def root(self) -> Descriptor:
        return self.documents[-1]


def source_image(
    reference: Reference,
    content: ContentStore,
    platform: Platform | None,
    access: Access,
    charge: Callable[[Descriptor], None] = lambda document: None,
) -> SourceImage:
    """Fetch the documents of an image; `platform` None is all of an index. `charge` is told of each
    before it is fetched, as far as its size is known then, and may raise. Raises as `pull_image`."""
    registries = open_registries(access, reference)
    root, data = fetch_manifest(registries, reference.digest or reference.tag or "latest", content)
    charge(root)
    reader = DocumentReader(registries, content)

    def read(described: Descriptor) -> bytes:
        charge(described)
        return reader(described)

    document = parse(data, root.media_type)
    if platform is not None:
        root, document = select(root, document, platform, read, str(reference))
    found = list(descendants(root, document, read))
    images = [one for _, one in found if isinstance(one, Manifest)]
    blobs = {blob.digest: blob for one in images for blob in (one.config, *one.layers) if not blob.urls}
    documents = tuple(
        msgspec.structs.replace(described, media_type=one.media_type or described.media_type)
        for described, one in found
    )
    return SourceImage(documents=documents, blobs=tuple(blobs.values()), registries=registries)


def copy_image(
    source: SourceImage,
    target: Reference,
    content: ContentStore,
    access: Access,
    *,
    progress: BlobProgress | None = None,
    jobs: int = JOBS,
) -> PushReport:
    """Make the image whole at `target`, and name it there; blobs pass through the store.

    A target that says it has this image under this name already is asked no further.
    Raises as `push_image` and `fetch_blob`.
    """
    check_digest(source.root, target)
    registry = open_registries(access, target, push=True)[0]
    registry.server.base()
    there = registry.head_manifest(target.tag or source.root.digest)
    if there is not None and there.digest == source.root.digest:
        return PushReport(digest=source.root.digest, skipped=len(source.blobs))
    copying = _Copying(source.registries, registry, content, progress)
    tasks = [copying.task(blob) for blob in source.blobs]
    outcomes = run_all(tasks, jobs=jobs, abort=access.abort)
    put_documents(registry, source.documents, target, content)
    counts = Counter(outcomes)
    sent = [blob.size for blob, outcome in zip(source.blobs, outcomes, strict=True) if outcome == "uploaded"]
    return PushReport(
        digest=source.root.digest,
        uploaded=counts["uploaded"],
        mounted=counts["mounted"],
        skipped=counts["skipped"],
        bytes_uploaded=sum(sent),
        manifests=len(source.documents),
    )


def sibling(access: Access, origin: Reference, target: Reference) -> str:
    """The repository of `origin` when it is at the server that a push to `target` goes to, else ""."""
    registry = open_registries(access, target, push=True)[0]
    return _repository_at(registry, open_registries(access, origin))


def _repository_at(registry: Registry, others: Sequence[Registry]) -> str:
    beside = [other.repository for other in others if other.server is registry.server]
    return next((name for name in beside if name != registry.repository), "")


class _Copying:
    """The blobs of one copy."""

    def __init__(
        self,
        sources: Sequence[Registry],
        target: Registry,
        content: ContentStore,
        progress: BlobProgress | None,
    ) -> None:
        self._sources = sources
        self._target = target
        self._content = content
        self._progress = progress
        self._mount_from = _repository_at(target, sources)

    def task(self, blob: Descriptor) -> Callable[[threading.Event], Outcome]:
        return lambda stop: self._copy(blob, stop)

    def _copy(self, blob: Descriptor, stop: threading.Event) -> Outcome:
        if self._target.has_blob(blob.digest):
            self._report(blob, blob.size)
            return "skipped"
        if self._mount_from and mount_blob(self._target, blob.digest, self._mount_from):
            self._report(blob, blob.size)
            return "mounted"
        # Two transfers of one blob are shown as one.
        fetch_blob(
            self._sources,
            blob,
            self._content,
            lambda done, _: self._report(blob, done // 2),
            stop=stop,
        )
        push_blob(
            self._target,
            blob.digest,
            blob.size,
            lambda: Counted(self._content.path(blob.digest), lambda done: self._sent(blob, done, stop)),
            check=False,
        )
        self._report(blob, blob.size)
        return "uploaded"

    def _sent(self, blob: Descriptor, done: int, stop: threading.Event) -> None:
        if stop.is_set() or self._target.access.cancelled.is_set():
            raise cancelled()
        self._report(blob, (blob.size + done) // 2)

    def _report(self, blob: Descriptor, done: int) -> None:
        if self._progress is not None:
            self._progress(blob, done, blob.size)
