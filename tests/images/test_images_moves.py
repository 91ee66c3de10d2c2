"""Images to and from every kind of place, with skopeo, podman, buildah and umoci on the other side."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from imaging import AMD64, ARM64, S390X, manifest_of, put_image, put_index, refused

from arkwright.images import archives
from arkwright.images.archives import IMAGE_NAME, add_to_layout, index_entries, prune_layout
from arkwright.images.deliver import deliver
from arkwright.images.fetch import fetch, fetch_entry, full_name
from arkwright.images.graph import closure
from arkwright.images.places import parse_place
from arkwright.images.transfer import Copying, CopyOptions
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.layout import Layout
from arkwright.oci.platform import host_platform
from arkwright.registry.access import Access
from arkwright.store.store import Store

MakeStore = Callable[[str], Store]
FILES = ("oci:{}:app", "oci-archive:{}:app", "docker-archive:{}:registry.example/app:1", "dir:{}")


def send(store: Store, image: Descriptor, text: str) -> str:
    return deliver(store, image, parse_place(text)).digest


def get(store: Store, text: str, **more: object) -> str:
    return fetch(store, parse_place(text), **more).digest  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FILES)
def test_there_and_back_is_bit_exact(form: str, store: Store, make_store: MakeStore, tmp_path: Path) -> None:
    place, other = form.format(tmp_path / "at"), make_store("other")
    image = put_image(store, platform=host_platform())
    assert send(store, image, place) == image.digest
    assert get(other, place) == image.digest
    assert {one.digest for one in closure(other.content, image)} == {
        one.digest for one in closure(store.content, image)
    }
    assert dict(other.names.list()) == {}
    assert send(other, image, form.format(tmp_path / "again")) == image.digest
    first, second = tmp_path / "at", tmp_path / "again"
    for path in [first, *first.rglob("*")]:
        if path.is_file():
            assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()


@pytest.mark.parametrize("form", ["oci:{}:app", "oci-archive:{}:app", "dir:{}"])
def test_an_index_keeps_all_or_gives_one(
    form: str, store: Store, make_store: MakeStore, tmp_path: Path
) -> None:
    arm, s390x = put_image(store, platform=ARM64, label="arm"), put_image(store, platform=S390X, label="s")
    made = put_index(store, [_of(arm, ARM64), _of(s390x, S390X)])
    place = form.format(tmp_path / "at")
    assert send(store, made, place) == made.digest
    assert get(make_store("all"), place) == made.digest
    one = make_store("one")
    assert get(one, place, platform=S390X) == s390x.digest
    assert one.content.has(s390x.digest)
    if not form.startswith("oci-archive"):
        assert not one.content.has(arm.digest)
    with refused("no-matching-platform", "linux/arm64"):
        get(make_store("none"), place, platform=AMD64)


def _of(image: Descriptor, platform: object) -> Descriptor:
    import msgspec

    return msgspec.structs.replace(image, platform=platform)


@pytest.mark.parametrize("kind", ["oci", "oci-archive", "docker-archive"])
def test_one_of_several_by_name(kind: str, store: Store, make_store: MakeStore, tmp_path: Path) -> None:
    from arkwright.images.archives import save

    one, two = put_image(store, label="one"), put_image(store, label="two")
    pairs = [(one, ("docker.io/library/one:1",)), (two, ("registry.example/two:2",))]
    save(store.content, pairs, str(tmp_path / "at"), "oci-layout" if kind == "oci" else kind)  # type: ignore[arg-type]
    base = f"{kind}:{tmp_path}/at"
    for text, wanted in [
        (f"{base}:one:1", one), (f"{base}:docker.io/library/one:1", one), (f"{base}:2", two),
        (f"{base}:registry.example/two:2", two), (f"{base}@{two.digest}", two), (f"{base}@1", two),
    ]:  # fmt: skip
        assert get(make_store("other"), text) == wanted.digest
    with refused("unknown-image", "several images", "registry.example/two:2"):
        get(make_store("other"), base)
    with refused("unknown-image", "'three'", "docker.io/library/one:1"):
        get(make_store("other"), f"{base}:three")
    with refused("unknown-image"):
        get(make_store("other"), f"{base}@7")


def test_a_tag_that_two_images_have_is_not_guessed(store: Store, tmp_path: Path) -> None:
    """In a docker archive, whose names are whole."""
    from arkwright.images.archives import write_docker_archive

    one, two = put_image(store, label="one"), put_image(store, label="two")
    pairs = [(one, ("docker.io/library/one:1",)), (two, ("docker.io/library/two:1",))]
    with open(tmp_path / "at", "wb") as file:
        write_docker_archive(store.content, pairs, file.write)
    # Without the layout beside it, as `docker save` of old.
    subprocess.run(["tar", "-C", str(tmp_path), "-xf", str(tmp_path / "at")], check=True)
    os.unlink(tmp_path / "index.json")
    os.unlink(tmp_path / "oci-layout")
    subprocess.run(
        ["tar", "-C", str(tmp_path), "-cf", str(tmp_path / "old"), "manifest.json", "blobs"], check=True
    )
    with refused("ambiguous-image", "docker.io/library/two:1"):
        get(store, f"docker-archive:{tmp_path}/old:1")
    assert get(store, f"docker-archive:{tmp_path}/old:two:1")


def test_a_tag_in_a_layout_moves(store: Store, tmp_path: Path) -> None:
    one, two, three = (put_image(store, label=label) for label in ("one", "two", "three"))
    place = f"oci:{tmp_path}/at"
    add_to_layout(store.content, index_entries([(three, ("docker.io/library/lib:v",))]), str(tmp_path / "at"))
    for image in (one, two):
        send(store, image, f"{place}:v")
    assert get(store, f"{place}:v") == two.digest
    assert get(store, f"{place}:lib:v") == three.digest
    assert len(Layout.open(str(tmp_path / "at")).index().manifests) == 2
    assert prune_layout(str(tmp_path / "at")) == 0
    assert prune_layout(str(tmp_path / "at"), grace_s=0) > 0
    assert prune_layout(str(tmp_path / "at"), grace_s=0) == 0
    assert get(store, f"{place}:lib:v") == three.digest
    with refused("missing-blob"):
        Layout.open(str(tmp_path / "at")).read(one.digest)


def test_pruning_leaves_what_others_are_about_to_name(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other tools write blobs first and the index last, and wait for no lock of ours."""
    one, two = (put_image(store, label=label) for label in ("one", "two"))
    path = tmp_path / "at"
    send(store, one, f"oci:{path}:one")
    send(store, two, f"oci:{path}:two")
    layout = Layout.open(str(path))
    whole = layout.index()
    layout.write_index(msgspec.structs.replace(whole, manifests=whole.manifests[:1]))
    blob = Path(layout.blob_path(two.digest))
    # Times that came along from elsewhere do not make it old.
    os.utime(blob, (1, 1))
    assert prune_layout(str(path)) == 0
    # The other writer comes to its end after we looked.
    looked = archives._unneeded

    def late(*args: Any) -> Iterator[str]:
        found = list(looked(*args))
        assert str(blob) in found
        layout.write_index(whole)
        yield from found

    monkeypatch.setattr(archives, "_unneeded", late)
    assert prune_layout(str(path), grace_s=0) == 0
    assert get(store, f"oci:{path}:two") == two.digest


