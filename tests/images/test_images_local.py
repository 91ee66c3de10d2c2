"""List, tag, remove, inspect: images, indexes, and indexes of which only a part is there."""

from __future__ import annotations

import pytest
from imaging import AMD64, ARM64, S390X, manifest_of, put_blob, put_image, put_index, refused

from arkwright.images import local
from arkwright.images.deliver import deliver
from arkwright.images.describe import ImageDetails, describe_image
from arkwright.images.fetch import fetch
from arkwright.images.opened import open_documents
from arkwright.images.places import parse_place
from arkwright.oci import manifest as image_manifest
from arkwright.oci.descriptor import CONFIG, INDEX, MANIFEST, Descriptor
from arkwright.oci.manifest import Manifest
from arkwright.oci.platform import Platform, host_platform
from arkwright.store.store import Store

APP, TOOL = "docker.io/library/app:1", "r.example/team/tool:latest"


def inspect(store: Store, text: str, platform: Platform | None = None) -> ImageDetails:
    return describe_image(store, open_documents(store, parse_place(text), platform))


def tag(store: Store, text: str, name: str) -> str:
    return deliver(store, fetch(store, parse_place(text)).descriptor, parse_place(name)).name


def entry(child: Descriptor, platform: Platform | None) -> Descriptor:
    return Descriptor(media_type=child.media_type, digest=child.digest, size=child.size, platform=platform)


def absent(platform: Platform) -> Descriptor:
    return Descriptor(media_type=MANIFEST, digest="sha256:" + "ab" * 32, size=100, platform=platform)


def names(store: Store) -> list[str]:
    return [name for name, _ in store.names.list()]


def test_a_real_image(store: Store, busybox: Descriptor) -> None:
    (row,) = local.list_images(store)
    manifest = manifest_of(store, busybox)
    assert row == local.LocalImage(
        name="docker.io/library/busybox:latest",
        digest=busybox.digest,
        config_digest=manifest.config.digest,
        size=manifest.config.size + manifest.layers[0].size,
        created="2000-01-01T00:00:00Z",
        platforms=(str(host_platform()),),
    )
    details = inspect(store, "busybox")
    assert (details.names, details.digest, details.media_type) == ((row.name,), busybox.digest, MANIFEST)
    assert (details.size, details.platform, details.index) == (row.size, str(host_platform()), None)
    assert details.config["config"]["Cmd"] == ["sh"]
    assert details.manifest["layers"][0]["digest"] == manifest.layers[0].digest


def test_damaged_images_are_listed_without_details(store: Store) -> None:
    not_json = put_blob(store, b"\xff\xfe no JSON", CONFIG)
    listed = put_blob(store, b"[]", CONFIG)
    for name, config in (("a", not_json), ("b", listed)):
        manifest = Manifest(schema_version=2, media_type=MANIFEST, config=config, layers=())
        image = put_blob(store, image_manifest.encode(manifest), MANIFEST)
        store.names.set(f"docker.io/library/{name}:1", image)
    store.names.set("docker.io/library/c:1", absent(AMD64))
    store.names.set("docker.io/library/d:1", put_blob(store, b'{"schemaVersion": 1}', MANIFEST))
    whole = put_image(store, "docker.io/library/e:1")
    rows = local.list_images(store)
    assert [row.name[-3:] for row in rows] == ["a:1", "b:1", "c:1", "d:1", "e:1"]
    assert [bool(row.config_digest) for row in rows] == [False, False, False, False, True]
    assert rows[4].digest == whole.digest
    for name, code in (("a", "invalid-image-config"), ("b", "invalid-image-config"), ("c", "missing-blob")):
        with refused(code):
            inspect(store, f"{name}:1")
    with refused("invalid-manifest"):
        inspect(store, "d:1")


def test_tag(store: Store) -> None:
    image = put_image(store, APP)
    other = put_image(store, TOOL, label="other")
    assert tag(store, "app:1", "second") == "docker.io/library/second:latest"
    assert tag(store, image.digest[7:19], "localhost:5000/third:x") == "localhost:5000/third:x"
    assert tag(store, "app:1", "r.example/team/tool") == TOOL
    assert [root for _, root in store.names.list()] == [image] * 4
    assert fetch(store, parse_place(other.digest)).name == ""


