"""The stat cache against edits that try to go unnoticed, on several file systems."""

from __future__ import annotations

import mmap
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from arkwright.cache import stat_cache
from arkwright.cache.checksum import TreeDigester
from arkwright.cache.stat_cache import StatCache
from arkwright.layer.rooted import Root
from arkwright.store.store import Store
from stores import mounted

RACY_NS = 100_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(str(tmp_path / "store")) as opened:
        yield opened


@pytest.fixture(params=["host", "tmpfs", "ext4"])
def tree(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # Ten ticks of the slowest kernel clock: what two seconds are for, without the wait.
    monkeypatch.setattr(stat_cache, "RACY_NS", RACY_NS)
    path = tmp_path / "tree"
    path.mkdir()
    with mounted(request.param, path, size_mb=16):
        (path / "sub").mkdir()
        (path / "sub" / "file").write_bytes(b"a" * 4096)
        (path / "sub" / "other").write_bytes(b"b" * 4096)
        for name in ("file", "other"):
            os.utime(path / "sub" / name, (10**9, 10**9))
        yield path


def digest(tree: Path, store: Store | None = None) -> str:
    """With the stat cache of a store; or of the content alone."""
    cache = StatCache(store.metadata) if store is not None else None
    with Root(str(tree)) as root:
        found = TreeDigester(root, ownership=False, stat_cache=cache).digest("sub")
    if cache is not None:
        cache.flush()
    return found


def age(path: Path) -> None:
    ready_ns = os.lstat(path).st_ctime_ns + RACY_NS
    while time.time_ns() <= ready_ns:
        time.sleep(max(0.0, (ready_ns - time.time_ns()) / 1e9) + 0.01)


def rewrite(path: Path) -> None:
    path.write_bytes(b"c" * 4096)


def replace(path: Path) -> None:
    other = path.with_name("new")
    other.write_bytes(b"c" * 4096)
    os.utime(other, (10**9, 10**9))
    os.rename(other, path)


def store_mapped(path: Path) -> None:
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 4096) as mapped:
        mapped[:4] = b"cccc"


def exchange(path: Path) -> None:
    """Two files of equal size and times change names: what is known is of inodes, not names."""
    os.rename(path, path.with_name("third"))
    os.rename(path.with_name("other"), path)
    os.rename(path.with_name("third"), path.with_name("other"))


def write_in_place(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(17)
        file.write(b"c")


EDITS: dict[str, Callable[[Path], None]] = {
    "write": rewrite,
    "write in place": write_in_place,
    "rename over": replace,
    "mapping": store_mapped,
    "exchange": exchange,
}


@pytest.mark.parametrize("edit", EDITS)
def test_edits_that_keep_size_and_mtime(tree: Path, store: Store, edit: str) -> None:
    path = tree / "sub" / "file"
    age(path)
    age(path.with_name("other"))
    before = digest(tree, store)
    EDITS[edit](path)
    os.utime(path, (10**9, 10**9))
    assert os.lstat(path).st_size == 4096
    assert digest(tree, store) == digest(tree) != before
    age(path)
    assert digest(tree, store) == digest(tree)


def test_a_store_through_an_old_mapping_is_noticed(tree: Path, store: Store) -> None:
    """The times of a file do not move when a page that is writable already is written again."""
    path = tree / "sub" / "file"
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 4096) as mapped:
        mapped[0] = 1
        age(path)
        before = digest(tree, store)
        mapped[1] = 2
        assert digest(tree, store) == digest(tree) != before


def test_what_nobody_writes_is_remembered(tree: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from arkwright.cache import checksum

    for name in ("file", "other"):
        age(tree / "sub" / name)
    before = digest(tree, store)
    monkeypatch.setattr(checksum, "_read_file", lambda *_, **__: pytest.fail("a file was read again"))
    assert digest(tree, store) == before


def test_a_clock_that_was_set_back(tree: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the clock went back to when the file changed, an edit can have the change time that is
    known: here the edit is made to look so."""
    path = tree / "sub" / "file"
    age(path)
    age(path.with_name("other"))
    before = digest(tree, store)
    status = os.lstat(path)
    rewrite(path)
    os.utime(path, (10**9, 10**9))
    known = StatCache(store.metadata)
    directory = known.root(str(tree)).directory(os.lstat(tree / "sub"))
    tail = directory.known[status.st_ino].tail
    after = os.lstat(path)
    directory.known[status.st_ino] = stat_cache.Known(
        after.st_ctime_ns, after.st_mtime_ns, after.st_size, after.st_mode, tail
    )
    directory.changed = True
    known.flush()
    monkeypatch.setattr(stat_cache, "now_ns", lambda: after.st_ctime_ns + 1)
    assert digest(tree, store) == digest(tree) != before


def test_a_file_that_is_bound_over_another(tree: Path, store: Store) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs-root: bind mounts")
    path, other = tree / "sub" / "file", tree / "sub" / "other"
    age(path)
    age(other)
    before = digest(tree, store)
    subprocess.run(["mount", "--bind", str(other), str(path)], check=True)
    try:
        assert digest(tree, store) == digest(tree) != before
    finally:
        subprocess.run(["umount", str(path)], check=True)
    assert digest(tree, store) == before


def test_a_directory_seen_by_two_paths(tree: Path, store: Store, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs-root: bind mounts")
    alias = tmp_path / "alias"
    alias.mkdir()
    age(tree / "sub" / "file")
    subprocess.run(["mount", "--bind", str(tree), str(alias)], check=True)
    try:
        before = digest(alias, store)
        assert digest(tree, store) == before
        rewrite(alias / "sub" / "file")
        os.utime(tree / "sub" / "file", (10**9, 10**9))
        assert digest(tree, store) == digest(alias, store) == digest(tree) != before
    finally:
        subprocess.run(["umount", str(alias)], check=True)


def test_hard_links_are_told_apart_from_copies(tmp_path: Path) -> None:
    from arkwright.graph.ops import CopyAction
    from arkwright.ops.contexts import selection_digest

    for name in ("one", "two"):
        (tmp_path / name).write_text("same")

    def selection() -> str:
        with Root(str(tmp_path)) as root:
            return selection_digest(
                root, CopyAction(input=-1, secondary_input=0, src="/", dest="/"), ownership=False
            )

    apart = selection()
    (tmp_path / "two").unlink()
    os.link(tmp_path / "one", tmp_path / "two")
    linked = selection()
    (tmp_path / "two").unlink()
    (tmp_path / "two").write_text("same")
    assert apart != linked
    assert selection() == apart
