from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from arkwright.cache import stat_cache
from arkwright.cache.checksum import TreeDigester
from arkwright.cache.stat_cache import StatCache
from arkwright.diagnostics.errors import UserError
from arkwright.layer.rooted import Root
from arkwright.sources.ignore import Matcher
from arkwright.store.store import Store

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs-root: owners and devices")


def digest(
    tree: Path, path: str = "", *, ownership: bool = True, cache: StatCache | None = None, **more: object
) -> str:
    with Root(str(tree)) as root:
        return TreeDigester(root, ownership=ownership, stat_cache=cache, **more).digest(path)  # type: ignore[arg-type]


def fill(tree: Path) -> None:
    (tree / "sub").mkdir()
    (tree / "sub" / "file").write_text("content")
    (tree / "run.sh").write_text("#!/bin/sh\n")
    (tree / "link").symlink_to("sub/file")
    os.mkfifo(tree / "pipe")


def touch(tree: Path) -> None:
    os.utime(tree / "sub" / "file", (1, 1))
    os.utime(tree / "sub", (2, 2))


def relink(tree: Path) -> None:
    os.link(tree / "run.sh", tree / "other")
    (tree / "run.sh").unlink()
    (tree / "other").rename(tree / "run.sh")


def bind_socket(tree: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(tree / "socket"))


def overlay_mark(tree: Path) -> None:
    os.setxattr(tree / "sub", "user.overlay.opaque", b"y")


@pytest.mark.parametrize("change", [touch, relink, bind_socket, overlay_mark])
def test_what_never_counts(tree: Path, change: Callable[[Path], None]) -> None:
    fill(tree)
    before = digest(tree)
    change(tree)
    assert digest(tree) == before


