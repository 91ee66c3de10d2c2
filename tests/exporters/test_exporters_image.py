"""Image assembly: what is reused, what is written, and what the documents say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from exporting import AMD64, ARM64, Workshop

from arkwright.diagnostics.errors import UserError
from arkwright.exporters.base import AssembledImage, BuiltImage
from arkwright.exporters.image import assemble, missing_layers
from arkwright.layer.profile import profile_for
from arkwright.oci import descriptor as media
from arkwright.oci.config import History
from arkwright.oci.descriptor import Descriptor

EPOCH = 946684800


def run(workshop: Workshop, *built: BuiltImage, **options: Any) -> AssembledImage:
    options = {"profile": workshop.profile, "epoch": EPOCH, "snapshotter": workshop, **options}
    return assemble(built, layers=workshop.layers, content=workshop.store.content, **options)


def document(workshop: Workshop, descriptor: Descriptor) -> dict[str, Any]:
    data = workshop.store.content.read(descriptor.digest)
    assert len(data) == descriptor.size
    found: dict[str, Any] = msgspec.json.decode(data)
    return found


def test_base_blobs_keep_their_bytes_and_get_oci_names(workshop: Workshop) -> None:
    base = workshop.base("base", b"base")
    step = workshop.step("step", b"step", [base])
    source = workshop.layers.get(base)
    assert source is not None
    image = run(workshop, workshop.built(base, step))
    manifest = document(workshop, image.root)
    assert manifest["mediaType"] == media.MANIFEST
    assert manifest["layers"][0] == {
        "mediaType": media.LAYER_GZIP, "digest": source.blobs["source"].digest, "size": source.blobs["source"].size,
    }  # fmt: skip
    config = document(workshop, msgspec.convert(manifest["config"], Descriptor))
    exported = workshop.layers.get(step)
    assert exported is not None
    assert config["rootfs"]["diff_ids"] == [source.diff_id, exported.diff_id]
    assert exported.blobs[workshop.profile.name].digest == manifest["layers"][1]["digest"]
    assert config["created"] == "2000-01-01T00:00:00Z"
    assert (config["architecture"], config["config"]["Labels"]) == ("amd64", {"a": "b"})


def test_a_second_assembly_needs_no_trees_and_gives_the_same(workshop: Workshop) -> None:
    step = workshop.step("step", b"step")
    built = workshop.built(step)
    assert missing_layers((built,), workshop.layers, workshop.store.content, workshop.profile) == [step]
    first = run(workshop, built)
    assert missing_layers((built,), workshop.layers, workshop.store.content, workshop.profile) == []
    assert run(workshop, built, snapshotter=None) == first
    assert workshop.exported == [step]


def test_another_profile_writes_its_own_blob_of_the_same_layer(workshop: Workshop) -> None:
    step = workshop.step("step", b"step" * 1000)
    first = document(workshop, run(workshop, workshop.built(step)).root)
    other = document(workshop, run(workshop, workshop.built(step), profile=profile_for("zstd")).root)
    assert first["config"] == other["config"]
    assert other["layers"][0]["mediaType"] == media.LAYER_ZSTD
    layer = workshop.layers.get(step)
    assert layer is not None
    assert set(layer.blobs) == {workshop.profile.name, profile_for("zstd").name}


def test_a_blob_that_is_gone_is_written_again_or_fetched_or_missed(workshop: Workshop) -> None:
    base, step = workshop.base("base", b"base"), workshop.step("step", b"step")
    built = workshop.built(base, step)
    first = run(workshop, built)
    for descriptor in document(workshop, first.root)["layers"]:
        workshop.store.content.delete(descriptor["digest"])
    with pytest.raises(UserError) as caught:
        run(workshop, built)
    assert caught.value.code == "missing-blob"
    again = run(workshop, built, fetch=lambda layer_id: workshop.base("base", b"base"))
    assert again == first
    assert workshop.exported == [step, step]


def test_several_platforms_give_an_index(workshop: Workshop) -> None:
    step = workshop.step("step", b"step")
    image = run(workshop, workshop.built(step), workshop.built(step, platform=ARM64))
    index = document(workshop, image.root)
    assert index["mediaType"] == media.INDEX
    assert [item["platform"] for item in index["manifests"]] == [
        {"os": "linux", "architecture": "amd64"},
        {"os": "linux", "architecture": "arm64"},
    ]
    assert workshop.exported == [step]
    assert document(workshop, run(workshop, workshop.built(step), force_index=True).root)["manifests"]


def test_annotations_go_where_they_belong(workshop: Workshop) -> None:
    step = workshop.step("step", b"step")
    annotations = {
        "plain": "1", "manifest[linux/arm64]:arm": "2", "index:all": "3", "manifest-descriptor,index:both": "4",
    }  # fmt: skip
    image = run(workshop, workshop.built(step), workshop.built(step, platform=ARM64), annotations=annotations)
    index = document(workshop, image.root)
    assert index["annotations"] == {"all": "3", "both": "4"}
    assert [item["annotations"] for item in index["manifests"]] == [{"both": "4"}, {"both": "4"}]
    manifests = [document(workshop, descriptor)["annotations"] for descriptor in image.manifests]
    assert manifests == [{"plain": "1"}, {"plain": "1", "arm": "2"}]


def test_an_index_annotation_needs_an_index(workshop: Workshop) -> None:
    built = workshop.built(workshop.step("step", b"step"))
    for text, code in (("index:a", "index-annotation"), ("index[linux/amd64]:a", "invalid-annotation")):
        with pytest.raises(UserError) as caught:
            run(workshop, built, annotations={text: "1"})
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ((), [("arkwright", False)]),
        ((History(created_by="a", empty_layer=True),), [("a", True), ("arkwright", False)]),
        ((History(created_by="a"), History(created_by="b")), [("a", False), ("b", True)]),
    ],
)
def test_history_has_one_full_entry_per_layer(
    workshop: Workshop, history: tuple[History, ...], expected: list[tuple[str, bool]]
) -> None:
    built = workshop.built(workshop.step("step", b"step"))
    built = msgspec.structs.replace(built, config=msgspec.structs.replace(built.config, history=history))
    manifest = document(workshop, run(workshop, built).root)
    config = document(workshop, msgspec.convert(manifest["config"], Descriptor))
    assert [(item["created_by"], item.get("empty_layer", False)) for item in config["history"]] == expected
    assert {item["created"] for item in config["history"]} == {"2000-01-01T00:00:00Z"}


def test_the_base_keeps_its_history_times(workshop: Workshop) -> None:
    built = workshop.built(
        workshop.step("step", b"step"), history=(History(created="2020-02-02T00:00:00Z", created_by="base"),)
    )
    manifest = document(workshop, run(workshop, built, epoch=1700000000).root)
    config = document(workshop, msgspec.convert(manifest["config"], Descriptor))
    assert config["history"][0]["created"] == "2020-02-02T00:00:00Z"
    assert config["created"] == "2023-11-14T22:13:20Z"


def test_an_image_without_layers_is_an_image(workshop: Workshop) -> None:
    manifest = document(workshop, run(workshop, workshop.built(platform=AMD64)).root)
    assert manifest["layers"] == []
