"""How commands name images: names, digests, beginnings of digests, and what they say otherwise."""

from __future__ import annotations

import itertools

import pytest
from imaging import AMD64, ARM64, config_of, manifest_of, put_blob, put_image, put_index, refused

from arkwright.images.references import describe, is_index, resolve
from arkwright.oci import manifest as image_manifest
from arkwright.oci.descriptor import CONFIG, MANIFEST, Descriptor
from arkwright.oci.digest import sha256
from arkwright.oci.manifest import Manifest
from arkwright.store.store import Store

APP = "docker.io/library/app:1"
NOTHING = "sha256:" + "0" * 64


@pytest.fixture
def app(store: Store) -> Descriptor:
    return put_image(store, APP, label="app")


@pytest.mark.parametrize("text", ["app:1", "library/app:1", "docker.io/app:1", "docker.io/library/app:1"])
def test_every_spelling_of_a_name(store: Store, app: Descriptor, text: str) -> None:
    found = resolve(store, text)
    assert (found.descriptor, found.name) == (app, APP)


def test_a_name_with_a_digest(store: Store, app: Descriptor) -> None:
    for text in (f"app@{app.digest}", f"app:1@{app.digest}", f"docker.io/library/app:9@{app.digest}"):
        assert resolve(store, text).digest == app.digest
    with refused("unknown-image", NOTHING):
        resolve(store, f"app@{NOTHING}")
    with refused("unknown-image"):
        resolve(store, f"other@{app.digest}")


def test_a_name_that_has_a_digest(store: Store) -> None:
    image = put_image(store)
    name = f"docker.io/library/pinned@{image.digest}"
    store.names.set(name, image)
    assert resolve(store, f"pinned@{image.digest}").name == name


def test_digests_of_manifest_and_config(store: Store, app: Descriptor) -> None:
    config = manifest_of(store, app).config.digest
    for digest in (app.digest, config):
        for text in (digest, digest[7:], digest[7:13], digest[:20]):
            found = resolve(store, text)
            assert (found.descriptor, found.name) == (app, APP), text


def test_digests_of_an_image_without_a_name(store: Store) -> None:
    image = put_image(store, label="unnamed")
    config = manifest_of(store, image).config.digest
    for text in (image.digest, image.digest[7:15], config, config[7:15]):
        found = resolve(store, text)
        assert (found.descriptor, found.name) == (image, "")


def test_a_layer_or_another_blob_is_no_image(store: Store, app: Descriptor) -> None:
    layer = manifest_of(store, app).layers[0].digest
    stray = store.content.write(b'{"schemaVersion": 2}')
    for text in (layer, layer[7:17], stray, stray[7:17]):
        with refused("unknown-image"):
            resolve(store, text)
    assert describe(store.content, layer) is None


def test_digests_below_an_index(store: Store) -> None:
    one, two = put_image(store, platform=AMD64), put_image(store, platform=ARM64)
    children = [
        Descriptor(media_type=child.media_type, digest=child.digest, size=child.size, platform=platform)
        for child, platform in ((one, AMD64), (two, ARM64))
    ]
    index = put_index(store, children, APP)
    assert resolve(store, "app:1").descriptor == index
    assert is_index(store.content, index) and not is_index(store.content, one)
    for child in (one, two):
        config = manifest_of(store, child).config.digest
        for text in (child.digest, child.digest[7:15], config, f"app@{child.digest}"):
            # Not a word of what the index says about it.
            assert (resolve(store, text).descriptor, resolve(store, text).name) == (child, "")


def test_five_digits_are_no_digest(store: Store, app: Descriptor) -> None:
    with refused("unknown-image"):
        resolve(store, app.digest[7:12])


def test_a_name_wins_over_the_beginning_of_a_digest(store: Store, app: Descriptor) -> None:
    other = put_image(store, f"docker.io/library/{app.digest[7:15]}:latest", label="other")
    assert resolve(store, app.digest[7:15]).descriptor == other
    assert resolve(store, app.digest[:15]).descriptor == app


