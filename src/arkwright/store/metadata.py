"""Records in named buckets, in SQLite.

The only module that knows of sqlite3. Write-ahead log with `synchronous=normal`: a crash of the
machine may lose the last transactions and never breaks the file (sqlite.org/wal.html). Keys are
text that may carry surrogate escapes; they are kept and ordered as bytes.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from arkwright.diagnostics.errors import ArkwrightError, UserError
from arkwright.store.space import no_space

_BUSY_S = 30.0

# One script per schema version: script N brings a database of version N to version N + 1.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE records (bucket TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL,"
        " PRIMARY KEY (bucket, key))",
    ),
)

_PUT = (
    "INSERT INTO records (bucket, key, value) VALUES (?, ?, ?)"
    " ON CONFLICT (bucket, key) DO UPDATE SET value = excluded.value"
)


class Metadata:
    """One connection to the database, for one process and all its threads.

    Every method raises `UserError` `store-busy` when another process kept the database locked for
    30 s, `store-damaged` when it cannot be read, and `no-space`.
    """

    def __init__(self, path: str) -> None:
        """Open or create the database, and bring its schema up to date.

        Raises `UserError` `store-too-new` for a database of a later version.
        """
        self._path = path
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._depth = 0
        # SQLite gives its other files the mode of the main one, and makes that by the umask.
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.fchmod(fd, 0o600)
        os.close(fd)
        self._connect()
        try:
            self._migrate()
        except BaseException:
            self._connection.close()
            raise

    def _connect(self) -> None:
        with self._wrapped():
            self._connection = sqlite3.connect(
                self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
        try:
            with self._wrapped():
                self._connection.execute("PRAGMA journal_mode = WAL").fetchone()
                self._connection.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            self._connection.close()
            raise

    def get(self, bucket: str, key: str) -> bytes | None:
        """The value, or `None`."""
        with self._use() as connection:
            row = connection.execute(
                "SELECT value FROM records WHERE bucket = ? AND key = ?", (bucket, _encoded(key))
            ).fetchone()
        return None if row is None else bytes(row[0])

    def put(self, bucket: str, key: str, value: bytes) -> None:
        """Write one value, over what was there."""
        with self._use() as connection:
            connection.execute(_PUT, (bucket, _encoded(key), value))

    def put_many(self, bucket: str, items: Iterable[tuple[str, bytes]]) -> None:
        """Write many values in one transaction."""
        rows = [(bucket, _encoded(key), value) for key, value in items]
        if rows:
            with self.transaction(), self._use() as connection:
                connection.executemany(_PUT, rows)

    def delete(self, bucket: str, key: str) -> None:
        """Remove a value; no error if it is not there."""
        with self._use() as connection:
            connection.execute("DELETE FROM records WHERE bucket = ? AND key = ?", (bucket, _encoded(key)))

    def items(self, bucket: str, prefix: str = "") -> list[tuple[str, bytes]]:
        """All pairs whose key begins with `prefix`, ordered by the key's bytes."""
        start = _encoded(prefix)
        end = _after(start)
        query = "SELECT key, value FROM records WHERE bucket = ? AND key >= ?"
        values: tuple[object, ...] = (bucket, start)
        if end is not None:
            query, values = query + " AND key < ?", (*values, end)
        with self._use() as connection:
            rows = connection.execute(query + " ORDER BY key", values).fetchall()
        return [(bytes(key).decode("utf-8", "surrogateescape"), bytes(value)) for key, value in rows]

    def keys(self, bucket: str) -> list[str]:
        """All keys, ordered by their bytes; for buckets whose values are large."""
        with self._use() as connection:
            rows = connection.execute(
                "SELECT key FROM records WHERE bucket = ? ORDER BY key", (bucket,)
            ).fetchall()
        return [bytes(key).decode("utf-8", "surrogateescape") for (key,) in rows]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all writes of the body one transaction, for this thread; other threads wait.

        Re-entrant: a body inside a body that fails takes only its own writes back.
        """
        with self._use() as connection:
            depth = self._depth
            connection.execute(f"SAVEPOINT level_{depth}" if depth else "BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
                connection.execute(f"RELEASE level_{depth}" if depth else "COMMIT")
            except BaseException:
                self._roll_back(depth)
                raise
            finally:
                self._depth -= 1

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Have no connection in the body, so that none crosses a fork there (sqlite.org/howtocorrupt.html,
        "Carrying an open database connection across a fork"); no transaction may be open."""
        with self._lock:
            assert self._depth == 0, "a transaction is open"
            self._connection.close()
            try:
                yield
            finally:
                self._connect()

    def close(self) -> None:
        """Close the connection; a second close does nothing."""
        if self._pid == os.getpid():
            with self._lock:
                self._connection.close()

    @contextmanager
    def _use(self) -> Iterator[sqlite3.Connection]:
        assert os.getpid() == self._pid, (
            "this process is a fork of the one that opened the store: close the store before a fork"
            " and open it again after"
        )
        with self._lock, self._wrapped():
            yield self._connection

    @contextmanager
    def _wrapped(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise _explain(error, self._path) from error

    def _roll_back(self, depth: int) -> None:
        # A full disk may have ended the transaction already (sqlite.org/lang_transaction.html).
        if not self._connection.in_transaction:
            return
        if depth:
            self._connection.execute(f"ROLLBACK TO level_{depth}")
            self._connection.execute(f"RELEASE level_{depth}")
        else:
            self._connection.execute("ROLLBACK")

    def _migrate(self) -> None:
        if self._version() == len(MIGRATIONS):
            return
        with self.transaction():
            version = self._version()
            if version > len(MIGRATIONS):
                raise UserError.of(
                    "store-too-new",
                    f"the store's database {self._path} was written by a later version of arkwright",
                    hint="use that version, or another store with --root or ARKWRIGHT_ROOT",
                )
            for script in MIGRATIONS[version:]:
                for statement in script:
                    self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def _version(self) -> int:
        with self._use() as connection:
            return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _encoded(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


def _after(prefix: bytes) -> bytes | None:
    """The smallest byte string above all that begin with `prefix`; `None` if there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None


def _explain(error: sqlite3.Error, path: str) -> ArkwrightError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return no_space(path, "a record of the store's database")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return UserError.of(
            "store-busy",
            f"another process kept the store's database {path} locked for {_BUSY_S:.0f} s",
            hint="see what else is using the store, then try again",
        )
    return UserError.of(
        "store-damaged",
        f"the store's database {path} cannot be used: {error}",
        hint="check the disk and the file's owner; a store can be removed as a whole and is built anew",
    )
