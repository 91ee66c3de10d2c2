"""A tree on its way into a layer."""

from __future__ import annotations

import io
import tarfile
import tempfile

from arkwright.bootstrap.rootfs import Rootfs, collect
from arkwright.layer.tar_write import write_tar


def archive(*members: tuple[str, str, bytes | str]) -> io.BytesIO:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            if kind == "file":
                assert isinstance(content, bytes)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
                continue
            info.type = {"dir": tarfile.DIRTYPE, "link": tarfile.LNKTYPE, "symlink": tarfile.SYMTYPE}[kind]
            info.linkname = str(content)
            tar.addfile(info)
    data.seek(0)
    return data


def listing(tree: Rootfs) -> list[tuple[str, str, bytes]]:
    found = []
    for change in tree.changes():
        data = b""
        if change.open is not None:
            with change.open() as stream:
                data = stream.read()
        found.append((change.entry.path, change.entry.type, data))
    return found


def test_the_first_name_in_order_is_the_file() -> None:
    tar = archive(
        ("./", "dir", ""),
        ("./z", "file", b"content"),
        ("./b/", "dir", ""),
        ("./b/x", "link", "./z"),
        ("./c", "link", "./z"),
    )
    with tempfile.TemporaryFile() as spool:
        tree = collect(tar, spool, (), ())
        assert listing(tree) == [
            ("b", "dir", b""),
            ("b/x", "file", b"content"),
            ("c", "hardlink", b""),
            ("z", "hardlink", b""),
        ]


def test_files_are_dropped_and_emptied_and_directories_stay() -> None:
    tar = archive(
        ("./dev/", "dir", ""), ("./dev/pts/", "dir", ""), ("./var/log/", "dir", ""), ("./var/log/apt/", "dir", ""),
        ("./var/log/apt/term.log", "file", b"now"), ("./var/log/wtmp", "file", b"x"), ("./keep", "file", b"1"),
    )  # fmt: skip
    with tempfile.TemporaryFile() as spool:
        tree = collect(tar, spool, ("dev/*", "var/log/apt"), ("var/log/wtmp",))
        assert listing(tree) == [
            ("dev", "dir", b""),
            ("keep", "file", b"1"),
            ("var/log", "dir", b""),
            ("var/log/apt", "dir", b""),
            ("var/log/wtmp", "file", b""),
        ]


def test_the_order_of_the_archive_does_not_matter() -> None:
    members = [
        ("./a", "file", b"1"),
        ("./d/", "dir", ""),
        ("./d/l", "symlink", "../a"),
        ("./d-e", "file", b"2"),
    ]
    written = []
    for order in (members, members[::-1]):
        with tempfile.TemporaryFile() as spool:
            data = bytearray()
            write_tar(collect(archive(*order), spool, (), ()).changes(), data.extend)
            written.append(bytes(data))
    assert written[0] == written[1]


def test_a_made_file_has_its_parents_and_replaces() -> None:
    tree = Rootfs()
    tree.add_file("etc/apt/x", b"1")
    tree.add_file("etc/apt/x", b"22", mode=0o600)
    found = list(tree.changes())
    assert [change.entry.path for change in found] == ["etc", "etc/apt", "etc/apt/x"]
    assert (found[-1].entry.mode, found[-1].entry.size) == (0o600, 2)
