"""Images checked: documents as the specification's own schemas see them, and every fault found by its kind."""

from __future__ import annotations

import copy
import gzip
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arkwright.images import schema, validate
from arkwright.images.places import parse_place
from arkwright.images.validate import Validation, validate_place
from arkwright.oci.descriptor import Descriptor
from arkwright.store.store import Store
from looking import Layout, digest_of, emptied, entry, folder, gone, hardlink, symlink, tar

SCHEMAS = Path("/usr/share/gocode/src/github.com/opencontainers/image-spec/schema")
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"

GOOD = tar(folder("d"), entry("d/a", b"a"), symlink("d/l", "../d/a"), hardlink("d/h", "d/a"))
UPPER = tar(gone("d/a"), folder("d"), entry("d/b", b"b"), entry("x", b""))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


@pytest.fixture
def check(store: Store, layout: Layout) -> Callable[..., list[tuple[str, str]]]:
    """`check(descriptor)`: the findings' kinds and places, of content that is put into the store whatever
    it is."""

    def run(descriptor: dict[str, Any]) -> list[tuple[str, str]]:
        return [(finding.kind, finding.where) for finding in checked(store, layout, descriptor).findings]

    return run


def checked(store: Store, layout: Layout, descriptor: dict[str, Any]) -> Validation:
    for path in (layout.path / "blobs/sha256").iterdir():
        target = Path(store.content.path(f"sha256:{path.name}"))
        if not target.exists():
            target.write_bytes(path.read_bytes())
    root = Descriptor(
        media_type=descriptor["mediaType"], digest=descriptor["digest"], size=descriptor["size"]
    )
    return validate.validate_image(store, root)


def test_a_sound_image_has_no_findings(store: Store, layout: Layout) -> None:
    for packed in (True, False):
        found = checked(store, layout, layout.add("", [GOOD, UPPER], packed=packed))
        assert (found.findings, found.documents, found.layers, found.entries) == ((), 2, 2, 8)


@pytest.mark.parametrize(
    ("kind", "where", "layer"),
    [
        ("duplicate-entry", "/d/b", tar(entry("d/b", b"1"), entry("d/b", b"2"))),
        ("duplicate-entry", "/d/", tar(folder("d"), entry("d/z", b""), folder("d"))),
        ("duplicate-entry", "/d/l", tar(hardlink("d/l", "d/a"), entry("d/l", b""))),
        ("whiteout-of-nothing", "/none", tar(gone("none"))),
        ("whiteout-of-nothing", "/none/x", tar(gone("none/x"))),
        ("whiteout-of-nothing", "/d/l", tar(gone("d/l"), gone("d/l"))),
        ("path-escapes-root", "", tar(entry("../x", b""))),
        ("path-escapes-root", "", tar(hardlink("x", "../../etc/passwd"))),
        ("missing-link-target", "", tar(hardlink("x", "nowhere"))),
        ("not-a-directory", "", tar(entry("d/a/x", b""))),
        ("name-too-long", "/" + "n" * 256, tar(entry("n" * 256, b""))),
        ("reserved-name", "", tar(entry(".wh.x/y", b""))),
        ("invalid-archive", "", b"no tar at all" * 100),
        ("truncated-archive", "", GOOD[:700]),
    ],
)
def test_what_a_layer_says(
    check: Callable[..., list[tuple[str, str]]], layout: Layout, kind: str, where: str, layer: bytes
) -> None:
    found = check(layout.add("", [GOOD, layer]))
    assert found == [(kind, where.rstrip("/"))]


def test_all_findings_are_listed(check: Callable[..., list[tuple[str, str]]], layout: Layout) -> None:
    """One image with many faults, and later layers that build on what could not be read."""
    broken = tar(entry("m", b""), entry("../x", b""))
    last = tar(gone("m"), gone("from-broken"), hardlink("a", "b"), hardlink("b", "c"), emptied("d"))
    image = layout.add(
        "", [GOOD, broken, last, UPPER],
        config={"history": [{"created_by": "x"}, {"empty_layer": True}], "os": 7, "config": {"Env": "A=1"}},
        manifest={"annotations": {"a": 1}},
    )  # fmt: skip
    assert sorted(check(image)) == sorted(
        [
            ("invalid-manifest", "annotations.a"), ("invalid-config", "os"), ("invalid-config", "config.Env"),
            ("history-count", "history"), ("path-escapes-root", ""), ("missing-link-target", ""),
            ("missing-link-target", ""),
        ]
    )  # fmt: skip


