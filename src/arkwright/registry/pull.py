"""Images from registries into the content store: resumed, verified, from mirrors, in parallel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Protocol, TypeVar

import msgspec

from arkwright.diagnostics.errors import RemoteError, UserError
from arkwright.net.failures import remote_error
from arkwright.net.response import Response
from arkwright.net.retry import cancelled
from arkwright.oci.descriptor import INDEXES, MANIFESTS, Descriptor
from arkwright.oci.manifest import Manifest, parse
from arkwright.oci.platform import Platform
from arkwright.oci.reference import Reference
from arkwright.oci.selection import descendants, select
from arkwright.registry.access import Access
from arkwright.registry.client import CONFIG_LIMIT, MANIFEST_LIMIT, Registry, open_registries
from arkwright.registry.parallel import run_all
from arkwright.store.content import ContentStore, Ingest

T = TypeVar("T")

JOBS = 4
_BUFFER = 1 << 18
# A broken transfer that brought at least this many bytes does not count as a failed attempt.
_WORTHWHILE = 1 << 20
_BROKEN = frozenset({"network-interrupted", "network-timeout"})


class Progress(Protocol):
    """Called with bytes done and bytes in all."""

    def __call__(self, done: int, total: int) -> None: ...


class BlobProgress(Protocol):
    """Called from several threads: a blob, its bytes done and in all."""

    def __call__(self, blob: Descriptor, done: int, total: int) -> None: ...


class ResolvedImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image for one platform. Manifest and config are in the store, the layers need not be.

    `root` is what the reference names (an index, or the manifest itself); `registries` are the
    places to ask for the layers.
    """

    root: Descriptor
    manifest: Descriptor
    document: Manifest
    registries: tuple[Registry, ...]


def pull_image(
    reference: Reference,
    content: ContentStore,
    platform: Platform | None,
    *,
    tls_verify: bool | None = None,
    access: Access | None = None,
    progress: BlobProgress | None = None,
    jobs: int = JOBS,
) -> Descriptor:
    """Fetch an image with all its blobs; returns the manifest of the platform, or with
    `platform=None` (all platforms) what the reference names. `access` replaces the default one.

    Raises `UserError` `no-matching-platform`, `Denied` `registry-blocked`, and `RemoteError` (see
    `fetch_manifest`, `fetch_blob`).
    """
    with nullcontext(access) if access else Access(tls_verify=tls_verify) as shared:
        registries = open_registries(shared, reference)
        root, data = fetch_manifest(registries, _ref(reference), content)
        document, read = parse(data, root.media_type), DocumentReader(registries, content)
        if platform is None:
            chosen = root
            images = [one for _, one in descendants(root, document, read) if isinstance(one, Manifest)]
        else:
            chosen, manifest = select(root, document, platform, read, str(reference))
            images = [manifest]
        fetch_image_blobs(registries, images, content, progress=progress, jobs=jobs)
        return chosen


def resolve_image(
    reference: Reference, content: ContentStore, platform: Platform, access: Access
) -> ResolvedImage:
    """Fetch the manifest and the config for one platform, and no layer. Raises as `pull_image`."""
    registries = open_registries(access, reference)
    root, data = fetch_manifest(registries, _ref(reference), content)
    read = DocumentReader(registries, content)
    chosen, document = select(root, parse(data, root.media_type), platform, read, str(reference))
    _check_config(registries[-1], document.config)
    fetch_blob(registries, document.config, content)
    return ResolvedImage(root=root, manifest=chosen, document=document, registries=registries)


def fetch_manifest(
    registries: Sequence[Registry], ref: str, content: ContentStore, expected: Descriptor | None = None
) -> tuple[Descriptor, bytes]:
    """A manifest or index by tag or digest, from the first place that has it, into the store.

    `expected` is the descriptor in its index. A digest that is in the store is not asked for.
    Raises `RemoteError` (the last place's, with the others' failures as notes).
    """
    if ":" in ref and content.has(ref):
        data = content.read(ref, limit=MANIFEST_LIMIT)
        media_type = expected.media_type if expected else _media_type(data)
        if media_type:
            return Descriptor(media_type=media_type, digest=ref, size=len(data)), data
    found, data = _first(registries, lambda registry: registry.get_manifest(ref))
    if expected is not None and expected.size != len(data):
        raise _wrong_size(registries[-1], expected, len(data))
    with content.ingest(expected=found.digest, size=len(data)) as ingest:
        ingest.write(data)
        ingest.commit()
    return found, data


