"""`type=local` and `type=tar`: files out of an image, safely."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from exporting import ARM64, Workshop

from arkwright.diagnostics.errors import UserError
from arkwright.exporters.base import AssembledImage, Output
from arkwright.exporters.means import ExportMeans
from arkwright.exporters.table import exporter, needs_trees
from arkwright.oci.descriptor import Descriptor

NOTHING = AssembledImage(root=Descriptor(media_type="", digest="", size=0), manifests=())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "tool").write_bytes(b"#!/bin/sh\n")
    (root / "bin" / "tool").chmod(0o4755)
    os.link(root / "bin" / "tool", root / "bin" / "alias")
    (root / "etc").symlink_to("/bin")
    (root / "locked").mkdir()
    (root / "locked" / "file").write_text("x")
    os.utime(root / "locked" / "file", ns=(10**18, 10**18 + 123))
    os.utime(root / "locked", ns=(10**18, 10**18))
    (root / "locked").chmod(0o555)
    os.mkfifo(root / "pipe")
    return root


@pytest.fixture
def write(workshop: Workshop, tree: Path, view_of: Any) -> Any:
    def run(output: Output, *, platforms: int = 1, keep_owner: bool = False) -> None:
        assert needs_trees(output)
        means = ExportMeans(store=workshop.store, view=view_of({"top": tree}), keep_owner=keep_owner)
        built = workshop.built("top")
        images = (built, msgspec.structs.replace(built, platform=ARM64))[:platforms]
        exporter(output, means)(output, NOTHING, images, ())

    return run


def test_a_directory_has_the_files(write: Any, tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"
    write(Output(type="local", dest=str(out)))
    assert (out / "bin" / "tool").read_bytes() == b"#!/bin/sh\n"
    assert (out / "bin" / "tool").stat().st_ino == (out / "bin" / "alias").stat().st_ino
    assert os.readlink(out / "etc") == "/bin"
    assert (out / "locked").stat().st_mode & 0o7777 == 0o555
    assert (out / "locked").stat().st_mtime_ns == 10**18
    assert (out / "locked" / "file").stat().st_mtime_ns == 10**18 + 123
    assert (out / "bin" / "tool").stat().st_mode & 0o7777 == 0o755, "setuid would be the user's own"
    assert not [name for name in os.listdir(out / "bin") if name.startswith(".")]


def test_existing_files_are_replaced_and_others_stay(write: Any, tmp_path: Path) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    (out / "bin").mkdir(parents=True)
    outside.mkdir()
    (outside / "file").write_text("mine")
    (out / "bin" / "tool").symlink_to(outside / "file")
    (out / "locked").symlink_to(outside)
    (out / "other").write_text("stays")
    write(Output(type="local", dest=str(out)))
    write(Output(type="local", dest=str(out)))
    assert (outside / "file").read_text() == "mine"
    assert os.listdir(outside) == ["file"]
    assert not (out / "locked").is_symlink()
    assert (out / "other").read_text() == "stays"


def test_a_directory_that_becomes_a_link_gives_no_mode_to_what_it_names(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else who may write at the target swaps a directory between the look at it and the change."""
    out, outside = tmp_path / "out", tmp_path / "outside"
    (out / "bin").mkdir(parents=True)
    outside.mkdir()
    outside.chmod(0o000)
    look = os.stat

    def look_and_swap(path: Any, **options: Any) -> os.stat_result:
        found = look(path, **options)
        at_target = path == "bin" and os.path.samestat(os.fstat(options["dir_fd"]), look(out))
        if at_target and not (out / "bin").is_symlink():
            (out / "bin").rmdir()
            (out / "bin").symlink_to(outside)
        return found

    monkeypatch.setattr("arkwright.exporters.files.os.stat", look_and_swap)
    with pytest.raises((UserError, OSError)):
        write(Output(type="local", dest=str(out)))
    monkeypatch.undo()
    assert (out / "bin").is_symlink(), "the swap was not reached"
    assert outside.stat().st_mode & 0o7777 == 0, "the mode of what the link names was changed"
    outside.chmod(0o700)
    assert os.listdir(outside) == []


