"""A remote cache in a directory: an OCI image layout, one entry of the index per record."""

from __future__ import annotations

import fcntl
import io
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import msgspec

from arkwright.cache.remote import ARTIFACT_TYPE, RECORD_LIMIT, RECORD_TYPE, Opener, Report
from arkwright.diagnostics.errors import UserError
from arkwright.net.retry import cancelled
from arkwright.oci import descriptor as media
from arkwright.oci.descriptor import REF_NAME, Descriptor
from arkwright.oci.digest import sha256
from arkwright.oci.layout import Layout
from arkwright.oci.manifest import Index, Manifest, parse
from arkwright.oci.manifest import encode as encode_manifest
from arkwright.store.content import ContentStore

_COPY = 1 << 20
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
# The index is read as a whole, and its readers take at most 4 MiB; the oldest records go first.
_ENTRIES = 10_000


class LayoutCache:
    """The records `TAG-<key>` of a layout. Other processes may write to it at the same time.

    The index is replaced as a whole under a lock on the directory, after the blobs that it names.
    """

    def __init__(self, path: str, tag: str) -> None:
        self.name = f"local:{path}:{tag}"
        self._path = path
        self._tag = tag
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._seen: tuple[int, int] = (0, 0)
        self._names: dict[str, Descriptor] = {}

    def has_record(self, key: str) -> bool:
        return self._find(key) is not None

    def get_record(self, key: str) -> bytes | None:
        found = self._find(key)
        if found is None:
            return None
        layout = Layout(self._path)
        document = parse(layout.read(found.digest), found.media_type)
        if not isinstance(document, Manifest) or document.config.media_type != RECORD_TYPE:
            return None
        return layout.read(document.config.digest, limit=RECORD_LIMIT)

    def put_record(self, key: str, data: bytes, blobs: Sequence[Descriptor]) -> None:
        """Raises `UserError` `not-an-oci-layout`, `unwritable-file`."""
        layout = self._made()
        config = self._write(layout, data)
        manifest = encode_manifest(record_manifest(config, blobs))
        entry = Descriptor(
            media_type=media.MANIFEST, digest=self._write(layout, manifest).digest, size=len(manifest),
            artifact_type=ARTIFACT_TYPE, annotations={REF_NAME: self._ref(key)},
        )  # fmt: skip
        with self._writing(), self._locked():
            others = [
                one for one in layout.index().manifests if one.annotations.get(REF_NAME) != self._ref(key)
            ]
            index = Index(
                schema_version=2, media_type=media.INDEX, manifests=(*others[1 - _ENTRIES :], entry)
            )
            layout.write_index(index)

    def has_blob(self, digest: str) -> bool:
        return os.path.exists(Layout(self._path).blob_path(digest))

    def put_blob(self, blob: Descriptor, opener: Opener) -> None:
        path = self._made().blob_path(blob.digest)
        if os.path.exists(path):
            return
        partial_path = f"{path}.{os.getpid()}.{threading.get_ident()}.partial"
        with self._writing():
            try:
                with opener() as source, open(partial_path, "xb") as target:
                    while chunk := source.read(_COPY):
                        self._go_on()
                        target.write(chunk)
                    target.flush()
                    os.fsync(target.fileno())
                os.rename(partial_path, path)
            except BaseException:
                if os.path.exists(partial_path):
                    os.unlink(partial_path)
                raise

    def fetch_blob(self, blob: Descriptor, content: ContentStore, report: Report) -> None:
        """Raises `UserError` `missing-blob`, `corrupt-blob`."""
        if content.has(blob.digest):
            return
        with self._open(blob) as source, content.ingest(expected=blob.digest, size=blob.size) as ingest:
            while chunk := source.read(_COPY):
                self._go_on()
                ingest.write(chunk)
                report(ingest.offset, blob.size)
            ingest.commit()

    def abort(self) -> None:
        self._stopped.set()

    def _ref(self, key: str) -> str:
        return f"{self._tag}-{key.partition(':')[2]}"

    def _find(self, key: str) -> Descriptor | None:
        with self._lock:
            try:
                status = os.stat(os.path.join(self._path, "index.json"))
            except FileNotFoundError:
                return None
            except OSError as error:
                raise UserError.of(
                    "not-an-oci-layout", f"cannot read {self._path}: {error.strerror}"
                ) from error
            # Every writer renames a new file into place.
            seen = (status.st_ino, status.st_mtime_ns)
            if seen != self._seen:
                entries = Layout.open(self._path).index().manifests
                self._names = {one.annotations.get(REF_NAME, ""): one for one in entries}
                self._seen = seen
            return self._names.get(self._ref(key))

    def _open(self, blob: Descriptor) -> BinaryIO:
        # Without O_NONBLOCK a FIFO in the layout would block the open.
        try:
            return open(os.open(Layout(self._path).blob_path(blob.digest), _READ), "rb")
        except OSError as error:
            message = f"{self._path} has no readable blob {blob.digest}: {error.strerror}"
            raise UserError.of("missing-blob", message) from error

    def _made(self) -> Layout:
        with self._lock:
            if not os.path.exists(os.path.join(self._path, "oci-layout")):
                with self._writing():
                    os.makedirs(self._path, exist_ok=True)
                    with self._locked():
                        return Layout.create(self._path)
            return Layout.open(self._path)

    def _write(self, layout: Layout, data: bytes) -> Descriptor:
        blob = Descriptor(media_type=RECORD_TYPE, digest=sha256(data), size=len(data))
        self.put_blob(blob, lambda: io.BytesIO(data))
        return blob

    @contextmanager
    def _locked(self) -> Iterator[None]:
        directory_fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            while True:
                try:
                    fcntl.flock(directory_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if self._stopped.wait(0.02):
                        raise cancelled() from None
            yield
        finally:
            os.close(directory_fd)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            message = f"cannot write to {self._path}: {error.strerror or error}"
            raise UserError.of("unwritable-file", message) from error

    def _go_on(self) -> None:
        if self._stopped.is_set():
            raise cancelled()


def record_manifest(config: Descriptor, blobs: Sequence[Descriptor]) -> Manifest:
    """The manifest of a record: its JSON as the config, its blobs as layers (image specification,
    manifest.md, "Guidelines for Artifact Usage")."""
    layers = {blob.digest: msgspec.structs.replace(blob, annotations={}, urls=()) for blob in blobs}
    return Manifest(
        schema_version=2, media_type=media.MANIFEST, artifact_type=ARTIFACT_TYPE, config=config,
        layers=tuple(layers.values()) or (config,),
    )  # fmt: skip
