"""Images put on another base: what is replaced, what is kept, and when it is refused."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from changing import CREATED, put_layers
from imaging import put_index, refused
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
    whiteout,
)

from arkwright.images.mutate import Changed
from arkwright.images.rebase import BASE_DIGEST, BASE_NAME, OLD_DIGEST, OLD_NAME, Base, rebase_images
from arkwright.oci.descriptor import DOCKER_MANIFEST, MANIFEST, Descriptor
from arkwright.oci.platform import Platform
from arkwright.store.store import Store


def release(text: str) -> list[Member]:
    return [
        directory("etc"), directory("usr"), directory("usr/lib"), symlink("etc/os-release", "../usr/lib/os-release"),
        Member("usr/lib/os-release", data=text.encode()),
    ]  # fmt: skip


DEBIAN = release('PRETTY_NAME="Debian"\nID=debian\nVERSION_ID="12"\n')


def glibc(version: str) -> Member:
    text = f"\0GNU C Library (Debian GLIBC {version}-9) stable release version {version}.\n\0"
    return Member("usr/lib/libc.so.6", data=b"\x7fELF" + bytes(70000) + text.encode())


def musl(version: str) -> Member:
    return Member("usr/lib/ld-musl-x86_64.so.1", data=b"\x7fELF" + bytes(300) + version.encode() + b"\0")


OLD = [[*DEBIAN, glibc("2.36"), Member("etc/passwd", data=b"root")], [Member("usr/lib/tls", data=b"broken")]]
NEW = [[*DEBIAN, glibc("2.36"), Member("etc/passwd", data=b"root")], [Member("usr/lib/tls", data=b"mended")]]
APP = [[directory("app"), Member("app/run", data=b"run"), Member("etc/app.conf", data=b"conf")], [Member("app/more", data=b"m")]]  # fmt: skip


def rebased(
    store: Store, image: Descriptor, old: Descriptor, new: Descriptor, *, force: bool = False, **more: Any
) -> Changed:
    names = (
        Base(descriptor=old, text="old", name="docker.io/library/base:1"),
        Base(descriptor=new, text="new"),
    )
    with tempfile.TemporaryDirectory() as scratch:
        return rebase_images(store.content, image, *names, scratch, created=CREATED, force=force, **more)


def put_app(store: Store, app: Sequence[Sequence[Member]] = APP, **more: Any) -> Descriptor:
    return put_layers(store, [*OLD, *app], **more)


def test_the_base_is_replaced_and_the_rest_is_kept(store: Store) -> None:
    old, new, image = put_layers(store, OLD), put_layers(store, NEW), put_app(store)
    made = rebased(store, image, old, new)
    assert made.notes == ()
    check_diff_ids(store, made.descriptor)
    manifest, config = documents(store, made.descriptor)
    digests = [one["digest"] for one in manifest["layers"]]
    assert digests[:2] == [one["digest"] for one in documents(store, new)[0]["layers"]]
    assert digests[2:] == [one["digest"] for one in documents(store, image)[0]["layers"]][2:]
    assert manifest["annotations"] == {
        BASE_DIGEST: new.digest, OLD_DIGEST: old.digest, OLD_NAME: "docker.io/library/base:1",
    }  # fmt: skip
    told = [one.get("created_by") for one in config["history"]]
    assert told == ["step 0", "step 1", "step 2", "step 3", "arkwright rebase"]
    tree = put({}, [])
    for members in [*NEW, *APP]:
        tree = put(tree, members)
    assert seen(tree_of(store, made.descriptor)) == seen(tree)
    assert rebased(store, image, old, new) == made


def test_the_way_back_has_the_layers_that_were_there(store: Store) -> None:
    old, new, image = put_layers(store, OLD), put_layers(store, NEW), put_app(store)
    there = rebased(store, image, old, new).descriptor
    back = rebased(store, there, new, old).descriptor
    assert documents(store, back)[0]["layers"] == documents(store, image)[0]["layers"]
    assert documents(store, back)[1]["rootfs"] == documents(store, image)[1]["rootfs"]


def test_what_came_from_the_base_comes_from_the_new_one(store: Store) -> None:
    base: dict[str, Any] = {
        "Env": ["PATH=/usr/bin:/bin", "LANG=C", "GONE=1", "UNSET=1"], "Labels": {"base": "old", "mine": "old"},
        "Cmd": ["sh"], "User": "0", "WorkingDir": "/", "StopSignal": "SIGTERM",
    }  # fmt: skip
    fresh: dict[str, Any] = {
        "Env": ["PATH=/usr/local/bin:/usr/bin", "LANG=C.UTF-8", "UNSET=1", "NEW=1"], "Labels": {"base": "new", "mine": "new"},
        "Cmd": ["bash"], "User": "0", "WorkingDir": "/root", "StopSignal": "SIGQUIT",
    }  # fmt: skip
    mine: dict[str, Any] = {
        "Env": ["PATH=/app:/usr/bin:/bin", "LANG=C", "GONE=1", "OWN=1"], "Labels": {"base": "old", "mine": "app"},
        "Entrypoint": ["/app/run"], "Cmd": None, "User": "0", "WorkingDir": "/app", "StopSignal": "SIGTERM",
    }  # fmt: skip
    old, new = put_layers(store, OLD, inner=base), put_layers(store, NEW, inner=fresh)
    made = rebased(store, put_app(store, inner=mine), old, new).descriptor
    assert documents(store, made)[1]["config"] == {
        "Env": ["PATH=/app:/usr/local/bin:/usr/bin", "LANG=C.UTF-8", "NEW=1", "OWN=1"],
        "Labels": {"base": "new", "mine": "app"},
        "Entrypoint": ["/app/run"], "User": "0", "WorkingDir": "/app", "StopSignal": "SIGQUIT",
    }  # fmt: skip


def test_media_types_become_those_of_oci(store: Store) -> None:
    old, new = put_layers(store, OLD, docker=True), put_layers(store, NEW)
    made = rebased(store, put_app(store, docker=True), old, new).descriptor
    manifest, _ = documents(store, made)
    assert made.media_type == manifest["mediaType"] == MANIFEST != DOCKER_MANIFEST
    assert {one["mediaType"] for one in manifest["layers"]} == {"application/vnd.oci.image.layer.v1.tar+gzip"}
    assert manifest["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"


FEDORA = release("ID=fedora\nVERSION_ID=39\n")
DEBIAN_13 = release("ID=debian\nVERSION_ID=13\n")


@pytest.mark.parametrize(
    "new, top, words",
    [
        ([[*FEDORA, glibc("2.36")]], {}, ["debian 12", "fedora 39"]),
        ([[*DEBIAN_13, glibc("2.41")]], {}, ["debian 12", "debian 13"]),
        ([[*DEBIAN, musl("1.2.3")]], {}, ["glibc", "musl"]),
        ([DEBIAN], {}, ["no C library"]),
        ([[*DEBIAN, glibc("2.9")]], {}, ["2.36", "2.9"]),
        ([[glibc("2.36")]], {}, ["no known distribution"]),
    ],
)
def test_another_kind_of_base_is_refused_unless_forced(
    store: Store, new: list[list[Member]], top: dict[str, Any], words: list[str]
) -> None:
    old, image, other = put_layers(store, OLD), put_app(store), put_layers(store, new, top=top)
    with refused("incompatible-base", *words):
        rebased(store, image, old, other)
    made = rebased(store, image, old, other, force=True)
    assert made.notes and documents(store, made.descriptor)[1]["rootfs"]["diff_ids"]


@pytest.mark.parametrize(
    "top", [{"os": "freebsd"}, {"architecture": "arm64"}, {"variant": "v3"}, {"os.version": "7"}]
)
def test_another_platform_is_refused_unless_forced(store: Store, top: dict[str, str]) -> None:
    old, image = put_layers(store, OLD), put_app(store)
    other = put_layers(store, NEW, top=top)
    with refused("incompatible-base", next(iter(top.values()))):
        rebased(store, image, old, other)
    assert rebased(store, image, old, other, force=True).notes


def test_arm64_needs_no_variant(store: Store) -> None:
    top = {"architecture": "arm64"}
    image = put_app(store, top={**top, "variant": "v8"})
    new = put_layers(store, NEW, top=top)
    index = put_index(store, [msgspec.structs.replace(new, platform=Platform("linux", "arm64"))])
    assert rebased(store, image, put_layers(store, OLD, top=top), index).notes == ()


def test_a_newer_c_library_is_fine(store: Store) -> None:
    new = put_layers(store, [[*DEBIAN, glibc("2.100")]])
    assert rebased(store, put_app(store), put_layers(store, OLD), new).notes == ()


def test_musl_may_not_go_down(store: Store) -> None:
    old, image = put_layers(store, [[musl("1.2.10")]]), put_layers(store, [[musl("1.2.10")], *APP[1:]])
    with refused("incompatible-base", "1.2.9"):
        rebased(store, image, old, put_layers(store, [[musl("1.2.9")]]))


@pytest.mark.skipif(not Path("/etc/os-release").exists(), reason="needs-os-release: facts of this host")
def test_the_facts_of_this_host_are_found(store: Store) -> None:
    found = sorted(Path("/").glob("usr/lib/*/libc.so.6")) + sorted(Path("/").glob("lib64/libc.so.6"))
    try:
        version = (os.confstr("CS_GNU_LIBC_VERSION") or "").removeprefix("glibc ")
    except ValueError:
        version = ""
    if not version or not found:
        pytest.skip("needs-glibc: the C library of this host to look at")
    here = [Member("libc.so.6", data=found[0].read_bytes())]
    low = [Member("libc.so.6", data=b"stable release version 2.1")]
    with refused("incompatible-base", f"from {version} to 2.1"):
        rebased(store, put_layers(store, [here, []]), put_layers(store, [here]), put_layers(store, [low]))


@pytest.mark.parametrize(
    "app, paths",
    [
        ([Member("usr/lib/tls", data=b"my own")], ["usr/lib/tls"]),
        ([whiteout("usr/lib/tls")], ["usr/lib/tls"]),
        ([opaque("usr/lib")], ["usr/lib/tls"]),
        ([whiteout("usr/lib")], ["usr/lib/tls"]),
        ([symlink("usr/lib/tls", "x")], ["usr/lib/tls"]),
        ([Member("usr/lib", data=b"no directory")], ["usr/lib/tls"]),
        ([hardlink("usr/lib/tls", "etc/passwd")], ["usr/lib/tls"]),
        ([directory("added"), Member("added/x")], ["added"]),
    ],
)
def test_a_file_that_both_changed_is_refused_unless_forced(
    store: Store, app: list[Member], paths: list[str]
) -> None:
    old, image = put_layers(store, OLD), put_app(store, [app])
    new = put_layers(store, [*NEW, [Member("added", data=b"the base's")]])
    with refused("rebase-conflict", *(f"/{path}" for path in paths)):
        rebased(store, image, old, new)
    made = rebased(store, image, old, new, force=True)
    assert f"/{paths[0]}" in made.notes[0]


@pytest.mark.parametrize(
    "app",
    [
        [Member("usr/lib/tls", data=b"mended", mtime=77)],
        [directory("usr", mtime=5), directory("usr/lib", mtime=5), Member("usr/lib/mine")],
        [Member("usr/lib/tls", data=b"broken", mtime=88)],
        [Member("etc/passwd", data=b"mine")],
        [hardlink("usr/lib/linked", "etc/passwd")],
        [whiteout("etc/passwd")],
        [Member("implied/by/this")],
    ],
)
def test_what_is_alike_or_not_touched_by_both_is_no_conflict(store: Store, app: list[Member]) -> None:
    new = put_layers(store, [*NEW, [directory("implied"), Member("implied/other")]])
    made = rebased(store, put_app(store, [app]), put_layers(store, OLD), new)
    assert made.notes == ()


def test_a_directory_that_became_a_link_is_a_conflict(store: Store) -> None:
    """As when a distribution merges /bin into /usr/bin: an entry below it would go elsewhere."""
    old = [[directory("bin"), directory("usr"), directory("usr/bin")]]
    new = [[symlink("bin", "usr/bin"), directory("usr"), directory("usr/bin")]]
    image = put_layers(store, [*old, [Member("bin/mine", data=b"mine")]])
    with refused("rebase-conflict", "/bin/mine"):
        rebased(store, image, put_layers(store, old), put_layers(store, new))


def test_an_image_of_another_base_is_refused(store: Store) -> None:
    with refused("not-the-base", "old"):
        rebased(store, put_app(store), put_layers(store, NEW), put_layers(store, OLD))


def test_each_image_of_an_index_takes_the_base_of_its_platform(store: Store) -> None:
    def index(layers: list[list[Member]]) -> tuple[Descriptor, list[Descriptor]]:
        children = []
        for arch in ("amd64", "s390x"):
            own = [*layers, [Member(f"{arch}.txt")]] if layers is not OLD else layers
            child = put_layers(store, own, top={"architecture": arch})
            children.append(msgspec.structs.replace(child, platform=Platform("linux", arch)))
        return put_index(store, children), children

    (old, _), (new, new_children), (image, _) = index(OLD), index(NEW), index([*OLD, *APP])
    made = rebased(store, image, old, new).descriptor
    items = msgspec.json.decode(store.content.read(made.digest))["manifests"]
    digests = [
        documents(store, msgspec.convert(one, Descriptor))[0]["annotations"][BASE_DIGEST] for one in items
    ]
    assert digests == [one.digest for one in new_children]
    assert BASE_NAME not in documents(store, msgspec.convert(items[0], Descriptor))[0]["annotations"]
    only = rebased(store, image, old, new, platform=Platform("linux", "s390x")).descriptor
    changed = msgspec.json.decode(store.content.read(only.digest))["manifests"]
    before = msgspec.json.decode(store.content.read(image.digest))["manifests"]
    assert changed == [before[0], items[1]]
