"""Archives and layouts that are damaged, altered or made to do harm: refused, named, and no name is given."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from imaging import (
    AMD64,
    ARM64,
    Member,
    config_of,
    link_to,
    manifest_of,
    members_of,
    other_bytes,
    put_image,
    put_index,
    refused,
    tar_of,
)

from arkwright.images import load as loading
from arkwright.images.archives import save
from arkwright.images.graph import closure, manifests
from arkwright.images.load import load_archive, load_layout
from arkwright.layer.tar_read import Limits
from arkwright.oci.descriptor import INDEX, MANIFEST, Descriptor
from arkwright.oci.digest import sha256
from arkwright.store.store import Store

APP = "docker.io/library/app:1"
LAYER = tar_of({"hello": b"hello"})
MakeStore = Callable[[str], Store]


def load(store: Store, data: bytes) -> None:
    load_archive(store, io.BytesIO(data))


def blob_name(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


@pytest.fixture
def other(make_store: MakeStore) -> Store:
    """The store that loads."""
    return make_store("other")


@pytest.fixture
def members(store: Store, tmp_path: Path) -> dict[str, bytes]:
    """The files of an OCI archive of `app:1`."""
    save(store.content, [(put_image(store, APP), (APP,))], str(tmp_path / "x.tar"), "oci-archive")
    return members_of((tmp_path / "x.tar").read_bytes())


def app_blobs(store: Store) -> list[Descriptor]:
    root = store.names.get(APP)
    assert root is not None
    return closure(store.content, root)


@pytest.mark.parametrize("number", [0, 1, 2], ids=["manifest", "config", "layer"])
@pytest.mark.parametrize("damage", ["altered", "shorter", "longer", "missing"])
def test_a_damaged_blob_is_refused_and_named(
    store: Store, other: Store, members: dict[str, bytes], number: int, damage: str
) -> None:
    digest = app_blobs(store)[number].digest
    name = blob_name(digest)
    data = members.pop(name)
    if damage != "missing":
        members[name] = {"altered": other_bytes(data), "shorter": data[:-1], "longer": data + b"x"}[damage]
    # What the name stood for before, it stands for after.
    before = put_image(other, APP, files={"before": b"x"}, label="before")
    with refused("missing-blob" if damage == "missing" else "corrupt-blob", digest):
        load(other, tar_of(members))
    assert other.names.list() == [(APP, before)]


def test_a_descriptor_with_another_size_is_refused(
    store: Store, other: Store, members: dict[str, bytes]
) -> None:
    index = msgspec.json.decode(members["index.json"])
    index["manifests"][0]["size"] += 1
    members["index.json"] = msgspec.json.encode(index)
    with refused("corrupt-blob", index["manifests"][0]["digest"]):
        load(other, tar_of(members))
    assert other.names.list() == []


@pytest.mark.parametrize("damage", ["altered", "shorter", "missing", "fifo", "directory"])
def test_a_damaged_blob_of_a_layout(store: Store, other: Store, tmp_path: Path, damage: str) -> None:
    image = put_image(store, APP)
    save(store.content, [(image, (APP,))], str(tmp_path / "layout"), "oci-layout")
    layer = app_blobs(store)[-1].digest
    path = tmp_path / "layout" / blob_name(layer)
    data = path.read_bytes()
    path.unlink()
    if damage == "fifo":
        os.mkfifo(path)
    elif damage == "directory":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(other_bytes(data) if damage == "altered" else data[:-1])
    with refused("corrupt-blob" if damage in ("altered", "shorter") else "missing-blob", layer):
        load_layout(other, str(tmp_path / "layout"))
    assert other.names.list() == []


def test_a_link_in_a_layout_gives_only_the_right_bytes(store: Store, other: Store, tmp_path: Path) -> None:
    image = put_image(store, APP)
    save(store.content, [(image, (APP,))], str(tmp_path / "layout"), "oci-layout")
    layer = app_blobs(store)[-1].digest
    path = tmp_path / "layout" / blob_name(layer)
    (tmp_path / "secret").write_bytes(b"x" * path.stat().st_size)
    path.unlink()
    path.symlink_to(tmp_path / "secret")
    with refused("corrupt-blob", layer):
        load_layout(other, str(tmp_path / "layout"))
    assert not other.content.has(sha256((tmp_path / "secret").read_bytes()))


def test_schema_version_1_is_refused(other: Store) -> None:
    manifest = msgspec.json.encode(
        {"schemaVersion": 1, "name": "app", "tag": "1", "fsLayers": [], "history": []}
    )
    index = {
        "schemaVersion": 2,
        "manifests": [{"mediaType": MANIFEST, "digest": sha256(manifest), "size": len(manifest)}],
    }
    data = tar_of({"index.json": msgspec.json.encode(index), blob_name(sha256(manifest)): manifest})
    with refused("schema-1-manifest", "skopeo copy --format v2s2"):
        load(other, data)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("../escape", "path-escapes-root"),
        ("blobs/../../escape", "path-escapes-root"),
        ("blobs/sha256/not-a-digest", "not-an-image-archive"),
        ("blobs/sha256/" + "A" * 64, "not-an-image-archive"),
    ],
)
def test_names_cannot_leave_the_archive(
    other: Store, members: dict[str, bytes], tmp_path: Path, name: str, code: str
) -> None:
    with refused(code):
        load(other, tar_of({name: b"x", **members}))
    assert not (tmp_path / "escape").exists() and other.names.list() == []


def docker_tar(layer: Member, layer_name: str = "l", **more: Member) -> bytes:
    listed = [{"Config": "c.json", "RepoTags": ["app:1"], "Layers": [layer_name]}]
    return tar_of(
        {
            **more,
            "c.json": config_of([sha256(LAYER)]),
            "l": layer,
            "manifest.json": msgspec.json.encode(listed),
        }
    )


@pytest.mark.parametrize(
    "layer",
    [
        link_to("/etc/passwd"),
        link_to("../../../../etc/passwd"),
        link_to("/etc/passwd", tarfile.LNKTYPE),
        link_to("l"),
        link_to("nothing"),
    ],
    ids=["absolute", "upwards", "hardlink", "itself", "nothing"],
)
def test_links_lead_nowhere_else(other: Store, layer: tarfile.TarInfo) -> None:
    with refused("missing-blob"):
        load(other, docker_tar(layer))
    assert other.names.list() == []


def test_a_list_cannot_name_files_of_the_host(other: Store) -> None:
    for name in ("/etc/passwd", "../../etc/passwd"):
        with refused("missing-blob", name):
            load(other, docker_tar(LAYER, layer_name=name))


def test_documents_that_are_links_are_none(other: Store, members: dict[str, bytes]) -> None:
    members["real.json"] = members.pop("index.json")
    with refused("not-an-image-archive"):
        load(other, tar_of({**members, "index.json": link_to("real.json")}))


def test_layers_that_the_config_does_not_name(other: Store) -> None:
    with refused("layer-mismatch", sha256(LAYER)):
        load(other, docker_tar(tar_of({"hello": b"other"})))
    listed = [{"Config": "c.json", "RepoTags": ["app:1"], "Layers": []}]
    with refused("layer-mismatch"):
        load(
            other,
            tar_of({"c.json": config_of([sha256(LAYER)]), "manifest.json": msgspec.json.encode(listed)}),
        )
    assert other.names.list() == []


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"hello": b"hello"},
        {"manifest.json": b"{}"},
        {"manifest.json": b"[1]"},
        {"manifest.json": b"[{}]"},
        {"index.json": b'{"schemaVersion": 2, "config": {}}'},
        {"index.json": b"[" * 100_000},
        {
            "index.json": b'{"schemaVersion": 2, "manifests": [{"mediaType": "x", "digest": "../x", "size": 1}]}'
        },
    ],
    ids=["empty", "files", "object", "numbers", "fields", "no-index", "nested", "digest"],
)
def test_what_is_no_image_is_refused(other: Store, members: dict[str, bytes]) -> None:
    code = "invalid-manifest" if "index.json" in members else "not-an-image-archive"
    with refused(code):
        load(other, tar_of(members))
    assert other.names.list() == []


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_archive_that_breaks_off_is_refused(
    other: Store, members: dict[str, bytes], pack: Callable[[bytes], bytes]
) -> None:
    whole = pack(tar_of(members))
    for size in (len(whole) // 3, len(whole) // 2, len(whole) - 20 if pack is gzip.compress else 1024):
        with pytest.raises(Exception) as caught:
            load(other, whole[:size])
        assert getattr(caught.value, "code", "") in ("truncated-archive", "corrupt-archive"), size
        assert other.names.list() == []


def test_a_sparse_index_is_an_image_and_an_empty_one_is_not(
    store: Store, other: Store, tmp_path: Path
) -> None:
    here = msgspec.structs.replace(put_image(store, platform=AMD64), platform=AMD64)
    gone = Descriptor(media_type=MANIFEST, digest="sha256:" + "ab" * 32, size=7, platform=ARM64)
    sparse, empty = put_index(store, [gone, here]), put_index(store, [gone])
    for name, index in (("sparse", sparse), ("empty", empty)):
        for form in ("oci-archive", "oci-layout"):
            save(store.content, [(index, (APP,))], str(tmp_path / f"{name}-{form}"), form)  # type: ignore[arg-type]
    with refused("missing-blob", empty.digest):
        load(other, (tmp_path / "empty-oci-archive").read_bytes())
    with refused("missing-blob", empty.digest):
        load_layout(other, str(tmp_path / "empty-oci-layout"))
    assert other.names.list() == []
    load(other, (tmp_path / "sparse-oci-archive").read_bytes())
    assert other.names.get(APP) == sparse
    load_layout(other, str(tmp_path / "sparse-oci-layout"))


# --- Bombs --------------------------------------------------------------------------------------


def test_a_huge_index_is_refused(other: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b'{"schemaVersion": 2, "manifests": []}'
    with refused("not-an-image-archive", "larger than"):
        load(other, tar_of({"index.json": data + b" " * loading.DOCUMENT_LIMIT}))
    monkeypatch.setattr(loading, "FILES_LIMIT", 3)
    with refused("not-an-image-archive", "more than 3"):
        load(other, tar_of({f"f{number}": b"" for number in range(4)}))


def test_indexes_that_multiply_cost_what_they_weigh(store: Store, tmp_path: Path, other: Store) -> None:
    """Four indexes of two thousand entries each stand for 16 million million images."""
    child = put_image(store)
    for _ in range(4):
        child = put_index(store, [child] * 2000)
    assert len(manifests(store.content, child)) == 2000
    assert len(closure(store.content, child)) == 4 + 3
    save(store.content, [(child, (APP,))], str(tmp_path / "layout"), "oci-layout")
    assert load_layout(other, str(tmp_path / "layout"))[0].descriptor == child


def test_indexes_too_deep_are_refused(store: Store) -> None:
    child = put_image(store)
    for _ in range(5):
        child = put_index(store, [child])
    with refused("invalid-manifest", "deeply"):
        manifests(store.content, child)


def test_a_layer_bomb_is_stopped(other: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "DEFAULT_LIMITS", Limits(max_bytes=1 << 20))
    with refused("archive-too-large"):
        load(other, docker_tar(gzip.compress(bytes(2 << 20))))


def test_one_layer_named_often_is_measured_once(other: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gzip.compress(LAYER)
    measured: list[str] = []
    measure = loading._measured_layer
    monkeypatch.setattr(
        loading,
        "_measured_layer",
        lambda content, digest: measured.append(digest) or measure(content, digest),
    )
    listed = [{"Config": "c.json", "RepoTags": None, "Layers": ["l"] * 50}] * 20
    config = config_of([sha256(LAYER)] * 50)
    load(other, tar_of({"c.json": config, "l": packed, "manifest.json": msgspec.json.encode(listed)}))
    assert measured == [sha256(packed)]


def test_an_image_of_no_known_type_has_no_name(other: Store) -> None:
    data = b"neither"
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [{"mediaType": "text/plain", "digest": sha256(data), "size": len(data)}],
    }
    with refused("invalid-manifest"):
        load(other, tar_of({"index.json": msgspec.json.encode(index), blob_name(sha256(data)): data}))
    assert other.names.list() == []
    assert manifest_of(other, put_image(other)).layers
