"""Which paths a copy names, and what counts in their digest."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from arkwright.diagnostics.errors import UserError
from arkwright.graph.ops import CopyAction
from arkwright.layer.rooted import Root
from arkwright.ops.contexts import ContextReader, selection_digest, source_matches
from arkwright.sources.base import HostTree
from arkwright.sources.ignore import Matcher


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("d/a.c", "d/b.h", "d/s/c.c", "top.c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def action(src: str, **more: object) -> CopyAction:
    given = {"allow_wildcard": True, "allow_empty_wildcard": True, **more}
    return CopyAction(input=-1, secondary_input=0, src=src, dest="/x", **given)  # type: ignore[arg-type]


def matches(tree: Path, src: str, ignore: tuple[str, ...] = (), **more: object) -> list[str]:
    with Root(str(tree)) as root:
        return source_matches(root, action(src, **more), Matcher(ignore) if ignore else None)


def digest(tree: Path, src: str = "d", **more: object) -> str:
    with Root(str(tree)) as root:
        return selection_digest(root, action(src, **more), ownership=False)


def test_literals_wildcards_and_pivots(tree: Path) -> None:
    assert matches(tree, "/d/../d/a.c") == ["d/a.c"]
    assert matches(tree, "*.c") == ["top.c"]
    assert matches(tree, "d/*.c") == ["d/a.c"]
    assert matches(tree, "**/*.c", parents=True) == ["d/a.c", "d/s/c.c", "top.c"]
    assert matches(tree, "d/./a.c", parents=True) == ["d/a.c"]
    assert matches(tree, "*.none") == []
    assert matches(tree, "d/*", ignore=("d/b.h", "**/s")) == ["d/a.c"]


@pytest.mark.parametrize(
    ("src", "ignore", "says"),
    [
        ("d/a.x", (), "d/a.x does not exist"),
        ("d/a.c", ("d",), "line 1 of the ignore file"),
        ("d/none", ("d",), "does not exist"),
    ],
)
def test_what_is_missing_or_hidden(tree: Path, src: str, ignore: tuple[str, ...], says: str) -> None:
    with pytest.raises(UserError) as caught:
        matches(tree, src, ignore)
    assert caught.value.code == "copy-source-missing"
    assert says in str(caught.value)


def test_a_wildcard_that_must_match(tree: Path) -> None:
    with pytest.raises(UserError) as caught:
        matches(tree, "*.none", allow_empty_wildcard=False)
    assert caught.value.code == "copy-source-missing"


CHANGES: dict[str, tuple[Callable[[Path], object], bool]] = {
    "content": (lambda d: (d / "a.c").write_text("new"), True),
    "mode of a file": (lambda d: (d / "a.c").chmod(0o600), True),
    "mode of a directory": (lambda d: (d / "s").chmod(0o700), True),
    "attribute": (lambda d: os.setxattr(d / "a.c", "user.note", b"1"), True),
    "attribute of a directory": (lambda d: os.setxattr(d / "s", "user.note", b"1"), True),
    "new directory": (lambda d: (d / "new").mkdir(), True),
    "new name": (lambda d: (d / "a.c").rename(d / "z.c"), True),
    "mtime": (lambda d: os.utime(d / "a.c", (1, 1)), False),
    "mtime of a directory": (lambda d: os.utime(d / "s", (1, 1)), False),
    "owner": (lambda d: os.chown(d / "a.c", 12, 34), False),
    "a sibling": (lambda d: (d.parent / "other").write_text("x"), False),
    "a foreign attribute": (lambda d: os.setxattr(d / "a.c", "trusted.note", b"1"), False),
}


@pytest.mark.parametrize(("change", "counts"), CHANGES.values(), ids=CHANGES.keys())
def test_what_counts(tree: Path, change: Callable[[Path], object], counts: bool) -> None:
    before = digest(tree)
    try:
        change(tree / "d")
    except PermissionError:
        assert os.geteuid() != 0
        pytest.skip("needs-root: changes owners and trusted attributes")
    assert (digest(tree) != before) is counts


def test_excluded_paths_do_not_count(tree: Path) -> None:
    before = digest(tree, exclude_patterns=("*.h",))
    (tree / "d/b.h").write_text("changed")
    assert digest(tree, exclude_patterns=("*.h",)) == before
    assert digest(tree) != before


def test_a_reader_copies_only_what_a_mount_shows(
    tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs-root: gives what it copies to root")
    (tree / "link").symlink_to("d/s")
    os.mkfifo(tree / "d/pipe")
    reader = ContextReader(HostTree(root=str(tree)), None)
    for path, shown, expected in (
        ("d/s", "d/s", ["d"]),
        ("link", "d/s", ["d"]),
        ("top.c", "top.c", ["top.c"]),
    ):
        dest_path = tmp_path_factory.mktemp("dest")
        with Root(str(dest_path)) as dest:
            assert reader.copy_path(path, dest) == shown
        assert os.listdir(dest_path) == expected
        assert not (dest_path / "d/pipe").exists()
    with pytest.raises(UserError) as caught, Root(str(tmp_path_factory.mktemp("dest"))) as dest:
        reader.copy_path("none", dest)
    assert caught.value.code == "copy-source-missing"
