"""Blobs by digest: ingest, verify, commit, read.

A blob is written to a private file in `ingest/`, synced, renamed into `blobs/<algorithm>/` and
only then visible; the directory is synced before `commit` returns. A crash at any moment leaves a
file in `ingest/` and never a wrong blob. Every ingest file is locked by its writer, so that
`gc` can tell a forgotten one from one in the making.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import BinaryIO

from arkwright.diagnostics.errors import UserError
from arkwright.oci.digest import parse_digest, sha256
from arkwright.store.leases import lock_in_place
from arkwright.store.space import space_needed

PARTIAL_SUFFIX = ".part"
_READ_SIZE = 1 << 20
_ALGORITHMS = ("sha256", "sha512")


class ContentStore:
    """The blobs below a store's root. Thread-safe: it keeps no state but paths."""

    def __init__(self, root_path: str) -> None:
        self._blobs_path = os.path.join(root_path, "blobs")
        self._ingest_path = os.path.join(root_path, "ingest")

    def path(self, digest: str) -> str:
        """The absolute path at which the blob is, once committed.

        Raises `UserError` `invalid-digest`.
        """
        algorithm, encoded = parse_digest(digest)
        return f"{self._blobs_path}/{algorithm}/{encoded}"

    def has(self, digest: str) -> bool:
        return os.path.exists(self.path(digest))

    def size(self, digest: str) -> int:
        """Bytes of the blob. Raises `UserError` `missing-blob`."""
        try:
            return os.stat(self.path(digest)).st_size
        except FileNotFoundError as error:
            raise _missing(digest) from error

    def open(self, digest: str) -> BinaryIO:
        """The blob's bytes, from the start; the caller closes. Raises `UserError` `missing-blob`."""
        try:
            return open(self.path(digest), "rb")
        except FileNotFoundError as error:
            raise _missing(digest) from error

    def read(self, digest: str, *, limit: int = 64 << 20) -> bytes:
        """A small blob as a whole.

        Raises `UserError` `missing-blob`, or `blob-too-large` beyond `limit` bytes.
        """
        with self.open(digest) as blob:
            data = blob.read(limit + 1)
        if len(data) > limit:
            raise UserError.of("blob-too-large", f"blob {digest} is larger than {limit} bytes")
        return data

    def write(self, data: bytes) -> str:
        """Keep a small blob, and return its sha256 digest."""
        digest = sha256(data)
        if not self.has(digest):
            with self.ingest(expected=digest, size=len(data)) as ingest:
                ingest.write(data)
                ingest.commit()
        return digest

    def ingest(
        self, *, expected: str = "", size: int = -1, resumable: bool = False, algorithm: str = "sha256"
    ) -> Ingest:
        """Begin to write a blob.

        `expected` is the digest that it must have, `size` its length (-1: unknown), `algorithm` that of a
        digest that is not known yet. A resumable
        ingest needs `expected`; it goes on with the bytes that an aborted one left, and if
        another process is at the same blob just now, it becomes an ordinary one.
        Raises `UserError` `invalid-digest`.
        """
        algorithm = parse_digest(expected)[0] if expected else algorithm
        keep = resumable
        name = expected.replace(":", "-") + PARTIAL_SUFFIX if resumable else os.urandom(12).hex()
        with space_needed(self._ingest_path, f"blob {expected}".rstrip()):
            while (fd := lock_in_place(path := os.path.join(self._ingest_path, name))) < 0:
                name, keep = os.urandom(12).hex(), False
        return Ingest(self, path, fd, algorithm=algorithm, expected=expected, size=size, keep=keep)

    def delete(self, digest: str) -> None:
        """Remove a blob; no error if it is not there. Only under the store's exclusive lease."""
        with suppress(FileNotFoundError):
            os.unlink(self.path(digest))

    def digests(self) -> Iterator[str]:
        """The digests of all blobs, in no order."""
        for algorithm in _ALGORITHMS:
            with suppress(FileNotFoundError), os.scandir(f"{self._blobs_path}/{algorithm}") as found:
                for item in found:
                    yield f"{algorithm}:{item.name}"


