"""File actions on a tree: mkfile, mkdir, symlink, rm; devices that a copy carries."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from arkwright.diagnostics.errors import UserError
from arkwright.graph.ops import MkDirAction, MkFileAction, Owner, RmAction, SymlinkAction
from arkwright.layer import attributes
from arkwright.layer.rooted import Root
from arkwright.ops.file_actions import make_directory, make_file, make_symlink, remove
from arkwright.ops.file_copy import Copier

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs-root: gives files their owners")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "tree"
    path.mkdir()
    return path


def facts(path: Path) -> tuple[int, int, int]:
    status = path.lstat()
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


def test_mkfile_makes_and_replaces(tree: Path) -> None:
    with Root(str(tree)) as root:
        make_file(MkFileAction(input=-1, path="/a/f", data=b"one", mode=0o4750, owner=Owner("7", "8")), root)
        assert facts(tree / "a/f") == (0o4750, 7, 8)
        (tree / "link").symlink_to("/a/f")
        make_file(MkFileAction(input=-1, path="/link", data=b"two", symbolic="g=,o="), root)
        assert (tree / "a/f").read_bytes() == b"two"
        assert facts(tree / "a/f") == (0o600, 0, 0)
        with pytest.raises(UserError) as caught:
            make_file(MkFileAction(input=-1, path="/a"), root)
        assert caught.value.code == "copy-type-conflict"


def test_mkdir_leaves_what_is_there(tree: Path) -> None:
    (tree / "there").mkdir(mode=0o700)
    with Root(str(tree)) as root:
        action = MkDirAction(
            input=-1, path="/there/a/b", mode=0o711, make_parents=True, owner=Owner("7", "8")
        )
        make_directory(action, root)
        make_directory(action, root)
        make_directory(MkDirAction(input=-1, path="/one", mode=0o1777), root)
    assert facts(tree / "there") == (0o700, 0, 0)
    assert facts(tree / "there/a/b") == (0o711, 7, 8)
    assert facts(tree / "one") == (0o1777, 0, 0)


def test_symlinks_point_as_written(tree: Path) -> None:
    with Root(str(tree)) as root:
        make_symlink(SymlinkAction(input=-1, old_path="../x", new_path="/d/l", owner=Owner("7", "8")), root)
    assert (tree / "d/l").readlink() == Path("../x")
    assert facts(tree / "d/l")[1:] == (7, 8)


def test_rm_removes_trees_and_never_what_links_point_to(tree: Path) -> None:
    (tree / "d/e").mkdir(parents=True)
    (tree / "d/e/f").write_text("")
    (tree / "keep").mkdir()
    (tree / "keep/f").write_text("")
    (tree / "link").symlink_to("keep")
    with Root(str(tree)) as root:
        remove(RmAction(input=-1, path="/d"), root)
        remove(RmAction(input=-1, path="/link"), root)
        remove(RmAction(input=-1, path="/none", allow_not_found=True), root)
        with pytest.raises(UserError) as caught:
            remove(RmAction(input=-1, path="/none"), root)
        assert caught.value.code == "path-missing"
        remove(RmAction(input=-1, path="/keep/*", allow_wildcard=True), root)
    assert os.listdir(tree) == ["keep"]
    assert os.listdir(tree / "keep") == []


def test_devices_and_their_records_are_copied_between_trees_of_the_build(tree: Path, tmp_path: Path) -> None:
    (tree / "d").mkdir()
    (tree / "d/record").write_bytes(b"")
    os.setxattr(tree / "d/record", attributes.NODE, attributes.encode_node("c", 1, 3))
    os.mknod(tree / "d/zero", stat.S_IFCHR | 0o644, os.makedev(1, 5))
    dest = tmp_path / "dest"
    for keep_owner in (True, False):
        (dest / str(keep_owner)).mkdir(parents=True)
        with Root(str(tree)) as source, Root(str(dest / str(keep_owner))) as target:
            Copier(source, target, keep_owner=keep_owner).copy("d", "/", contents=True)
    status = (dest / "True/record").lstat()
    assert (stat.S_ISCHR(status.st_mode), status.st_rdev) == (True, os.makedev(1, 3))
    assert stat.S_ISCHR((dest / "True/zero").lstat().st_mode)
    # A file of the host says nothing about devices.
    assert stat.S_ISREG((dest / "False/record").lstat().st_mode)
    assert os.listxattr(dest / "False/record") == []