def test_names_are_told_and_not_set(store: Store, tmp_path: Path) -> None:
    image = put_image(store)
    place = parse_place(f"oci-archive:{tmp_path}/at:registry.example/app:1")
    deliver(store, image, place)
    assert full_name(place, fetch_entry(store, place)) == "registry.example/app:1"
    bare = parse_place(f"oci:{tmp_path}/layout:v1")
    deliver(store, image, bare)
    assert full_name(bare, fetch_entry(store, bare)) == ""
    assert dict(store.names.list()) == {}


def test_a_dir_with_other_files_is_left_alone(store: Store, tmp_path: Path) -> None:
    image, other = put_image(store, label="one"), put_image(store, label="two")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with refused("directory-not-empty", "thesis.txt"):
        send(store, image, f"dir:{tmp_path}/mine")
    blobs = tmp_path / "layout" / "blobs" / "sha256"
    send(store, image, f"oci:{tmp_path}/layout:v")
    with refused("directory-not-empty"):
        send(store, image, f"dir:{blobs}")
    send(store, image, f"dir:{tmp_path}/at")
    send(store, other, f"dir:{tmp_path}/at")
    kept = {one.digest.partition(":")[2] for one in closure(store.content, other)} - {
        other.digest.partition(":")[2]
    }
    assert set(os.listdir(tmp_path / "at")) == kept | {"version", "manifest.json"}
    with refused("not-an-image-directory"):
        get(store, f"dir:{tmp_path}/mine")


