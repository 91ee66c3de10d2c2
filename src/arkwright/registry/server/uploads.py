"""Uploads under way: what arrived is kept between requests, and thrown away when nobody goes on."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from arkwright.oci.digest import parse_digest
from arkwright.registry.server.answers import Problem
from arkwright.store.content import ContentStore, Ingest

LIFE_S = 900.0
MOST = 200
_TAKEOVER_S = 10.0
_COPY = 1 << 20


class Upload:
    """One upload into one repository."""

    def __init__(self, id: str, repository: str, ingest: Ingest) -> None:
        self.id = id
        self.repository = repository
        self.ingest = ingest
        self.touched_s = time.monotonic()
        self.ended = False
        self._lock = threading.Lock()
        self._break_off: Callable[[], None] = lambda: None

    @contextmanager
    def taken(self, break_off: Callable[[], None]) -> Iterator[Ingest]:
        """Have the upload for one's own in the body. Whoever had it is ended by the `break_off` that it
        gave: a client that comes back has lost its first connection, which may not know yet.

        Raises `Problem` BLOB_UPLOAD_UNKNOWN, BLOB_UPLOAD_INVALID.
        """
        if not self._lock.acquire(blocking=False):
            self._break_off()
            if not self._lock.acquire(timeout=_TAKEOVER_S):
                raise Problem(409, "BLOB_UPLOAD_INVALID", "the upload is in use by another request")
        try:
            if self.ended:
                raise unknown_upload()
            self._break_off = break_off
            yield self.ingest
        finally:
            self._break_off = lambda: None
            self.touched_s = time.monotonic()
            self._lock.release()

    def end(self) -> None:
        """Throw away what was not committed; by whoever has taken it, or when nobody has."""
        self.ended = True
        self.ingest.abort()

    def end_if_free(self) -> bool:
        """End it unless a request is at it just now; whether it ended."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            self.end()
        finally:
            self._lock.release()
        return True


class Uploads:
    """All of them. Thread-safe."""

    def __init__(self, *, life_s: float = LIFE_S, most: int = MOST) -> None:
        self._life_s = life_s
        self._most = most
        self._lock = threading.Lock()
        self._found: dict[str, Upload] = {}

    def begin(self, content: ContentStore, repository: str, algorithm: str = "sha256") -> Upload:
        """A new upload. Raises `Problem` TOOMANYREQUESTS, and as `ContentStore.ingest`."""
        with self._lock:
            if len(self._found) >= self._most:
                raise Problem(
                    429, "TOOMANYREQUESTS", "too many uploads are under way", headers={"Retry-After": "30"}
                )
            id = secrets.token_urlsafe(24)
            self._found[id] = upload = Upload(id, repository, content.ingest(algorithm=algorithm))
        return upload

    def find(self, id: str, repository: str) -> Upload:
        """The upload. Raises `Problem` BLOB_UPLOAD_UNKNOWN."""
        with self._lock:
            upload = self._found.get(id)
        if upload is None or upload.repository != repository:
            raise unknown_upload()
        return upload

    def forget(self, upload: Upload) -> None:
        """The upload is done or given up; by whoever has taken it."""
        upload.end()
        with self._lock:
            self._found.pop(upload.id, None)

    def expire(self) -> bool:
        """Throw away what nobody goes on with; whether any is left."""
        oldest_s = time.monotonic() - self._life_s
        with self._lock:
            old = [one for one in self._found.values() if one.touched_s < oldest_s]
        for upload in old:
            if upload.end_if_free():
                with self._lock:
                    self._found.pop(upload.id, None)
        with self._lock:
            return bool(self._found)

    def close(self) -> None:
        """Throw all away, when no request is served any more."""
        with self._lock:
            for upload in self._found.values():
                upload.end()
            self._found.clear()


def publish(content: ContentStore, ingest: Ingest, digest: str) -> None:
    """Commit an ingest whose digest is to be this one.

    Raises `Problem` DIGEST_INVALID, and as `Ingest.commit`.
    """
    if parse_digest(digest)[0] != parse_digest(ingest.digest)[0]:
        _republish(content, ingest.commit(), digest)
        return
    if ingest.digest != digest:
        raise mismatch(digest, ingest.digest)
    ingest.commit()


def _republish(content: ContentStore, found: str, digest: str) -> None:
    """Keep a blob under its digest in another algorithm too; a client says late which it wants."""
    with content.open(found) as source, content.ingest(algorithm=parse_digest(digest)[0]) as copy:
        while data := source.read(_COPY):
            copy.write(data)
        if copy.digest != digest:
            raise mismatch(digest, copy.digest)
        copy.commit()


def mismatch(expected: str, found: str) -> Problem:
    """What came has another digest."""
    detail = {"digest": expected, "actual": found}
    return Problem(400, "DIGEST_INVALID", f"what was sent has the digest {found}", detail=detail)


def unknown_upload() -> Problem:
    """No such upload, or not any more."""
    return Problem(404, "BLOB_UPLOAD_UNKNOWN", "there is no such upload; begin a new one")
