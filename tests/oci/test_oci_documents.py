from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arkwright.diagnostics.errors import UserError
from arkwright.oci import config as image_config
from arkwright.oci import descriptor as media
from arkwright.oci.config import Execution, Healthcheck, History, ImageConfig, RootFS
from arkwright.oci.descriptor import Descriptor, layer_codec
from arkwright.oci.digest import is_digest, parse_digest, sha256
from arkwright.oci.manifest import Index, Manifest, encode, parse
from arkwright.oci.platform import Platform, host_platform, matches, parse_platform

DIGEST = "sha256:" + "0a" * 32
CONFIG = {"mediaType": media.CONFIG, "digest": DIGEST, "size": 2}
MANIFEST: dict[str, Any] = {"schemaVersion": 2, "config": CONFIG, "layers": []}
INDEX: dict[str, Any] = {"schemaVersion": 2, "manifests": []}

texts = st.text(st.characters(codec="utf-8"), max_size=8)
digests = st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)
labels = st.dictionaries(texts, texts, max_size=2)
platforms = st.builds(Platform, texts, texts, texts, texts)
descriptors = st.builds(
    Descriptor, media_type=texts, digest=digests, size=st.integers(0, 1 << 60), annotations=labels,
    platform=st.none() | platforms, artifact_type=texts, urls=st.lists(texts, max_size=2).map(tuple),
)  # fmt: skip
layers = st.lists(descriptors, max_size=3).map(tuple)


def code(call: object, *args: object) -> str:
    with pytest.raises(UserError) as caught:
        call(*args)  # type: ignore[operator]
    assert caught.value.exit_code == 1
    return caught.value.code


# Digests


def test_the_digest_of_nothing() -> None:
    assert sha256(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@given(st.binary(max_size=50))
def test_digests_are_well_formed(data: bytes) -> None:
    assert is_digest(sha256(data)) and parse_digest(sha256(data))[0] == "sha256"


@pytest.mark.parametrize(
    "text",
    ["", "sha256:", DIGEST[:-1], DIGEST + "0", DIGEST.upper(), DIGEST + "\n", "md5:" + "0" * 32, "sha512:" + "0" * 64,
     "sha256:" + "../" * 21 + "0", " " + DIGEST, "0" * 64],
)  # fmt: skip
def test_what_is_no_digest(text: str) -> None:
    assert not is_digest(text)
    assert code(parse_digest, text) == "invalid-digest"


# Platforms


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("linux/amd64", "linux/amd64"), ("amd64", "linux/amd64"), ("x86_64", "linux/amd64"), ("LINUX/AARCH64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"), ("arm", "linux/arm/v7"), ("linux/arm/6", "linux/arm/v6"), ("armhf", "linux/arm/v7"),
        ("armel", "linux/arm/v6"), ("windows/amd64", "windows/amd64"), ("linux/amd64/v3", "linux/amd64/v3"),
    ],
)  # fmt: skip
def test_platforms_are_normalised(text: str, shown: str) -> None:
    assert str(parse_platform(text)) == shown
    assert parse_platform(shown) == parse_platform(text)


@pytest.mark.parametrize("text", ["", "/", "linux/", "a/b/c/d", "linux//v7"])
def test_what_is_no_platform(text: str) -> None:
    assert code(parse_platform, text) == "invalid-platform"


def test_an_operating_system_alone_means_this_architecture() -> None:
    assert parse_platform("linux") == host_platform()


def test_which_platforms_match() -> None:
    arm, arm64 = parse_platform("linux/arm/v6"), parse_platform("linux/arm64")
    assert matches(arm, arm) and matches(arm, Platform("linux", "arm"))
    assert not matches(arm, parse_platform("linux/arm/v7")) and not matches(arm64, arm)
    assert matches(Platform("linux", "arm64", "v8"), arm64)
    assert not matches(Platform("windows", "arm64"), arm64)


# Descriptors


@given(descriptors)
def test_descriptors_come_back(made: Descriptor) -> None:
    assert msgspec.json.decode(msgspec.json.encode(made), type=Descriptor) == made


