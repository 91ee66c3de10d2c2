"""What files held when they were last read, so that unchanged ones are not read again.

A file is the same when device, inode, change time, modification time, size and mode are: the
change time (inode(7)) moves with every write, chmod and attribute change, and nobody can set it
back. There are three traps:

- Clocks tick coarsely, so an edit right after our read could leave all of these as they were: a
  file that changed less than two seconds before it was read is not remembered at all (the "racy"
  entries of git's index).
- The clock may be set back, and a later edit then get the very change time that we know: what is
  known with a change time less than two seconds ago, or in the future, is read again.
- A store through a shared mapping (mmap(2)) moves the times when it makes a page writable, and not
  again until that page was written back; on tmpfs never again. So a file is remembered only when
  nobody has it open for writing, which a read lease proves (fcntl(2), F_SETLEASE). Where we may
  take none, it has to be unchanged for longer than the kernel keeps pages from the disk.

Kept in the metadata bucket `stat:<hash of the root's path>`, one value per directory: the lookup
of a whole context is one query. Losing or mixing values costs time, never a wrong answer.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import threading
import time

import msgspec

from arkwright.store.metadata import Metadata

RACY_NS = 2_000_000_000
# vm.dirty_expire_centisecs and vm.dirty_writeback_centisecs are 30 s and 5 s (kernel: admin-guide,
# sysctl/vm); twice that.
WRITTEN_BACK_NS = 70_000_000_000
# Directories of one root; beyond that, those which this run did not visit are dropped.
_KEPT = 50_000


class Known(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The status that one inode had, and the `tail` of its node in a tree digest: what was read of
    it (see `checksum`)."""

    ctime_ns: int
    mtime_ns: int
    size: int
    mode: int
    tail: str

    def describes(self, status: os.stat_result) -> bool:
        return (
            self.ctime_ns == status.st_ctime_ns
            and self.mtime_ns == status.st_mtime_ns
            and self.size == status.st_size
            and self.mode == status.st_mode
        )


_decoder = msgspec.msgpack.Decoder(dict[int, Known])
_encoder = msgspec.msgpack.Encoder()


class DirectoryStats:
    """The known inodes of one directory; `known` is for lookups, `learn` for additions."""

    __slots__ = ("changed", "device", "fresh_ns", "known")

    def __init__(self, device: int, known: dict[int, Known]) -> None:
        self.device = device
        # What changed from then on is not trusted in this run.
        self.fresh_ns = now_ns() - RACY_NS
        self.known = known
        self.changed = False

    def find(self, status: os.stat_result) -> Known | None:
        """What is known of the inode that has this status."""
        known = self.known.get(status.st_ino)
        if known is None or not known.describes(status) or known.ctime_ns >= self.fresh_ns:
            return None
        return known

    def learn(self, status: os.stat_result, read_at_ns: int, tail: str) -> None:
        """Remember what was read from `read_at_ns` (wall clock) on of an inode that had `status`
        before; unless it is too fresh for its times to tell a later edit apart."""
        too_fresh = (
            status.st_ctime_ns > read_at_ns - RACY_NS or abs(read_at_ns - status.st_mtime_ns) < RACY_NS
        )
        # A file mounted over another is of another device: inode numbers would mix.
        if too_fresh or status.st_dev != self.device:
            return
        self.known[status.st_ino] = Known(
            status.st_ctime_ns, status.st_mtime_ns, status.st_size, status.st_mode, tail
        )
        self.changed = True

    def keep_only(self, inodes: list[int]) -> None:
        """Forget what is gone, after a listing of the whole directory."""
        if len(self.known) > 2 * len(inodes) + 16:
            present = set(inodes)
            self.known = {inode: known for inode, known in self.known.items() if inode in present}
            self.changed = True


class RootStats:
    """The directories of one root."""

    def __init__(self, bucket: str, rows: list[tuple[str, bytes]]) -> None:
        self.bucket = bucket
        self._rows = dict(rows)
        self._open: dict[str, DirectoryStats] = {}
        self._lock = threading.Lock()

    def directory(self, status: os.stat_result) -> DirectoryStats:
        """What is known of the directory with this status."""
        key = f"{status.st_dev:x}:{status.st_ino:x}"
        found = self._open.get(key)
        if found is None:
            with self._lock:
                found = self._open.setdefault(
                    key, DirectoryStats(status.st_dev, _decode(self._rows.get(key)))
                )
        return found

    def changes(self) -> list[tuple[str, bytes]]:
        """The values to write, which count as written from now on."""
        rows = []
        with self._lock:
            for key, directory in self._open.items():
                if directory.changed:
                    directory.changed = False
                    rows.append((key, _encoder.encode(dict(directory.known))))
        return rows

    def surplus(self) -> list[str]:
        """Keys to drop because the root has too many."""
        if len(self._rows) <= _KEPT:
            return []
        unvisited = [key for key in self._rows if key not in self._open]
        for key in unvisited:
            del self._rows[key]
        return unvisited


class StatCache:
    """The stat cache of a store: read once per root, written by `flush`. Thread-safe."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._roots: dict[str, RootStats] = {}
        self._lock = threading.Lock()

    def root(self, path: str) -> RootStats:
        """The part of the cache for a tree."""
        real_path = os.path.realpath(path)
        with self._lock:
            if real_path not in self._roots:
                bucket = "stat:" + hashlib.sha256(os.fsencode(real_path)).hexdigest()[:32]
                self._roots[real_path] = RootStats(bucket, self._metadata.items(bucket))
            return self._roots[real_path]

    def flush(self) -> None:
        """Write what was learned, in one transaction. Nothing to write touches no database."""
        with self._lock:
            roots = list(self._roots.values())
        changes = [(root, root.changes(), root.surplus()) for root in roots]
        if not any(rows or gone for _, rows, gone in changes):
            return
        with self._metadata.transaction():
            for root, rows, gone in changes:
                self._metadata.put_many(root.bucket, rows)
                for key in gone:
                    self._metadata.delete(root.bucket, key)


def is_settled(fd: int, status: os.stat_result) -> bool:
    """Whether no store into an open regular file can go unnoticed from now on: nobody has it open
    for writing, or mapped so."""
    import signal

    try:
        # A writer that comes while we hold the lease would otherwise end us with SIGIO.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return False
        # Not the owner (EACCES), or a file system without leases (EINVAL).
        return status.st_ctime_ns < now_ns() - WRITTEN_BACK_NS
    return True


def now_ns() -> int:
    """The wall clock, which file times are compared with."""
    return time.time_ns()


def _decode(data: bytes | None) -> dict[int, Known]:
    if data is None:
        return {}
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError:
        return {}