def fetch_image_blobs(
    registries: Sequence[Registry],
    images: Sequence[Manifest],
    content: ContentStore,
    *,
    progress: BlobProgress | None = None,
    jobs: int = JOBS,
) -> None:
    """Configs and layers of the images, each once, at most `jobs` at a time."""
    for image in images:
        _check_config(registries[-1], image.config)
    blobs = {blob.digest: blob for image in images for blob in (image.config, *image.layers)}
    access = registries[0].access

    def task(blob: Descriptor) -> Callable[[threading.Event], None]:
        def report(done: int, total: int) -> None:
            if progress is not None:
                progress(blob, done, total)

        return lambda stop: fetch_blob(registries, blob, content, report, stop=stop)

    run_all([task(blob) for blob in blobs.values()], jobs=jobs, abort=access.abort)


def fetch_blob(
    registry: Registry | Sequence[Registry],
    descriptor: Descriptor,
    content: ContentStore,
    progress: Progress | None = None,
    *,
    stop: threading.Event | None = None,
) -> None:
    """Make a blob present and verified in the store; nothing is asked when it is there.

    Several places are asked in order. An interrupted transfer goes on from where it stopped, in
    this call or in a later process. Bytes with another digest are thrown away and fetched once
    more, from the next place if there is one.
    Raises `RemoteError` `corrupt-blob` (the second time) and those of `registry.errors`; `UserError`
    `no-space`; `Cancelled` when `stop` or the access' event is set.
    """
    if content.has(descriptor.digest):
        if progress is not None:
            progress(descriptor.size, descriptor.size)
        return
    places = [registry] if isinstance(registry, Registry) else list(registry)
    fetch = _Fetch(descriptor, content, progress, stop or threading.Event())
    failures: list[RemoteError] = []
    while places:
        place = places.pop(0)
        try:
            place.access.retry(lambda: fetch.attempt(place))  # noqa: B023
            return
        except RemoteError as error:
            corrupt_before = any(one.code == "corrupt-blob" for one in failures)
            failures.append(error)
            if error.code == "corrupt-blob":
                if corrupt_before:
                    break
                places = places or [place]
    raise _with_notes(failures)


class _Fetch:
    """One blob on its way."""

    def __init__(
        self,
        descriptor: Descriptor,
        content: ContentStore,
        progress: Progress | None,
        stop: threading.Event,
    ) -> None:
        self._descriptor = descriptor
        self._content = content
        self._progress = progress
        self._stop = stop

    def attempt(self, registry: Registry) -> None:
        """Go on until done; a break after much progress is gone over at once."""
        digest, size = self._descriptor.digest, self._descriptor.size
        with self._content.ingest(expected=digest, size=size, resumable=True) as ingest:
            try:
                while ingest.offset < size:
                    # A connection that was broken off on purpose is not taken up again.
                    self._check(registry)
                    begin = ingest.offset
                    try:
                        self._transfer(registry, ingest)
                    except RemoteError as error:
                        if error.code not in _BROKEN or ingest.offset - begin < _WORTHWHILE:
                            raise
                ingest.commit()
            except UserError as error:
                if error.code != "corrupt-blob":
                    raise
                raise self._corrupt(registry, error) from error

    def _transfer(self, registry: Registry, ingest: Ingest) -> None:
        response, begin = self._open(registry, ingest)
        if begin != ingest.offset:
            ingest.reset()
        buffer = memoryview(bytearray(_BUFFER))
        with response:
            while count := response.readinto(buffer):
                self._check(registry)
                ingest.write(buffer[:count])
                if self._progress is not None:
                    self._progress(ingest.offset, self._descriptor.size)
        if ingest.offset < self._descriptor.size:
            error = self._short(registry, response, ingest.offset)
            if error.code == "corrupt-blob":
                # The next try must not go on from bytes that belong to another blob.
                ingest.reset()
            raise error

    def _check(self, registry: Registry) -> None:
        if self._stop.is_set() or registry.access.cancelled.is_set():
            raise cancelled()

    def _open(self, registry: Registry, ingest: Ingest) -> tuple[Response, int]:
        digest = self._descriptor.digest
        try:
            return registry.open_blob(digest, ingest.offset)
        except RemoteError as error:
            bad_range = error.details["status"] == 416 or error.details.get("wrong_range")
            if not (ingest.offset and bad_range):
                raise
        ingest.reset()
        return registry.open_blob(digest)

    def _short(self, registry: Registry, response: Response, offset: int) -> RemoteError:
        digest, size = self._descriptor.digest, self._descriptor.size
        # A body without announced length that breaks off looks like one that ends.
        return remote_error(
            "network-interrupted" if response.length < 0 else "corrupt-blob",
            f"blob {digest} from {registry.name} ended after {offset} of {size} bytes{_page(response)}",
            method="GET",
            url=response.url,
            retryable=response.length < 0,
            status=response.status,
        )

    def _corrupt(self, registry: Registry, error: UserError) -> RemoteError:
        digest = self._descriptor.digest
        return remote_error(
            "corrupt-blob",
            f"{registry.name} sent a corrupted blob: {error.diagnostics[0].message}",
            method="GET",
            url=registry.url(f"blobs/{digest}"),
            retryable=False,
            status=200,
            hint="the registry, a mirror or a proxy on the way is damaged or alters what it sends",
            expected=digest,
            actual=error.details.get("actual", ""),
        )


