"""Layers appended, squashed and flattened: the tree stays what it is, by the word of others."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from changing import CREATED, put_layers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imaging import refused
from layer_model import (
    DIR,
    Member,
    check_diff_ids,
    directory,
    documents,
    hardlink,
    members_in,
    opaque,
    put,
    seen,
    symlink,
    tar_bytes,
    tree_of,
    umoci_tree,
    whiteout,
)

from arkwright.images import mutate_layers
from arkwright.images.mutate import Image, edit_images, read_image
from arkwright.images.mutate_layers import Placing
from arkwright.layer.profile import profile_for
from arkwright.oci.descriptor import LAYER_GZIP, LAYER_ZSTD, MANIFEST, Descriptor
from arkwright.store.store import Store

GZIP = profile_for("gzip")
# setcap cap_net_raw+ep, as the kernel keeps it (capabilities(7), revision 2).
CAPABILITY = "\x01\x00\x00\x02\x00\x20" + "\x00" * 14

# One layer upon the other: owners, modes, links within and across layers, devices, attributes, every kind of
# deletion, and a name that leads through a link of the layer below.
LAYERS: list[list[Member]] = [
    [
        directory("usr"), directory("usr/bin"), symlink("bin", "usr/bin"), directory("etc", 0o750, uid=3, gid=4),
        Member("etc/motd", data=b"hello"), Member("etc/gone", data=b"x"), Member("usr/bin/a", data=b"A" * 999, mode=0o4755),
        hardlink("usr/bin/b", "usr/bin/a"), directory("cache"), Member("cache/one"), Member("cache/two"),
        directory("old"), directory("old/deep"), Member("old/deep/file", data=b"old"),
        directory("tmp", 0o1777), Member("dev", tarfile.CHRTYPE, device=(1, 3), mode=0o666), Member("pipe", tarfile.FIFOTYPE),
    ],
    [
        whiteout("etc/gone"), opaque("cache"), Member("cache/three", data=b"3"), whiteout("old"),
        Member("bin/c", data=b"through a link", uid=1000, gid=1000), hardlink("usr/bin/d", "usr/bin/a"),
        Member("usr/bin/ping", data=b"ping", mode=0o755, xattrs=(("security.capability", CAPABILITY), ("user.note", "hi"))),
    ],
    [
        Member("old", data=b"a file now"), directory("etc", 0o700), Member("etc/motd", data=b"hello again", mtime=5),
        directory("pipe"), Member("pipe/x"), hardlink("tmp/e", "usr/bin/b"), Member("name with ü and " + "x" * 120, data=b"long"),
    ],
]  # fmt: skip


def squashed(store: Store, image: Descriptor, base: Descriptor | None = None) -> Descriptor:
    below = read_image(store.content, base) if base else None

    def edit(one: Image) -> Image:
        with tempfile.TemporaryDirectory() as scratch:
            return mutate_layers.squash(one, store.content, scratch, GZIP, created=CREATED, base=below)

    return edit_images(store.content, image, edit).descriptor


def flattened(store: Store, image: Descriptor) -> Descriptor:
    def edit(one: Image) -> Image:
        with tempfile.TemporaryDirectory() as scratch:
            return mutate_layers.flatten(one, store.content, scratch, GZIP, created=CREATED)

    return edit_images(store.content, image, edit).descriptor


def test_a_squashed_image_unpacks_to_the_same_tree(store: Store, tmp_path: Path) -> None:
    image, base = put_layers(store, LAYERS), put_layers(store, LAYERS[:1])
    before = umoci_tree(store, image, tmp_path / "before")
    assert before["old"][5] == "old" and "etc/gone" not in before and before["usr/bin/c"][1] == 1000
    for name, made in {
        "all": squashed(store, image), "since": squashed(store, image, base), "flat": flattened(store, image),
    }.items():  # fmt: skip
        check_diff_ids(store, made)
        assert umoci_tree(store, made, tmp_path / name) == before, name


def test_the_layers_of_the_base_stay_and_the_history_too(store: Store) -> None:
    image, base = put_layers(store, LAYERS), put_layers(store, LAYERS[:1])
    made = squashed(store, image, base)
    manifest, config = documents(store, made)
    assert [one["digest"] for one in manifest["layers"]][:1] == [
        one["digest"] for one in documents(store, base)[0]["layers"]
    ]
    assert len(manifest["layers"]) == 2
    told = [(one["created_by"], one.get("empty_layer", False)) for one in config["history"]]
    assert told == [("step 0", False), ("step 1", True), ("step 2", True), ("arkwright squash", False)]
    assert config["created"] == CREATED
    assert documents(store, image)[1]["history"][1] == {
        "created": "2020-02-02T02:02:02Z",
        "created_by": "step 1",
    }


def test_a_flat_image_has_one_entry_of_history(store: Store) -> None:
    made = flattened(store, put_layers(store, LAYERS))
    manifest, config = documents(store, made)
    assert len(manifest["layers"]) == len(config["history"]) == 1
    assert flattened(store, made) == made


def test_an_image_that_is_not_made_on_the_base_is_refused(store: Store) -> None:
    with refused("not-the-base", "layer 1"):
        squashed(store, put_layers(store, LAYERS), put_layers(store, LAYERS[1:]))


def test_one_layer_above_the_base_is_left_as_it_is(store: Store) -> None:
    image = put_layers(store, LAYERS[:2])
    assert squashed(store, image, put_layers(store, LAYERS[:1])) == image


def test_a_layer_that_is_not_what_the_config_says_is_refused(store: Store) -> None:
    wrong = {"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64] * 2}}
    with refused("layer-mismatch"):
        squashed(store, put_layers(store, LAYERS[:2], top=wrong))


NAMES = ["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "z"]


@st.composite
def stacks(draw: st.DrawFn) -> list[list[Member]]:
    """Layers that can be put on one another."""
    layers: list[list[Member]] = []
    tree: dict[str, bytes] = {}
    for _ in range(draw(st.integers(2, 4))):
        members: list[Member] = []
        for path in draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=3)):
            if path in tree:
                is_dir = tree[path] == DIR
                members.append(opaque(path) if is_dir and draw(st.booleans()) else whiteout(path))
                keep = members[-1].name.endswith(".wh..wh..opq")
                for name in [
                    name for name in tree if name.startswith(f"{path}/") or (name == path and not keep)
                ]:
                    del tree[name]
        for path in draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=6)):
            parent = path.rpartition("/")[0]
            if parent and tree.get(parent) != DIR:
                continue
            plain = [
                name
                for name, kind in tree.items()
                if kind != DIR and name != path and not name.startswith(f"{path}/")
            ]
            kind = draw(st.sampled_from("ffdsl" if plain else "ffds"))
            if kind == "l":
                members.append(hardlink(path, draw(st.sampled_from(plain))))
            elif kind == "d":
                members.append(
                    directory(path, draw(st.sampled_from([0o755, 0o700])), mtime=draw(st.integers(1, 3)))
                )
            elif kind == "s":
                members.append(symlink(path, draw(st.sampled_from(["a", "/d", "none"]))))
            else:
                owner = draw(st.sampled_from([0, 7]))
                xattrs = draw(st.sampled_from([(), (("user.x", "1"),), (("trusted.y", "2"),)]))
                members.append(
                    Member(path, data=draw(st.sampled_from([b"", b"1", b"2"])), uid=owner, xattrs=xattrs)
                )
            if not (kind == "d" and tree.get(path) == DIR):
                for name in [name for name in tree if name.startswith(f"{path}/")]:
                    del tree[name]
            tree[path] = DIR if kind == "d" else b"f"
        layers.append(members)
    return layers


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(str(tmp_path_factory.mktemp("squash")))


@pytest.mark.soak
@settings(
    deadline=None,
    max_examples=1200 if os.environ.get("ARKWRIGHT_SOAK") else 60,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(stacks(), st.integers(0, 3))
def test_a_squash_changes_nothing_in_the_tree(shared: Store, layers: list[list[Member]], kept: int) -> None:
    image = put_layers(shared, layers)
    base = put_layers(shared, layers[:kept]) if 0 < kept < len(layers) else None
    made = squashed(shared, image, base)
    check_diff_ids(shared, made)
    tree = put({}, [])
    for members in layers:
        tree = put(tree, members)
    assert seen(tree_of(shared, made)) == seen(tree)
    assert squashed(shared, image, base) == made


def test_links_that_alone_changed_are_kept(store: Store) -> None:
    """Alike in all else, two names are one file in one layer and two in the next, or the reverse."""
    apart, joined = [Member("a"), Member("b"), Member("c")], [Member("a"), hardlink("b", "a"), Member("c")]
    for lower, upper in (
        (apart, [hardlink("b", "a")]),
        (joined, [Member("a")]),
        (joined, [hardlink("c", "a")]),
    ):
        image = put_layers(store, [lower, upper, []])
        made = squashed(store, image, put_layers(store, [lower]))
        assert seen(tree_of(store, made)) == seen(put(put({}, lower), upper))


# --- append ------------------------------------------------------------------------------------


def appended(store: Store, image: Descriptor, layer: mutate_layers.Layer) -> Descriptor:
    history = {"created_by": "test"}
    edit = lambda one: mutate_layers.append(one, layer, created=CREATED, history=history)  # noqa: E731
    return edit_images(store.content, image, edit).descriptor


def tar_layer(store: Store, tmp_path: Path, data: bytes, **placing: object) -> mutate_layers.Layer:
    place = Placing(**placing)  # type: ignore[arg-type]
    return mutate_layers.layer_of_tar(store.content, io.BytesIO(data), place, GZIP, str(tmp_path))


def test_a_tar_becomes_a_canonical_layer(store: Store, tmp_path: Path) -> None:
    members = [
        Member("z", data=b"z", mtime=99), directory("a"), Member("a/x", data=b"x", uid=7, xattrs=(("user.n", "1"), ("trusted.t", "2"))),
        hardlink("a/y", "a/x"), whiteout("etc/motd"), opaque("cache"), symlink("s", "z"),
    ]  # fmt: skip
    layer = tar_layer(store, tmp_path, tar_bytes(members))
    again = tar_layer(store, tmp_path, gzip.compress(tar_bytes([members[1], *members[:1], *members[2:]])))
    assert again == layer
    found = members_in(store.content.read(layer[1].digest))
    assert [one.name for one in found] == [
        "cache/.wh..wh..opq", "a", "a/x", "a/y", "etc/.wh.motd", "s", "z",
    ]  # fmt: skip
    assert {one.mtime for one in found} == {946684800}
    assert found[2].uid == 7 and found[2].xattrs == (("user.n", "1"),)


def test_parents_that_a_tar_only_implies_leave_links_of_the_image(store: Store, tmp_path: Path) -> None:
    """The image has bin -> usr/bin; a directory entry would take the link's place."""
    image = put_layers(store, LAYERS[:1])
    made = appended(store, image, tar_layer(store, tmp_path, tar_bytes([Member("bin/new", data=b"new")])))
    tree = umoci_tree(store, made, tmp_path / "unpacked")
    assert tree["bin"][4] == "usr/bin" and "usr/bin/new" in tree


