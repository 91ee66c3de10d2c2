"""Archives and layouts that are whole, into the store: with their names, verified, bit-exact again."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import zstandard
from imaging import AMD64, ARM64, config_of, link_to, manifest_of, put_image, put_index, refused, tar_of

from arkwright.images.archives import Format, save
from arkwright.images.graph import closure
from arkwright.images.load import LoadedImage, load_archive, load_layout
from arkwright.oci.descriptor import LAYER_GZIP, LAYER_TAR, LAYER_ZSTD, MANIFEST, Descriptor
from arkwright.oci.digest import sha256
from arkwright.oci.platform import Platform
from arkwright.store.store import Store

APP, TOOL = "docker.io/library/app:1", "r.example/team/tool:latest"
BUSYBOX = "docker.io/library/busybox:latest"
FORMATS: tuple[Format, ...] = ("oci-archive", "docker-archive", "oci-layout")
MakeStore = Callable[[str], Store]
LAYER = tar_of({"hello": b"hello"})


def load(store: Store, path: Path) -> list[LoadedImage]:
    if path.is_dir():
        return load_layout(store, str(path))
    with path.open("rb") as stream:
        return load_archive(store, stream)


def load_bytes(store: Store, data: bytes) -> list[LoadedImage]:
    return load_archive(store, io.BytesIO(data))


def docker_tar(
    layer: bytes = LAYER,
    *,
    diff_ids: tuple[str, ...] = (sha256(LAYER),),
    tags: list[str] | None = None,
    **more: object,
) -> bytes:
    listed = [{"Config": "c.json", "RepoTags": tags, "Layers": ["1/layer.tar"]}]
    members = {"c.json": config_of(diff_ids), "1/layer.tar": layer}
    return tar_of({**members, **more, "manifest.json": msgspec.json.encode(listed)})  # type: ignore[dict-item]


@pytest.mark.parametrize("form", FORMATS)
def test_save_load_save_gives_the_same_bytes(
    make_store: MakeStore, store: Store, busybox: Descriptor, tmp_path: Path, form: Format
) -> None:
    # Annotations are what a docker list would lose.
    image = put_image(store, APP, annotations={"org.example": "kept"})
    children = [put_image(store, platform=one, label=str(one)) for one in (AMD64, ARM64)]
    platforms = (AMD64, ARM64) if form != "docker-archive" else (AMD64, Platform("unknown", "unknown"))
    entries = [
        Descriptor(media_type=child.media_type, digest=child.digest, size=child.size, platform=platform)
        for child, platform in zip(children, platforms, strict=True)
    ]
    index = put_index(store, entries, TOOL)
    saved = [(busybox, (BUSYBOX,)), (image, (APP,)), (index, (TOOL,))]
    first, second = tmp_path / "first", tmp_path / "second"
    save(store.content, saved, str(first), form)
    other = make_store("other")
    loaded = load(other, first)
    assert [(one.descriptor, one.names) for one in loaded] == saved
    assert sorted(other.names.list()) == sorted(store.names.list())
    for root, _ in saved:
        for blob in closure(store.content, root):
            assert other.content.read(blob.digest) == store.content.read(blob.digest)
    save(other.content, [(one.descriptor, one.names) for one in loaded], str(second), form)
    if form == "oci-layout":
        assert (first / "index.json").read_bytes() == (second / "index.json").read_bytes()
    else:
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress, bz2.compress, lzma.compress])
def test_compressed_archives(
    make_store: MakeStore, store: Store, tmp_path: Path, form: Format, pack: Callable[[bytes], bytes]
) -> None:
    image = put_image(store, APP)
    save(store.content, [(image, (APP,))], str(tmp_path / "x.tar"), form)
    (loaded,) = load_bytes(make_store("other"), pack((tmp_path / "x.tar").read_bytes()))
    assert loaded == LoadedImage(descriptor=image, names=(APP,))


def test_a_stream_that_gives_a_little_at_a_time(make_store: MakeStore, store: Store, tmp_path: Path) -> None:
    image = put_image(store, APP)
    save(store.content, [(image, (APP,))], str(tmp_path / "x.tar"), "oci-archive")

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size or 1, 333) if size != -1 else 333)

    slow = Slow(gzip.compress((tmp_path / "x.tar").read_bytes()))
    assert load_archive(make_store("other"), slow)[0].descriptor == image


def test_loading_again_changes_nothing_but_the_name(store: Store, tmp_path: Path) -> None:
    image = put_image(store, APP)
    save(store.content, [(image, (APP,))], str(tmp_path / "x.tar"), "oci-archive")
    before = sorted(store.content.digests())
    other = put_image(store, APP, label="other")
    assert store.names.get(APP) == other
    load(store, tmp_path / "x.tar")
    assert store.names.get(APP) == image
    assert set(before) <= set(store.content.digests())


def test_one_image_of_a_layout(make_store: MakeStore, store: Store, tmp_path: Path) -> None:
    app, tool = put_image(store, label="app"), put_image(store, label="tool")
    save(store.content, [(app, (APP,)), (tool, (TOOL,))], str(tmp_path / "layout"), "oci-layout")
    other = make_store("other")
    assert [one.names for one in load_layout(other, str(tmp_path / "layout"), "app:1")] == [(APP,)]
    assert other.names.get(TOOL) is None and not other.content.has(tool.digest)
    with refused("unknown-image", "app:1"):
        load_layout(other, str(tmp_path / "layout"), "app:2")
    with refused("not-an-oci-layout"):
        load_layout(other, str(tmp_path))


@pytest.mark.parametrize(
    ("pack", "media_type"),
    [(bytes, LAYER_TAR), (gzip.compress, LAYER_GZIP), (zstandard.compress, LAYER_ZSTD)],
)
def test_layers_of_a_docker_archive_stay_as_they_are(
    store: Store, pack: Callable[[bytes], bytes], media_type: str
) -> None:
    packed = pack(LAYER)
    (image,) = load_bytes(store, docker_tar(packed, tags=["app:1"]))
    assert image.names == (APP,)
    (layer,) = manifest_of(store, image.descriptor).layers
    assert layer == Descriptor(media_type=media_type, digest=sha256(packed), size=len(packed))


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress])
def test_compressions_that_oci_does_not_have_are_taken_off(
    store: Store, pack: Callable[[bytes], bytes]
) -> None:
    (image,) = load_bytes(store, docker_tar(pack(LAYER)))
    (layer,) = manifest_of(store, image.descriptor).layers
    assert layer == Descriptor(media_type=LAYER_TAR, digest=sha256(LAYER), size=len(LAYER))
    assert store.content.read(layer.digest) == LAYER


@pytest.mark.parametrize("kind", ["symlink", "hardlink"])
def test_layers_that_are_links_to_each_other(store: Store, kind: str) -> None:
    """As older engines write a layer that two images share."""
    link = link_to("../2/layer.tar") if kind == "symlink" else link_to("2/layer.tar", b"1")
    listed = [{"Config": "c.json", "RepoTags": None, "Layers": ["./1/layer.tar"]}]
    data = tar_of(
        {
            "2/layer.tar": LAYER,
            "1/layer.tar": link,
            "c.json": config_of([sha256(LAYER)]),
            "manifest.json": msgspec.json.encode(listed),
        }
    )
    (image,) = load_bytes(store, data)
    assert manifest_of(store, image.descriptor).layers[0].digest == sha256(LAYER)


def test_a_docker_archive_without_names(store: Store) -> None:
    (image,) = load_bytes(store, docker_tar())
    assert image.names == () and store.names.list() == []
    assert image.descriptor.media_type == MANIFEST


# --- Other tools --------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
def test_skopeo_reads_what_we_save(
    store: Store, busybox: Descriptor, tmp_path: Path, skopeo: Callable[..., str], form: Format
) -> None:
    path = tmp_path / "x.tar"
    save(store.content, [(busybox, (BUSYBOX,))], str(path), form)
    config = manifest_of(store, busybox).config
    shown = msgspec.json.decode(skopeo("inspect", "--config", f"{form}:{path}"))
    assert shown == msgspec.json.decode(store.content.read(config.digest))
    if form == "oci-archive":
        assert msgspec.json.decode(skopeo("inspect", f"{form}:{path}"))["Digest"] == busybox.digest
        assert msgspec.json.decode(skopeo("inspect", f"{form}:{path}:latest"))["Digest"] == busybox.digest


@pytest.mark.parametrize(
    ("transport", "suffix", "names"),
    [
        ("docker-archive", ":busybox:again", ("docker.io/library/busybox:again",)),
        ("docker-archive", "", ()),
        ("oci-archive", ":r.example/team/busybox:2", ("r.example/team/busybox:2",)),
        ("oci-archive", ":latest", ()),
        ("oci", ":r.example/team/busybox:2", ("r.example/team/busybox:2",)),
        ("oci", "", ()),
    ],
)
def test_we_load_what_skopeo_copies(
    make_store: MakeStore,
    busybox_archive: Path,
    store: Store,
    busybox: Descriptor,
    tmp_path: Path,
    skopeo: Callable[..., str],
    transport: str,
    suffix: str,
    names: tuple[str, ...],
) -> None:
    target = tmp_path / "copied"
    skopeo("copy", f"oci-archive:{busybox_archive}", f"{transport}:{target}{suffix}")
    other = make_store("other")
    (image,) = load(other, target)
    assert image.names == names
    ours, theirs = manifest_of(store, busybox), manifest_of(other, image.descriptor)
    assert theirs.config.digest == ours.config.digest
    if transport != "docker-archive":
        assert image.descriptor == busybox
    else:
        # skopeo unpacks the layers.
        diff_id = msgspec.json.decode(store.content.read(ours.config.digest))["rootfs"]["diff_ids"][0]
        assert theirs.layers[0].digest == diff_id


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
def test_we_load_what_podman_saves(
    make_store: MakeStore,
    store: Store,
    busybox: Descriptor,
    tmp_path: Path,
    podman: Callable[..., str],
    form: Format,
) -> None:
    save(store.content, [(busybox, (BUSYBOX,))], str(tmp_path / "ours.tar"), form)
    podman("load", "-i", str(tmp_path / "ours.tar"))
    listed = msgspec.json.decode(podman("images", "--format", "json"))[0]
    assert f"sha256:{listed['Id']}" == manifest_of(store, busybox).config.digest
    podman("save", "--format", form, "-o", str(tmp_path / "theirs.tar"), listed["Id"])
    other = make_store("other")
    (image,) = load(other, tmp_path / "theirs.tar")
    found = manifest_of(other, image.descriptor).config.digest
    assert found == manifest_of(store, busybox).config.digest