def test_what_is_damaged_in_a_dir_is_refused(store: Store, make_store: MakeStore, tmp_path: Path) -> None:
    image = put_image(store)
    send(store, image, f"dir:{tmp_path}/at")
    layer = manifest_of(store, image).layers[0]
    path = tmp_path / "at" / layer.digest.partition(":")[2]
    path.write_bytes(bytes(layer.size))
    with refused("corrupt-blob"):
        get(make_store("other"), f"dir:{tmp_path}/at")
    path.unlink()
    os.mkfifo(path)
    with refused("missing-blob"):
        get(make_store("other"), f"dir:{tmp_path}/at")


# --- Options -----------------------------------------------------------------------------------


def copying(store: Store, source: str, **options: object) -> Copying:
    return Copying(store, parse_place(source), CopyOptions(**options), access=Access())  # type: ignore[arg-type]


def test_places_of_one_platform(store: Store, make_store: MakeStore, tmp_path: Path) -> None:
    host, other = host_platform(), S390X
    mine = put_image(store, platform=host, label="mine")
    made = put_index(
        store, [_of(mine, host), _of(put_image(store, platform=other), other)], "docker.io/library/a:1"
    )
    archive = parse_place(f"docker-archive:{tmp_path}/at:a:1")
    assert copying(store, "a:1").to(archive).delivered.digest == mine.digest
    with refused("docker-archive-platforms", "--platform"):
        copying(store, "a:1", every=True).to(archive)
    with refused("digest-not-preserved", "docker-archive"):
        copying(store, "a:1", preserve_digests=True).check([archive])
    with refused("digest-not-preserved", "compression"):
        copying(store, "a:1", preserve_digests=True, codec="zstd").check([parse_place("b")])
    layout = f"oci:{tmp_path}/layout:v"
    copying(store, "a:1", preserve_digests=True).check([parse_place(layout)])
    assert copying(store, "a:1").to(parse_place(layout)).delivered.digest == made.digest
    sparse = make_store("sparse")
    copying(sparse, layout).to(parse_place(f"docker-archive:{tmp_path}/again"))
    assert not sparse.content.has(made.digest)


# --- Other tools -------------------------------------------------------------------------------


def test_skopeo_reads_what_we_write(
    store: Store, busybox: Descriptor, skopeo: Callable[..., str], tmp_path: Path
) -> None:
    for number, form in enumerate(FILES):
        place = form.format(tmp_path / f"at-{number}")
        send(store, busybox, place)
        skopeo("copy", place, f"dir:{tmp_path}/judge-{number}")
        manifest = (tmp_path / f"judge-{number}" / "manifest.json").read_bytes()
        if not form.startswith("docker-archive"):
            assert manifest == store.content.read(busybox.digest)
        config = manifest_of(store, busybox).config.digest
        assert json.loads(manifest)["config"]["digest"] == config


@pytest.mark.parametrize("form", FILES)
def test_we_read_what_skopeo_writes(
    form: str,
    store: Store,
    busybox: Descriptor,
    skopeo: Callable[..., str],
    make_store: MakeStore,
    tmp_path: Path,
) -> None:
    send(store, busybox, f"oci:{tmp_path}/source:app")
    place = form.format(tmp_path / "at")
    skopeo("copy", f"oci:{tmp_path}/source:app", place)
    other = make_store("other")
    found = fetch(other, parse_place(place))
    config = manifest_of(store, busybox).config.digest
    assert manifest_of(other, found.descriptor).config.digest == config
    if not form.startswith("docker-archive"):
        assert found.digest == busybox.digest


def test_skopeo_and_we_share_a_directory_of_all_platforms(
    store: Store, skopeo: Callable[..., str], make_store: MakeStore, tmp_path: Path
) -> None:
    arm, amd = put_image(store, platform=ARM64, label="arm"), put_image(store, platform=AMD64, label="amd")
    made = put_index(store, [_of(arm, ARM64), _of(amd, AMD64)])
    send(store, made, f"dir:{tmp_path}/ours")
    skopeo("copy", "--all", "--preserve-digests", f"dir:{tmp_path}/ours", f"dir:{tmp_path}/theirs")
    names = set(os.listdir(tmp_path / "ours"))
    assert names == set(os.listdir(tmp_path / "theirs"))
    for name in names - {"version"}:
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
    assert get(make_store("other"), f"dir:{tmp_path}/theirs") == made.digest