def test_the_spelling_of_descriptors() -> None:
    made = Descriptor(
        media_type="a", digest=DIGEST, size=1, artifact_type="b", platform=Platform("w", "x", os_version="1")
    )
    assert msgspec.to_builtins(made) == {
        "mediaType": "a", "digest": DIGEST, "size": 1, "artifactType": "b",
        "platform": {"os": "w", "architecture": "x", "os.version": "1"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("media_type", "codec"),
    [
        (media.LAYER_TAR, "none"), (media.LAYER_GZIP, "gzip"), (media.LAYER_ZSTD, "zstd"), (media.DOCKER_LAYER_TAR, "none"),
        (media.DOCKER_LAYER_GZIP, "gzip"), (media.DOCKER_LAYER_ZSTD, "zstd"),
    ],
)  # fmt: skip
def test_codecs(media_type: str, codec: str) -> None:
    assert layer_codec(media_type) == codec


# Manifests and indexes


@given(descriptors, layers, st.none() | descriptors, labels)
def test_manifests_come_back(
    config: Descriptor, blobs: tuple[Descriptor, ...], subject: Descriptor | None, notes: dict[str, str]
) -> None:
    made = Manifest(
        schema_version=2,
        media_type=media.MANIFEST,
        config=config,
        layers=blobs,
        subject=subject,
        annotations=notes,
    )
    assert parse(encode(made)) == made
    assert encode(parse(encode(made))) == encode(made)


@given(layers, labels)
def test_indexes_come_back(children: tuple[Descriptor, ...], notes: dict[str, str]) -> None:
    made = Index(schema_version=2, media_type=media.INDEX, manifests=children, annotations=notes)
    assert parse(encode(made)) == made


def test_the_order_of_annotations_does_not_matter() -> None:
    def made(notes: dict[str, str]) -> bytes:
        return encode(Index(schema_version=2, manifests=(), annotations=notes))

    assert made({"a": "1", "b": "2"}) == made({"b": "2", "a": "1"})


@pytest.mark.parametrize("media_type", ["", media.MANIFEST, media.DOCKER_MANIFEST])
def test_a_manifest_need_not_state_its_media_type(media_type: str) -> None:
    found = parse(msgspec.json.encode(MANIFEST), media_type)
    assert isinstance(found, Manifest) and found.media_type == ""


@pytest.mark.parametrize("media_type", ["", media.INDEX, media.DOCKER_INDEX])
def test_an_index_need_not_state_its_media_type(media_type: str) -> None:
    assert isinstance(parse(msgspec.json.encode(INDEX), media_type), Index)


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        ({**MANIFEST, **INDEX}, ""),
        ({**MANIFEST, **INDEX}, media.MANIFEST),
        ({**MANIFEST, **INDEX}, media.INDEX),
        (MANIFEST, media.INDEX),
        (INDEX, media.MANIFEST),
        ({**MANIFEST, "mediaType": media.INDEX}, ""),
        ({**MANIFEST, "mediaType": media.MANIFEST}, media.DOCKER_MANIFEST),
        ({**INDEX, "mediaType": media.INDEX}, media.MANIFEST),
        ({**MANIFEST, "schemaVersion": 1}, ""),
        ({**MANIFEST, "schemaVersion": 3}, media.MANIFEST),
        ({**MANIFEST, "schemaVersion": "2"}, ""),
        ({"config": CONFIG, "layers": []}, ""),
        ({"schemaVersion": 2, "layers": []}, ""),
        ({"schemaVersion": 2, "config": CONFIG}, ""),
        ({**MANIFEST, "layers": None}, ""),
        ({**MANIFEST, "config": {**CONFIG, "digest": "sha256:../../etc"}}, ""),
        ({**MANIFEST, "layers": [{**CONFIG, "digest": ""}]}, ""),
        ({**MANIFEST, "layers": [{**CONFIG, "size": -1}]}, ""),
        ({**MANIFEST, "layers": [{**CONFIG, "size": "1"}]}, ""),
        ({**MANIFEST, "subject": {**CONFIG, "digest": "x"}}, ""),
        ({**INDEX, "manifests": [{**CONFIG, "digest": DIGEST + "0"}]}, ""),
        ([], ""), (None, ""), ("text", ""), ({}, ""),
    ],
)  # fmt: skip
def test_what_is_no_manifest(document: object, media_type: str) -> None:
    assert code(parse, msgspec.json.encode(document), media_type) == "invalid-manifest"


