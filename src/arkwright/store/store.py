"""The store: everything that Arkwright keeps on a machine, below one directory.

    lock           the lease: shared while a `Store` is open, exclusive to delete
    metadata.db    records (see `metadata`)
    blobs/         content by digest
    ingest/        blobs being written
    layers/        layer directories (see the package `snapshot`)
    work/          layers being made
    trash/         what waits to be deleted
    history/       journals of builds
    cache-mounts/  directories that steps keep between builds
    claims/        locks on vertices in flight (see `solver.dedupe`)

One uid owns a store, on a local file system. Any process of this uid may open it at any time; a
kill at any moment leaves garbage at most.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from arkwright.store import gc
from arkwright.store.content import ContentStore
from arkwright.store.leases import Claim, Lease, claim_new
from arkwright.store.location import check_location, default_root, make_directory, writable
from arkwright.store.metadata import Metadata
from arkwright.store.names import ImageNames
from arkwright.store.space import space_needed

__all__ = ["Store", "default_root"]

_DIRECTORIES = (
    "blobs",
    "blobs/sha256",
    "ingest",
    "layers",
    "work",
    "trash",
    "history",
    "cache-mounts",
    "claims",
)


class Store:
    """An open store. Thread-safe; at most one per process; closed before a fork, reopened after."""

    root_path: str
    content: ContentStore
    metadata: Metadata
    names: ImageNames

    def __init__(self, root_path: str, lease: Lease, metadata: Metadata) -> None:
        self.root_path = root_path
        self.content = ContentStore(root_path)
        self.metadata = metadata
        self.names = ImageNames(metadata)
        self._lease = lease

    @classmethod
    def open(cls, root_path: str) -> Store:
        """Open the store, and make it if there is none; waits while somebody deletes.

        If nobody else uses the store, what earlier processes left half-made goes to the trash.
        Raises `HostUnsupported` `store-of-another-user` or `store-on-network-file-system`, and
        `UserError` `store-not-writable`, `store-too-new`, `store-damaged`, `store-busy`, `no-space`.
        """
        root_path = os.path.realpath(root_path)
        with space_needed(root_path, "the store"), writable(root_path):
            make_directory(root_path)
            check_location(root_path)
            lease = Lease(os.path.join(root_path, "lock"))
            try:
                return cls._open_leased(root_path, lease)
            except BaseException:
                lease.close()
                raise

    @classmethod
    def open_alone(cls, root_path: str) -> Store | None:
        """Open the store with the exclusive lease, to delete; None when anybody else uses it.

        It never waits, and the caller must have no other lease: of several who ask at the end of
        their work, the last one gets it. Raises as `open` does.
        """
        root_path = os.path.realpath(root_path)
        with space_needed(root_path, "the store"), writable(root_path):
            lease = Lease(os.path.join(root_path, "lock"))
            try:
                if not lease.try_exclusive():
                    lease.close()
                    return None
                store = cls(root_path, lease, Metadata(os.path.join(root_path, "metadata.db")))
                store.clean()
                return store
            except BaseException:
                lease.close()
                raise

    @classmethod
    def _open_leased(cls, root_path: str, lease: Lease) -> Store:
        alone = lease.try_exclusive()
        if not alone:
            lease.share()
        for name in _DIRECTORIES:
            make_directory(os.path.join(root_path, name))
        # The first process makes the database while the others wait for their shared lock.
        metadata = Metadata(os.path.join(root_path, "metadata.db"))
        store = cls(root_path, lease, metadata)
        if alone:
            store.clean()
            lease.share()
        return store

    def close(self) -> None:
        """Give up the lease and the database; a second close does nothing."""
        self.metadata.close()
        self._lease.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def exclusive(self, timeout_s: float = 0.0) -> Iterator[None]:
        """Be the only user of the store in the body: the time to delete blobs and layers.

        What was looked up before must be looked up again (see `Lease.exclusive`).
        Raises `UserError` `store-in-use` after `timeout_s`.
        """
        with self._lease.exclusive(timeout_s):
            yield

    def claim_work(self) -> Claim:
        """A fresh, private directory in `work/`, ours until the claim is closed.

        Raises `UserError` `no-space`.
        """
        with space_needed(self.root_path, "a work directory"):
            return claim_new(os.path.join(self.root_path, "work"))

    def clean(self) -> None:
        """Move what earlier processes left half-made to the trash; safe beside running builds."""
        trash_path = os.path.join(self.root_path, "trash")
        gc.clean_ingest(os.path.join(self.root_path, "ingest"), trash_path)
        gc.clean_work(os.path.join(self.root_path, "work"), trash_path)
        gc.clean_claims(os.path.join(self.root_path, "claims"))

    def trash(self, path: str) -> None:
        """Rename a file or directory of the store into the trash; no error if it is not there."""
        gc.discard(path, os.path.join(self.root_path, "trash"))

    def empty_trash(self) -> None:
        """Delete what is in the trash. Slow: never on the path of a build."""
        gc.empty(os.path.join(self.root_path, "trash"))
