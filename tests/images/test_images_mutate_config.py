"""Edits of image configs: every field, what is not known, and what is not asked for, stays."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from changing import CREATED, LATER, put_layers
from imaging import ARM64, S390X, put_blob, put_image, put_index, refused
from layer_model import Member, documents

from arkwright.images.mutate import edit_images
from arkwright.images.mutate_config import ConfigEdit, edit_config
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.platform import Platform
from arkwright.store.store import Store

INNER: dict[str, Any] = {
    "Env": ["PATH=/bin", "A=1", "B=2"], "Labels": {"one": "1", "two": "2"}, "Entrypoint": ["/e"], "Cmd": ["c"],
    "WorkingDir": "/w", "User": "u", "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/v": {}}, "StopSignal": "SIGINT",
    "Healthcheck": {"Test": ["CMD", "x"], "Interval": 5, "Future": 1}, "Shell": ["/bin/sh", "-c"],
    "OnBuild": ["RUN x"], "Memory": 12, "Hostname": "kept",
}  # fmt: skip
TOP: dict[str, Any] = {"author": "me", "variant": "v2", "os.version": "10.0", "container_config": {"x": [1]}}


def image_of(store: Store, **more: Any) -> Descriptor:
    return put_layers(store, [[Member("f", data=b"f")]], inner=INNER, top=TOP, **more)


def edited(store: Store, image: Descriptor, **edit: Any) -> Descriptor:
    return edit_images(
        store.content, image, lambda one: edit_config(one, ConfigEdit(**edit), CREATED)
    ).descriptor


@pytest.mark.parametrize(
    "edit, key, value",
    [
        ({"env": {"A": "9", "C": "3"}}, "Env", ["PATH=/bin", "A=9", "B=2", "C=3"]),
        ({"unset_env": ("A", "none")}, "Env", ["PATH=/bin", "B=2"]),
        ({"clear": frozenset({"env"}), "env": {"X": "="}}, "Env", ["X=="]),
        ({"labels": {"one": "x"}, "unset_labels": ("two",)}, "Labels", {"one": "x"}),
        ({"clear": frozenset({"labels"})}, "Labels", None),
        ({"entrypoint": ("a", "b")}, "Entrypoint", ["a", "b"]),
        ({"clear": frozenset({"entrypoint"})}, "Entrypoint", None),
        ({"cmd": ("x",)}, "Cmd", ["x"]),
        ({"workdir": "/x"}, "WorkingDir", "/x"),
        ({"user": "1:2"}, "User", "1:2"),
        ({"ports": ("53/udp",)}, "ExposedPorts", {"80/tcp": {}, "53/udp": {}}),
        ({"unset_ports": ("80/tcp",)}, "ExposedPorts", None),
        ({"volumes": ("/x",), "unset_volumes": ("/v",)}, "Volumes", {"/x": {}}),
        ({"stop_signal": "9"}, "StopSignal", "9"),
        ({"healthcheck": ("NONE",)}, "Healthcheck", {"Test": ["NONE"], "Interval": 5, "Future": 1}),
        ({"healthcheck_times": {"Timeout": 7}}, "Healthcheck", {"Test": ["CMD", "x"], "Interval": 5, "Future": 1, "Timeout": 7}),
        ({"clear": frozenset({"healthcheck"})}, "Healthcheck", None),
        ({"shell": ("/bin/bash",)}, "Shell", ["/bin/bash"]),
        ({"onbuild": ("RUN y",)}, "OnBuild", ["RUN x", "RUN y"]),
        ({"clear": frozenset({"onbuild"}), "onbuild": ("RUN y",)}, "OnBuild", ["RUN y"]),
    ],
)  # fmt: skip
def test_one_field_changes_and_the_rest_stays(
    store: Store, edit: dict[str, Any], key: str, value: Any
) -> None:
    image = image_of(store)
    manifest, config = documents(store, edited(store, image, **edit))
    old_manifest, old_config = documents(store, image)
    wanted = {name: item for name, item in {**INNER, key: value}.items() if item is not None}
    assert config["config"] == wanted
    assert config["created"] == CREATED
    assert config["history"][:-1] == old_config["history"]
    assert config["history"][-1]["empty_layer"] and config["history"][-1]["created"] == CREATED
    same = {"config", "created", "history"}
    assert {k: v for k, v in config.items() if k not in same} == {
        k: v for k, v in old_config.items() if k not in same
    }
    assert manifest["layers"] == old_manifest["layers"]


def test_the_top_of_the_config(store: Store) -> None:
    image = image_of(store)
    platform = {"os": "windows", "architecture": "arm64", "variant": "v8", "os.version": "11"}
    _, config = documents(
        store, edited(store, image, author="you", created=LATER, platform=platform, history_comment="why")
    )
    assert {key: config[key] for key in platform} == platform
    assert (config["author"], config["created"], config["container_config"]) == ("you", LATER, {"x": [1]})
    assert config["history"][-1]["comment"] == "why"
    _, config = documents(
        store, edited(store, image, clear=frozenset({"author", "variant", "os-version", "history"}))
    )
    assert not {"author", "variant", "os.version", "history"} & config.keys()
    _, config = documents(store, edited(store, image, user="x", history=False))
    assert len(config["history"]) == 1


def test_an_edit_to_what_is_already_so_is_the_same_image(store: Store) -> None:
    image = image_of(store)
    assert edited(store, image, env={"A": "1"}, labels={"one": "1"}, user="u", unset_env=("none",)) == image


def test_a_history_that_says_too_little_is_filled(store: Store) -> None:
    image = put_layers(store, [[Member("f")], [Member("g")]], top={"history": [{"created_by": "one"}]})
    _, config = documents(store, edited(store, image, user="x"))
    assert [bool(entry.get("empty_layer")) for entry in config["history"]] == [False, False, True]


def test_docker_images_and_unknown_fields_of_the_manifest_stay(store: Store) -> None:
    image = image_of(store, docker=True, manifest={"annotations": {"a": "b"}, "future": {"x": 1}})
    made = edited(store, image, user="x")
    manifest, _ = documents(store, made)
    old = documents(store, image)[0]
    assert made.media_type == image.media_type
    assert {**manifest, "config": 0} == {**old, "config": 0}
    assert manifest["config"]["mediaType"] == old["config"]["mediaType"]


def test_every_image_of_an_index_or_one(store: Store) -> None:
    children = [
        msgspec.structs.replace(put_image(store, platform=platform, label=str(platform)), platform=platform, annotations={"k": "v"})
        for platform in (ARM64, S390X)
    ]  # fmt: skip
    attests = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": children[0].digest,
    }
    proof = msgspec.structs.replace(
        put_image(store, label="proof"), platform=Platform("unknown", "unknown"), annotations=attests
    )
    root = put_index(store, [*children, proof])
    edit = lambda one: edit_config(one, ConfigEdit(user="x"), CREATED)  # noqa: E731
    one = edit_images(store.content, root, edit, platform=S390X)
    before = msgspec.json.decode(store.content.read(root.digest))["manifests"]
    after = msgspec.json.decode(store.content.read(one.descriptor.digest))["manifests"]
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1]["digest"] != before[1]["digest"] and after[1]["annotations"] == {"k": "v"}
    assert not one.notes
    every = edit_images(store.content, root, edit)
    after = msgspec.json.decode(store.content.read(every.descriptor.digest))["manifests"]
    assert [item["platform"] for item in after] == [item["platform"] for item in before[:2]]
    assert "attestation" in every.notes[0]
    for item in after:
        assert documents(store, msgspec.convert(item, Descriptor))[1]["config"]["User"] == "x"


def test_an_index_that_is_not_here_as_a_whole(store: Store) -> None:
    here = msgspec.structs.replace(put_image(store, platform=ARM64), platform=ARM64)
    away = Descriptor(media_type=here.media_type, digest="sha256:" + "5" * 64, size=9, platform=S390X)
    root = put_index(store, [here, away])
    edit = lambda one: edit_config(one, ConfigEdit(user="x"), CREATED)  # noqa: E731
    made = edit_images(store.content, root, edit)
    assert len(msgspec.json.decode(store.content.read(made.descriptor.digest))["manifests"]) == 1
    assert "s390x" in made.notes[0]
    with refused("missing-blob"):
        edit_images(store.content, put_index(store, [away]), edit)
    with refused("no-matching-platform"):
        edit_images(store.content, root, edit, platform=S390X)


def test_a_platform_that_changes_is_told_by_the_index_and_is_there_once(store: Store) -> None:
    child = msgspec.structs.replace(put_image(store, platform=S390X), platform=S390X)
    other = msgspec.structs.replace(put_image(store, platform=ARM64), platform=ARM64)
    edit = lambda one: edit_config(one, ConfigEdit(platform={"architecture": "riscv64"}), CREATED)  # noqa: E731
    root = put_index(store, [child, other])
    made = edit_images(store.content, root, edit, platform=S390X)
    items = msgspec.json.decode(store.content.read(made.descriptor.digest))["manifests"]
    assert items[0]["platform"] == {"os": "linux", "architecture": "riscv64"}
    with refused("duplicate-platform", "linux/riscv64"):
        edit_images(
            store.content,
            put_index(store, [child, msgspec.structs.replace(other, platform=Platform("linux", "riscv64"))]),
            edit,
            platform=S390X,
        )


def test_what_is_no_image_is_refused(store: Store) -> None:
    config = put_blob(store, b"{}", "application/vnd.oci.empty.v1+json")
    data = msgspec.json.encode({"schemaVersion": 2, "config": config, "layers": [config]})
    artifact = put_blob(store, data, "application/vnd.oci.image.manifest.v1+json")
    with refused("invalid-image-config"):
        edited(store, artifact, user="x")
    with refused("invalid-image-config", "0 diffIDs for 1"):
        edited(store, put_layers(store, [[]], top={"rootfs": {"type": "layers", "diff_ids": []}}), user="x")


@pytest.mark.parametrize(
    "inner, top",
    [
        ({"Env": "A=1"}, {}), ({"Env": [1]}, {}), ({"Labels": ["a"]}, {}), ({"ExposedPorts": 80}, {}),
        ({"Healthcheck": "x"}, {}), ({}, {"os": 5}), ({}, {"architecture": ["amd64"]}), ({}, {"os.version": {}}),
        ({}, {"config": [1]}),
    ],
)  # fmt: skip
def test_fields_of_other_types_are_refused(store: Store, inner: dict[str, Any], top: dict[str, Any]) -> None:
    with refused("invalid-image-config"):
        edited(store, put_layers(store, [[Member("f")]], inner=inner, top=top), env={"B": "2"})
