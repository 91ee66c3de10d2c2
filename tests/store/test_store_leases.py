"""Opening, sharing, cleaning and emptying a store."""

from __future__ import annotations

import errno
import os
import signal
import stat
import time
from pathlib import Path

import pytest

from arkwright.diagnostics.errors import HostUnsupported, UserError
from arkwright.oci.digest import sha256
from arkwright.store import gc, leases
from arkwright.store.location import default_root, file_system_of, is_network
from arkwright.store.store import Store


def entries(store: Store, name: str) -> list[str]:
    return sorted(os.listdir(os.path.join(store.root_path, name)))


def modes_below(path: str) -> set[tuple[str, int]]:
    found = set()
    for directory, directories, files in os.walk(path):
        for name in directories + files:
            full = os.path.join(directory, name)
            found.add((os.path.relpath(full, path), stat.S_IMODE(os.lstat(full).st_mode)))
    return found


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_modes_do_not_follow_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with Store.open(str(tmp_path / "a" / "b" / "store")) as store:
            digest = store.content.write(b"x")
            claim = store.claim_work()
            claim.close()
            found = modes_below(str(tmp_path))
    finally:
        os.umask(before)
    directories = {mode for path, mode in found if os.path.isdir(tmp_path / path)}
    assert directories == {0o700}
    assert ("a/b/store/blobs/sha256/" + digest[7:], 0o644) in found
    assert ("a/b/store/metadata.db", 0o600) in found
    assert {mode & 0o077 for path, mode in found if "/blobs/sha256/" not in path} == {0}


def test_many_processes_open_a_new_store_at_once(tmp_path: Path, fork) -> None:
    def use(_pause) -> None:
        with Store.open(str(tmp_path / "s")) as store:
            store.content.write(b"x")
            store.metadata.put("a", str(os.getpid()), b"")

    children = [fork(use) for _ in range(8)]
    assert [child.finish() for child in children] == [0] * 8
    with Store.open(str(tmp_path / "s")) as store:
        assert len(store.metadata.items("a")) == 8


def test_exclusive_waits_for_the_others(store: Store, fork) -> None:
    def hold(pause) -> None:
        with Store.open(store.root_path):
            pause()

    child = fork(hold)
    child.wait_ready()
    with pytest.raises(UserError) as caught, store.exclusive(0.0):
        pytest.fail("two leases were held")
    assert caught.value.code == "store-in-use"
    child.kill()
    with store.exclusive(10.0):
        pass
    with store.exclusive(0.0):
        pass


def test_a_lease_outlives_a_closed_store(tmp_path: Path) -> None:
    root_path = str(tmp_path / "s")
    Store.open(root_path).close()
    with leases.Lease(os.path.join(root_path, "lock")) as lease:
        lease.share()
        with Store.open(root_path) as store, pytest.raises(UserError) as caught, store.exclusive(0.0):
            pytest.fail("the lease was ignored")
    assert caught.value.code == "store-in-use"


