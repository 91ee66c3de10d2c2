"""Records, transactions and schema versions."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import pytest

from arkwright.diagnostics.errors import UserError
from arkwright.oci.descriptor import Descriptor
from arkwright.store import metadata as module
from arkwright.store.metadata import Metadata
from arkwright.store.store import Store


def test_put_get_delete(store: Store) -> None:
    records = store.metadata
    assert records.get("a", "k") is None
    records.put("a", "k", b"1")
    records.put("a", "k", b"2")
    records.put("b", "k", b"other bucket")
    assert records.get("a", "k") == b"2"
    records.delete("a", "k")
    records.delete("a", "k")
    assert records.get("a", "k") is None
    assert records.get("b", "k") == b"other bucket"


def test_items_by_prefix_in_order(store: Store) -> None:
    records = store.metadata
    records.put_many("a", ((key, b"") for key in ("b/2", "b", "b0", "b/1", "c", "a", "é", "\udcff", "b/é")))
    assert [key for key, _ in records.items("a", "b/")] == ["b/1", "b/2", "b/é"]
    assert [key for key, _ in records.items("a")] == ["a", "b", "b/1", "b/2", "b/é", "b0", "c", "é", "\udcff"]
    assert [key for key, _ in records.items("a", "\udcff")] == ["\udcff"]
    assert records.items("none") == []
    for bucket in ("a", "none"):
        assert records.keys(bucket) == [key for key, _ in records.items(bucket)]


def test_a_transaction_is_all_or_nothing(store: Store) -> None:
    records = store.metadata
    with pytest.raises(RuntimeError), records.transaction():
        records.put("a", "x", b"")
        raise RuntimeError
    assert records.get("a", "x") is None
    with records.transaction():
        records.put("a", "outer", b"")
        with pytest.raises(RuntimeError), records.transaction():
            records.put("a", "inner", b"")
            raise RuntimeError
        with records.transaction():
            records.put("a", "second", b"")
    assert [key for key, _ in records.items("a")] == ["outer", "second"]


def test_threads_share_the_connection(store: Store) -> None:
    def count() -> None:
        for _ in range(50):
            with store.metadata.transaction():
                value = int(store.metadata.get("n", "n") or b"0")
                store.metadata.put("n", "n", str(value + 1).encode())

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.metadata.get("n", "n") == b"200"


def test_processes_share_the_file(tmp_path: Path, fork) -> None:
    def count(_pause) -> None:
        with Store.open(str(tmp_path / "s")) as store:
            for _ in range(50):
                with store.metadata.transaction():
                    value = int(store.metadata.get("n", "n") or b"0")
                    store.metadata.put("n", "n", str(value + 1).encode())

    children = [fork(count) for _ in range(4)]
    assert [child.finish() for child in children] == [0] * 4
    with Store.open(str(tmp_path / "s")) as store:
        assert store.metadata.get("n", "n") == b"200"


def test_use_after_fork_is_refused(store: Store, fork) -> None:
    store.metadata.put("a", "k", b"1")

    def use(_pause) -> None:
        with pytest.raises(AssertionError, match="close the store before a fork"):
            store.metadata.get("a", "k")
        with pytest.raises(AssertionError, match="close the store before a fork"):
            store.metadata.put("a", "k", b"2")

    assert fork(use).finish() == 0
    assert store.metadata.get("a", "k") == b"1"


def test_no_connection_while_apart(store: Store) -> None:
    def open_files() -> set[str]:
        return {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}

    path = os.path.join(store.root_path, "metadata.db")
    assert path in open_files()
    with store.metadata.apart():
        assert not any(one.startswith(path) for one in open_files())
    store.metadata.put("a", "k", b"1")
    with store.metadata.transaction(), pytest.raises(AssertionError, match="transaction"):
        with store.metadata.apart():
            pass
    assert store.metadata.get("a", "k") == b"1"


def test_another_process_that_keeps_the_lock(store: Store, fork, monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.path.join(store.root_path, "metadata.db")
    store.close()

    def hold(pause) -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        pause()
        connection.close()

    child = fork(hold)
    child.wait_ready()
    monkeypatch.setattr(module, "_BUSY_S", 0.1)
    records = Metadata(path)
    with pytest.raises(UserError) as caught:
        records.put("a", "k", b"")
    assert caught.value.code == "store-busy"
    assert child.finish() == 0
    records.put("a", "k", b"")
    records.close()


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(UserError) as caught:
        Metadata(str(path))
    assert caught.value.code == "store-damaged"
    assert str(path) in str(caught.value)


def test_schema_migrates_and_never_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "m.db")
    records = Metadata(path)
    records.put("a", "k", b"kept")
    records.close()
    later = (*module.MIGRATIONS, ("CREATE TABLE extra (x)",))
    with monkeypatch.context() as patch:
        patch.setattr(module, "MIGRATIONS", later)
        records = Metadata(path)
        assert records.get("a", "k") == b"kept"
        records.close()
    with pytest.raises(UserError) as caught:
        Metadata(path)
    assert caught.value.code == "store-too-new"


def test_a_failed_migration_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "m.db")
    Metadata(path).close()
    with monkeypatch.context() as patch:
        patch.setattr(module, "MIGRATIONS", (*module.MIGRATIONS, ("CREATE TABLE extra (x)", "NONSENSE")))
        with pytest.raises(UserError):
            Metadata(path)
    records = Metadata(path)
    records.put("a", "k", b"")
    records.close()


def test_image_names(store: Store) -> None:
    one = Descriptor(
        media_type="application/vnd.oci.image.manifest.v1+json", digest="sha256:" + "1" * 64, size=7
    )
    two = Descriptor(media_type=one.media_type, digest="sha256:" + "2" * 64, size=8)
    store.names.set("docker.io/library/b:latest", one)
    store.names.set("docker.io/library/a:latest", one)
    store.names.set("docker.io/library/b:latest", two)
    assert store.names.get("docker.io/library/b:latest") == two
    assert store.names.list() == [("docker.io/library/a:latest", one), ("docker.io/library/b:latest", two)]
    assert store.names.remove("docker.io/library/a:latest") is True
    assert store.names.remove("docker.io/library/a:latest") is False
    assert store.names.get("docker.io/library/a:latest") is None