class DocumentReader:
    """Reads documents through the store: what is missing is fetched."""

    def __init__(self, registries: Sequence[Registry], content: ContentStore) -> None:
        self._registries = registries
        self._content = content

    def __call__(self, descriptor: Descriptor) -> bytes:
        if descriptor.media_type in MANIFESTS | INDEXES:
            return fetch_manifest(self._registries, descriptor.digest, self._content, descriptor)[1]
        _check_config(self._registries[-1], descriptor)
        fetch_blob(self._registries, descriptor, self._content)
        return self._content.read(descriptor.digest, limit=CONFIG_LIMIT)


def _first(registries: Sequence[Registry], ask: Callable[[Registry], T]) -> T:
    """The answer of the first place that gives one."""
    failures: list[RemoteError] = []
    for registry in registries:
        try:
            return ask(registry)
        except RemoteError as error:
            failures.append(error)
    raise _with_notes(failures)


def _with_notes(failures: Sequence[RemoteError]) -> RemoteError:
    """The last failure, which is the registry's own, with those of the mirrors as notes."""
    *earlier, last = failures
    if not earlier:
        return last
    first = last.diagnostics[0]
    notes = tuple(f"before that: {error.diagnostics[0].message}" for error in earlier)
    noted = msgspec.structs.replace(first, notes=(*first.notes, *notes))
    return RemoteError(noted, *last.diagnostics[1:], details=last.details)


def _check_config(registry: Registry, config: Descriptor) -> None:
    """A config is read into memory, so that its announced size has a bound."""
    if config.size > CONFIG_LIMIT:
        raise remote_error(
            "config-too-large",
            f"{registry.name}: the image config {config.digest} is larger than {CONFIG_LIMIT} bytes",
            method="GET",
            url=registry.url(f"blobs/{config.digest}"),
            retryable=False,
        )


def _wrong_size(registry: Registry, expected: Descriptor, found: int) -> RemoteError:
    return remote_error(
        "corrupt-manifest",
        f"manifest {registry.name}@{expected.digest} has {found} bytes; its index says {expected.size}",
        method="GET",
        url=registry.url(f"manifests/{expected.digest}"),
        retryable=False,
        hint="the index was made by a broken tool, or damaged",
        expected=expected.digest,
    )


def _page(response: Response) -> str:
    """What explains a blob that is none: the page of a proxy or of a log-in."""
    stated = response.header("Content-Type").partition(";")[0].strip().lower()
    return f" (what came says that it is {stated})" if stated in ("text/html", "text/plain") else ""


def _media_type(data: bytes) -> str:
    """What a manifest in the store says that it is; "" when it does not say."""
    try:
        return parse(data).media_type
    except UserError:
        return ""


def _ref(reference: Reference) -> str:
    return reference.digest or reference.tag or "latest"
