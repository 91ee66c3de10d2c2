"""Blobs: what becomes visible, when, and what never does."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from arkwright.diagnostics.errors import UserError
from arkwright.oci.digest import sha256
from arkwright.store.store import Store

DATA = os.urandom(300_000)
DIGEST = sha256(DATA)


def ingest_names(store: Store) -> list[str]:
    return os.listdir(os.path.join(store.root_path, "ingest"))


def test_write_then_read(store: Store) -> None:
    assert store.content.write(DATA) == DIGEST
    assert store.content.has(DIGEST)
    assert store.content.size(DIGEST) == len(DATA)
    assert store.content.read(DIGEST) == DATA
    with store.content.open(DIGEST) as blob:
        assert blob.read() == DATA
    assert list(store.content.digests()) == [DIGEST]
    assert store.content.path(DIGEST) == f"{store.root_path}/blobs/sha256/{DIGEST[7:]}"
    assert ingest_names(store) == []


def test_invisible_until_committed(store: Store) -> None:
    with store.content.ingest() as ingest:
        ingest.write(DATA)
        assert not store.content.has(DIGEST)
        assert ingest.commit() == DIGEST
        assert store.content.has(DIGEST)
    assert store.content.has(DIGEST)


def test_leaving_without_commit_leaves_nothing(store: Store) -> None:
    with store.content.ingest(expected=DIGEST) as ingest:
        ingest.write(DATA)
    assert not store.content.has(DIGEST)
    assert ingest_names(store) == []


def test_wrong_digest_is_refused_and_both_are_named(store: Store) -> None:
    with pytest.raises(UserError) as caught, store.content.ingest(expected=DIGEST) as ingest:
        ingest.write(b"something else")
        ingest.commit()
    assert caught.value.code == "corrupt-blob"
    assert DIGEST in str(caught.value)
    assert sha256(b"something else") in str(caught.value)
    assert list(store.content.digests()) == []
    assert ingest_names(store) == []


def test_wrong_size_is_refused(store: Store) -> None:
    with pytest.raises(UserError) as caught, store.content.ingest(size=5) as ingest:
        ingest.write(b"four")
        ingest.commit()
    assert caught.value.code == "corrupt-blob"
    with pytest.raises(UserError) as caught, store.content.ingest(size=5) as ingest:
        ingest.write(b"sixsix")
    assert caught.value.code == "corrupt-blob"
    assert ingest_names(store) == []


def test_resume_goes_on_where_it_stopped(store: Store) -> None:
    with store.content.ingest(expected=DIGEST, size=len(DATA), resumable=True) as ingest:
        ingest.write(DATA[:100_000])
    with store.content.ingest(expected=DIGEST, size=len(DATA), resumable=True) as ingest:
        assert ingest.offset == 100_000
        ingest.write(memoryview(DATA)[100_000:])
        ingest.commit()
    assert store.content.read(DIGEST) == DATA
    assert ingest_names(store) == []


def test_reset_starts_again(store: Store) -> None:
    with store.content.ingest(expected=DIGEST, resumable=True) as ingest:
        ingest.write(DATA[:1000])
    with store.content.ingest(expected=DIGEST, resumable=True) as ingest:
        ingest.reset()
        assert ingest.offset == 0
        ingest.write(DATA)
        ingest.commit()
    assert store.content.read(DIGEST) == DATA


def test_a_corrupt_partial_is_not_resumed_again(store: Store) -> None:
    with pytest.raises(UserError), store.content.ingest(expected=DIGEST, resumable=True) as ingest:
        ingest.write(b"garbage")
        ingest.commit()
    with store.content.ingest(expected=DIGEST, resumable=True) as ingest:
        assert ingest.offset == 0


def test_two_resumable_ingests_of_one_blob_do_not_meet(store: Store) -> None:
    with store.content.ingest(expected=DIGEST, resumable=True) as first:
        first.write(DATA[:10])
        with store.content.ingest(expected=DIGEST, resumable=True) as second:
            assert second.offset == 0
            second.write(DATA)
            second.commit()
        first.write(DATA[10:])
        assert first.commit() == DIGEST
    assert store.content.read(DIGEST) == DATA


def test_sha512(store: Store) -> None:
    digest = "sha512:" + hashlib.sha512(DATA).hexdigest()
    with store.content.ingest(expected=digest) as ingest:
        ingest.write(DATA)
        assert ingest.commit() == digest
    assert store.content.read(digest) == DATA
    assert list(store.content.digests()) == [digest]


def test_missing_and_ill_named_blobs(store: Store) -> None:
    for use in (store.content.open, store.content.size, store.content.read):
        with pytest.raises(UserError) as caught:
            use(DIGEST)
        assert caught.value.code == "missing-blob"
    for bad in ("sha256:../../lock", "sha256:ABC", "", "../x"):
        with pytest.raises(UserError) as caught:
            store.content.has(bad)
        assert caught.value.code == "invalid-digest"
    store.content.delete(DIGEST)


def test_read_has_a_limit(store: Store) -> None:
    digest = store.content.write(DATA)
    with pytest.raises(UserError) as caught:
        store.content.read(digest, limit=len(DATA) - 1)
    assert caught.value.code == "blob-too-large"
    assert store.content.read(digest, limit=len(DATA)) == DATA


def test_delete(store: Store) -> None:
    store.content.write(DATA)
    store.content.delete(DIGEST)
    assert not store.content.has(DIGEST)


def test_threads_writing_the_same_blob(store: Store) -> None:
    digests = []
    threads = [threading.Thread(target=lambda: digests.append(store.content.write(DATA))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert digests == [DIGEST] * 8
    assert store.content.read(DIGEST) == DATA
    assert ingest_names(store) == []


@pytest.mark.parametrize("at", ["written", "partial"])
def test_a_kill_leaves_a_partial_that_resumes(tmp_path: Path, fork, at: str) -> None:
    def die(_pause) -> None:
        with Store.open(str(tmp_path / "s")) as store:
            ingest = store.content.ingest(expected=DIGEST, resumable=True)
            ingest.write(DATA if at == "written" else DATA[:7])
            os.kill(os.getpid(), signal.SIGKILL)

    assert fork(die).finish() == -signal.SIGKILL
    with Store.open(str(tmp_path / "s")) as store:
        assert not store.content.has(DIGEST)
        with store.content.ingest(expected=DIGEST, resumable=True) as ingest:
            ingest.write(DATA[ingest.offset :])
            ingest.commit()
        assert store.content.read(DIGEST) == DATA


def test_a_full_disk_leaves_nothing_half_visible(tmp_path: Path, fork) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs-root: mounts a small tmpfs")

    def fill(_pause) -> None:
        root_path = tmp_path / "small"
        root_path.mkdir(mode=0o700)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "none", str(root_path)], check=True)
        try:
            with Store.open(str(root_path)) as store:
                with pytest.raises(UserError) as caught, store.content.ingest() as ingest:
                    for _ in range(100):
                        ingest.write(DATA)
                assert caught.value.code == "no-space"
                assert str(root_path) in str(caught.value)
                assert list(store.content.digests()) == []
                assert ingest_names(store) == []
                assert store.content.write(DATA) == DIGEST
                with pytest.raises(UserError) as caught:
                    for number in range(1000):
                        store.metadata.put("fill", str(number), DATA)
                assert caught.value.code == "no-space"
                assert store.content.read(DIGEST) == DATA
        finally:
            subprocess.run(["umount", "-l", str(root_path)], check=True)

    assert fork(fill).finish() == 0
