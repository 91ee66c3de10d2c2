"""Layers rewritten entry by entry: paths dropped, owners changed."""

from __future__ import annotations

import os
from pathlib import Path

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
