"""A remote cache in memory: what an object store has to offer, and no more."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from arkwright.cache.remote import Opener, Report
from arkwright.diagnostics.errors import UserError
from arkwright.net.retry import cancelled
from arkwright.oci.descriptor import Descriptor
from arkwright.store.content import ContentStore


class Bucket:
    """What all sessions see."""

    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}


class MemoryCache:
    """One session with a bucket."""

    name = "memory:bucket"

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._stopped = threading.Event()

    def has_record(self, key: str) -> bool:
        return key in self._bucket.records

    def get_record(self, key: str) -> bytes | None:
        return self._bucket.records.get(key)

    def put_record(self, key: str, data: bytes, blobs: Sequence[Descriptor]) -> None:
        assert all(blob.digest in self._bucket.blobs for blob in blobs), "a record promises what is not there"
        self._bucket.records[key] = data

    def has_blob(self, digest: str) -> bool:
        return digest in self._bucket.blobs

    def put_blob(self, blob: Descriptor, opener: Opener) -> None:
        if blob.digest not in self._bucket.blobs:
            with opener() as source:
                self._bucket.blobs[blob.digest] = source.read()

    def fetch_blob(self, blob: Descriptor, content: ContentStore, report: Report) -> None:
        if self._stopped.is_set():
            raise cancelled()
        data = self._bucket.blobs.get(blob.digest)
        if data is None:
            raise UserError.of("missing-blob", f"the bucket has no blob {blob.digest}")
        with content.ingest(expected=blob.digest, size=blob.size) as ingest:
            ingest.write(data)
            report(ingest.offset, blob.size)
            ingest.commit()

    def abort(self) -> None:
        self._stopped.set()
