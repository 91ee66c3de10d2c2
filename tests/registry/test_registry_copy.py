"""Copies between registries, tags, deletion, and schema 1, against Debian's docker-registry with skopeo."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from registry_images import AMD64, ARM64, Docker, failure, image, index, needs

from arkwright.diagnostics.errors import RemoteError, UserError
from arkwright.images.places import parse_place
from arkwright.images.transfer import Copying, CopyOptions
from arkwright.oci import descriptor as media
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.digest import sha256
from arkwright.oci.manifest import Manifest, encode, parse
from arkwright.oci.platform import Platform
from arkwright.oci.reference import parse_reference
from arkwright.registry.client import open_registries
from arkwright.registry.copy import copy_image, source_image
from arkwright.registry.pull import pull_image
from arkwright.registry.push import PushReport, push_image
from arkwright.registry.referrers import attach, list_referrers
from arkwright.store.store import Store
from building import Builder, MakeBuilder
from loopback_server import open_access

MakeStore = Callable[[str], Store]


@pytest.fixture(scope="module")
def second_registry(tmp_path_factory: pytest.TempPathFactory) -> object:
    with Docker(tmp_path_factory.mktemp("second")) as running:
        yield running.host


def put(store: Store, name: str, seed: str, platforms: tuple[Platform, ...] = (AMD64, ARM64)) -> str:
    """An index at a registry; its digest."""
    made = index(
        store.content.write,
        *(image(store.content.write, f"{seed}-{one.architecture}", one) for one in platforms),
    )
    with open_access() as access:
        push_image(made, parse_reference(name), store.content, access=access)
    return made.digest


def copied(store: Store, source: str, target: str, platform: Platform | None = None) -> PushReport:
    with open_access() as access:
        found = source_image(parse_reference(source), store.content, platform, access)
        return copy_image(found, parse_reference(target), store.content, access)


def layers_in(store: Store, source: Store) -> int:
    """How many of the other store's layers are here."""
    found = 0
    for digest in source.content.digests():
        data = source.content.read(digest)
        found += data[:2] == b"\x1f\x8b" and store.content.has(digest)
    return found


def test_within_a_registry_blobs_are_mounted_and_not_fetched(
    plain_registry: str, make_store: MakeStore
) -> None:
    origin, store = make_store("origin"), make_store("empty")
    digest = put(origin, f"{plain_registry}/mount/from:1", "mount")
    report = copied(store, f"{plain_registry}/mount/from:1", f"{plain_registry}/mount/to:1")
    assert (report.digest, report.mounted, report.uploaded, report.skipped) == (digest, 6, 0, 0)
    assert layers_in(store, origin) == 0
    other = make_store("other")
    with open_access() as access:
        pull_image(parse_reference(f"{plain_registry}/mount/to:1"), other.content, None, access=access)
    assert set(other.content.digests()) == set(origin.content.digests())


def test_between_registries_only_what_lacks_is_fetched(
    plain_registry: str, second_registry: str, make_store: MakeStore
) -> None:
    origin, store, third = make_store("origin"), make_store("empty"), make_store("third")
    put(origin, f"{plain_registry}/cross:1", "cross")
    one = copied(store, f"{plain_registry}/cross:1", f"{second_registry}/cross:arm", ARM64)
    assert (one.uploaded, one.skipped, one.mounted, one.manifests) == (3, 0, 0, 1)
    assert layers_in(store, origin) == 2
    whole = copied(third, f"{plain_registry}/cross:1", f"{second_registry}/cross:1")
    assert (whole.uploaded, whole.skipped) == (3, 3)
    assert layers_in(third, origin) == 2
    again = copied(make_store("fourth"), f"{plain_registry}/cross:1", f"{second_registry}/cross:1")
    assert (again.uploaded, again.skipped, again.manifests) == (0, 6, 0)


def test_a_wrong_digest_in_the_target_is_refused(plain_registry: str, make_store: MakeStore) -> None:
    put(make_store("origin"), f"{plain_registry}/wrong:1", "wrong")
    with pytest.raises(UserError) as caught:
        copied(
            make_store("empty"),
            f"{plain_registry}/wrong:1",
            f"{plain_registry}/wrong-too@sha256:{'0' * 64}",
        )
    assert caught.value.code == "push-digest-mismatch"


def test_a_conversion_between_registries(
    plain_registry: str, second_registry: str, make_store: MakeStore
) -> None:
    """To Docker's format and back is bit-exact, and skopeo sees what it asked for."""
    needs("skopeo")
    origin = make_store("origin")
    digest = put(origin, f"{plain_registry}/convert:1", "convert")

    def copy(store: Store, source: str, target: str, **options: str) -> str:
        with open_access() as access:
            copying = Copying(
                store, parse_place(source), msgspec.convert(options, CopyOptions), access=access
            )
            return copying.to(parse_place(target)).delivered.digest

    a, b = f"docker://{plain_registry}/convert", f"docker://{second_registry}/convert"
    docker = copy(make_store("one"), f"{a}:1", f"{b}:docker", form="docker")
    assert docker != digest
    raw = subprocess.run(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"{b}:docker"], check=True, capture_output=True
    ).stdout
    assert json.loads(raw)["mediaType"] == "application/vnd.docker.distribution.manifest.list.v2+json"
    assert copy(make_store("two"), f"{b}:docker", f"{a}:back", form="oci") == digest