@pytest.mark.parametrize("media_type", ["", "application/vnd.docker.distribution.manifest.v1+prettyjws"])
def test_schema_1_is_refused_by_its_name(media_type: str) -> None:
    document = {"schemaVersion": 1, "name": "a", "fsLayers": [], "history": [], "signatures": []}
    assert code(parse, msgspec.json.encode(document), media_type) == "schema-1-manifest"


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"schemaVersion":2,"config":"\xff"}', b"<html>"]
)
def test_what_is_no_json(data: bytes) -> None:
    assert code(parse, data) == "invalid-manifest"


# Configs

strings = st.lists(texts, max_size=3).map(tuple)
sets: st.SearchStrategy[dict[str, dict[str, str]]] = st.dictionaries(texts, st.just({}), max_size=2)
executions = st.builds(
    Execution, user=texts, exposed_ports=sets, env=strings, entrypoint=st.none() | strings, cmd=st.none() | strings,
    volumes=sets, working_dir=texts, labels=labels, stop_signal=texts, args_escaped=st.booleans(), on_build=strings,
    shell=strings, healthcheck=st.none() | st.builds(Healthcheck, test=strings, interval=st.integers(0, 1 << 60)),
)  # fmt: skip
configs = st.builds(
    ImageConfig, created=texts, author=texts, architecture=texts, variant=texts, os=texts, os_version=texts,
    config=executions, rootfs=st.builds(RootFS, diff_ids=st.lists(digests, max_size=2).map(tuple)),
    history=st.lists(st.builds(History, created_by=texts, empty_layer=st.booleans()), max_size=2).map(tuple),
)  # fmt: skip


@given(configs)
def test_configs_come_back(made: ImageConfig) -> None:
    data = image_config.encode(made)
    assert image_config.parse(data) == made
    assert image_config.encode(image_config.parse(data)) == data


def test_what_docker_writes_as_null_is_absent() -> None:
    fields: dict[str, Any] = {
        "architecture": "amd64", "os": "linux", "author": None, "history": None, "created": "2000-01-01T00:00:00Z",
        "rootfs": {"type": "layers", "diff_ids": None},
        "config": {
            "Env": None, "Cmd": None, "Entrypoint": None, "Volumes": None, "Labels": None, "OnBuild": None,
            "ExposedPorts": {"80/tcp": {}}, "Healthcheck": None, "Hostname": "ignored", "Tty": False, "Image": "",
        },
        "container_config": {"Cmd": ["x"]}, "docker_version": "1.0",
    }  # fmt: skip
    found = image_config.parse(msgspec.json.encode(fields))
    assert found == ImageConfig(
        architecture="amd64", os="linux", created="2000-01-01T00:00:00Z",
        config=Execution(exposed_ports={"80/tcp": {}}),
    )  # fmt: skip


def test_no_command_and_an_empty_one_differ() -> None:
    def command(value: object) -> object:
        fields = {"architecture": "a", "os": "b", "config": {"Cmd": value}}
        return image_config.parse(msgspec.json.encode(fields)).config.cmd

    assert command(None) is None and command([]) == () and command(["a"]) == ("a",)


def test_the_parts_that_must_be_there_are_written() -> None:
    fields = msgspec.json.decode(image_config.encode(ImageConfig(architecture="amd64", os="linux")))
    assert fields["config"] == {} and fields["rootfs"] == {"type": "layers", "diff_ids": []}


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"null", b"{}", b"\xff", b'{"architecture":1,"os":"b"}', b"[" * 100_000, b'{"os":"a"}'],
)
def test_what_is_no_config(data: bytes) -> None:
    assert code(image_config.parse, data) == "invalid-image-config"