def same_beginning(store: Store) -> tuple[Descriptor, Descriptor]:
    """Two images whose digests have six digits in common."""
    config = put_blob(store, config_of([]), CONFIG)
    seen: dict[str, tuple[bytes, str]] = {}
    for number in itertools.count():
        manifest = Manifest(
            schema_version=2, media_type=MANIFEST, config=config, layers=(), annotations={"n": str(number)}
        )
        data = image_manifest.encode(manifest)
        digest = sha256(data)
        if digest[:13] in seen:
            return put_blob(store, seen[digest[:13]][0], MANIFEST), put_blob(store, data, MANIFEST)
        seen[digest[:13]] = (data, digest)
    raise AssertionError


@pytest.mark.parametrize("naming", ["names", "index", "none"])
def test_an_ambiguous_beginning_names_the_candidates(store: Store, naming: str) -> None:
    one, two = same_beginning(store)
    if naming == "names":
        store.names.set("docker.io/library/one:latest", one)
        store.names.set("docker.io/library/two:latest", two)
    elif naming == "index":
        put_index(store, (one, two), APP)
    with refused("ambiguous-image", one.digest, two.digest):
        resolve(store, one.digest[7:13])
    with refused("ambiguous-image"):
        resolve(store, one.digest[:13])
    assert resolve(store, one.digest[7:30]).descriptor == one


def test_one_image_under_two_names_is_not_ambiguous(store: Store, app: Descriptor) -> None:
    store.names.set("docker.io/library/more:latest", app)
    assert resolve(store, app.digest[7:13]).descriptor == app


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("ap:1", "app:1"),
        ("app:2", "app:1"),
        ("app", "app:1"),
        ("debain:bookworm", "debian:bookworm"),
        ("debian", "debian:bookworm"),
        ("localhost:5000/tol", "localhost:5000/tool:7"),
        ("r.example/taem/x", "r.example/team/x:latest"),
    ],
)
def test_the_near_name(store: Store, app: Descriptor, text: str, meant: str) -> None:
    for name in ("docker.io/library/debian:bookworm", "localhost:5000/tool:7", "r.example/team/x:latest"):
        store.names.set(name, app)
    with refused("unknown-image", text, f"did you mean {meant}?"):
        resolve(store, text)
    assert resolve(store, meant).name


def test_a_misspelt_transport_is_a_name_that_nothing_has(store: Store, app: Descriptor) -> None:
    with refused("unknown-image", "did you mean containers-storage:app?"):
        resolve(store, "containers-storge:app")
    # A name may look like one.
    store.names.set("docker.io/library/docker-demo:1", app)
    assert resolve(store, "docker-demo:1").name


def test_nothing_is_near(store: Store, app: Descriptor) -> None:
    with refused("unknown-image", "arkwright pull"):
        resolve(store, "entirely-different")


@pytest.mark.parametrize("text", ["", "App", "a b", "app:", "app@sha256:12", "-x", "sha256:"])
def test_what_is_no_reference(store: Store, text: str) -> None:
    with refused("invalid-reference"):
        resolve(store, text)


def test_a_damaged_image_does_not_hide_the_others(store: Store, app: Descriptor) -> None:
    broken = put_blob(store, b'{"schemaVersion": 1}', MANIFEST)
    gone = Descriptor(media_type=MANIFEST, digest=NOTHING, size=3)
    store.names.set("docker.io/library/aaa-broken:1", broken)
    store.names.set("docker.io/library/aab-gone:1", gone)
    config = manifest_of(store, app).config.digest
    assert resolve(store, config[7:17]).descriptor == app
    assert resolve(store, broken.digest[7:17]).name == "docker.io/library/aaa-broken:1"
    assert resolve(store, NOTHING).descriptor == gone