CHANGES: dict[str, Callable[[Path], object]] = {
    "content of the same size": lambda tree: (tree / "sub" / "file").write_text("tnetnoc"),
    "file mode": lambda tree: (tree / "run.sh").chmod(0o755),
    "setuid": lambda tree: (tree / "run.sh").chmod(0o4644),
    "directory mode": lambda tree: (tree / "sub").chmod(0o700),
    "mode of the top": lambda tree: tree.chmod(0o711),
    "new empty directory": lambda tree: (tree / "empty").mkdir(),
    "new empty file": lambda tree: (tree / "empty").touch(),
    "rename": lambda tree: (tree / "run.sh").rename(tree / "run2.sh"),
    "move": lambda tree: (tree / "run.sh").rename(tree / "sub" / "run.sh"),
    "removal": lambda tree: (tree / "pipe").unlink(),
    "link target": lambda tree: ((tree / "link").unlink(), (tree / "link").symlink_to("sub/other")),
    "link for file": lambda tree: ((tree / "run.sh").unlink(), (tree / "run.sh").symlink_to("#!/bin/sh\n")),
    "xattr": lambda tree: os.setxattr(tree / "run.sh", "user.note", b"1"),
    "xattr of a directory": lambda tree: os.setxattr(tree / "sub", "user.note", b"1"),
    "file for pipe": lambda tree: ((tree / "pipe").unlink(), (tree / "pipe").touch()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_counts(tree: Path, name: str) -> None:
    fill(tree)
    before = digest(tree)
    CHANGES[name](tree)
    assert digest(tree) != before


@NEEDS_ROOT
def test_owners_count_only_when_told(tree: Path) -> None:
    fill(tree)
    owned, free = digest(tree), digest(tree, ownership=False)
    os.chown(tree / "run.sh", 7, 8)
    assert digest(tree) != owned
    assert digest(tree, ownership=False) == free


@NEEDS_ROOT
def test_device_numbers_and_capabilities_count(tree: Path) -> None:
    os.mknod(tree / "dev", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    null = digest(tree)
    (tree / "dev").unlink()
    os.mknod(tree / "dev", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    zero = digest(tree)
    assert null != zero
    (tree / "dev").unlink()
    (tree / "dev").touch()
    plain = digest(tree)
    os.setxattr(
        tree / "dev", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000")
    )
    assert len({null, zero, plain, digest(tree)}) == 4


def test_the_name_of_the_top_does_not_count(tree: Path) -> None:
    for name in ("one", "two"):
        (tree / name).mkdir()
        (tree / name / "file").write_text("x")
    assert digest(tree, "one") == digest(tree, "two")
    assert digest(tree, "one/file") == digest(tree, "two/file")


def test_links_are_followed_beneath_the_root(tree: Path) -> None:
    fill(tree)
    (tree / "absolute").symlink_to("/sub")
    (tree / "up").symlink_to("../../sub/file")
    assert digest(tree, "absolute") == digest(tree, "sub")
    assert digest(tree, "up") == digest(tree, "sub/file")
    with Root(str(tree)) as root:
        digester = TreeDigester(root, ownership=False)
        assert digester.digest("link", follow=False) != digester.digest("link")
        assert digester.digest_many(["link", "sub"]) == {
            "link": digester.digest("sub/file"), "sub": digester.digest("sub"),
        }  # fmt: skip


def test_contents_leave_the_directory_itself_out(tree: Path) -> None:
    fill(tree)

    def contents() -> str:
        with Root(str(tree)) as root:
            return TreeDigester(root, ownership=True).digest("", contents=True)

    before = contents()
    tree.chmod(0o700)
    assert contents() == before
    (tree / "sub").chmod(0o700)
    assert contents() != before


def test_ignored_paths_do_not_count_and_reincluded_ones_do(tree: Path) -> None:
    matcher = Matcher(["vendor", "!vendor/keep/*.txt", "*.log"])
    for path in ("vendor/drop", "vendor/keep", "empty"):
        (tree / path).mkdir(parents=True)
    (tree / "vendor/keep/a.txt").write_text("a")

    def filtered(**more: object) -> str:
        return digest(tree, excluded=matcher.excluded, **more)

    before = filtered()
    assert filtered(may_prune=matcher.may_prune) == before
    (tree / "vendor/drop/file").write_text("x")
    (tree / "build.log").write_text("x")
    assert filtered() == before
    (tree / "vendor/keep/b.txt").write_text("b")
    assert filtered() != before
    assert filtered() == filtered(may_prune=matcher.may_prune)


def test_an_ignored_directory_without_reincluded_files_is_not_there(tree: Path) -> None:
    matcher = Matcher(["vendor", "!vendor/keep.txt"])
    bare = digest(tree, excluded=matcher.excluded)
    (tree / "vendor").mkdir()
    (tree / "vendor" / "other").touch()
    os.utime(tree, (1, 1))
    assert digest(tree, excluded=matcher.excluded) == bare


def test_facts_say_what_differs(tree: Path) -> None:
    fill(tree)
    with Root(str(tree)) as root:
        before = TreeDigester(root, ownership=False).facts("")
    assert [facts.path for facts in before] == ["", "link", "pipe", "run.sh", "sub", "sub/file"]
    (tree / "sub" / "file").chmod(0o600)
    with Root(str(tree)) as root:
        after = TreeDigester(root, ownership=False).facts("")
    differing = {one.path for one, other in zip(before, after, strict=True) if one != other}
    assert differing == {"", "sub", "sub/file"}
    file = next(facts for facts in after if facts.path == "sub/file")
    assert (file.type, file.mode, file.uid) == ("file", 0o600, -1)


def test_missing_and_unreadable_paths_have_codes(tree: Path) -> None:
    with pytest.raises(UserError) as caught:
        digest(tree, "nothing/here")
    assert caught.value.code == "path-missing"
    (tree / "loop").symlink_to("loop")
    with pytest.raises(UserError) as caught:
        digest(tree, "loop")
    assert caught.value.code == "unreadable-path"


def test_names_and_targets_that_are_not_utf8(tree: Path, store: Store) -> None:
    os.symlink(b"target\xff", os.fsencode(tree) + b"/link\xfe")
    plain = digest(tree)
    cache = StatCache(store.metadata)
    assert digest(tree, cache=cache) == plain
    cache.flush()
    assert digest(tree, cache=StatCache(store.metadata)) == plain


def test_a_tree_deeper_than_the_number_of_descriptors(tree: Path) -> None:
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    shallow = digest(tree)
    assert shallow.startswith("sha256:")
    with Root(str(tree)) as root:
        from arkwright.layer.rooted import remove_tree

        remove_tree(root.fd, "d")


# The stat cache


def age(path: Path) -> None:
    """Wait until a file is old enough to be remembered: the change time cannot be set."""
    ready_ns = os.lstat(path).st_ctime_ns + stat_cache.RACY_NS
    while time.time_ns() <= ready_ns:
        time.sleep(max(0.0, (ready_ns - time.time_ns()) / 1e9) + 0.01)


@pytest.fixture
def warm(tree: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    # Ten ticks of the slowest kernel clock: what two seconds are for, without the wait.
    monkeypatch.setattr(stat_cache, "RACY_NS", 100_000_000)
    fill(tree)
    for path in (tree / "sub" / "file", tree / "sub", tree / "run.sh", tree / "link", tree):
        os.utime(path, (1_000_000_000, 1_000_000_000), follow_symlinks=False)
    age(tree / "sub" / "file")
    age(tree / "link")
    age(tree)
    cache = StatCache(store.metadata)
    found = digest(tree, cache=cache)
    cache.flush()
    return tree, found


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    from arkwright.cache import checksum

    opened: list[str] = []
    original = checksum._read_file

    def counting(dir_fd: int, name: str, *, ask: bool) -> tuple[os.stat_result, str, str, bool]:
        opened.append(name)
        return original(dir_fd, name, ask=ask)

    monkeypatch.setattr(checksum, "_read_file", counting)
    return opened


def test_a_warm_cache_reads_nothing(
    warm: tuple[Path, str], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, before = warm
    opened = reads(monkeypatch)
    assert digest(tree, cache=StatCache(store.metadata)) == before
    assert digest(tree, "sub/file", cache=StatCache(store.metadata)) == digest(tree, "sub/file")
    assert opened == ["file"]


def test_an_edit_that_keeps_size_and_mtime_is_noticed(warm: tuple[Path, str], store: Store) -> None:
    tree, before = warm
    status = (tree / "sub" / "file").stat()
    (tree / "sub" / "file").write_text("tnetnoc")
    os.utime(tree / "sub" / "file", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (tree / "sub" / "file").stat().st_size == status.st_size
    found = digest(tree, cache=StatCache(store.metadata))
    assert found != before
    assert found == digest(tree)


@pytest.mark.parametrize("name", [name for name in CHANGES if name != "mode of the top"])
def test_a_warm_cache_sees_every_change(warm: tuple[Path, str], store: Store, name: str) -> None:
    tree, before = warm
    CHANGES[name](tree)
    found = digest(tree, cache=StatCache(store.metadata))
    assert found == digest(tree)
    assert found != before


def test_a_fresh_file_is_read_again_every_time(tree: Path, store: Store) -> None:
    """Edits within one tick of the clock leave the same times: a fresh file is never trusted."""
    cache = StatCache(store.metadata)
    for number in range(200):
        (tree / "file").write_text(f"{number:08}")
        os.utime(tree / "file", (1_000_000_000, 1_000_000_000))
        assert digest(tree, cache=cache) == digest(tree)
        cache.flush()


def test_a_replaced_inode_is_not_mistaken(warm: tuple[Path, str], store: Store) -> None:
    tree, _ = warm
    (tree / "sub" / "file").unlink()
    (tree / "sub" / "file").write_text("tnetnoc")
    os.utime(tree / "sub" / "file", (1_000_000_000, 1_000_000_000))
    assert digest(tree, cache=StatCache(store.metadata)) == digest(tree)


def test_a_damaged_cache_costs_time_only(warm: tuple[Path, str], store: Store) -> None:
    tree, before = warm
    cache = StatCache(store.metadata)
    bucket = cache.root(str(tree)).bucket
    rows = store.metadata.items(bucket)
    assert rows
    store.metadata.put_many(bucket, [(key, value[: len(value) // 2]) for key, value in rows])
    assert digest(tree, cache=StatCache(store.metadata)) == before


def test_flushing_nothing_writes_nothing(warm: tuple[Path, str], store: Store) -> None:
    tree, _ = warm
    cache = StatCache(store.metadata)
    digest(tree, cache=cache)
    store.metadata.close()
    cache.flush()


def test_only_settled_files_are_learned(tree: Path) -> None:
    (tree / "file").touch()
    status = (tree / "file").stat()
    directory = stat_cache.DirectoryStats(status.st_dev, {})
    directory.learn(status, status.st_ctime_ns + 1_999_999_999, "tail")
    directory.learn(status, status.st_ctime_ns - 1, "tail")
    os.utime(tree / "file", ns=(0, status.st_ctime_ns + 60_000_000_000))
    future = (tree / "file").stat()
    directory.learn(future, future.st_mtime_ns + 1, "tail")
    assert directory.known == {}
    directory.learn(status, status.st_ctime_ns + 2_000_000_001, "tail")
    assert directory.known[status.st_ino].tail == "tail"
    elsewhere = stat_cache.DirectoryStats(status.st_dev + 1, {})
    elsewhere.learn(status, status.st_ctime_ns + 2_000_000_001, "tail")
    assert elsewhere.known == {}
