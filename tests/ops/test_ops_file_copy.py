"""Copying between trees: the rules of COPY, fact by fact."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from arkwright.diagnostics.errors import UserError
from arkwright.layer.rooted import Root
from arkwright.ops.file_copy import Copier, Excluded
from arkwright.ops.modes import parse_mode

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs-root: gives files their owners")

OLD = 1_000_000_000 * 10**9


class Trees:
    """A source and a destination directory."""

    def __init__(self, base: Path) -> None:
        self.source, self.dest = base / "source", base / "dest"
        self.source.mkdir()
        self.dest.mkdir()

    def copy(
        self, path: str, dest: str, *, contents: bool = True, owner: tuple[int, int] | None = None, mode: str = "",
        keep_owner: bool = False, excluded: Excluded | None = None, hidden: Excluded | None = None,
    ) -> None:  # fmt: skip
        with Root(str(self.source)) as source, Root(str(self.dest)) as target:
            copier = Copier(
                source, target, owner=owner, keep_owner=keep_owner, mode=parse_mode(mode), excluded=excluded
            )
            copier.copy(path, dest, contents=contents, hidden=hidden)

    def mode(self, path: str) -> int:
        return stat.S_IMODE((self.dest / path).lstat().st_mode)


@pytest.fixture
def trees(tmp_path: Path) -> Iterator[Trees]:
    before = os.umask(0o077)
    yield Trees(tmp_path)
    os.umask(before)


def test_a_file_keeps_mode_and_mtime_and_loses_its_owner(trees: Trees) -> None:
    file = trees.source / "f"
    file.write_bytes(b"x" * 3000)
    os.chown(file, 12, 34)
    os.chmod(file, 0o4751)
    os.utime(file, ns=(OLD, OLD))
    trees.copy("f", "/new/dir/g")
    status = (trees.dest / "new/dir/g").lstat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 0, 0o4751)
    assert status.st_mtime_ns == OLD
    assert (trees.dest / "new/dir/g").read_bytes() == b"x" * 3000
    assert trees.mode("new") == trees.mode("new/dir") == 0o755


def test_a_tree_of_the_build_keeps_its_owners(trees: Trees) -> None:
    (trees.source / "f").write_text("")
    os.chown(trees.source / "f", 12, 34)
    trees.copy("f", "/g", keep_owner=True)
    assert ((trees.dest / "g").stat().st_uid, (trees.dest / "g").stat().st_gid) == (12, 34)


def test_a_new_top_directory_is_0755_with_the_sources_mtime_and_nested_ones_keep_their_mode(
    trees: Trees,
) -> None:
    inner = trees.source / "d/inner"
    inner.mkdir(parents=True)
    os.chmod(inner, 0o711)
    os.chmod(trees.source / "d", 0o1777)
    os.utime(inner, ns=(OLD, OLD))
    os.utime(trees.source / "d", ns=(OLD + 5, OLD + 5))
    trees.copy("d", "/new")
    assert trees.mode("new") == 0o755
    assert trees.mode("new/inner") == 0o711
    assert (trees.dest / "new").stat().st_mtime_ns == OLD + 5
    assert (trees.dest / "new/inner").stat().st_mtime_ns == OLD


def test_an_existing_directory_keeps_mode_and_owner_and_takes_the_mtime(trees: Trees) -> None:
    (trees.source / "d").mkdir()
    (trees.source / "d/f").write_text("x")
    os.utime(trees.source / "d", ns=(OLD, OLD))
    (trees.dest / "there").mkdir(0o700)
    os.chown(trees.dest / "there", 5, 6)
    trees.copy("d", "/there", owner=(7, 8))
    status = (trees.dest / "there").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (5, 6, 0o700)
    assert status.st_mtime_ns == OLD
    assert (trees.dest / "there/f").stat().st_uid == 7


def test_chown_and_chmod_reach_the_parents_that_are_made(trees: Trees) -> None:
    (trees.source / "f").write_text("x")
    trees.copy("f", "/a/b/f", owner=(7, 7), mode="640")
    for path in ("a", "a/b", "a/b/f"):
        assert trees.mode(path) == 0o640
        assert (trees.dest / path).lstat().st_uid == 7


def test_two_files_to_one_name_last_wins(trees: Trees) -> None:
    (trees.source / "a").write_text("a")
    (trees.source / "b").write_text("b")
    trees.copy("a", "/x")
    trees.copy("b", "/x")
    assert (trees.dest / "x").read_text() == "b"


def test_a_file_into_an_existing_directory_keeps_its_name(trees: Trees) -> None:
    (trees.source / "f").write_text("x")
    (trees.dest / "d").mkdir()
    trees.copy("f", "/d")
    assert (trees.dest / "d/f").is_file()


def test_a_directory_as_itself(trees: Trees) -> None:
    (trees.source / "d").mkdir()
    os.chmod(trees.source / "d", 0o711)
    (trees.dest / "there").mkdir()
    trees.copy("d", "/there", contents=False)
    assert trees.mode("there/d") == 0o711


def test_a_source_link_to_a_directory_is_followed_inside_the_root(trees: Trees) -> None:
    (trees.source / "real").mkdir()
    (trees.source / "real/f").write_text("x")
    (trees.source / "link").symlink_to("/real")
    trees.copy("link", "/out")
    assert (trees.dest / "out/f").read_text() == "x"


def test_links_inside_a_tree_are_copied_as_links(trees: Trees) -> None:
    (trees.source / "d").mkdir()
    (trees.source / "d/link").symlink_to("/etc/passwd")
    trees.copy("d", "/out", owner=(3, 4))
    assert (trees.dest / "out/link").readlink() == Path("/etc/passwd")
    assert (trees.dest / "out/link").lstat().st_uid == 3


def test_a_destination_through_a_link_stays_in_the_root(trees: Trees) -> None:
    (trees.source / "f").write_text("x")
    (trees.dest / "real").mkdir()
    (trees.dest / "link").symlink_to("/real")
    (trees.dest / "out").symlink_to("../../../..")
    trees.copy("f", "/link/f")
    trees.copy("f", "/out/g")
    assert (trees.dest / "real/f").read_text() == "x"
    assert (trees.dest / "g").read_text() == "x"


def test_a_file_over_a_link_writes_where_the_link_points(trees: Trees) -> None:
    (trees.source / "f").write_text("new")
    (trees.dest / "target").write_text("old")
    (trees.dest / "link").symlink_to("target")
    trees.copy("f", "/link")
    assert (trees.dest / "target").read_text() == "new"
    assert (trees.dest / "link").is_symlink()


def test_a_link_in_the_way_inside_a_tree_is_replaced(trees: Trees, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("safe")
    (trees.source / "d").mkdir()
    (trees.source / "d/f").write_text("new")
    (trees.dest / "d").mkdir()
    (trees.dest / "d/f").symlink_to(canary)
    trees.copy("d", "/d")
    assert canary.read_text() == "safe"
    assert not (trees.dest / "d/f").is_symlink()


def test_directory_over_file_and_file_over_directory_are_errors(trees: Trees) -> None:
    (trees.source / "d/x").mkdir(parents=True)
    (trees.source / "e").mkdir()
    (trees.source / "e/x").write_text("")
    (trees.dest / "t").mkdir()
    (trees.dest / "t/x").write_text("")
    (trees.dest / "u/x").mkdir(parents=True)
    for path, dest in (("d", "/t"), ("e", "/u"), ("d", "/t/x"), ("d", "/t/x/y")):
        with pytest.raises(UserError) as caught:
            trees.copy(path, dest)
        assert caught.value.code == "copy-type-conflict"


def test_hard_links_stay_hard_links(trees: Trees) -> None:
    (trees.source / "d").mkdir()
    (trees.source / "d/a").write_text("x")
    os.link(trees.source / "d/a", trees.source / "d/b")
    trees.copy("d", "/out")
    assert (trees.dest / "out/a").stat().st_ino == (trees.dest / "out/b").stat().st_ino


def test_special_files_and_attributes(trees: Trees) -> None:
    directory = trees.source / "d"
    directory.mkdir()
    os.mkfifo(directory / "pipe")
    os.chmod(directory / "pipe", 0o640)
    (directory / "f").write_text("x")
    os.setxattr(directory / "f", "user.note", b"hello")
    subprocess.run(["setcap", "cap_net_raw+ep", str(directory / "f")], check=True)
    trees.copy("d", "/out", owner=(5, 5))
    assert stat.S_ISFIFO((trees.dest / "out/pipe").lstat().st_mode)
    assert trees.mode("out/pipe") == 0o640
    assert os.getxattr(trees.dest / "out/f", "user.note") == b"hello"
    capability = os.getxattr(directory / "f", "security.capability")
    assert os.getxattr(trees.dest / "out/f", "security.capability") == capability


def test_excluded_paths_stay_out_and_exceptions_come_with_their_parents(trees: Trees) -> None:
    for name in ("a/keep/x", "a/drop/y", "b/z"):
        (trees.source / name).parent.mkdir(parents=True, exist_ok=True)
        (trees.source / name).write_text(name)

    def excluded(path: str, is_dir: bool) -> bool:
        return path.split("/", maxsplit=1)[0] == "a" and not path.startswith("a/keep/")

    trees.copy("", "/out", excluded=excluded)
    assert (trees.dest / "out/a/keep/x").exists()
    assert (trees.dest / "out/b/z").exists()
    assert not (trees.dest / "out/a/drop").exists()


def test_hidden_paths_are_relative_to_what_is_copied(trees: Trees) -> None:
    (trees.source / "d").mkdir()
    for name in ("a.txt", "b.c"):
        (trees.source / "d" / name).write_text("")
    trees.copy("d", "/out", hidden=lambda path, is_dir: path.endswith(".txt"))
    assert os.listdir(trees.dest / "out") == ["b.c"]


def test_parents_keep_the_sources_modes_below_the_pivot(trees: Trees) -> None:
    (trees.source / "a/b/c").mkdir(parents=True)
    (trees.source / "a/b/c/f").write_text("x")
    os.chmod(trees.source / "a/b", 0o711)
    with Root(str(trees.source)) as source, Root(str(trees.dest)) as target:
        Copier(source, target, keep_owner=False).copy_parents("a/b/c/f", "a", "/out/")
    assert (trees.dest / "out/b/c/f").read_text() == "x"
    assert trees.mode("out/b") == 0o711


def test_a_missing_source_is_named(trees: Trees) -> None:
    with pytest.raises(UserError) as caught:
        trees.copy("nothing", "/x")
    assert caught.value.code == "copy-source-missing"
