from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from sources_images import attestation, image, index
from sources_suite import check_image_source, one_layer

from arkwright.diagnostics.errors import RemoteError, UserError
from arkwright.graph.ops import SourceOp
from arkwright.oci.descriptor import REF_NAME, Descriptor
from arkwright.oci.layout import Layout
from arkwright.oci.manifest import Index
from arkwright.oci.platform import Platform
from arkwright.sources.image import StoreImageSource, split_layout
from arkwright.store.store import Store

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
ARM7, ARM6 = Platform("linux", "arm", "v7"), Platform("linux", "arm", "v6")


@pytest.fixture
def source(store: Store) -> Iterator[StoreImageSource]:
    made = StoreImageSource(store)
    yield made
    made.close()


def op(identifier: str, mode: str = "") -> SourceOp:
    return SourceOp(identifier=identifier, attrs=(("resolve-mode", mode),) if mode else ())


def named(name: str, mode: str = "never") -> SourceOp:
    return op(f"docker-image://{name}", mode)


def make_layout(path: Path, tag: str = "v1") -> tuple[Layout, dict[str, Descriptor]]:
    """A layout with an index for several platforms and an attestation."""
    layout = Layout.create(str(path))

    def put(data: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        Path(layout.blob_path(digest)).write_bytes(data)
        return digest

    images = {str(one): image(put, f"for {one}", one) for one in (AMD64, ARM64, ARM7, ARM6)}
    first = images["linux/amd64"]
    root = index(put, [attestation(put, first), *images.values()])
    named_root = msgspec.structs.replace(root, annotations={REF_NAME: tag})
    layout.write_index(Index(schema_version=2, manifests=(named_root,)))
    return layout, {**images, "root": root}


@pytest.mark.parametrize(
    ("text", "path", "selector"),
    [
        ("/a/b", "/a/b", ""),
        ("/a/b:tag", "/a/b", "tag"),
        ("/a/b@sha256:" + "0" * 64, "/a/b", "sha256:" + "0" * 64),
        ("/a/b:tag@sha256:" + "0" * 64, "/a/b", "sha256:" + "0" * 64),
        ("/a:b/c", "/a:b/c", ""),
        ("/a@b/c:t", "/a@b/c", "t"),
    ],
)
def test_layout_names(text: str, path: str, selector: str) -> None:
    assert split_layout(text) == (path, selector)


def test_a_directory_that_looks_like_a_tag(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    assert split_layout(f"{tmp_path}/a:b") == (f"{tmp_path}/a:b", "")


# Layouts


def test_suite_of_layouts(store: Store, source: StoreImageSource, tmp_path: Path) -> None:
    _, images = make_layout(tmp_path / "layout")
    found = check_image_source(source, op(f"oci-layout://{tmp_path}/layout:v1"), AMD64, store.content.has)
    assert found.manifest.digest == images["linux/amd64"].digest
    assert found.digest == images["root"].digest
    assert str(tmp_path) not in found.key + found.uri + found.reference


@pytest.mark.parametrize("want", [AMD64, ARM64, ARM7, ARM6])
def test_the_platform_is_picked(source: StoreImageSource, tmp_path: Path, want: Platform) -> None:
    _, images = make_layout(tmp_path / "layout")
    found = source.pin(op(f"oci-layout://{tmp_path}/layout"), want)
    assert found.manifest.digest == images[str(want)].digest


def test_no_matching_platform_lists_what_there_is(source: StoreImageSource, tmp_path: Path) -> None:
    make_layout(tmp_path / "layout")
    with pytest.raises(UserError) as caught:
        source.pin(op(f"oci-layout://{tmp_path}/layout"), Platform("linux", "s390x"))
    assert caught.value.code == "no-matching-platform"
    hint = caught.value.diagnostics[0].hint or ""
    assert "linux/amd64, linux/arm/v6, linux/arm/v7, linux/arm64" in hint and "unknown" not in hint


def test_layouts_by_digest(source: StoreImageSource, tmp_path: Path) -> None:
    _, images = make_layout(tmp_path / "layout")
    for name in ("root", "linux/amd64"):
        found = source.pin(op(f"oci-layout://{tmp_path}/layout@{images[name].digest}"), AMD64)
        assert found.manifest.digest == images["linux/amd64"].digest


@pytest.mark.parametrize(
    ("suffix", "code"),
    [
        ("layout:v2", "unknown-image"),
        ("nothing", "not-an-oci-layout"),
        ("layout@sha256:" + "0" * 64, "unknown-image"),
    ],
)
def test_layouts_that_lack_the_image(
    source: StoreImageSource, tmp_path: Path, suffix: str, code: str
) -> None:
    make_layout(tmp_path / "layout")
    with pytest.raises(UserError) as caught:
        source.pin(op(f"oci-layout://{tmp_path}/{suffix}"), AMD64)
    assert caught.value.code == code


def test_a_corrupted_layer_is_refused(store: Store, source: StoreImageSource, tmp_path: Path) -> None:
    layout, _ = make_layout(tmp_path / "layout")
    pinned = source.pin(op(f"oci-layout://{tmp_path}/layout"), AMD64)
    path = Path(layout.blob_path(one_layer(pinned).digest))
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        source.fetch(pinned, one_layer(pinned))
    assert caught.value.code == "corrupt-blob"
    assert not store.content.has(one_layer(pinned).digest)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError) as caught:
        source.fetch(pinned, one_layer(pinned))
    assert caught.value.code == "missing-blob"


def test_a_layer_is_found_where_another_image_came_from(
    store: Store, source: StoreImageSource, tmp_path: Path
) -> None:
    make_layout(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    first = source.pin(op(f"oci-layout://{tmp_path}/one"), AMD64)
    source.pin(op(f"oci-layout://{tmp_path}/two"), AMD64)
    shutil.rmtree(tmp_path / "one")
    # Another process, another source: the places are remembered by the store.
    StoreImageSource(store).fetch(first, one_layer(first))
    assert store.content.has(one_layer(first).digest)


def test_layers_and_diff_ids_must_agree(store: Store, source: StoreImageSource) -> None:
    made = image(store.content.write, "x", AMD64, diff_ids=["sha256:" + "0" * 64] * 2)
    store.names.set("docker.io/library/odd:latest", made)
    with pytest.raises(UserError) as caught:
        source.pin(named("odd"), AMD64)
    assert caught.value.code == "invalid-image-config"


# The local store


def test_suite_of_local_names(store: Store, source: StoreImageSource) -> None:
    made = image(store.content.write, "local", AMD64)
    store.names.set("docker.io/library/base:1", made)
    found = check_image_source(source, named("base:1", "default"), AMD64, store.content.has)
    assert found.reference == "docker.io/library/base:1"
    assert found.manifest.digest == made.digest


def test_local_images_by_digest(store: Store, source: StoreImageSource) -> None:
    made = image(store.content.write, "local", AMD64)
    for name in (made.digest, f"base@{made.digest}", f"host.example/base:9@{made.digest}"):
        assert source.pin(named(name), AMD64).manifest.digest == made.digest


def test_an_unknown_image_has_a_suggestion(store: Store, source: StoreImageSource) -> None:
    made = image(store.content.write, "local", AMD64)
    store.names.set("docker.io/library/debian:bookworm", made)
    for name, near in (
        ("debain:bookworm", "debian:bookworm"),
        ("debian:sid", "debian:bookworm"),
        ("x", "bootstrap"),
    ):
        with pytest.raises(UserError) as caught:
            source.pin(named(name), AMD64)
        assert caught.value.code == "unknown-image"
        assert near in (caught.value.diagnostics[0].hint or "")


def test_wrong_ops_are_refused(source: StoreImageSource) -> None:
    for wrong, code in (
        (named("x", "sometimes"), "invalid-source-attribute"),
        (op("https://x"), "unknown-source"),
        (named("UPPER CASE"), "invalid-reference"),
        (SourceOp(identifier="docker-image://x", attrs=(("color", "red"),)), "unknown-source-attribute"),
    ):
        with pytest.raises(UserError) as caught:
            source.pin(wrong, AMD64)
        assert caught.value.code == code


# Registries


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A docker-registry on loopback that holds test/app:v1; its host and port."""
    for tool in ("docker-registry", "skopeo"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs-{tool}: images over HTTP")
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {tmp_path}/registry}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    log = open(tmp_path / "registry.log", "wb")  # noqa: SIM115
    process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/v2/", process)
        make_layout(tmp_path / "pushed")
        subprocess.run(
            ["skopeo", "--insecure-policy", "copy", "--quiet", "--all", "--dest-tls-verify=false",
             f"oci:{tmp_path}/pushed:v1", f"docker://127.0.0.1:{port}/test/app:v1"],
            check=True,
        )  # fmt: skip
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
        log.close()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.URLError:
            assert process.poll() is None and time.monotonic() < deadline, "the registry did not start"
            time.sleep(0.02)


def test_suite_of_registries(store: Store, source: StoreImageSource, registry: str) -> None:
    found = check_image_source(source, named(f"{registry}/test/app:v1", "default"), ARM64, store.content.has)
    assert found.reference == f"{registry}/test/app:v1"


def test_pinning_fetches_no_layer(store: Store, source: StoreImageSource, registry: str) -> None:
    pinned = source.pin(named(f"{registry}/test/app:v1", "pull"), AMD64)
    assert not store.content.has(one_layer(pinned).digest)
    assert store.names.list() == []


def test_what_was_resolved_once_needs_no_registry(
    store: Store, source: StoreImageSource, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = source.pin(named(f"{registry}/test/app:v1", "default"), AMD64)
    later = StoreImageSource(store)
    monkeypatch.setattr(StoreImageSource, "_access", lambda self: pytest.fail("a registry was asked"))
    for mode in ("default", "never"):
        again = later.pin(named(f"{registry}/test/app:v1", mode), AMD64)
        assert (again.key, again.layers, again.reference) == (first.key, first.layers, first.reference)


def test_another_platform_of_a_known_index_is_asked_for(
    store: Store, source: StoreImageSource, registry: str
) -> None:
    name = f"{registry}/test/app:v1"
    first = source.pin(named(name, "default"), AMD64)
    with pytest.raises(UserError) as caught:
        source.pin(named(name, "never"), ARM64)
    assert caught.value.code == "missing-blob"
    assert source.pin(named(name, "default"), ARM64).manifest != first.manifest


def test_pull_asks_the_registry_first(store: Store, source: StoreImageSource, registry: str) -> None:
    name = f"{registry}/test/app:v1"
    made = image(store.content.write, "older", AMD64)
    store.names.set(name, made)
    assert source.pin(named(name, "default"), AMD64).manifest.digest == made.digest
    assert source.pin(named(name, "pull"), AMD64).manifest.digest != made.digest


def test_an_image_that_no_registry_has(source: StoreImageSource, registry: str) -> None:
    for name in (f"{registry}/test/app:v2", f"{registry}/none/such"):
        with pytest.raises(UserError) as caught:
            source.pin(named(name, "default"), AMD64)
        assert caught.value.code == "unknown-image"


def test_no_matching_platform_at_a_registry(source: StoreImageSource, registry: str) -> None:
    with pytest.raises(UserError) as caught:
        source.pin(named(f"{registry}/test/app:v1", "default"), Platform("linux", "s390x"))
    assert caught.value.code == "no-matching-platform"


def test_a_registry_that_is_not_there(store: Store) -> None:
    from arkwright.net.retry import RetryPolicy
    from arkwright.registry.access import Access

    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    with Access(policy=RetryPolicy(attempts=1)) as access:
        with pytest.raises(RemoteError) as caught:
            StoreImageSource(store, access=access).pin(named(f"127.0.0.1:{port}/app", "default"), AMD64)
    assert caught.value.code in ("network-unreachable", "registry-unreachable")
    assert caught.value.diagnostics[0].hint