def test_a_tar_goes_below_a_prefix_with_another_owner(store: Store, tmp_path: Path) -> None:
    data = tar_bytes([directory("a"), Member("a/x", data=b"x"), hardlink("a/y", "a/x"), opaque("a")])
    layer = tar_layer(store, tmp_path, data, prefix="opt/app", owner=(5, 6))
    found = {one.name: one for one in members_in(store.content.read(layer[1].digest))}
    assert sorted(found) == ["opt/app/a", "opt/app/a/.wh..wh..opq", "opt/app/a/x", "opt/app/a/y"]
    assert found["opt/app/a/y"].link == "opt/app/a/x"
    assert (found["opt/app/a/x"].uid, found["opt/app/a/x"].gid) == (5, 6)


@pytest.mark.parametrize("text", ["../x", "a/../../b"])
def test_a_prefix_cannot_leave_the_image(text: str) -> None:
    with refused("path-escapes-root"):
        mutate_layers.clean_prefix(text)


def test_verbatim_keeps_the_bytes(store: Store, tmp_path: Path) -> None:
    plain = tar_bytes([Member("z", data=b"z"), Member("a", data=b"a")]) + b"\0" * 10240
    packed = {LAYER_GZIP: gzip.compress(plain, mtime=7)}
    zstd = subprocess.run(["zstd", "-q", "-c"], input=plain, capture_output=True, check=False)
    if zstd.returncode == 0:
        packed[LAYER_ZSTD] = zstd.stdout
    for media_type, data in packed.items():
        diff_id, blob = mutate_layers.verbatim_layer(store.content, io.BytesIO(data))
        assert (blob.media_type, store.content.read(blob.digest)) == (media_type, data)
        check_diff_ids(store, appended(store, put_layers(store, LAYERS[:1]), (diff_id, blob)))


