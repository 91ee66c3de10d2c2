"""Images from the content store to a registry: what is there already is not sent again.

The order is that of the distribution specification: blobs, then the manifests that name them, then
indexes, and last the tag; so a push that is cut off leaves no image that lacks something.
"""

from __future__ import annotations

import io
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.net.retry import cancelled
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.digest import sha256
from arkwright.oci.manifest import Manifest, parse
from arkwright.oci.reference import Reference
from arkwright.oci.selection import descendants
from arkwright.registry.access import Access
from arkwright.registry.client import MANIFEST_LIMIT, Registry, open_registries
from arkwright.registry.parallel import run_all
from arkwright.registry.pull import JOBS, BlobProgress
from arkwright.registry.upload import Outcome, push_blob
from arkwright.store.content import ContentStore

MountFrom = Callable[[str], str]


class PushReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a push did. Counts of distinct blobs; `bytes_uploaded` counts the sent ones' sizes."""

    digest: str
    uploaded: int = 0
    mounted: int = 0
    skipped: int = 0
    bytes_uploaded: int = 0
    manifests: int = 0


def push_image(
    descriptor: Descriptor,
    reference: Reference,
    content: ContentStore,
    *,
    tls_verify: bool | None = None,
    access: Access | None = None,
    progress: BlobProgress | None = None,
    mount_from: MountFrom | None = None,
    jobs: int = JOBS,
    chunk_size: int = 0,
) -> PushReport:
    """Push a manifest, or an index with all its manifests, and name it as `reference` says.

    A reference with a tag sets the tag; one with a digest must have that of the image, and without
    a tag sets none. `mount_from` gives a repository at the same registry that may have a digest's
    blob, or "". `access` replaces the default one; `chunk_size` is that of `push_blob`.

    Raises `UserError` `push-digest-mismatch`, `missing-blob`, `corrupt-blob`, `invalid-manifest`;
    `Denied` `registry-blocked`; `Cancelled`; `RemoteError` (see `registry.errors`).
    """
    check_digest(descriptor, reference)
    documents, blobs = _contents(descriptor, content)
    with nullcontext(access) if access else Access(tls_verify=tls_verify) as shared:
        registry = open_registries(shared, reference, push=True)[0]
        # One look whether the registry is there, not one for every thread.
        registry.server.base()
        upload = _Upload(registry, content, progress, mount_from, chunk_size)
        outcomes = run_all(
            [upload.task(blob) for blob in blobs], jobs=jobs, abort=shared.abort
        )  # fmt: skip
        put_documents(registry, documents, reference, content)
    counts = Counter(outcomes)
    sent = [blob.size for blob, outcome in zip(blobs, outcomes, strict=True) if outcome == "uploaded"]
    return PushReport(
        digest=descriptor.digest,
        uploaded=counts["uploaded"],
        mounted=counts["mounted"],
        skipped=counts["skipped"],
        bytes_uploaded=sum(sent),
        manifests=len(documents),
    )


def check_digest(descriptor: Descriptor, reference: Reference) -> None:
    """Raise `UserError` `push-digest-mismatch` when `reference` has the digest of something else."""
    if reference.digest and reference.digest != descriptor.digest:
        raise UserError.of(
            "push-digest-mismatch",
            f"the image has the digest {descriptor.digest}, and cannot be pushed as {reference}",
            hint="leave the digest out of the name",
        )


def put_documents(
    registry: Registry, documents: Sequence[Descriptor], reference: Reference, content: ContentStore
) -> None:
    """Manifests and indexes, each after what it names; the last gets the tag of `reference`, if any.

    Raises `UserError` `missing-blob`, `corrupt-blob`, `RemoteError`.
    """
    *children, root = documents
    for child in children:
        registry.put_manifest(child.digest, child.media_type, _document(child, content))
    registry.put_manifest(reference.tag or root.digest, root.media_type, _document(root, content))


def _contents(root: Descriptor, content: ContentStore) -> tuple[list[Descriptor], list[Descriptor]]:
    """Manifests and indexes, children first, and the distinct blobs that they need.

    Everything is looked for before the first byte is sent. Raises `UserError` `missing-blob`.
    """

    def read(descriptor: Descriptor) -> bytes:
        return _document(descriptor, content)

    documents: list[Descriptor] = []
    blobs: dict[str, Descriptor] = {}
    for found, document in descendants(root, parse(read(root), root.media_type), read):
        stated = document.media_type or found.media_type
        documents.append(msgspec.structs.replace(found, media_type=stated))
        if isinstance(document, Manifest):
            for blob in (document.config, *document.layers):
                if _is_ours(blob, content):
                    blobs.setdefault(blob.digest, blob)
    return documents, list(blobs.values())


def _is_ours(blob: Descriptor, content: ContentStore) -> bool:
    """Whether a blob is to be pushed; false for one that is to be had elsewhere and is not here."""
    if content.has(blob.digest):
        if content.size(blob.digest) != blob.size:
            raise UserError.of(
                "corrupt-blob",
                f"blob {blob.digest} has {content.size(blob.digest)} bytes; its manifest says {blob.size}",
            )
        return True
    if blob.urls:
        return False
    raise _missing(f"blob {blob.digest} is not in the store")


def _document(descriptor: Descriptor, content: ContentStore) -> bytes:
    """A manifest's bytes, verified: registries name manifests by what arrives."""
    try:
        data = content.read(descriptor.digest, limit=MANIFEST_LIMIT)
    except UserError as error:
        if error.code != "missing-blob":
            raise
        raise _missing(f"manifest {descriptor.digest} is not in the store") from error
    if descriptor.digest.startswith("sha256:") and sha256(data) != descriptor.digest:
        raise UserError.of("corrupt-blob", f"blob {descriptor.digest} in the store has other content")
    return data


def _missing(message: str) -> UserError:
    error = UserError.of(
        "missing-blob",
        message,
        hint="pull the image again; one for several platforms with --all-platforms",
    )
    assert isinstance(error, UserError)
    return error


class _Upload:
    """The uploads of one push."""

    def __init__(
        self,
        registry: Registry,
        content: ContentStore,
        progress: BlobProgress | None,
        mount_from: MountFrom | None,
        chunk_size: int,
    ) -> None:
        self._registry = registry
        self._content = content
        self._progress = progress
        self._mount_from = mount_from
        self._chunk_size = chunk_size

    def task(self, blob: Descriptor) -> Callable[[threading.Event], Outcome]:
        return lambda stop: self._push(blob, stop)

    def _push(self, blob: Descriptor, stop: threading.Event) -> Outcome:
        def report(done: int) -> None:
            if stop.is_set() or self._registry.access.cancelled.is_set():
                raise cancelled()
            if self._progress is not None:
                self._progress(blob, done, blob.size)

        report(0)
        origin = self._mount_from(blob.digest) if self._mount_from else ""
        outcome = push_blob(
            self._registry,
            blob.digest,
            blob.size,
            lambda: Counted(self._content.path(blob.digest), report),
            mount_from="" if origin == self._registry.repository else origin,
            chunk_size=self._chunk_size,
        )
        report(blob.size)
        return outcome


class Counted(io.BufferedReader):
    """A blob that reports how far it was read; the report may raise to end the transfer."""

    def __init__(self, path: str, report: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path))
        self._report = report

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._report(self.tell())
        return data