def test_a_directory_in_the_way_is_not_removed(write: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "bin" / "tool").mkdir(parents=True)
    (out / "bin" / "tool" / "precious").write_text("x")
    with pytest.raises(UserError) as caught:
        write(Output(type="local", dest=str(out)))
    assert caught.value.code == "output-conflict"
    assert (out / "bin" / "tool" / "precious").exists()
    assert os.listdir(out / "bin") in (["tool"], ["alias", "tool"], ["tool", "alias"])


def test_platforms_are_split(write: Any, tmp_path: Path) -> None:
    write(Output(type="local", dest=str(tmp_path / "out")), platforms=2)
    assert sorted(os.listdir(tmp_path / "out")) == ["linux_amd64", "linux_arm64"]
    write(Output(type="local", dest=str(tmp_path / "one"), attrs={"platform-split": "true"}))
    assert os.listdir(tmp_path / "one") == ["linux_amd64"]


def test_root_keeps_owners_and_setuid(write: Any, tree: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs-root: owners can be given only by root")
    os.chown(tree / "bin" / "tool", 7, 8)
    (tree / "bin" / "tool").chmod(0o4755)
    write(Output(type="local", dest=str(tmp_path / "out")), keep_owner=True)
    status = (tmp_path / "out" / "bin" / "tool").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (7, 8, 0o4755)


def test_a_tar_is_normalised(write: Any, tmp_path: Path, tree: Path) -> None:
    for name in ("a.tar", "b.tar"):
        write(Output(type="tar", dest=str(tmp_path / name)))
        os.utime(tree / "bin" / "tool")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = {member.name: member for member in tar}
    assert members["bin/tool"].islnk() and members["bin/tool"].linkname == "bin/alias"
    assert {member.mtime for member in members.values()} == {946684800}
    assert members["bin/alias"].mode == 0o4755


def test_a_tar_of_platforms(write: Any, tmp_path: Path) -> None:
    write(Output(type="tar", dest=str(tmp_path / "a.tar")), platforms=2)
    with tarfile.open(tmp_path / "a.tar") as tar:
        names = tar.getnames()
        assert tar.extractfile("linux_arm64/bin/tool") is not None
    assert {name.split("/")[0] for name in names} == {"linux_amd64", "linux_arm64"}
    with pytest.raises(UserError) as caught:
        write(
            Output(type="tar", dest=str(tmp_path / "b.tar"), attrs={"platform-split": "false"}), platforms=2
        )
    assert caught.value.code == "invalid-output-attribute"
    assert not (tmp_path / "b.tar").exists()


def test_a_tar_goes_to_standard_output() -> None:
    script = (
        "import io\nfrom arkwright.images.destination import open_destination\n"
        "with open_destination('-') as sink: sink(b'abc')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"abc"


def test_a_terminal_is_refused() -> None:
    script = (
        "from arkwright.images.destination import open_destination\n"
        "from arkwright.diagnostics.errors import UserError\n"
        "import sys\n"
        "try:\n"
        "    with open_destination('-') as sink: sink(b'abc')\n"
        "except UserError as error:\n"
        "    sys.stderr.write(error.code)\n"
    )
    ours, theirs = os.openpty()
    with open(ours, "rb"):
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=theirs, stderr=subprocess.PIPE, check=True
        )
        os.close(theirs)
    assert done.stderr == b"output-is-a-terminal"


@pytest.mark.parametrize("name", ["missing/x.tar", "."])
def test_a_place_that_cannot_be_written_is_named(write: Any, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as caught:
        write(Output(type="tar", dest=str(tmp_path / name)))
    assert caught.value.code == "output-not-writable"
    assert str(tmp_path / name) in caught.value.diagnostics[0].message


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    from arkwright.images.destination import open_destination

    target = tmp_path / "x.tar"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError), open_destination(str(target)) as sink:
        sink(b"new" * 1_000_000)
        raise RuntimeError
    assert os.listdir(tmp_path) == ["x.tar"]
    assert target.read_bytes() == b"old"
    with open_destination(str(target)) as sink:
        sink(b"new")
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["x.tar"]


def test_a_fifo_is_written_as_it_is(tmp_path: Path) -> None:
    from arkwright.images.destination import open_destination

    os.mkfifo(tmp_path / "fifo")
    reader = subprocess.Popen(["cat", str(tmp_path / "fifo")], stdout=subprocess.PIPE)
    with open_destination(str(tmp_path / "fifo")) as sink:
        sink(b"abc")
    assert reader.communicate(timeout=30)[0] == b"abc"