@pytest.mark.parametrize("identity", ["root", "single", "sealed"])
def test_the_program(identity: str, plain_registry: str, scratch: Path, make_store: MakeStore) -> None:
    name = f"{plain_registry}/program/{identity}"
    origin = make_store("origin")
    digest = put(origin, f"{name}:1", "program")
    builder = Builder(scratch, identity)
    done = builder.run(
        "copy", f"docker://{name}:1", f"docker://{name}:2", f"docker://{name}-too:1", "oci:lay:x"
    )
    assert [line.split()[1] for line in done.out.splitlines()] == [digest] * 3
    assert sorted(builder.run("ls-tags", f"docker://{name}").out.split()) == ["1", "2"]
    assert sorted(json.loads(builder.run("ls-tags", "--json", name).out)["tags"]) == ["1", "2"]
    listed = (
        f"docker://{name}:1 docker://{name}:3\ndocker://{name}:nope oci:lay:y\noci:lay:x docker://{name}:4\n"
    )
    failed = builder.run("sync", "-q", "-", input=listed.encode(), status=5)
    assert failed.out.split() == [digest] * 2
    assert f"while copying docker://{name}:nope to oci:lay:y" in failed.err
    assert sorted(builder.run("ls-tags", name).out.split()) == ["1", "2", "3", "4"]
    assert digest in builder.run("pull", "--all-platforms", f"docker://{name}:4").out
    assert digest in builder.run("push", f"{name}:4", f"docker://{name}-pushed:1").out


def test_deletion_is_by_digest(plain_registry: str, scratch: Path, make_store: MakeStore) -> None:
    name = f"{plain_registry}/deleted"
    digest = put(make_store("origin"), f"{name}:1", "deleted")
    put(make_store("origin"), f"{name}:also-1", "deleted")
    kept = put(make_store("origin"), f"{name}:kept", "kept")
    builder = Builder(scratch, "single")
    for text in (name, f"{name}:1", f"docker://{name}"):
        assert "error[invalid-place]" in builder.run("delete", text, status=1).err
    unsupported = builder.run("delete", "--tag-only", f"docker://{name}:1", status=5).err
    assert "only digests be taken" in unsupported
    done = builder.run("delete", f"docker://{name}:1")
    assert done.out == f"docker://{name}@{digest}\n"
    missing = builder.run("delete", f"docker://{name}:also-1", status=1).err
    assert "error[unknown-image]" in missing
    assert kept in builder.run("copy", f"docker://{name}:kept", "kept").out


def test_schema_1_is_refused_by_its_name(tmp_path: Path, make_builder: MakeBuilder, scratch: Path) -> None:
    """As a registry that still has such images serves them, and in skopeo's directory."""
    needs("skopeo")
    more = {"compatibility": {"schema1": {"enabled": True}}}
    builder = make_builder("root")
    with Docker(tmp_path, more) as old:
        builder.run("push", "busybox", f"{old.host}/app:2")
        skopeo = ["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false",
                  "--format", "v2s1", f"docker://{old.host}/app:2"]  # fmt: skip
        for target in (f"docker://{old.host}/app:1", f"dir:{scratch}/old"):
            subprocess.run([*skopeo, target], check=True, capture_output=True)
        for source in (f"docker://{old.host}/app:1", f"dir:{scratch}/old"):
            said = builder.run("copy", source, "app", status=5 if "docker:" in source else 1).err
            assert "error[schema-1-manifest]" in said
            assert "--format v2s2" in said
        with open_access() as access:
            registry = open_registries(access, parse_reference(f"{old.host}/app:1"))[0]
            failure("schema-1-manifest", lambda: registry.get_manifest("1"))


def test_an_interrupted_copy_goes_on(
    plain_registry: str, second_registry: str, make_store: MakeStore
) -> None:
    """What arrived before a failure is not fetched again."""
    origin, store = make_store("origin"), make_store("empty")
    put(origin, f"{plain_registry}/broken:1", "broken", (AMD64,))
    with open_access() as access:
        found = source_image(parse_reference(f"{plain_registry}/broken:1"), store.content, None, access)
        seen: list[str] = []

        def progress(blob: object, done: int, total: int) -> None:
            seen.append(str(blob))
            if len(set(seen)) == 3 and done == total:
                raise RemoteError.of(
                    "registry-interrupted", "torn", details={"retryable": False, "status": 0}
                )

        with pytest.raises(RemoteError):
            copy_image(
                found, parse_reference(f"{second_registry}/broken:1"), store.content, access, progress=progress,
                jobs=1,
            )  # fmt: skip
    assert layers_in(store, origin) == 2
    with open_access() as access:
        again = open_registries(access, parse_reference(f"{second_registry}/broken:1"), push=True)[0]
        assert again.head_manifest("1") is None
    report = copied(store, f"{plain_registry}/broken:1", f"{second_registry}/broken:1")
    assert report.skipped >= 2


