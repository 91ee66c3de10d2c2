from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import socket
import stat
import tarfile
from pathlib import Path

import pytest

from arkwright.diagnostics.errors import UserError
from arkwright.sources.base import HostTree
from arkwright.sources.local import SECRET_LIMIT, LocalSession, unpack_context


def session(**more: object) -> LocalSession:
    trees = {"context": HostTree(root="/srv/app", exclude=("*.log",))}
    return LocalSession(trees, env={"TOKEN": "from env"}, **more)  # type: ignore[arg-type]


def test_contexts_by_name() -> None:
    assert session().context("context").root == "/srv/app"
    with pytest.raises(UserError) as caught:
        session().context("contxt")
    assert caught.value.code == "unknown-context"
    assert "context" in (caught.value.diagnostics[0].hint or "")


def test_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_bytes(b"\0from file\n")
    monkeypatch.chdir(tmp_path)
    made = session(
        secrets={
            "file": (str(tmp_path / "key"), ""), "env": ("", "TOKEN"), "TOKEN": ("", ""), "key": ("", ""),
            "unset": ("", "NOTHING"), "gone": ("missing", ""), "big": ("big", ""),
        }
    )  # fmt: skip
    assert made.secret("file") == made.secret("key") == b"\0from file\n"
    assert made.secret("env") == made.secret("TOKEN") == b"from env"
    assert made.secret("never given") is None
    for name in ("unset", "gone"):
        with pytest.raises(UserError) as caught:
            made.secret(name)
        assert caught.value.code == "unreadable-secret"
    (tmp_path / "big").write_bytes(b"s" * (SECRET_LIMIT + 1))
    with pytest.raises(UserError) as caught:
        made.secret("big")
    assert caught.value.code == "secret-too-large"
    assert "sss" not in repr(caught.value)


def test_agents(tmp_path: Path) -> None:
    path = tmp_path / "agent"
    (tmp_path / "id_rsa").touch()
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(path))
        made = session(
            ssh={"default": str(path), "key": str(tmp_path / "id_rsa"), "env": "", "gone": "/none"}
        )
        assert made.ssh_socket("default") == str(path)
        assert made.ssh_socket("other") is None
        for name, code in (("key", "no-ssh-agent"), ("env", "no-ssh-agent"), ("gone", "no-ssh-agent")):
            with pytest.raises(UserError) as caught:
                made.ssh_socket(name)
            assert caught.value.code == code


# Context archives


def member(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mtime = 1_600_000_000
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def archive(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def unpack(data: bytes, directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    unpack_context(io.BytesIO(data), str(directory))
    return directory


PLAIN = archive(
    member("./", type=tarfile.DIRTYPE, mode=0o755),
    member("sub", type=tarfile.DIRTYPE, mode=0o555, uid=77),
    member("sub/run", b"#!/bin/sh\n", mode=0o4755, uid=12345, gid=54321),
    member("sub/.wh.kept", b"plain", mode=0o640),
    member("link", type=tarfile.SYMTYPE, linkname="/sub/run"),
    member("hard", type=tarfile.LNKTYPE, linkname="sub/run"),
    member("deep/er/file", b"x", mode=0o600),
    member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
    member("pipe", type=tarfile.FIFOTYPE, mode=0o644),
)


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_an_archive_becomes_plain_files_of_the_user(tmp_path: Path, compress: object) -> None:
    out = unpack(compress(PLAIN), tmp_path / "out")  # type: ignore[operator]
    run = (out / "sub/run").stat()
    assert stat.S_IMODE(run.st_mode) == 0o4755
    assert (run.st_uid, run.st_mtime, run.st_nlink) == (os.geteuid(), 1_600_000_000, 2)
    assert (out / "sub").stat().st_mode & 0o7777 == 0o555
    assert (out / "sub").stat().st_mtime == 1_600_000_000
    assert (out / "sub/.wh.kept").read_bytes() == b"plain"
    assert os.readlink(out / "link") == "/sub/run"
    assert (out / "deep").stat().st_mode & 0o7777 == 0o755
    assert not (out / "null").exists()
    assert stat.S_ISFIFO((out / "pipe").lstat().st_mode)


def test_later_members_replace_earlier_ones(tmp_path: Path) -> None:
    out = unpack(
        archive(
            member("a", b"1"), member("a", b"22"),
            member("d", type=tarfile.DIRTYPE), member("d/x", b"1"), member("d", b"file"),
            member("l", type=tarfile.SYMTYPE, linkname="a"), member("l", b"3"),
        ),
        tmp_path / "out",
    )  # fmt: skip
    assert (out / "a").read_bytes() == b"22"
    assert (out / "d").read_bytes() == b"file"
    assert (out / "l").read_bytes() == b"3" and not (out / "l").is_symlink()


OUTSIDE = "../../../../../../../../outside"


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ([member("../outside", b"x")], "path-escapes-root"),
        ([member("a/../../outside", b"x")], "path-escapes-root"),
        ([member("hard", type=tarfile.LNKTYPE, linkname="../outside")], "path-escapes-root"),
        ([member("hard", type=tarfile.LNKTYPE, linkname="nothing")], "invalid-archive"),
        ([member("a", b"x"), member("a/b", b"x")], "invalid-archive"),
        ([member("l", type=tarfile.SYMTYPE, linkname="l"), member("l/b", b"x")], "invalid-archive"),
    ],
)
def test_archives_that_leave_the_root_or_contradict_themselves(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]], code: str
) -> None:
    with pytest.raises(UserError) as caught:
        unpack(archive(*members), tmp_path / "out")
    assert caught.value.code == code
    assert not (tmp_path / "outside").exists()


def test_links_in_parents_stay_beneath_the_root(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    out = unpack(
        archive(
            member("up", type=tarfile.SYMTYPE, linkname="../victim"),
            member("abs", type=tarfile.SYMTYPE, linkname=str(tmp_path / "victim")),
            member("up/a", b"x"),
            member("abs/b", b"x"),
            member("evil", type=tarfile.SYMTYPE, linkname="/etc/hostname"),
            member("copy", type=tarfile.LNKTYPE, linkname="evil"),
        ),
        tmp_path / "out",
    )
    assert list((tmp_path / "victim").iterdir()) == []
    assert (out / "victim/a").read_bytes() == b"x"
    assert (out / "copy").is_symlink()


def test_a_mode_is_not_set_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    members = [
        member("d", type=tarfile.DIRTYPE, mode=0o777),
        member("d/e", type=tarfile.DIRTYPE, mode=0o777),
        member("d", type=tarfile.SYMTYPE, linkname=str(victim)),
    ]
    out = unpack(archive(*members), tmp_path / "out")
    assert (out / "d").is_symlink()
    assert victim.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("cut", [700, 512 * 3 + 100])
def test_a_truncated_archive(tmp_path: Path, cut: int) -> None:
    with pytest.raises(UserError) as caught:
        unpack(PLAIN[:cut], tmp_path / "out")
    assert caught.value.code == "truncated-archive"


def test_names_at_and_over_the_limit(tmp_path: Path) -> None:
    out = unpack(archive(member("n" * 255, b"x")), tmp_path / "out")
    assert (out / ("n" * 255)).exists()
    with pytest.raises(UserError) as caught:
        unpack(archive(member("n" * 256, b"x")), tmp_path / "out2")
    assert caught.value.code == "invalid-archive"