def test_digests_sizes_and_counts(check: Callable[..., list[tuple[str, str]]], layout: Layout) -> None:
    other = {"rootfs": {"type": "layers", "diff_ids": [digest_of(b"other")]}}
    assert check(layout.add("", [GOOD], config=other)) == [("diff-id-mismatch", "")]
    more = {"rootfs": {"type": "layers", "diff_ids": [digest_of(GOOD)] * 2}}
    assert check(layout.add("", [GOOD], config=more)) == [("diff-id-count", "rootfs.diff_ids")]
    packed = gzip.compress(GOOD, mtime=1)
    layer = layout.put(packed, GZIP)
    bad_size = {**layer, "size": layer["size"] + 1}
    ids = {"rootfs": {"type": "layers", "diff_ids": [digest_of(GOOD)]}, "history": []}
    assert check(layout.add("", [], config=ids, manifest={"layers": [bad_size]})) == [("size-mismatch", "")]
    as_zstd = {**layer, "mediaType": GZIP.replace("gzip", "zstd")}
    assert check(layout.add("", [], config=ids, manifest={"layers": [as_zstd]})) == [
        ("compression-mismatch", ""), ("corrupt-archive", ""),
    ]  # fmt: skip
    short = layout.put(packed[:-9], GZIP)
    assert check(layout.add("", [], config=ids, manifest={"layers": [short]})) == [("corrupt-archive", "")]
    absent = {**layer, "digest": digest_of(b"absent")}
    assert check(layout.add("", [], config=ids, manifest={"layers": [absent]})) == [("missing-blob", "")]


def test_a_store_with_damaged_blobs(store: Store, layout: Layout) -> None:
    descriptor = layout.add("", [GOOD])
    checked(store, layout, descriptor)
    document = json.loads(layout.blob(descriptor["digest"]).read_bytes())
    for digest in (document["layers"][0]["digest"], document["config"]["digest"], descriptor["digest"]):
        path = Path(store.content.path(digest))
        sound = path.read_bytes()
        path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
        root = Descriptor(
            media_type=descriptor["mediaType"], digest=descriptor["digest"], size=descriptor["size"]
        )
        kinds = {(one.kind, one.digest) for one in validate.validate_image(store, root).findings}
        assert ("digest-mismatch", digest) in kinds
        path.write_bytes(sound)