def test_podman_there_and_back(
    store: Store, busybox: Descriptor, podman: Callable[..., str], make_store: MakeStore
) -> None:
    config = manifest_of(store, busybox).config.digest
    assert send(store, busybox, "containers-storage:registry.example/box:1") == config
    assert "registry.example/box:1" in podman("images", "--format", "{{.Repository}}:{{.Tag}}")
    other = make_store("other")
    found = fetch(other, parse_place("containers-storage:registry.example/box:1"))
    assert manifest_of(other, found.descriptor).config.digest == config
    with refused("save-failed", "registry.example/nothing"):
        get(other, "containers-storage:registry.example/nothing:1")


def test_docker_there_and_back(
    store: Store, busybox: Descriptor, podman: Callable[..., str], make_store: MakeStore, tmp_path: Path
) -> None:
    """podman under docker's name, as Debian's podman-docker has it."""
    podman("images")
    os.symlink("podman", tmp_path / "engine-bin" / "docker")
    config = manifest_of(store, busybox).config.digest
    assert send(store, busybox, "docker-daemon:box:1") == config
    other = make_store("other")
    found = fetch(other, parse_place("docker-daemon:box:1"))
    assert manifest_of(other, found.descriptor).config.digest == config


def test_no_engine(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    image = put_image(store, platform=host_platform())
    for place in ("docker-daemon:a:1", "containers-storage:a:1"):
        with refused("no-container-engine"):
            get(store, place)
        with refused("no-container-engine"):
            send(store, image, place)


@pytest.fixture
def buildah(tmp_path: Path) -> Iterator[Callable[..., str]]:
    program = shutil.which("buildah")
    if program is None:
        pytest.skip("needs-buildah: to exchange images with it")
    run_path = tempfile.mkdtemp(prefix="arkwright-", dir="/tmp")

    def run(*args: str) -> str:
        done = subprocess.run(
            [program, "--root", f"{tmp_path}/buildah", "--runroot", run_path, "--storage-driver", "vfs", *args],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield run
    shutil.rmtree(run_path, ignore_errors=True)


def test_buildah_there_and_back(
    store: Store, busybox: Descriptor, buildah: Callable[..., str], make_store: MakeStore, tmp_path: Path
) -> None:
    send(store, busybox, f"oci-archive:{tmp_path}/ours.tar")
    identity = buildah("pull", "-q", f"oci-archive:{tmp_path}/ours.tar").strip()
    config = manifest_of(store, busybox).config.digest
    assert f"sha256:{identity}" == config
    for number, form in enumerate(FILES):
        place = form.format(tmp_path / f"theirs-{number}")
        buildah("push", "-q", identity, place)
        other = make_store(f"other-{number}")
        found = fetch(other, parse_place(place))
        there = manifest_of(other, found.descriptor)
        assert _diff_ids(other, there.config.digest) == _diff_ids(store, config)


def _diff_ids(store: Store, digest: str) -> object:
    return json.loads(store.content.read(digest))["rootfs"]["diff_ids"]


def test_umoci_there_and_back(
    store: Store, busybox: Descriptor, make_store: MakeStore, tmp_path: Path
) -> None:
    if shutil.which("umoci") is None:
        pytest.skip("needs-umoci: to exchange layouts with it")
    layout = tmp_path / "layout"
    send(store, busybox, f"oci:{layout}:app")
    subprocess.run(["umoci", "tag", "--image", f"{layout}:app", "again"], check=True)
    subprocess.run(
        ["umoci", "config", "--image", f"{layout}:app", "--tag", "new", "--author", "me"], check=True
    )
    other = make_store("other")
    assert get(other, f"oci:{layout}:again") == busybox.digest
    found = fetch(other, parse_place(f"oci:{layout}:new"))
    assert manifest_of(other, found.descriptor).layers == manifest_of(store, busybox).layers
    send(store, busybox, f"oci:{layout}:ours")
    listed = subprocess.run(
        ["umoci", "ls", "--layout", str(layout)], check=True, capture_output=True, text=True
    )
    assert sorted(listed.stdout.split()) == ["again", "app", "new", "ours"]


def test_a_name_with_a_digest_is_not_latest(store: Store) -> None:
    root = put_image(store)
    (entry,) = index_entries([(root, (f"docker.io/library/lib@{root.digest}",))])
    assert set(entry.annotations) == {IMAGE_NAME}
