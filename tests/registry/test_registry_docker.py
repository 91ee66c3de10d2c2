"""Push and pull against Debian's docker-registry, with skopeo as the judge."""

from __future__ import annotations

import subprocess
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from registry_images import AMD64, ARM64, PASSWORD, Guarded, image, index, needs, noise

from arkwright.diagnostics.errors import RemoteError, UserError
from arkwright.net.response import Response
from arkwright.net.tls import TlsContexts
from arkwright.net.transport import Transport
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.layout import Layout
from arkwright.oci.manifest import Manifest, parse
from arkwright.oci.reference import parse_reference
from arkwright.registry.client import Registry, open_registries
from arkwright.registry.pull import fetch_blob, pull_image, resolve_image
from arkwright.registry.push import PushReport, push_image
from arkwright.registry.upload import push_blob
from arkwright.store.store import Store
from loopback_server import open_access

MakeStore = Callable[[str], Store]


class Recording(Transport):
    """The real transport, which remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__(env={}, tls=TlsContexts(()))
        self.asked: list[str] = []

    def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> Response:
        self.asked.append(f"{method} {url.partition('/v2/')[2].partition('?')[0]}")
        return super().request(method, url, headers=headers, **more)


def push(store: Store, descriptor: Descriptor, name: str, **more: Any) -> PushReport:
    with open_access() as access:
        return push_image(descriptor, parse_reference(name), store.content, access=access, **more)


def blobs(store: Store) -> dict[str, bytes]:
    return {digest: store.content.read(digest) for digest in store.content.digests()}


def test_push_then_pull_gives_equal_blobs(plain_registry: str, make_store: MakeStore) -> None:
    here, there = make_store("here"), make_store("there")
    made = image(here.content.write, "equal", layers=6, size=40_000)
    report = push(here, made, f"{plain_registry}/equal:v1")
    assert (report.uploaded, report.mounted, report.skipped, report.manifests) == (7, 0, 0, 1)
    assert report.bytes_uploaded > 6 * 40_000
    with open_access() as access:
        found = pull_image(parse_reference(f"{plain_registry}/equal:v1"), there.content, AMD64, access=access)
    assert (found.digest, found.media_type, found.size) == (made.digest, made.media_type, made.size)
    assert blobs(there) == blobs(here)


def test_a_second_push_sends_no_blob(plain_registry: str, store: Store) -> None:
    made = image(store.content.write, "twice")
    push(store, made, f"{plain_registry}/twice:v1")
    transport = Recording()
    with open_access(transport=transport) as access:
        reference = parse_reference(f"{plain_registry}/twice:v2")
        report = push_image(made, reference, store.content, access=access)
    assert (report.uploaded, report.mounted, report.skipped, report.bytes_uploaded) == (0, 0, 3, 0)
    assert {one.split()[0] for one in transport.asked if "blobs/" in one} == {"HEAD"}
    assert transport.asked[-1] == "PUT twice/manifests/v2"


def test_a_second_pull_asks_for_no_blob(plain_registry: str, make_store: MakeStore) -> None:
    here, there = make_store("here"), make_store("there")
    push(here, image(here.content.write, "pulled twice"), f"{plain_registry}/pulled:v1")
    for asked in (3, 0):
        transport = Recording()
        with open_access(transport=transport) as access:
            pull_image(parse_reference(f"{plain_registry}/pulled:v1"), there.content, AMD64, access=access)
        assert len([one for one in transport.asked if "blobs/" in one]) == asked


def test_manifests_follow_their_blobs(plain_registry: str, store: Store) -> None:
    root = index(store.content.write, *(image(store.content.write, f"order{p}", p) for p in (AMD64, ARM64)))
    transport = Recording()
    with open_access(transport=transport) as access:
        push_image(root, parse_reference(f"{plain_registry}/order:v1"), store.content, access=access)
    puts = [one for one in transport.asked if one.startswith("PUT")]
    kinds = ["manifests" if "/manifests/" in one else "blob" for one in puts]
    assert kinds == ["blob"] * 6 + ["manifests"] * 3
    assert [one.rpartition("/")[2] for one in puts[-3:]][-1] == "v1"
    assert all("sha256:" in one for one in puts[-3:-1])


def test_an_index_with_all_its_platforms(plain_registry: str, make_store: MakeStore) -> None:
    here, there, one = make_store("here"), make_store("there"), make_store("one")
    arm = image(here.content.write, "index-arm", ARM64)
    root = index(here.content.write, image(here.content.write, "index-amd", AMD64), arm)
    assert push(here, root, f"{plain_registry}/index:v1").manifests == 3
    reference = parse_reference(f"{plain_registry}/index:v1")
    with open_access() as access:
        assert pull_image(reference, there.content, None, access=access) == root.__class__(
            media_type=root.media_type, digest=root.digest, size=root.size
        )
        assert pull_image(reference, one.content, ARM64, access=access) == arm
    assert blobs(there) == blobs(here)
    assert len(blobs(one)) == 5  # index, manifest, config, two layers
    with pytest.raises(UserError) as caught:
        push(one, root, f"{plain_registry}/index:v2")
    assert caught.value.code == "missing-blob"
    assert "--all-platforms" in (caught.value.diagnostics[0].hint or "")


def test_a_digest_names_what_is_pulled(plain_registry: str, make_store: MakeStore) -> None:
    here, there = make_store("here"), make_store("there")
    made = image(here.content.write, "by digest")
    other = image(here.content.write, "another")
    name = f"{plain_registry}/digest"
    with pytest.raises(UserError) as caught:
        push(here, made, f"{name}:v1@{other.digest}")
    assert caught.value.code == "push-digest-mismatch"
    push(here, made, f"{name}@{made.digest}")
    with open_access() as access:
        registry = open_registries(access, parse_reference(name))[0]
        with pytest.raises(RemoteError) as missing:
            list(registry.tags())
        assert missing.value.code == "registry-not-found"
        reference = parse_reference(f"{name}@{made.digest}")
        assert pull_image(reference, there.content, AMD64, access=access).digest == made.digest


def test_blobs_are_mounted_from_another_repository(plain_registry: str, store: Store) -> None:
    made = image(store.content.write, "mount")
    push(store, made, f"{plain_registry}/mount/from:v1")
    report = push(store, made, f"{plain_registry}/mount/to:v1", mount_from=lambda _: "mount/from")
    assert (report.uploaded, report.mounted, report.skipped) == (0, 3, 0)
    again = push(store, made, f"{plain_registry}/mount/else:v1", mount_from=lambda _: "no/such")
    assert (again.uploaded, again.mounted, again.skipped) == (3, 0, 0)


def test_a_layer_that_is_missing_here_ends_the_push_before_it_begins(
    plain_registry: str, store: Store
) -> None:
    made = image(store.content.write, "missing")
    document = parse(store.content.read(made.digest))
    assert isinstance(document, Manifest)
    store.content.delete(document.layers[1].digest)
    with pytest.raises(UserError) as caught:
        push(store, made, f"{plain_registry}/missing:v1")
    assert caught.value.code == "missing-blob"
    with open_access() as access:
        registry = open_registries(access, parse_reference(f"{plain_registry}/missing"))[0]
        assert not registry.has_blob(document.layers[0].digest)


@pytest.mark.parametrize("chunk_size", [0, 1 << 20])
def test_large_blobs_in_one_request_or_in_chunks(plain_registry: str, store: Store, chunk_size: int) -> None:
    data = noise(5 << 20, f"chunks {chunk_size}")
    digest = store.content.write(data)
    with open_access() as access:
        registry = Registry(access, access.endpoints(parse_reference(f"{plain_registry}/chunks"))[0])
        done = push_blob(
            registry, digest, len(data), lambda: store.content.open(digest), chunk_size=chunk_size
        )
        assert done == "uploaded" and registry.has_blob(digest)
        store.content.delete(digest)
        seen: list[int] = []
        described = Descriptor(media_type="application/octet-stream", digest=digest, size=len(data))
        fetch_blob(registry, described, store.content, lambda done, total: seen.append(done))
    assert store.content.read(digest) == data
    assert seen == sorted(seen) and seen[-1] == len(data)


def test_progress_tells_of_every_blob(plain_registry: str, store: Store) -> None:
    made = image(store.content.write, "progress", size=300_000)
    lock = threading.Lock()
    last: dict[str, tuple[int, int]] = {}

    def progress(blob: Descriptor, done: int, total: int) -> None:
        with lock:
            assert done >= last.get(blob.digest, (0, 0))[0]
            last[blob.digest] = (done, total)

    push(store, made, f"{plain_registry}/progress:v1", progress=progress)
    assert len(last) == 3 and all(done == total for done, total in last.values())


def test_resolving_fetches_no_layer(plain_registry: str, make_store: MakeStore) -> None:
    here, there = make_store("here"), make_store("there")
    root = index(here.content.write, image(here.content.write, "resolve", AMD64))
    push(here, root, f"{plain_registry}/resolve:v1")
    with open_access() as access:
        found = resolve_image(parse_reference(f"{plain_registry}/resolve:v1"), there.content, AMD64, access)
        assert found.root.digest == root.digest
        assert there.content.has(found.document.config.digest)
        assert not any(there.content.has(one.digest) for one in found.document.layers)


def test_tags_come_in_pages(plain_registry: str, store: Store) -> None:
    made = image(store.content.write, "tags")
    for number in range(5):
        push(store, made, f"{plain_registry}/tags:v{number}")
    with open_access() as access:
        registry = open_registries(access, parse_reference(f"{plain_registry}/tags"))[0]
        assert sorted(registry.tags(page_size=2)) == [f"v{number}" for number in range(5)]
        found = registry.head_manifest("v1")
        assert found is not None and found.digest == made.digest
        assert registry.head_manifest("v9") is None
        registry.delete_manifest(made.digest)
        assert registry.head_manifest("v1") is None


def test_skopeo_copies_what_was_pushed(plain_registry: str, store: Store, tmp_path: Path) -> None:
    needs("skopeo")
    root = index(store.content.write, *(image(store.content.write, f"sk{p}", p) for p in (AMD64, ARM64)))
    push(store, root, f"{plain_registry}/skopeo:v1")
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "--quiet", "--all", "--src-tls-verify=false",
         f"docker://{plain_registry}/skopeo:v1", f"oci:{tmp_path}/copied:v1"],
        check=True,
    )  # fmt: skip
    layout = Layout.open(str(tmp_path / "copied"))
    assert layout.find("v1").digest == root.digest
    for digest, data in blobs(store).items():
        assert Path(layout.blob_path(digest)).read_bytes() == data


@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_what_skopeo_pushed_is_pulled(
    plain_registry: str, store: Store, make_store: MakeStore, tmp_path: Path, form: str
) -> None:
    needs("skopeo")
    made = image(store.content.write, "from skopeo")
    push(store, made, f"{plain_registry}/source:v1")
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false",
         "--format", form, f"docker://{plain_registry}/source:v1", f"docker://{plain_registry}/{form}:v1"],
        check=True,
    )  # fmt: skip
    there, back = make_store("there"), f"{plain_registry}/{form}:v2"
    with open_access() as access:
        found = pull_image(
            parse_reference(f"{plain_registry}/{form}:v1"), there.content, AMD64, access=access
        )
        assert ("docker" in found.media_type) == (form == "v2s2")
        assert push_image(found, parse_reference(back), there.content, access=access).uploaded == 0
    digest = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", f"docker://{back}"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    assert digest == found.digest


# TLS and passwords


def test_with_tls_and_a_password(guarded_registry: Guarded, make_store: MakeStore, tmp_path: Path) -> None:
    here, there = make_store("here"), make_store("there")
    made = image(here.content.write, "guarded")
    reference = parse_reference(f"{guarded_registry.host}/guarded:v1")
    credentials = guarded_registry.credentials(tmp_path)
    with open_access(credentials=credentials, tls_directories=(guarded_registry.certs_path,)) as access:
        assert push_image(made, reference, here.content, access=access).uploaded == 3
        assert pull_image(reference, there.content, AMD64, access=access).digest == made.digest
    assert blobs(there) == blobs(here)


@pytest.mark.parametrize("password", ["wrong but secret", ""])
def test_a_wrong_password_is_denied(
    guarded_registry: Guarded, store: Store, tmp_path: Path, password: str
) -> None:
    made = image(store.content.write, "denied")
    credentials = guarded_registry.credentials(tmp_path, password) if password else None
    reference = parse_reference(f"{guarded_registry.host}/denied:v1")
    with open_access(credentials=credentials, tls_directories=(guarded_registry.certs_path,)) as access:
        for call in (
            lambda: push_image(made, reference, store.content, access=access),
            lambda: pull_image(reference, store.content, AMD64, access=access),
        ):
            with pytest.raises(RemoteError) as caught:
                call()
            error = caught.value
            assert (error.code, error.exit_code, error.details["status"]) == ("registry-denied", 5, 401)
            assert error.details["attempts"] == 1 and error.details["retryable"] is False
            assert "log in" in (error.diagnostics[0].hint or "")
            shown = "".join(traceback.format_exception(error)) + repr((error, error.details, credentials))
            assert "wrong but secret" not in shown and PASSWORD not in shown


def test_an_unknown_ca_is_not_trusted(guarded_registry: Guarded, store: Store, tmp_path: Path) -> None:
    reference = parse_reference(f"{guarded_registry.host}/app:v1")
    with open_access(credentials=guarded_registry.credentials(tmp_path)) as access:
        with pytest.raises(RemoteError) as caught:
            pull_image(reference, store.content, AMD64, access=access)
    assert caught.value.code == "tls-verification-failed" and caught.value.exit_code == 5
    assert "certs.d" in (caught.value.diagnostics[0].hint or "")


def test_tls_verify_false_takes_any_certificate(
    guarded_registry: Guarded, store: Store, tmp_path: Path
) -> None:
    made = image(store.content.write, "loose")
    reference = parse_reference(f"{guarded_registry.host}/loose:v1")
    with open_access(credentials=guarded_registry.credentials(tmp_path), tls_verify=False) as access:
        assert push_image(made, reference, store.content, access=access).uploaded == 3


def test_tls_verify_true_takes_no_plain_http(plain_registry: str, store: Store) -> None:
    with open_access(tls_verify=True) as access:
        with pytest.raises(RemoteError) as caught:
            pull_image(parse_reference(f"{plain_registry}/equal:v1"), store.content, AMD64, access=access)
    assert caught.value.code == "tls-failed"


def test_what_is_not_there(plain_registry: str, store: Store) -> None:
    with open_access() as access:
        with pytest.raises(RemoteError) as caught:
            pull_image(parse_reference(f"{plain_registry}/none:v1"), store.content, AMD64, access=access)
    assert caught.value.code == "registry-not-found" and caught.value.details["status"] == 404
    assert caught.value.details["remote_code"] == "MANIFEST_UNKNOWN"