def test_indexes(check: Callable[..., list[tuple[str, str]]], layout: Layout, store: Store) -> None:
    image = layout.add("", [GOOD], config={"architecture": "arm64", "os": "linux"})
    kind = "application/vnd.oci.image.index.v1+json"

    def index(*children: dict[str, Any], **fields: Any) -> dict[str, Any]:
        document = {"schemaVersion": 2, "mediaType": kind, "manifests": children, **fields}
        return layout.put(json.dumps(document).encode(), kind)

    arm = {**image, "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}}
    absent = {
        **image,
        "digest": digest_of(b"elsewhere"),
        "platform": {"os": "linux", "architecture": "s390x"},
    }
    assert check(index(arm, absent)) == []
    wrong = {**image, "platform": {"os": "linux", "architecture": "amd64"}}
    assert check(index(wrong)) == [("platform-mismatch", "architecture")]
    assert check(index(arm, schemaVersion=1)) == [("invalid-index", "schemaVersion")]
    assert check(index({**image, "platform": {"os": "linux"}})) == [
        ("invalid-index", "manifests[0].platform.architecture")
    ]
    assert check({**index(arm), "mediaType": image["mediaType"]}) == [("media-type-mismatch", "mediaType")]
    nested = image
    for _ in range(5):
        nested = index(nested)
    assert check(nested) == [("nested-too-deeply", "manifests")]
    assert check(layout.put(b"[]", kind)) == [("not-json", "")]
    assert check(layout.put(b"{", kind)) == [("not-json", "")]


def test_findings_are_bounded(store: Store, layout: Layout) -> None:
    found = checked(store, layout, layout.add("", [tar(*(gone(f"n{number}") for number in range(1500)))]))
    assert (len(found.findings), found.more, found.is_valid) == (1000, 500, False)


def test_a_layout_with_a_damaged_blob(store: Store, layout: Layout) -> None:
    """What stops the copy into the store is a finding too."""
    layout.add("x", [GOOD])
    (layer,) = json.loads(layout.blob(layout._entries[0]["digest"]).read_bytes())["layers"]
    layout.blob(layer["digest"]).write_bytes(b"damaged")
    found = validate_place(store, parse_place(f"oci:{layout.path}:x"))
    assert [finding.kind for finding in found.findings] == ["corrupt-blob"]


# --- the documents, against the schemas of the specification ---

CONFIG: dict[str, Any] = {
    "created": "2024-02-29T23:59:60.5+01:00", "author": "a", "architecture": "arm64", "variant": "v8", "os": "linux",
    "os.version": "1", "os.features": ["x"], "unknown": 1,
    "config": {
        "User": "1:2", "ExposedPorts": {"80/tcp": {}}, "Env": ["A=1"], "Entrypoint": ["x"], "Cmd": None,
        "Volumes": {"/v": {}}, "WorkingDir": "/", "Labels": {"a": "b"}, "StopSignal": "TERM", "ArgsEscaped": True,
        "Healthcheck": {"Test": ["NONE"]},
    },
    "rootfs": {"type": "layers", "diff_ids": [digest_of(b"1")]},
    "history": [{"created": "2000-01-01T00:00:00Z", "created_by": "x", "author": "", "comment": "", "empty_layer": True}],
}  # fmt: skip
DESCRIPTOR: dict[str, Any] = {
    "mediaType": "application/vnd.example.layer.v1.tar+gzip", "digest": digest_of(b"2"), "size": 7,
    "urls": ["https://example.org/x"], "annotations": {"a": "b"},
}  # fmt: skip
MANIFEST: dict[str, Any] = {
    "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": DESCRIPTOR,
    "layers": [DESCRIPTOR, DESCRIPTOR], "annotations": {"a": "b"}, "unknown": [],
}  # fmt: skip
INDEX: dict[str, Any] = {
    "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "annotations": {"a": "b"},
    "manifests": [
        {**DESCRIPTOR, "platform": {"os": "linux", "architecture": "arm", "variant": "v7", "os.version": "1", "os.features": ["x"]}}
    ],
}  # fmt: skip
DOCUMENTS: dict[str, tuple[dict[str, Any], Callable[[Any], Iterator[schema.Problem]], str]] = {
    "config": (CONFIG, schema.check_config, "config-schema.json"),
    "manifest": (MANIFEST, schema.check_manifest, "image-manifest-schema.json"),
    "index": (INDEX, schema.check_index, "image-index-schema.json"),
}
WRONG: tuple[Any, ...] = (
    None,
    0,
    -1,
    3,
    1.5,
    True,
    "",
    "x",
    "a b/c",
    "sha256:0",
    [],
    [1],
    [None],
    {},
    {"a": 1},
    {"a": {}},
)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a document."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*at, key))


def changed(document: Any, at: tuple[Any, ...], value: Any) -> Any:
    """The document with another value at a place; without it if the value is `...`."""
    if not at:
        return value
    new = copy.deepcopy(document)
    part = new
    for key in at[:-1]:
        part = part[key]
    if value is ...:
        del part[at[-1]]
    else:
        part[at[-1]] = value
    return new


@pytest.mark.skipif(not SCHEMAS.is_dir(), reason="needs-schemas: golang-github-opencontainers-image-spec-dev")
@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_are_judged_as_by_the_schemas(name: str) -> None:
    """Each field removed, and set to anything: what the schema refuses is found. What is found and the
    schema allows is what the specification's text demands beyond it."""
    judge = validator(DOCUMENTS[name][2])
    document, ours, _ = DOCUMENTS[name]
    assert judge.is_valid(document) and list(ours(document)) == []
    chance = random.Random(name)
    stricter = 0
    for at in places(document):
        for value in (..., *WRONG):
            if value is ... and not at:
                continue
            one = changed(document, at, value)
            others = [where for where in places(one) if where]
            if others and chance.random() < 0.2:
                where = chance.choice(others)
                one = changed(one, where, chance.choice(WRONG))
            refused, found = not judge.is_valid(one), list(ours(one))
            if isinstance(one, dict) and one.get("layers") == []:
                # Images without layers are allowed by the text ("SHOULD have at least one entry").
                continue
            if refused:
                assert found, (at, value)
            stricter += bool(found and not refused)
    assert stricter


def test_whatever_the_documents_say_they_are_judged(store: Store, layout: Layout) -> None:
    """Manifest, config and layer with anything in the place of anything: findings, never a fault of ours."""
    chance = random.Random("documents")
    image = layout.add("", [GOOD])
    manifest = json.loads(layout.blob(image["digest"]).read_bytes())
    config = json.loads(layout.blob(manifest["config"]["digest"]).read_bytes())
    refused = 0
    for _ in range(100):
        other = changed(config, chance.choice(list(places(config))), chance.choice(WRONG))
        mangled = bytearray(GOOD)
        at = chance.randrange(len(mangled))
        mangled[at : at + chance.randint(0, 600)] = chance.randbytes(chance.randint(0, 600))
        named = {
            "config": layout.put(json.dumps(other).encode(), manifest["config"]["mediaType"]),
            "layers": [layout.put(gzip.compress(chance.choice([GOOD, bytes(mangled)])), GZIP)],
        }
        document = changed(
            {**manifest, **named}, *chance.choice([((), {**manifest, **named}), (("layers", 0, "size"), -1)])
        )
        if chance.random() < 0.5:
            document = changed(document, chance.choice(list(places(document))), chance.choice(WRONG))
        data = json.dumps(document).encode()
        root = {**layout.put(data, image["mediaType"])}
        refused += bool(checked(store, layout, root).findings)
    assert refused > 60


@pytest.mark.parametrize(
    ("document", "where"),
    [
        (changed(MANIFEST, ("layers", 0, "size"), -1), "layers[0].size"),
        (changed(MANIFEST, ("config", "digest"), "sha256:ABC"), "config.digest"),
        (changed(MANIFEST, ("config", "digest"), "sha256:" + "A" * 64), "config.digest"),
        (changed(MANIFEST, ("layers", 1, "mediaType"), "text"), "layers[1].mediaType"),
        (changed(MANIFEST, ("subject",), {}), "subject.mediaType"),
        (changed(CONFIG, ("created",), "yesterday"), "created"),
        (changed(CONFIG, ("created",), "2024-13-01T00:00:00Z"), "created"),
        (changed(CONFIG, ("rootfs", "diff_ids"), ["x"]), "rootfs.diff_ids[0]"),
        (changed(CONFIG, ("history", 0, "created"), "2000-01-01 00:00:00"), "history[0].created"),
    ],
)  # fmt: skip
def test_what_the_text_of_the_specification_demands(document: dict[str, Any], where: str) -> None:
    check = schema.check_manifest if "layers" in document else schema.check_config
    assert where in [place for place, _ in check(document)]


def validator(name: str) -> Any:
    from jsonschema import Draft4Validator
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT4

    def retrieve(uri: str) -> Resource[Any]:
        # The schemas name each other by file name, whatever their ids say.
        data = (SCHEMAS / uri.rsplit("/", 1)[-1]).read_bytes()
        return Resource.from_contents(json.loads(data), default_specification=DRAFT4)

    registry: Any = Registry(retrieve=retrieve)  # type: ignore[call-arg]
    return Draft4Validator(json.loads((SCHEMAS / name).read_bytes()), registry=registry)
