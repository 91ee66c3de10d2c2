"""Two images compared, and what of an image no container sees; judged on trees that umoci unpacked."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from arkwright.images.compare import compare_configs, compare_files
from arkwright.images.efficiency import Efficiency, measure
from arkwright.images.opened import OpenedImage, open_image, open_view
from arkwright.images.places import parse_place
from arkwright.store.store import Store
from looking import Layout, Tree, emptied, entry, folder, gone, hardlink, symlink, tar, tree_on_disk

BASE = tar(
    folder("etc"), entry("etc/mode", b"m"), entry("etc/owner", b"o"), entry("etc/content", b"12345"),
    entry("etc/grown", b"1"), entry("etc/noted", b"n", xattrs={"user.a": "1"}), symlink("etc/link", "mode"),
    entry("etc/kind", b"k"), entry("gone/deep/file", b"g"), entry("same", b"s" * 5000), hardlink("twin", "same"),
    entry("dev", kind="char", device=(1, 3)),
)  # fmt: skip
TOP = tar(
    entry("etc/mode", b"m", mode=0o600), entry("etc/owner", b"o", owner=(5, 6)), entry("etc/content", b"54321"),
    entry("etc/grown", b"123"), entry("etc/noted", b"n", xattrs={"user.b": "2"}), symlink("etc/link", "owner"),
    folder("etc/kind"), gone("gone"), entry("new/dir/file", b"new"), entry("dev", kind="char", device=(1, 5)),
    entry("same", b"s" * 5000, mtime=7),
)  # fmt: skip


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "layout")
    made.add("old", [BASE])
    made.add("new", [BASE, TOP], config={"config": {"Env": ["PATH=/bin", "A=1"], "Labels": {"x.y": "z"}}})
    return made


def opened(store: Store, layout: Layout, tag: str) -> OpenedImage:
    return open_image(store, parse_place(f"oci:{layout.path}:{tag}"))


def unpacked(layout: Layout, tag: str) -> Tree:
    if shutil.which("umoci") is None:
        pytest.skip("needs-umoci: to unpack images by another hand")
    if os.geteuid() != 0:
        pytest.skip("needs-root: gives files their owners")
    target = layout.path.with_name(f"root-{tag}")
    subprocess.run(
        ["umoci", "raw", "unpack", "--image", f"{layout.path}:{tag}", str(target)],
        check=True,
        capture_output=True,
    )
    return tree_on_disk(target)


def test_files_differ_as_on_disk(store: Store, layout: Layout) -> None:
    left, right = (open_view(store, opened(store, layout, tag)) for tag in ("old", "new"))
    changes = {change.path: change for change in compare_files(left, right)}
    old, new = unpacked(layout, "old"), unpacked(layout, "new")
    # All but the names of hard links.
    expected = {
        "/" + path: "added" if path not in old else "removed" if path not in new else "changed"
        for path in old.keys() | new.keys()
        if path not in old or path not in new or old[path][:-1] != new[path][:-1]
    }
    assert {path: change.kind for path, change in changes.items()} == expected
    assert {path: change.fields for path, change in changes.items() if change.kind == "changed"} == {
        "/etc/mode": ("mode",), "/etc/owner": ("owner",), "/etc/content": ("content",),
        "/etc/grown": ("size", "content"), "/etc/noted": ("xattrs",), "/etc/link": ("link",),
        "/etc/kind": ("type", "mode"), "/dev": ("device",),
    }  # fmt: skip
    before = changes["/etc/content"].old
    assert before is not None and before.digest == old["etc/content"][3]
    assert list(changes) == sorted(changes)
    with_times = {change.path: change.fields for change in compare_files(left, right, times=True)}
    assert with_times["/same"] == ("time",) and "/twin" not in with_times
    assert list(compare_files(left, left, times=True)) == []


def test_config_fields() -> None:
    old: dict[str, Any] = {
        "os": "linux", "config": {"Env": ["A=1", "B=2"], "Cmd": ["a"], "Labels": {"a.b": "1", "c": "2"}, "User": ""},
        "history": [{"created_by": "x"}], "unknown": {"deep": [1]}, "nothing": None,
    }  # fmt: skip
    new: dict[str, Any] = {
        "os": "linux", "config": {"Env": ["B=3", "A=1", "C"], "Cmd": None, "Labels": {"a.b": "1"}, "User": "", "Volumes": {}},
        "history": [{"created_by": "x"}, {"created_by": "y"}], "unknown": {"deep": [2]},
    }  # fmt: skip
    found = {change.field: (change.kind, change.old, change.new) for change in compare_configs(old, new)}
    assert found == {
        "config.Env.B": ("changed", "2", "3"), "config.Env.C": ("added", None, ""),
        "config.Cmd": ("removed", ["a"], None), "config.Labels.c": ("removed", "2", None),
        "history[1]": ("added", None, {"created_by": "y"}), "unknown.deep": ("changed", [1], [2]),
    }  # fmt: skip
    assert list(compare_configs(old, old)) == []


def measured(store: Store, layout: Layout, *layers: bytes) -> Efficiency:
    layout.add("measured", layers)
    digest = layout._entries[-1]["digest"]
    return measure(store, open_image(store, parse_place(f"oci:{layout.path}@{digest}")))


def test_waste_is_what_the_kernel_does_not_show(store: Store, layout: Layout, tmp_path: Path) -> None:
    layers = [
        tar(
            entry("a", b"1" * 100),
            entry("d/b", b"2" * 200),
            entry("d/c", b"3" * 300),
            entry("kept", b"4" * 400),
        ),
        tar(entry("a", b"5" * 50), gone("d/b"), hardlink("kept2", "kept"), symlink("s", "a")),
        tar(entry("a", b"6" * 7), emptied("d"), entry("d/e", b"7" * 70), gone("kept")),
    ]
    found = measured(store, layout, *layers)
    seen = sum(
        (tmp_path / "root-measured" / path).stat().st_size
        for path, fields in unpacked(layout, "measured").items()
        if fields[0].startswith("-") and fields[-1] == path
    )
    total = sum(int(line.split()[2]) for layer in layers for line in listed(layer) if line.startswith("-"))
    assert (found.content, found.content - found.wasted) == (total, seen)
    assert found.score == seen / total
    assert [layer.wasted for layer in found.layers] == [600, 50, 0]
    assert [layer.content for layer in found.layers] == [1000, 50, 77]
    assert [(layer.files, layer.deletions) for layer in found.layers] == [(4, 0), (3, 1), (2, 2)]
    assert [(one.path, one.bytes, one.copies, one.layer, one.hidden_by, one.removed) for one in found.worst] == [
        ("/d/c", 300, 1, 0, 2, True), ("/d/b", 200, 1, 0, 1, True), ("/a", 150, 2, 1, 2, False),
    ]  # fmt: skip
    assert found.wasted_paths == 3


def listed(layer: bytes) -> list[str]:
    done = subprocess.run(["tar", "-tvf", "-"], input=layer, stdout=subprocess.PIPE, check=True)
    return done.stdout.decode().splitlines()


def test_an_image_without_content_wastes_nothing(store: Store, layout: Layout) -> None:
    found = measured(store, layout, tar(folder("d")))
    assert (found.score, found.wasted, found.worst) == (1.0, 0, ())