class Ingest:
    """One blob on its way in: a context manager that aborts unless committed. For one thread.

    `offset` counts the bytes that are there, and is above 0 at the start if a partial file was
    found; its hash is restored by reading it.
    """

    def __init__(
        self,
        content: ContentStore,
        path: str,
        fd: int,
        *,
        algorithm: str,
        expected: str,
        size: int,
        keep: bool,
    ) -> None:
        self._content = content
        self._path = path
        self._fd = fd
        self._algorithm = algorithm
        self._expected = expected
        self._size = size
        self._keep = keep
        self._hash = hashlib.new(algorithm)
        self.offset = 0
        self._restore()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes.

        Raises `UserError` `corrupt-blob` as soon as more arrive than the announced size, and
        `no-space`.
        """
        view = memoryview(data).cast("B")
        if 0 <= self._size < self.offset + len(view):
            raise self._corrupt(f"is longer than the announced {self._size} bytes")
        with space_needed(self._path, f"blob {self._expected}".rstrip()):
            done = 0
            while done < len(view):
                done += os.write(self._fd, view[done:])
        self._hash.update(view)
        self.offset += len(view)

    @property
    def digest(self) -> str:
        """The digest of what was written until now."""
        return f"{self._algorithm}:{self._hash.hexdigest()}"

    def reset(self) -> None:
        """Start again from the first byte."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._hash = hashlib.new(self._algorithm)
        self.offset = 0

    def commit(self) -> str:
        """Verify, sync and publish; returns the digest.

        Raises `UserError` `corrupt-blob` naming both digests (the bytes are thrown away), or
        `no-space`.
        """
        digest = self.digest
        if self._expected and digest != self._expected:
            raise self._corrupt(f"has the digest {digest} ({self.offset} bytes)", actual=digest)
        if 0 <= self._size != self.offset:
            raise self._corrupt(f"has {self.offset} bytes, announced were {self._size}", actual=digest)
        target_path = self._content.path(digest)
        with space_needed(target_path, f"blob {digest}"):
            os.fchmod(self._fd, 0o644)
            os.fsync(self._fd)
            _rename_durably(self._path, target_path)
        self._close()
        return digest

    def abort(self) -> None:
        """Throw the bytes away; a resumable ingest keeps them for the next one."""
        if self._fd >= 0:
            if not (self._keep and self.offset):
                with suppress(FileNotFoundError):
                    os.unlink(self._path)
            self._close()

    def __enter__(self) -> Ingest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def _restore(self) -> None:
        while chunk := os.read(self._fd, _READ_SIZE):
            self._hash.update(chunk)
            self.offset += len(chunk)
        if 0 <= self._size < self.offset:
            self.reset()

    def _corrupt(self, found: str, actual: str = "") -> Exception:
        self._keep = False
        self.abort()
        name = f"blob {self._expected}" if self._expected else "the blob"
        return UserError.of(
            "corrupt-blob",
            f"{name} {found}",
            hint="what sent it is damaged or was altered on the way; fetch it again",
            details={"expected": self._expected, "actual": actual, "size": self.offset},
        )

    def _close(self) -> None:
        os.close(self._fd)
        self._fd = -1


def _rename_durably(source_path: str, target_path: str) -> None:
    parent_path = os.path.dirname(target_path)
    try:
        os.rename(source_path, target_path)
    except FileNotFoundError:
        os.mkdir(parent_path, 0o700)
        os.chmod(parent_path, 0o700)
        os.rename(source_path, target_path)
    parent_fd = os.open(parent_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent_fd)
    finally:
        os.close(parent_fd)


def _missing(digest: str) -> Exception:
    return UserError.of(
        "missing-blob",
        f"the store does not have blob {digest}",
        hint="pull the image, or build it, again",
        details={"digest": digest},
    )