def test_open_cleans_what_a_killed_process_left(tmp_path: Path, fork) -> None:
    def die(_pause) -> None:
        store = Store.open(str(tmp_path / "s"))
        claim = store.claim_work()
        os.mkdir(os.path.join(claim.path, "fs"))
        store.content.ingest().write(b"half")
        store.content.ingest(expected="sha256:" + "0" * 64, resumable=True).write(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    assert fork(die).finish() == -signal.SIGKILL
    with Store.open(str(tmp_path / "s")) as store:
        assert entries(store, "work") == []
        assert entries(store, "ingest") == ["sha256-" + "0" * 64 + ".part"]
        assert len(entries(store, "trash")) == 2
        store.empty_trash()
        assert entries(store, "trash") == []


def test_cleaning_spares_what_others_are_making(store: Store, fork) -> None:
    def make(pause) -> None:
        with Store.open(store.root_path) as other:
            claim = other.claim_work()
            with other.content.ingest(expected="sha256:" + "0" * 64, resumable=True) as kept:
                kept.write(b"x")
                with other.content.ingest() as ingest:
                    ingest.write(b"alive")
                    pause()
                    ingest.commit()
            assert os.path.isdir(claim.path)
            claim.close()

    child = fork(make)
    child.wait_ready()
    week_ago = time.time() - 2 * gc.PARTIAL_LIFE_S
    for name in entries(store, "ingest"):
        os.utime(os.path.join(store.root_path, "ingest", name), (week_ago, week_ago))
    store.clean()
    assert len(entries(store, "work")) == 1
    assert len(entries(store, "ingest")) == 2
    assert child.finish() == 0
    store.clean()
    assert entries(store, "work") == []


def test_an_old_partial_is_cleaned(store: Store) -> None:
    with store.content.ingest(expected="sha256:" + "0" * 64, resumable=True) as ingest:
        ingest.write(b"x")
    (name,) = entries(store, "ingest")
    store.clean()
    assert entries(store, "ingest") == [name]
    old = time.time() - gc.PARTIAL_LIFE_S - 60
    os.utime(os.path.join(store.root_path, "ingest", name), (old, old))
    store.clean()
    assert entries(store, "ingest") == []


def test_a_cleaner_between_mkdir_and_lock_is_noticed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    chmod, seen = os.chmod, []

    def chmod_then_clean(path: str, mode: int) -> None:
        chmod(path, mode)
        if not seen:
            seen.append(path)
            store.clean()

    monkeypatch.setattr(os, "chmod", chmod_then_clean)
    claim = store.claim_work()
    assert claim.path != seen[0]
    assert os.path.isdir(claim.path) and not os.path.exists(seen[0])
    store.clean()
    assert os.path.isdir(claim.path)
    claim.close()


def test_trash_deletes_every_kind_of_tree(store: Store) -> None:
    path = os.path.join(store.root_path, "layers", "x")
    os.mkdir(path)
    os.symlink("/etc", os.path.join(path, "link"))
    os.mkfifo(os.path.join(path, "fifo"))
    os.makedirs(os.path.join(path, "locked", "inside"))
    os.chmod(os.path.join(path, "locked", "inside"), 0)
    os.chmod(os.path.join(path, "locked"), 0o500)
    fd = os.open(path, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deep", dir_fd=fd)
        next_fd = os.open("deep", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = next_fd
    os.close(fd)
    store.trash(path)
    store.trash(path)
    assert not os.path.exists(path)
    store.empty_trash()
    assert entries(store, "trash") == []
    assert os.path.isdir("/etc")


def test_trash_on_a_full_disk_deletes_in_place(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.path.join(store.root_path, "layers", "x")
    os.makedirs(os.path.join(path, "a", "b"))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "rename", full)
    store.trash(path)
    assert not os.path.exists(path)


def test_trash_as_an_unprivileged_user(tmp_path: Path, fork) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs-root: changes its uid")
    root_path = tmp_path / "s"
    root_path.mkdir()
    os.chown(root_path, 65534, 65534)
    for parent in [tmp_path, *tmp_path.parents]:
        if parent.parent == parent or os.stat(parent).st_mode & 0o001:
            break
        os.chmod(parent, 0o755)

    def use(_pause) -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        with Store.open(str(root_path)) as store:
            path = os.path.join(store.root_path, "layers", "x")
            os.makedirs(os.path.join(path, "a", "b"))
            os.chmod(os.path.join(path, "a", "b"), 0)
            os.chmod(os.path.join(path, "a"), 0)
            store.trash(path)
            store.empty_trash()
            assert entries(store, "trash") == []

    assert fork(use).finish() == 0
    with pytest.raises(HostUnsupported) as caught:
        Store.open(str(root_path))
    assert caught.value.code == "store-of-another-user"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError) as caught:
            Store.open(str(path))
        assert caught.value.code == "store-not-writable"


def test_network_file_systems(tmp_path: Path) -> None:
    for kind in ("nfs", "nfs4", "cifs", "9p", "fuse.sshfs", "fuse.rclone", "fuse"):
        assert is_network(kind), kind
    for kind in ("ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "fuse.fuse-overlayfs", "fuseblk", ""):
        assert not is_network(kind), kind


def test_a_store_on_nfs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.open(tmp_path, os.O_PATH)
    try:
        real = file_system_of(fd)
        with open(f"/proc/self/fdinfo/{fd}") as lines:
            mount_id = next(line.split()[1] for line in lines if line.startswith("mnt_id:"))
        with open("/proc/self/mountinfo") as lines:
            listing = lines.read()
        changed = "".join(
            line.replace(f" - {real} ", " - nfs4 ") if line.startswith(mount_id + " ") else line
            for line in listing.splitlines(keepends=True)
        )
        fake_path = tmp_path / "mountinfo"
        fake_path.write_text(changed)
        assert real not in ("", "nfs4")
        assert file_system_of(fd, str(fake_path)) == "nfs4"
    finally:
        os.close(fd)
    monkeypatch.setattr("arkwright.store.location.file_system_of", lambda _fd: "nfs4")
    with pytest.raises(HostUnsupported) as caught:
        Store.open(str(tmp_path / "s"))
    assert caught.value.code == "store-on-network-file-system"


def test_default_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARKWRIGHT_ROOT", "/x/../y")
    assert default_root() == "/y"
    monkeypatch.delenv("ARKWRIGHT_ROOT")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_root() == "/var/lib/arkwright"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_root() == "/data/arkwright"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/u")
    assert default_root() == "/home/u/.local/share/arkwright"


@pytest.mark.parametrize("seconds", [0.01, 0.05, 0.2])
def test_a_kill_at_any_moment_leaves_a_working_store(tmp_path: Path, fork, seconds: float) -> None:
    def work(_pause) -> None:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, seconds)
        with Store.open(str(tmp_path / "s")) as store:
            while True:
                digest = store.content.write(os.urandom(20_000))
                store.metadata.put("blobs", digest, b"")
                store.claim_work().close()

    assert fork(work).finish() == -signal.SIGKILL
    with Store.open(str(tmp_path / "s")) as store:
        for digest, _ in store.metadata.items("blobs"):
            assert sha256(store.content.read(digest)) == digest
        for digest in store.content.digests():
            assert sha256(store.content.read(digest)) == digest
        store.content.write(b"works")
