"""Indexes made and changed, and annotations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from changing import put_layers
from imaging import AMD64, ARM64, S390X, put_image, put_index, refused
from layer_model import Member, documents

from arkwright.images.archives import write_layout
from arkwright.images.mutate_index import add_to_index, annotate, create_index, remove_from_index
from arkwright.oci.descriptor import DOCKER_INDEX, INDEX, MANIFEST, Descriptor
from arkwright.oci.platform import Platform
from arkwright.store.store import Store


def fields_of(store: Store, descriptor: Descriptor) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(store.content.read(descriptor.digest))
    return found


def test_an_index_says_what_the_configs_say(store: Store, skopeo: Callable[..., str], tmp_path: Path) -> None:
    images = [(str(platform), put_image(store, platform=platform)) for platform in (AMD64, ARM64)]
    made = create_index(store.content, images)
    items = fields_of(store, made)["manifests"]
    assert [one["platform"] for one in items] == [
        {"os": "linux", "architecture": "amd64"}, {"os": "linux", "architecture": "arm64", "variant": "v8"},
    ]  # fmt: skip
    write_layout(store.content, [(made, ("docker.io/library/x:tag",))], str(tmp_path / "layout"))
    place = f"oci:{tmp_path}/layout:tag"
    for platform, (_, image) in zip((AMD64, ARM64), images, strict=True):
        args = ["--override-arch", platform.architecture, "--override-os", "linux"]
        assert msgspec.json.decode(skopeo(*args, "inspect", "--raw", place)) == fields_of(store, made)
        assert msgspec.json.decode(skopeo(*args, "inspect", "--config", place)) == documents(store, image)[1]


def test_images_are_added_and_taken_out(store: Store) -> None:
    one, two = put_image(store, platform=AMD64), put_image(store, platform=ARM64)
    index = create_index(store.content, [("one", one)])
    both = add_to_index(store.content, index, [("two", two)])
    assert both == create_index(store.content, [("one", one), ("two", two)])
    assert add_to_index(store.content, both, [("again", two)]) == both
    for name in (two.digest, two.digest[:15], two.digest[7:17], "linux/arm64", "arm64"):
        assert remove_from_index(store.content, both, [name]).descriptor == index
    with refused("no-matching-platform", "linux/amd64"):
        remove_from_index(store.content, both, ["s390x"])


def test_a_platform_is_there_once(store: Store) -> None:
    one, other = put_image(store, platform=AMD64), put_image(store, platform=AMD64, label="other")
    with refused("duplicate-platform", "linux/amd64", "that one"):
        create_index(store.content, [("this one", one), ("that one", other)])
    with refused("duplicate-platform"):
        add_to_index(store.content, create_index(store.content, [("a", one)]), [("b", other)])


def test_indexes_are_not_nested(store: Store) -> None:
    image = put_image(store)
    with refused("nested-index", "inner"):
        create_index(store.content, [("inner", put_index(store, [image]))])
    with refused("not-an-index"):
        add_to_index(store.content, image, [("x", image)])
    with refused("invalid-image-config", "--arch"):
        create_index(store.content, [("x", put_layers(store, [[]], top={"architecture": ""}))])


def test_an_attestation_goes_with_its_image(store: Store) -> None:
    image = put_image(store, platform=AMD64)
    attests = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": image.digest,
    }
    proof = msgspec.structs.replace(
        put_image(store, label="proof"), platform=Platform("unknown", "unknown"), annotations=attests
    )
    kept = msgspec.structs.replace(put_image(store, platform=S390X), platform=S390X)
    root = put_index(store, [msgspec.structs.replace(image, platform=AMD64), proof, kept])
    made = remove_from_index(store.content, root, ["amd64"])
    assert [one["digest"] for one in fields_of(store, made.descriptor)["manifests"]] == [kept.digest]
    assert "attestation" in made.notes[0]


def test_annotations_of_an_image(store: Store) -> None:
    image = put_image(store, annotations={"old": "1", "gone": "2"})
    made = annotate(store.content, image, {"new": "3", "old": "x"}, remove=["gone"]).descriptor
    manifest, config = documents(store, made)
    assert manifest["annotations"] == {"old": "x", "new": "3"}
    assert config == documents(store, image)[1]
    assert annotate(store.content, made, {"old": "x"}).descriptor == made
    assert (
        "annotations"
        not in documents(store, annotate(store.content, made, {}, remove=["old", "new"]).descriptor)[0]
    )
    with refused("index-annotation"):
        annotate(store.content, image, {"a": "b"}, where="index")


def test_annotations_of_an_index_and_of_its_images(store: Store) -> None:
    children = [
        msgspec.structs.replace(put_image(store, platform=platform), platform=platform)
        for platform in (AMD64, S390X)
    ]
    root = put_index(store, children)
    made = fields_of(store, annotate(store.content, root, {"a": "b"}).descriptor)
    assert made == {**fields_of(store, root), "annotations": {"a": "b"}}
    every = fields_of(store, annotate(store.content, root, {"a": "b"}, where="manifests").descriptor)
    one = fields_of(store, annotate(store.content, root, {"a": "b"}, platform=S390X).descriptor)
    assert "annotations" not in every
    assert one["manifests"] == [fields_of(store, root)["manifests"][0], every["manifests"][1]]
    for item in every["manifests"]:
        assert documents(store, msgspec.convert(item, Descriptor))[0]["annotations"] == {"a": "b"}


def test_docker_documents_become_oci_to_be_annotated(store: Store) -> None:
    image = put_layers(store, [[Member("f")]], docker=True)
    made = annotate(store.content, image, {"a": "b"}).descriptor
    assert made.media_type == MANIFEST
    listed = {
        "schemaVersion": 2,
        "mediaType": DOCKER_INDEX,
        "manifests": [{**msgspec.to_builtins(image), "platform": {"os": "linux", "architecture": "amd64"}}],
    }
    data = msgspec.json.encode(listed)
    root = Descriptor(media_type=DOCKER_INDEX, digest=store.content.write(data), size=len(data))
    assert fields_of(store, annotate(store.content, root, {"a": "b"}).descriptor)["mediaType"] == INDEX


@pytest.mark.parametrize("name", ["", "amd64 ", "../x"])
def test_odd_names_are_not_in_an_index(store: Store, name: str) -> None:
    root = put_index(store, [msgspec.structs.replace(put_image(store, platform=S390X), platform=S390X)])
    with refused("no-matching-platform"):
        remove_from_index(store.content, root, [name])