def test_documents_are_those_of_the_source(plain_registry: str, make_store: MakeStore) -> None:
    origin = make_store("origin")
    put(origin, f"{plain_registry}/documents:1", "documents")
    with open_access() as access:
        found = source_image(
            parse_reference(f"{plain_registry}/documents:1"), make_store("x").content, AMD64, access
        )
    document = parse(origin.content.read(found.root.digest))
    assert isinstance(document, Manifest)
    assert {blob.digest for blob in found.blobs} == {
        document.config.digest, *(layer.digest for layer in document.layers)
    }  # fmt: skip


def test_referrers_go_along_on_request(
    plain_registry: str, second_registry: str, make_store: MakeStore, scratch: Path
) -> None:
    """To a registry without the referrers API too, where the fallback tag lists them."""
    origin = make_store("origin")
    name, other = f"{plain_registry}/referred", f"{second_registry}/referred"
    root = put(origin, f"{name}:1", "referred")
    with open_access() as access:
        registry = open_registries(access, parse_reference(f"{name}:1"), push=True)[0]
        subject = registry.head_manifest("1")
        assert subject is not None
        signature = made_artifact(origin, subject, "application/x-signature", b"signed")
        attach(registry, signature, origin.content)
        attach(
            registry,
            made_artifact(origin, signature, "application/x-note", b"of a signature"),
            origin.content,
        )
    builder = Builder(scratch, "single")
    assert root in builder.run("copy", f"docker://{name}:1", f"docker://{other}:without").out
    done = builder.run("copy", "--referrers", f"docker://{name}:1", f"docker://{other}:1")
    assert "2 referrers" in done.err
    with open_access() as access:
        there = open_registries(access, parse_reference(f"{other}:1"))[0]
        (found,) = list_referrers(there, root)
        assert (found.digest, found.artifact_type) == (signature.digest, "application/x-signature")
        assert len(list_referrers(there, signature.digest)) == 1
        assert there.has_blob(sha256(b"signed"))
    refused = builder.run("copy", "--referrers", f"docker://{name}:1", "oci:layout", status=1)
    assert "error[invalid-place]" in refused.err


@pytest.mark.parametrize("tool", ["buildah", "podman"])
def test_other_tools_pull_and_push_beside_us(
    tool: str, plain_registry: str, make_builder: MakeBuilder, tmp_path: Path
) -> None:
    """In all formats and compressions that they know."""
    needs(tool)
    builder, name = make_builder("root"), f"{plain_registry}/beside-{tool}"
    run_path = tempfile.mkdtemp(prefix="arkwright-", dir="/tmp")

    def run(*args: str) -> str:
        base = [tool, "--root", f"{tmp_path}/storage", "--runroot", run_path, "--storage-driver", "vfs"]
        done = subprocess.run([*base, *args], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    try:
        identity = ""
        for number, options in enumerate(
            [
                (),
                ("--format", "docker"),
                ("--dest-compress", "zstd"),
                ("--format", "docker", "--dest-compress", "none"),
            ]
        ):
            builder.run("copy", *options, "busybox", f"docker://{name}:{number}")
            pulled = run("pull", "-q", "--tls-verify=false", f"{name}:{number}").splitlines()[-1]
            # Whatever the format, the config is the same, and it is the image's id.
            identity = identity or pulled
            assert pulled == identity
        for form in ("oci", "v2s2"):
            run("push", "-q", "--tls-verify=false", "--format", form, identity, f"docker://{name}:{form}")
            assert (
                f"theirs-{form}:latest"
                in builder.run("copy", f"docker://{name}:{form}", f"theirs-{form}").out
            )
        shown = [
            builder.run("inspect", "--format", "config.rootfs.diff_ids", one).out
            for one in ("busybox", "theirs-oci", "theirs-v2s2")
        ]
        assert len(set(shown)) == 1
    finally:
        shutil.rmtree(run_path, ignore_errors=True)


def made_artifact(store: Store, subject: Descriptor, kind: str, data: bytes) -> Descriptor:
    empty = Descriptor(media_type=media.EMPTY, digest=store.content.write(b"{}"), size=2)
    blob = Descriptor(media_type="text/plain", digest=store.content.write(data), size=len(data))
    encoded = encode(
        Manifest(
            schema_version=2, media_type=media.MANIFEST, artifact_type=kind, config=empty, layers=(blob,),
            subject=msgspec.structs.replace(subject, platform=None),
        )
    )  # fmt: skip
    return Descriptor(media_type=media.MANIFEST, digest=store.content.write(encoded), size=len(encoded))
