"""Users and owners, from files that may be missing, broken or hostile."""

from __future__ import annotations

from pathlib import Path

import pytest

from arkwright.diagnostics.errors import UserError
from arkwright.layer.rooted import Root
from arkwright.sandbox.users import User, resolve_owner, resolve_user

PASSWD = """# comment
root:x:0:0:root:/root:/bin/sh
bad line
www:x:33:34:www:/var/www:/bin/sh
77:x:500:501::/numeric:/bin/sh
nohome:x:9:9::
huge:x:99999999999:1::/:
"""
GROUP = """root:x:0:
www:x:34:
adm:x:4:www,other
55:x:600:
bad
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", User(0, 0, (), "/root")),
        ("www", User(33, 34, (4,), "/var/www")),
        ("33", User(33, 34, (4,), "/var/www")),
        ("www:", User(33, 34, (4,), "/var/www")),
        ("www:adm", User(33, 4, (), "/var/www")),
        ("www:12", User(33, 12, (), "/var/www")),
        ("4000", User(4000, 0, (), "/")),
        ("4000:4001", User(4000, 4001, (), "/")),
        ("77", User(500, 501, (), "/numeric")),
        ("1:55", User(1, 600, (), "/")),
        ("nohome", User(9, 9, (), "/")),
        (":adm", User(0, 4, (), "/root")),
    ],
)
def test_user(root: Path, text: str, expected: User) -> None:
    with Root(str(root)) as opened:
        assert resolve_user(opened, text) == expected


@pytest.mark.parametrize(
    ("user", "group", "expected"),
    [
        ("", "", (0, 0)),
        ("www", "", (33, 34)),
        ("1000", "", (1000, 1000)),
        ("33", "", (33, 33)),
        ("www", "adm", (33, 4)),
        ("1000", "adm", (1000, 4)),
        ("", "adm", (0, 4)),
        ("5", "6", (5, 6)),
    ],
)
def test_owner(root: Path, user: str, group: str, expected: tuple[int, int]) -> None:
    with Root(str(root)) as opened:
        assert resolve_owner(opened, user, group) == expected


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("wwww", "unknown-user"),
        ("huge", "unknown-user"),
        ("99999999999", "unknown-user"),
        ("-1", "unknown-user"),
        ("www:admm", "unknown-group"),
    ],
)
def test_unknown(root: Path, text: str, code: str) -> None:
    with Root(str(root)) as opened, pytest.raises(UserError) as caught:
        resolve_user(opened, text)
    assert caught.value.code == code
    if text in ("wwww", "www:admm"):
        assert "did you mean" in (caught.value.diagnostics[0].hint or "")


def test_without_files(tmp_path: Path) -> None:
    with Root(str(tmp_path)) as opened:
        assert resolve_user(opened, "5:6") == User(5, 6, (), "/")
        with pytest.raises(UserError):
            resolve_user(opened, "www")


def test_files_outside_of_the_root_are_not_read(root: Path, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    (inner / "etc").mkdir(parents=True)
    (inner / "etc/passwd").symlink_to(root / "etc/passwd")
    (inner / "etc/group").symlink_to("../../etc/group")
    with Root(str(inner)) as opened, pytest.raises(UserError) as caught:
        resolve_user(opened, "www")
    assert caught.value.code == "unknown-user"


def test_files_behind_links_in_the_root(root: Path) -> None:
    (root / "share").mkdir()
    (root / "etc/passwd").rename(root / "share/passwd")
    (root / "etc/passwd").symlink_to("/share/passwd")
    with Root(str(root)) as opened:
        assert resolve_user(opened, "www").uid == 33