def test_verbatim_refuses_what_no_layer_can_be(store: Store) -> None:
    import bz2

    plain = tar_bytes([Member("a", data=b"a" * 3000)])
    with refused("unsupported-layer-compression"):
        mutate_layers.verbatim_layer(store.content, io.BytesIO(bz2.compress(plain)))
    with refused("truncated-archive"):
        mutate_layers.verbatim_layer(store.content, io.BytesIO(plain[:2000]))
    with refused("path-escapes-root"):
        mutate_layers.verbatim_layer(store.content, io.BytesIO(tar_bytes([Member("../x")])))
    with refused("invalid-archive"):
        mutate_layers.verbatim_layer(store.content, io.BytesIO(b"no archive at all" * 99))


def test_a_directory_becomes_a_layer_of_root(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "f").write_bytes(b"f")
    os.link(source / "f", source / "sub" / "g")
    (source / "s").symlink_to("/etc/shadow")
    os.mkfifo(source / "pipe")
    (source / "f").chmod(0o640)
    layer = mutate_layers.layer_of_directory(store.content, str(source), Placing(owner=(0, 0)), GZIP)
    made = appended(store, put_layers(store, LAYERS[:1]), layer)
    tree = umoci_tree(store, made, tmp_path / "unpacked")
    assert tree["f"][:3] == (0o100640, 0, 0) and tree["sub/g"][5] == "f"
    assert tree["s"][4] == "/etc/shadow"
    assert tree["f"][3] == 946684800 * 10**9


def test_a_docker_image_stays_one_unless_the_layer_is_zstd(store: Store, tmp_path: Path) -> None:
    image = put_layers(store, LAYERS[:1], docker=True)
    data = io.BytesIO(tar_bytes([Member("n")]))
    layer = mutate_layers.layer_of_tar(store.content, data, Placing(), profile_for("zstd"), str(tmp_path))
    plain = appended(store, image, tar_layer(store, tmp_path, tar_bytes([Member("n")])))
    manifest = documents(store, plain)[0]
    assert plain.media_type == image.media_type
    assert {one["mediaType"] for one in manifest["layers"]} == {
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
    }
    made = appended(store, image, layer)
    manifest = documents(store, made)[0]
    assert made.media_type == manifest["mediaType"] == MANIFEST
    assert [one["mediaType"] for one in manifest["layers"]] == [LAYER_GZIP, LAYER_ZSTD]
