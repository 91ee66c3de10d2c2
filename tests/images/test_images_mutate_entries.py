"""Layers rewritten entry by entry: paths dropped, owners changed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from changing import CREATED, put_layers
from imaging import refused
from layer_model import (
    Member,
    check_diff_ids,
    directory,
    documents,
    hardlink,
    opaque,
    put,
    seen,
    symlink,
    tree_of,
    umoci_tree,
    whiteout,
)

from arkwright.images import view
from arkwright.images.mutate import edit_images
from arkwright.images.mutate_entries import IdMap, filter_paths, map_owners
from arkwright.oci.descriptor import Descriptor
from arkwright.store.store import Store

LAYERS = [
    [
        directory("usr"), directory("usr/bin"), symlink("bin", "usr/bin"), Member("usr/bin/tool", data=b"tool" * 999),
        directory("doc"), Member("doc/a.txt", data=b"a"), Member("doc/b.md", data=b"b"), directory("doc/x"),
        Member("doc/x/a.txt", data=b"deep"), Member("keep", data=b"k", uid=5, gid=6, xattrs=(("user.n", "1"),)),
    ],
    [whiteout("doc/b.md"), Member("bin/late", data=b"late"), opaque("doc/x"), Member("doc/x/new.txt", data=b"n")],
    [Member("last", data=b"untouched")],
]  # fmt: skip


def filtered(store: Store, image: Descriptor, *patterns: str, notes: list[str] | None = None) -> Descriptor:
    told = [] if notes is None else notes
    return edit_images(
        store.content,
        image,
        lambda one: filter_paths(one, store.content, patterns, created=CREATED, note=told.append),
    ).descriptor


@pytest.mark.parametrize(
    "patterns, gone",
    [
        (["/doc"], "doc"),
        (["doc/**"], "doc/"),
        (["**/*.txt"], "*.txt"),
        (["usr/bin/late", "keep"], "late"),
        (["usr/bin"], "usr/bin"),
    ],
)
def test_what_matches_is_gone_and_nothing_else(
    store: Store, tmp_path: Path, patterns: list[str], gone: str
) -> None:
    image = put_layers(store, LAYERS)
    made = filtered(store, image, *patterns)
    check_diff_ids(store, made)
    before, after = umoci_tree(store, image, tmp_path / "before"), umoci_tree(store, made, tmp_path / "after")
    dropped = {
        "doc": lambda path: path == "doc" or path.startswith("doc/"),
        "doc/": lambda path: path.startswith("doc/"),
        "*.txt": lambda path: path.endswith(".txt"),
        "late": lambda path: path in ("usr/bin/late", "keep"),
        "usr/bin": lambda path: path.startswith("usr/bin"),
    }[gone]
    assert after == {path: entry for path, entry in before.items() if not dropped(path)}
    assert len(after) < len(before)


def test_a_layer_in_which_nothing_matches_keeps_its_bytes(store: Store) -> None:
    image = put_layers(store, LAYERS)
    made = filtered(store, image, "doc")
    before, after = documents(store, image), documents(store, made)
    assert after[0]["layers"][2] == before[0]["layers"][2]
    assert after[1]["history"][:3] == before[1]["history"] and after[1]["history"][3]["empty_layer"]
    notes: list[str] = []
    assert filtered(store, image, "nothing/*", notes=notes) == image
    assert notes == ["nothing matched nothing/*"]


def test_a_hard_link_to_a_dropped_file_gets_its_content(store: Store) -> None:
    layer = [
        directory("d"),
        Member("d/a", data=b"data", mode=0o751),
        hardlink("d/b", "d/a"),
        hardlink("c", "d/b"),
        hardlink("e", "d/a"),
    ]
    image = put_layers(store, [layer])
    for patterns, left in (
        (["d/a"], {"d", "d/b", "c", "e"}), (["d/b"], {"d", "d/a", "c", "e"}), (["d"], {"c", "e"}), (["d", "c"], {"e"}),
    ):  # fmt: skip
        made = filtered(store, image, *patterns)
        check_diff_ids(store, made)
        tree = seen(tree_of(store, made))
        assert tree.keys() == left
        links = left - {"d"}
        for path in links:
            assert (tree[path][0].data, tree[path][0].mode, tree[path][1]) == (
                b"data",
                0o751,
                frozenset(links),
            )


def test_a_hard_link_into_a_lower_layer_is_refused(store: Store) -> None:
    image = put_layers(store, [[Member("a", data=b"a")], [hardlink("b", "a")]])
    with refused("dangling-hard-link", "b", "flatten"):
        filtered(store, image, "a")
    assert seen(tree_of(store, filtered(store, image, "b"))).keys() == {"a"}
    assert seen(tree_of(store, filtered(store, image, "a", "b"))) == {}


@pytest.mark.parametrize("pattern", ["a[", "/", "x\\"])
def test_bad_patterns_are_refused(store: Store, pattern: str) -> None:
    with refused("invalid-wildcard"):
        filtered(store, put_layers(store, LAYERS), pattern)


# --- owners ------------------------------------------------------------------------------------


def owned(store: Store, image: Descriptor, *maps: IdMap) -> Descriptor:
    return edit_images(
        store.content, image, lambda one: map_owners(one, store.content, maps, created=CREATED)
    ).descriptor


def test_ids_are_mapped_in_every_layer(store: Store, tmp_path: Path) -> None:
    layers = [
        [directory("home", uid=10, gid=11), Member("home/a", uid=10, gid=10), hardlink("home/b", "home/a"), Member("r")],
        [Member("home/c", uid=12, gid=99), whiteout("r")],
        [Member("q", uid=1, gid=1)],
    ]  # fmt: skip
    image = put_layers(store, layers)
    made = owned(store, image, IdMap(first=10, to=2000, count=3), IdMap(first=99, to=10))
    check_diff_ids(store, made)
    change = {10: 2000, 11: 2001, 12: 2002, 99: 10}
    before, after = umoci_tree(store, image, tmp_path / "before"), umoci_tree(store, made, tmp_path / "after")
    wanted = {
        path: (entry[0], change.get(entry[1], entry[1]), change.get(entry[2], entry[2]), *entry[3:])  # type: ignore[call-overload]
        for path, entry in before.items()
    }
    assert after == wanted
    assert documents(store, made)[0]["layers"][2] == documents(store, image)[0]["layers"][2]


def test_directories_that_no_layer_mentions_are_mapped_too(store: Store, tmp_path: Path) -> None:
    image = put_layers(
        store, [[Member("a/b/c", data=b"c"), symlink("l", "a")], [Member("l/d"), Member("n/f")]]
    )
    made = owned(store, image, IdMap(first=0, to=100000, count=65536))
    tree = umoci_tree(store, made, tmp_path / "after")
    assert {entry[1:3] for entry in tree.values()} == {(100000, 100000)}
    assert os.stat(tmp_path / "after" / "bundle" / "rootfs").st_uid == 100000
    assert sorted(tree) == ["a", "a/b", "a/b/c", "a/d", "l", "n", "n/f"]
    assert tree["l"][4] == "a"


def test_an_emptied_directory_keeps_what_its_own_entry_said(store: Store, tmp_path: Path) -> None:
    image = put_layers(
        store,
        [
            [directory("d", mode=0o700, uid=5, gid=5), Member("d/old"), directory("e", mode=0o711), Member("e/x")],
            [opaque("d"), Member("d/new"), whiteout("e"), Member("e/y")],
        ],
    )  # fmt: skip
    made = owned(store, image, IdMap(first=0, to=900))
    before, after = umoci_tree(store, image, tmp_path / "before"), umoci_tree(store, made, tmp_path / "after")
    assert {path: entry[0] for path, entry in after.items()} == {
        path: entry[0] for path, entry in before.items()
    }
    assert (after["d"][1], after["e"][1], sorted(after)) == (5, 900, ["d", "d/new", "e", "e/y"])


def test_names_behind_links_that_later_layers_replace(store: Store, tmp_path: Path) -> None:
    layers = [
        [directory("usr"), directory("usr/lib"), symlink("lib", "usr/lib"), directory("a"), symlink("a/l", "../usr")],
        # Hard links to a link are links; what takes the place of a directory takes its links along.
        [hardlink("lib64", "lib"), Member("a")],
        [Member("lib64/x"), whiteout("a"), opaque("lib"), Member("lib/y")],
        [whiteout("lib64"), Member("a/l/z"), Member("lib64/x")],
    ]  # fmt: skip
    image = put_layers(store, layers)
    made = filtered(store, image, "usr/lib/y", "a/l")
    before, after = umoci_tree(store, image, tmp_path / "before"), umoci_tree(store, made, tmp_path / "after")
    kept = ["lib", "lib64", "lib64/x", "usr", "usr/lib", "usr/lib/x"]
    assert sorted(before) == sorted([*kept, "a", "a/l", "a/l/z", "usr/lib/y"])
    assert sorted(after) == kept


def lines_run(act: Callable[[], object]) -> int:
    """How many lines of the modules at work were executed: a cost that no clock and no load changes."""
    count = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.endswith(("mutate_entries.py", "path_tree.py")):
            return None
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return count


HOSTILE: dict[str, Callable[[int], list[list[Member]]]] = {
    "a directory emptied again and again, with links": lambda n: [
        [symlink(f"d/{i}", "x") for i in range(n)],
        [symlink(f"d/n{i}", "x") for i in range(n)] + [opaque("d")] * n,
    ],
    "and with directories": lambda n: [
        [directory(f"d/{i}") for i in range(n)],
        [directory(f"d/n{i}") for i in range(n)] + [opaque("d"), whiteout("d")] * (n // 2),
    ],
    "deleted and made anew": lambda n: [
        [one for i in range(n) for one in (directory(f"{i}"), symlink(f"{i}/l", "/d"), Member(f"{i}/l/f"))],
        [whiteout(f"{i}") for i in range(n)],
        [Member(f"{i}/l/g") for i in range(n)],
    ],
    "emptied from the innermost out": lambda n: [
        [Member("/".join(["d"] * min(n, 900)) + "/f")],
        [opaque("/".join(["d"] * depth)) for depth in range(min(n, 900), 0, -1)] * 2,
    ],
    "links that change while names go through them": lambda n: [
        [one for i in range(n) for one in (symlink("l", f"d{i}"), Member(f"l/{i}"))]
    ],
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("what", ["filter", "owners"])
def test_the_cost_grows_with_the_entries_alone(store: Store, case: str, what: str) -> None:
    cost = {}
    for size in (100, 400):
        image = put_layers(store, HOSTILE[case](size))
        cost[size] = lines_run(
            lambda image=image: (  # type: ignore[misc]
                filtered(store, image, "nothing") if what == "filter" else owned(store, image, IdMap(first=0, to=9))
            )
        )  # fmt: skip
    # Names as deep as there are entries cost their length.
    entries = 16 if case.startswith("emptied from") else 4
    assert cost[400] < cost[100] * entries * 1.2, cost


def test_a_name_as_deep_as_a_name_can_be(store: Store) -> None:
    deep = "/".join(["d"] * 2000)
    image = put_layers(store, [[Member(f"{deep}/f"), Member(f"{deep}/g")]])
    assert filtered(store, image, "x") == image
    filtered(store, image, f"{deep}/f")
    owned(store, image, IdMap(first=0, to=9))


def test_directories_that_names_imply_are_counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "MAX_ENTRIES", 100)
    image = put_layers(store, [[Member("/".join(["d"] * 200))]])
    for act in (
        lambda: filtered(store, image, "nothing"),
        lambda: owned(store, image, IdMap(first=0, to=9)),
    ):
        with refused("archive-too-large", "100"):
            act()


def test_maps_of_ids_there_are_not_change_nothing(store: Store) -> None:
    image = put_layers(store, LAYERS)
    assert owned(store, image, IdMap(first=4000, to=5000)) == image
    tree = put(put({}, LAYERS[0]), [])
    assert tree["keep"].member.uid == 5


@pytest.mark.parametrize(
    "maps",
    [
        [IdMap(first=0, to=1, count=0)],
        [IdMap(first=0, to=2**32 - 3, count=3)],
        [IdMap(first=0, to=9, count=5), IdMap(first=4, to=20)],
    ],
)
def test_impossible_maps_are_refused(store: Store, maps: list[IdMap]) -> None:
    with refused("invalid-id-map"):
        owned(store, put_layers(store, LAYERS), *maps)
