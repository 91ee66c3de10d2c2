"""Images as archives and layouts: equal bytes for equal images, whole or not at all, for others to read."""

from __future__ import annotations

import os
import pty
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from imaging import AMD64, ARM64, members_of, put_image, put_index, refused

from arkwright.images.archives import IMAGE_NAME, Format, save
from arkwright.images.graph import closure
from arkwright.images.load import load_layout
from arkwright.oci.descriptor import MANIFEST, REF_NAME, Descriptor
from arkwright.oci.layout import Layout
from arkwright.oci.platform import Platform
from arkwright.store.store import Store

APP, TOOL = "docker.io/library/app:1", "r.example/team/tool:latest"
BUSYBOX = "docker.io/library/busybox:latest"
ARCHIVES: tuple[Format, ...] = ("oci-archive", "docker-archive")


def entry(child: Descriptor, platform: Platform) -> Descriptor:
    return Descriptor(media_type=child.media_type, digest=child.digest, size=child.size, platform=platform)


def blob_name(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


@pytest.mark.parametrize("form", ARCHIVES)
def test_an_archive_is_a_layout(store: Store, busybox: Descriptor, tmp_path: Path, form: Format) -> None:
    path = tmp_path / "x.tar"
    save(store.content, [(busybox, (BUSYBOX,))], str(path), form)
    found = members_of(path.read_bytes())
    blobs = closure(store.content, busybox)
    assert {name for name in found if name.startswith("blobs/")} == {blob_name(one.digest) for one in blobs}
    assert all(found[blob_name(one.digest)] == store.content.read(one.digest) for one in blobs)
    assert found["oci-layout"] == b'{"imageLayoutVersion":"1.0.0"}'
    (listed,) = msgspec.json.decode(found["index.json"])["manifests"]
    assert listed["digest"] == busybox.digest
    assert listed["annotations"] == {IMAGE_NAME: BUSYBOX, REF_NAME: "latest"}
    if form == "docker-archive":
        (docker,) = msgspec.json.decode(found["manifest.json"])
        assert docker["RepoTags"] == [BUSYBOX], "podman takes short names for localhost's"
        assert {docker["Config"], *docker["Layers"]} <= set(found)
    else:
        assert "manifest.json" not in found


@pytest.mark.parametrize("form", ARCHIVES)
def test_equal_images_give_equal_bytes(
    store: Store, busybox: Descriptor, tmp_path: Path, form: Format
) -> None:
    first, second = tmp_path / "first.tar", tmp_path / "second.tar"
    save(store.content, [(busybox, (BUSYBOX,))], str(first), form)
    # Another day, another store, another umask.
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    for path in (tmp_path / "copy" / "blobs").rglob("*"):
        os.utime(path, (1234567890, 1234567890))
    before = os.umask(0o077)
    try:
        with Store.open(str(tmp_path / "copy")) as other:
            save(other.content, [(busybox, (BUSYBOX,))], str(second), form)
    finally:
        os.umask(before)
    assert first.read_bytes() == second.read_bytes()


def test_equal_images_give_equal_layouts(store: Store, busybox: Descriptor, tmp_path: Path) -> None:
    trees = []
    for name in ("first", "second"):
        # Twice into the second: the same image again changes nothing.
        for _ in range(1 if name == "first" else 2):
            save(store.content, [(busybox, (BUSYBOX,))], str(tmp_path / name), "oci-layout")
        root = tmp_path / name
        trees.append(
            {str(one.relative_to(root)): one.read_bytes() for one in root.rglob("*") if one.is_file()}
        )
    assert trees[0] == trees[1]
    assert set(trees[0]) == {"oci-layout", "index.json"} | {
        blob_name(blob.digest) for blob in closure(store.content, busybox)
    }


def test_a_layout_keeps_its_other_images(store: Store, tmp_path: Path) -> None:
    old, app, tool = (put_image(store, label=label) for label in ("old", "app", "tool"))
    path = str(tmp_path / "layout")
    for image, name in ((old, APP), (tool, TOOL), (app, APP)):
        save(store.content, [(image, (name,))], path, "oci-layout")
    save(store.content, [(old, ())], path, "oci-layout")
    save(store.content, [(old, ())], path, "oci-layout")
    layout = Layout.open(path)
    assert [one.digest for one in layout.index().manifests] == [tool.digest, app.digest, old.digest]
    assert layout.find("app:1").digest == app.digest


def test_a_directory_with_other_things_is_left_alone(store: Store, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("dear")
    with refused("not-an-oci-layout", "letter"):
        save(store.content, [(put_image(store), (APP,))], str(tmp_path / "home"), "oci-layout")
    assert [one.name for one in (tmp_path / "home").iterdir()] == ["letter"]


@pytest.mark.parametrize("form", ARCHIVES)
def test_several_images_share_their_blobs(store: Store, tmp_path: Path, form: Format) -> None:
    one, two = put_image(store, label="one"), put_image(store, label="two")
    path = tmp_path / "x.tar"
    save(store.content, [(one, (APP, "docker.io/library/app:2")), (two, ())], str(path), form)
    listing = subprocess.run(["tar", "-tf", path], capture_output=True, text=True, check=True).stdout.split()
    assert len(listing) == len(set(listing))
    index = msgspec.json.decode(members_of(path.read_bytes())["index.json"])
    assert [(one["digest"], one.get("annotations", {}).get(IMAGE_NAME)) for one in index["manifests"]] == [
        (one.digest, APP),
        (one.digest, "docker.io/library/app:2"),
        (two.digest, None),
    ]
    if form == "docker-archive":
        docker = msgspec.json.decode(members_of(path.read_bytes())["manifest.json"])
        assert [image["RepoTags"] for image in docker] == [[APP, "docker.io/library/app:2"], None]


def test_a_sparse_index_is_saved_as_far_as_it_is_there(store: Store, tmp_path: Path) -> None:
    here = put_image(store, platform=AMD64)
    elsewhere = Descriptor(media_type=MANIFEST, digest="sha256:" + "12" * 32, size=9, platform=ARM64)
    index = put_index(store, [entry(here, AMD64), elsewhere], APP)
    save(store.content, [(index, (APP,))], str(tmp_path / "x.tar"), "docker-archive")
    found = members_of((tmp_path / "x.tar").read_bytes())
    assert blob_name(index.digest) in found and blob_name(here.digest) in found
    assert blob_name(elsewhere.digest) not in found


def test_a_docker_archive_holds_one_platform(store: Store, tmp_path: Path) -> None:
    children = [entry(put_image(store, platform=one), one) for one in (AMD64, ARM64)]
    both = put_index(store, children)
    with refused("docker-archive-platforms", "2"):
        save(store.content, [(both, (APP,))], str(tmp_path / "x.tar"), "docker-archive")
    assert not (tmp_path / "x.tar").exists()
    # An attestation beside the image is not a second platform.
    attested = put_index(store, [children[0], entry(children[1], Platform("unknown", "unknown"))])
    save(store.content, [(attested, (APP,))], str(tmp_path / "x.tar"), "docker-archive")
    assert (tmp_path / "x.tar").exists()


@pytest.mark.parametrize("form", [*ARCHIVES, "oci-layout"])
def test_an_image_that_is_not_whole_is_not_saved(store: Store, tmp_path: Path, form: Format) -> None:
    image = put_image(store)
    layer = closure(store.content, image)[-1]
    target = tmp_path / "out" / "x"
    target.parent.mkdir()
    store.content.delete(layer.digest)
    with refused("missing-blob", layer.digest):
        save(store.content, [(image, (APP,))], str(target), form)
    assert list(target.parent.iterdir()) == []


def test_a_descriptor_with_another_size_is_not_saved(store: Store, tmp_path: Path) -> None:
    image = put_image(store)
    wrong = Descriptor(media_type=MANIFEST, digest=image.digest, size=image.size + 1)
    with refused("corrupt-blob", image.digest):
        save(store.content, [(wrong, (APP,))], str(tmp_path / "x.tar"), "oci-archive")


@pytest.mark.parametrize("form", ARCHIVES)
def test_where_nothing_can_be_written(store: Store, tmp_path: Path, form: Format) -> None:
    image = put_image(store)
    (tmp_path / "file").write_text("")
    for dest in (tmp_path, tmp_path / "none" / "x.tar", tmp_path / "file" / "x.tar"):
        with refused("output-not-writable", str(dest)):
            save(store.content, [(image, (APP,))], str(dest), form)


def test_a_full_disk_is_said_so(store: Store) -> None:
    with refused("no-space", "/dev/full"):
        save(store.content, [(put_image(store), (APP,))], "/dev/full", "oci-archive")


def test_a_link_stays_and_its_target_is_replaced(store: Store, tmp_path: Path) -> None:
    (tmp_path / "real.tar").write_text("old")
    (tmp_path / "link.tar").symlink_to("real.tar")
    save(store.content, [(put_image(store), (APP,))], str(tmp_path / "link.tar"), "oci-archive")
    assert (tmp_path / "link.tar").is_symlink()
    assert "oci-layout" in members_of((tmp_path / "real.tar").read_bytes())
    assert stat.S_IMODE((tmp_path / "real.tar").stat().st_mode) == 0o644


def test_a_fifo_is_written_into(store: Store, tmp_path: Path) -> None:
    image = put_image(store)
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE) as reader:
        save(store.content, [(image, (APP,))], str(tmp_path / "pipe"), "oci-archive")
        assert reader.stdout is not None
        assert "index.json" in members_of(reader.stdout.read())
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


SAVE = """
import sys
from arkwright.diagnostics.errors import ArkwrightError
from arkwright.images.archives import save
from arkwright.store.content import ContentStore
from arkwright.store.store import Store

class Halting(ContentStore):
    '''Says when the second blob is wanted, and waits.'''
    opened = 0
    def open(self, digest):
        self.opened += sys.argv[4] == 'halt' and digest in LAYERS
        if self.opened == 2:
            print('half', flush=True)
            sys.stdin.read()
        return super().open(digest)

root, dest, form, mode, name, *LAYERS = sys.argv[1:]
with Store.open(root) as store:
    try:
        save(Halting(root), [(store.names.get(name), (name,))], dest, form)
    except ArkwrightError as error:
        print(error.code, file=sys.stderr)
"""


@pytest.mark.parametrize("form", [*ARCHIVES, "oci-layout"])
def test_a_kill_leaves_what_was_there(
    make_store: Callable[[str], Store], tmp_path: Path, form: Format
) -> None:
    store = make_store("store")
    old, new = put_image(store, label="old"), put_image(store, APP, files={"other": b"x"}, label="new")
    out = tmp_path / "out"
    out.mkdir()
    dest = out / "image"
    save(store.content, [(old, (APP,))], str(dest), form)
    index = (dest / "index.json") if form == "oci-layout" else dest
    before = index.read_bytes()
    layers = [blob.digest for blob in closure(store.content, new)[1:]]
    command = [sys.executable, "-c", SAVE, store.root_path, str(dest), form, "halt", APP, *layers]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "half\n"
        child.kill()
    assert index.read_bytes() == before
    assert [one.name for one in out.iterdir()] == ["image"]
    if form == "oci-layout":
        assert Layout.open(str(dest)).find(APP).digest == old.digest
    # And the next one works.
    save(store.content, [(new, (APP,))], str(dest), form)
    assert index.read_bytes() != before
    if form == "oci-layout":
        assert load_layout(make_store("other"), str(dest))[0].descriptor == new


def test_no_archive_goes_to_a_terminal(store: Store) -> None:
    put_image(store, APP)
    master, terminal = pty.openpty()
    try:
        command = [sys.executable, "-c", SAVE, store.root_path, "-", "oci-archive", "plain", APP]
        done = subprocess.run(command, stdout=terminal, stderr=subprocess.PIPE, text=True, check=False)
        assert done.stderr == "output-is-a-terminal\n"
        os.set_blocking(master, False)
        with pytest.raises(BlockingIOError):
            os.read(master, 1)
    finally:
        os.close(terminal)
        os.close(master)


@pytest.mark.parametrize("form", ARCHIVES)
def test_standard_output_gets_the_same_bytes(store: Store, tmp_path: Path, form: Format) -> None:
    image = put_image(store, APP)
    save(store.content, [(image, (APP,))], str(tmp_path / "x.tar"), form)
    command = [sys.executable, "-c", SAVE, store.root_path, "-", form, "plain", APP]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    assert done.stdout == (tmp_path / "x.tar").read_bytes()