def test_what_cannot_be_a_tag(store: Store) -> None:
    image = put_image(store, APP)
    with refused("name-with-digest"):
        tag(store, "app:1", f"x@{image.digest}")
    with refused("invalid-reference"):
        tag(store, "app:1", "Upper")
    with refused("unknown-image", "app:1"):
        tag(store, "app:2", "x")
    assert names(store) == [APP]


def test_a_part_of_an_index_gets_a_name(store: Store) -> None:
    child = put_image(store, platform=ARM64)
    put_index(store, [entry(child, ARM64)], APP)
    tag(store, child.digest, "arm")
    assert store.names.get("docker.io/library/arm:latest") == child
    assert inspect(store, "arm").platform == "linux/arm64/v8"


def test_remove_by_name_takes_that_name_only(store: Store) -> None:
    image = put_image(store, APP, TOOL)
    assert local.remove(store, "app:1") == [APP]
    assert names(store) == [TOOL]
    assert store.content.has(image.digest)
    assert local.remove(store, f"r.example/team/tool@{image.digest}") == [TOOL]
    assert names(store) == []


@pytest.mark.parametrize("shape", ["digest", "prefix", "config"])
def test_remove_by_digest_takes_every_name(store: Store, shape: str) -> None:
    image = put_image(store, APP, TOOL)
    put_image(store, "docker.io/library/stays:1", label="stays")
    config = manifest_of(store, image).config.digest
    text = {"digest": image.digest, "prefix": image.digest[7:19], "config": config}[shape]
    assert local.remove(store, text) == [APP, TOOL]
    assert names(store) == ["docker.io/library/stays:1"]


def test_what_has_no_name_cannot_lose_it(store: Store) -> None:
    child, unnamed = put_image(store, platform=AMD64), put_image(store, label="unnamed")
    put_index(store, [entry(child, AMD64)], APP)
    for digest in (child.digest, unnamed.digest):
        with refused("unknown-image", digest):
            local.remove(store, digest)
    with refused("unknown-image"):
        local.remove(store, "nothing")
    assert names(store) == [APP]


def test_inspect_an_index(store: Store) -> None:
    host = host_platform()
    children = [put_image(store, platform=ARM64), put_image(store, platform=S390X)]
    children += [] if host.architecture in ("arm64", "s390x") else [put_image(store, platform=host)]
    platforms = [ARM64, S390X, host][: len(children)]
    index = put_index(store, [entry(*pair) for pair in zip(children, platforms, strict=True)], APP)
    details = inspect(store, "app:1")
    assert (details.digest, details.media_type) == (index.digest, INDEX)
    assert details.platform == str(host)
    assert details.platforms == tuple(map(str, platforms))
    assert details.index is not None and len(details.index["manifests"]) == len(children)
    chosen = inspect(store, "app:1", S390X)
    assert chosen.platform == "linux/s390x"
    assert chosen.config_digest == manifest_of(store, children[1]).config.digest
    with refused("no-matching-platform", "linux/ppc64le", "linux/s390x"):
        inspect(store, "app:1", Platform("linux", "ppc64le"))
    # By its own digest, the part is an image for itself.
    part = inspect(store, children[1].digest)
    assert (part.platform, part.index, part.names) == ("linux/s390x", None, ())


def test_inspect_a_sparse_index(store: Store) -> None:
    child = put_image(store, platform=S390X)
    put_index(store, [absent(ARM64), entry(child, S390X)], APP)
    details = inspect(store, "app:1")
    assert (details.platform, details.platforms) == ("linux/s390x", ("linux/s390x",))
    assert details.index is not None and len(details.index["manifests"]) == 2
    with refused("no-matching-platform", "linux/s390x"):
        inspect(store, "app:1", ARM64)
    (row,) = local.list_images(store)
    assert (row.platforms, row.config_digest) == (("linux/s390x",), details.config_digest)


def test_an_index_of_nothing(store: Store) -> None:
    put_index(store, [absent(ARM64)], APP)
    assert local.list_images(store)[0].config_digest == ""
    with refused("no-matching-platform"):
        inspect(store, "app:1")


def test_attestations_are_no_platform(store: Store) -> None:
    image = put_image(store, platform=S390X)
    attestation = put_image(store, platform=S390X, label="attestation")
    put_index(store, [entry(image, S390X), entry(attestation, Platform("unknown", "unknown"))], APP)
    assert inspect(store, "app:1").platforms == ("linux/s390x",)
