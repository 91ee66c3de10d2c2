"""Docker's format and OCI's, gzip, zstd and none: what changes, what stays, and what is refused."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from imaging import AMD64, ARM64, config_of, manifest_of, put_blob, put_image, put_index, refused, tar_of

from arkwright.images.convert import Converted, convert
from arkwright.images.deliver import deliver
from arkwright.images.fetch import fetch
from arkwright.images.places import parse_place
from arkwright.layer.codec import decompress
from arkwright.oci import descriptor as media
from arkwright.oci import manifest as image_manifest
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.digest import sha256
from arkwright.oci.manifest import Manifest
from arkwright.store.store import Store

TAR = tar_of({"hello": b"hello" * 5000, "other": bytes(100_000)})


def made(store: Store, root: Descriptor, **wanted: str) -> Converted:
    return convert(store.content, root, **wanted)  # type: ignore[arg-type]


def document(store: Store, descriptor: Descriptor) -> Any:
    return json.loads(store.content.read(descriptor.digest))


def uncompressed(store: Store) -> Descriptor:
    """An image with a layer that is a plain tar."""
    layer = put_blob(store, TAR, media.LAYER_TAR)
    return with_layers(store, [layer], [sha256(TAR)])


def with_layers(
    store: Store,
    layers: list[Descriptor],
    diff_ids: list[str],
    *,
    config_type: str = media.CONFIG,
    more: Mapping[str, Any] | None = None,
) -> Descriptor:
    document = Manifest(
        schema_version=2,
        media_type=media.MANIFEST,
        config=put_blob(store, config_of(diff_ids), config_type),
        layers=tuple(layers),
        **(more or {}),
    )
    return put_blob(store, image_manifest.encode(document), media.MANIFEST)


def diff_ids(store: Store, image: Descriptor) -> list[str]:
    found = []
    for layer in manifest_of(store, image).layers:
        with (
            store.content.open(layer.digest) as blob,
            decompress(blob, media.layer_codec(layer.media_type)) as tar,
        ):
            found.append(sha256(tar.read()))
    return found


def test_docker_and_back(store: Store) -> None:
    image = put_image(store, platform=ARM64)
    docker = made(store, image, form="docker").descriptor
    assert docker.media_type == media.DOCKER_MANIFEST
    fields = document(store, docker)
    assert fields["mediaType"] == media.DOCKER_MANIFEST
    assert fields["config"]["mediaType"] == media.DOCKER_CONFIG
    assert [layer["mediaType"] for layer in fields["layers"]] == [media.DOCKER_LAYER_GZIP]
    assert fields["config"]["digest"] == manifest_of(store, image).config.digest
    assert made(store, docker, form="oci").descriptor == image
    assert made(store, docker, form="docker").descriptor == docker
    assert made(store, image, form="oci").descriptor == image


@pytest.mark.parametrize("indent", [None, 2, 3])
def test_documents_of_other_writers_come_back(store: Store, indent: int | None) -> None:
    """docker indents by three."""
    fields = document(store, made(store, put_image(store), form="docker").descriptor)
    separators = None if indent else (",", ":")
    data = json.dumps(fields, indent=indent, separators=separators).encode()
    theirs = put_blob(store, data, media.DOCKER_MANIFEST)
    ours = made(store, theirs, form="oci").descriptor
    assert ours.media_type == media.MANIFEST
    assert made(store, ours, form="docker").descriptor == theirs


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
@pytest.mark.parametrize("form", [None, "docker"])
def test_uncompressed_there_and_back(store: Store, codec: str, form: str | None) -> None:
    image = uncompressed(store)
    if form == "docker" and codec == "zstd":
        with refused("zstd-in-docker-format", "gzip"):
            made(store, image, form=form, codec=codec)
        return
    there = made(store, image, codec=codec, **({"form": form} if form else {})).descriptor
    assert there.digest != image.digest
    (layer,) = manifest_of(store, there).layers
    assert media.layer_codec(layer.media_type) == codec
    assert layer.size < len(TAR) / 4
    assert diff_ids(store, there) == [sha256(TAR)]
    back = made(store, there, codec="none", **({"form": "oci"} if form else {})).descriptor
    assert back == image


@pytest.mark.parametrize(
    "way", [("gzip", "zstd", "none"), ("zstd", "none", "gzip"), ("none", "gzip", "zstd")]
)
def test_our_own_profiles_come_back(store: Store, way: tuple[str, ...]) -> None:
    start = made(store, uncompressed(store), codec=way[0]).descriptor
    now = start
    for codec in (*way[1:], way[0]):
        now = made(store, now, codec=codec).descriptor
    assert now == start


def test_an_index_and_its_attestations(store: Store) -> None:
    one, two = put_image(store, platform=AMD64, label="1"), put_image(store, platform=ARM64, label="2")
    about = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": one.digest}
    statement = put_blob(store, b'{"_type":"x"}', "application/vnd.in-toto+json")
    attestation = msgspec.structs.replace(
        with_layers(store, [statement], [statement.digest]), annotations=about
    )
    children = [
        msgspec.structs.replace(one, platform=AMD64), msgspec.structs.replace(two, platform=ARM64), attestation
    ]  # fmt: skip
    index = put_index(store, children)
    zstd = made(store, index, codec="zstd")
    assert zstd.lost == ("attestations, which name the image by its old digest",)
    found = document(store, zstd.descriptor)
    assert [one["platform"]["architecture"] for one in found["manifests"]] == ["amd64", "arm64"]
    # Nothing changes, so nothing is lost.
    assert made(store, index, codec="gzip") == Converted(descriptor=index)
    docker = made(store, put_index(store, children[:2]), form="docker")
    assert (docker.descriptor.media_type, docker.lost) == (media.DOCKER_INDEX, ())
    assert made(store, docker.descriptor, form="oci").descriptor == put_index(store, children[:2])


def test_what_docker_has_no_place_for_is_told(store: Store) -> None:
    image = put_image(store, annotations={"org.example": "x"})
    docker = made(store, image, form="docker")
    assert docker.lost == ("annotations, which Docker's format does not have",)
    assert "annotations" not in document(store, docker.descriptor)
    # A list names the platform of each.
    listed = made(store, put_index(store, [put_image(store, platform=ARM64)]), form="docker").descriptor
    assert document(store, listed)["manifests"][0]["platform"] == {
        "architecture": "arm64", "os": "linux", "variant": "v8"
    }  # fmt: skip


def test_fields_that_are_not_known_stay(store: Store) -> None:
    image = document(store, uncompressed(store))
    image["org.example.unknown"] = {"a": [1, 2.5, None]}
    image["layers"][0]["annotations"] = {"containerd.io/snapshot/x": "of the bytes", "org.example": "kept"}
    data = json.dumps(image, indent=3).encode()
    root = put_blob(store, data, media.MANIFEST)
    found = document(store, made(store, root, codec="gzip").descriptor)
    assert found["org.example.unknown"] == {"a": [1, 2.5, None]}
    assert found["layers"][0]["annotations"] == {"org.example": "kept"}
    assert made(store, root, codec="none").descriptor == root


def test_a_manifest_that_does_not_say_what_it_is(store: Store) -> None:
    fields = document(store, put_image(store))
    del fields["mediaType"]
    root = put_blob(store, json.dumps(fields).encode(), media.MANIFEST)
    docker = made(store, root, form="docker").descriptor
    assert list(document(store, docker))[:2] == ["schemaVersion", "mediaType"]


def test_a_wrong_diff_id_is_found(store: Store) -> None:
    layer = put_blob(store, gzip.compress(TAR), media.LAYER_GZIP)
    with refused("layer-mismatch", sha256(TAR)):
        made(store, with_layers(store, [layer], [sha256(b"")]), codec="zstd")
    with refused("layer-mismatch", "2 layers"):
        made(store, with_layers(store, [layer], [sha256(TAR)] * 2), codec="zstd")
    torn = put_blob(store, gzip.compress(TAR)[:-9], media.LAYER_GZIP)
    before = set(store.content.digests())
    image = with_layers(store, [torn], [sha256(TAR)])
    with refused("corrupt-archive"):
        made(store, image, codec="none")
    assert sha256(TAR) not in set(store.content.digests()) - before


def test_what_is_no_image(store: Store) -> None:
    layer = put_blob(store, b"{}", "application/x-thing")
    artifact = with_layers(
        store, [layer], [], config_type=media.EMPTY, more={"artifact_type": "application/x"}
    )
    assert made(store, artifact, codec="zstd").descriptor == artifact
    with refused("not-convertible", "artifact"):
        made(store, artifact, form="docker")
    secret = put_blob(store, TAR, media.LAYER_TAR + "+encrypted")
    with refused("not-convertible", "+encrypted"):
        made(store, with_layers(store, [secret], [sha256(TAR)]), codec="zstd")


def test_skopeo_takes_what_was_converted(
    store: Store, busybox: Descriptor, skopeo: Callable[..., str], tmp_path: Path
) -> None:
    for number, wanted in enumerate(
        [{"form": "docker"}, {"form": "docker", "codec": "none"}, {"codec": "zstd"}, {"codec": "none"}]
    ):
        there = made(store, busybox, **wanted).descriptor
        deliver(store, there, parse_place(f"dir:{tmp_path}/ours-{number}"))
        skopeo("copy", "--dest-decompress", f"dir:{tmp_path}/ours-{number}", f"dir:{tmp_path}/judge-{number}")
        names = os.listdir(tmp_path / f"judge-{number}")
        assert {one.partition(":")[2] for one in diff_ids(store, busybox)} <= set(names)


def test_we_take_what_skopeo_converted(
    store: Store, busybox: Descriptor, skopeo: Callable[..., str], tmp_path: Path
) -> None:
    deliver(store, busybox, parse_place(f"oci:{tmp_path}/ours:app"))
    skopeo("copy", "--format", "v2s2", f"oci:{tmp_path}/ours:app", f"dir:{tmp_path}/docker")
    docker = fetch(store, parse_place(f"dir:{tmp_path}/docker")).descriptor
    assert docker.media_type == media.DOCKER_MANIFEST
    back = made(store, docker, form="oci").descriptor
    assert manifest_of(store, back).layers == manifest_of(store, busybox).layers
    skopeo(
        "copy",
        "--dest-compress-format",
        "zstd",
        "--dest-compress",
        f"oci:{tmp_path}/ours:app",
        f"oci:{tmp_path}/zstd:app",
    )
    zstd = fetch(store, parse_place(f"oci:{tmp_path}/zstd:app")).descriptor
    assert diff_ids(store, made(store, zstd, codec="gzip").descriptor) == diff_ids(store, busybox)


def test_an_index_that_is_not_here_as_a_whole(store: Store) -> None:
    here = msgspec.structs.replace(put_image(store, platform=AMD64), platform=AMD64)
    away = Descriptor(media_type=here.media_type, digest="sha256:" + "5" * 64, size=9, platform=ARM64)
    sparse = put_index(store, [here, away])
    converted = made(store, sparse, codec="none")
    assert [one["platform"] for one in document(store, converted.descriptor)["manifests"]] == [
        {"architecture": "amd64", "os": "linux"}
    ]
    assert converted.lost == ("1 images of the index that are not in the local store",)
    # Nothing changes, so nothing is lost.
    assert made(store, sparse, codec="gzip") == Converted(descriptor=sparse)
    with refused("missing-blob"):
        made(store, put_index(store, [away]), form="docker")


def test_what_a_descriptor_embeds_goes_with_its_blob(store: Store) -> None:
    image = put_image(store)
    fields = document(store, image)
    fields["layers"][0] |= {"data": "QUJD", "urls": ["https://example.com/layer"]}
    fields["config"]["data"] = "e30="
    image = put_blob(store, msgspec.json.encode(fields), media.MANIFEST)
    found = document(store, made(store, image, codec="none").descriptor)
    assert not {"data", "urls"} & set(found["layers"][0])
    assert found["config"]["data"] == "e30="
