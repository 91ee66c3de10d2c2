"""What goes along with `copy --referrers`: referrers, cosign's tags, and no more than bounds allow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from registry_images import Docker, image

from arkwright.diagnostics.errors import UserError
from arkwright.oci import descriptor as media
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.digest import sha256
from arkwright.oci.reference import parse_reference
from arkwright.registry.attached import Along, Limits, copy_attached
from arkwright.registry.copy import copy_image, source_image
from arkwright.registry.referrers import fallback_tag
from arkwright.store.store import Store
from building import Builder
from loopback_server import Exchange, LoopbackRegistry, open_access


@pytest.fixture(scope="module")
def second_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Docker(tmp_path_factory.mktemp("second")) as running:
        yield running.host


class Attached(LoopbackRegistry):
    """A registry with the referrers API, that lists what it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.listed: dict[str, list[dict[str, Any]]] = {}
        self.endless = False

    def respond(self, exchange: Exchange) -> None:
        _, _, digest = exchange.path.partition("/referrers/")
        if not digest:
            super().respond(exchange)
            return
        if self.endless:
            # Each referrer has one itself, made as it is asked for.
            self.add(digest)
        index = {"schemaVersion": 2, "mediaType": media.INDEX, "manifests": self.listed.get(digest, [])}
        exchange.reply(200, json.dumps(index).encode(), Content_Type=media.INDEX)

    def manifest(self, subject: str = "", *, size: int = 2, note: str = "") -> tuple[str, bytes]:
        """A manifest of one blob, whose size is what `size` says."""
        blob = {"mediaType": "text/plain", "digest": self.add_blob(b"{}"), "size": size}
        document: dict[str, Any] = {
            "schemaVersion": 2, "mediaType": media.MANIFEST, "artifactType": "text/x", "config": {**blob, "size": 2},
            "layers": [blob], "annotations": {"note": note},
        }  # fmt: skip
        if subject:
            document["subject"] = {"mediaType": media.MANIFEST, "digest": subject, "size": 1}
        data = json.dumps(document).encode()
        return sha256(data), data

    def add(self, subject: str, *, of: str | None = None, size: int = 2, note: str = "") -> str:
        """A referrer of `of`, listed for `subject`."""
        digest, data = self.manifest(subject if of is None else of, size=size, note=note)
        self.add_manifest(digest, media.MANIFEST, data)
        self.listed.setdefault(subject, []).append(
            {"mediaType": media.MANIFEST, "digest": digest, "size": len(data)}
        )
        return digest

    def tag(self, subject: str, kind: str, *, size: int = 2, note: str = "") -> str:
        _, data = self.manifest(size=size, note=note)
        return self.add_manifest(f"{fallback_tag(subject)}.{kind}", media.MANIFEST, data)


@pytest.fixture
def origin() -> Iterator[Attached]:
    with Attached() as made:
        yield made


@pytest.fixture
def target() -> Iterator[Attached]:
    with Attached() as made:
        yield made


def put(server: LoopbackRegistry, seed: str = "image") -> Descriptor:
    """An image of the server, tagged 1."""
    kept: dict[str, bytes] = {}

    def keep(data: bytes) -> str:
        kept[sha256(data)] = data
        return server.add_blob(data)

    made = image(keep, seed)
    server.add_manifest("1", media.MANIFEST, kept[made.digest])
    return made


def bring(store: Store, origin: Attached, target: Attached, **limits: int) -> Along:
    source, goal = parse_reference(f"{origin.host}/app:1"), parse_reference(f"{target.host}/app:1")
    with open_access() as access:
        found = source_image(source, store.content, None, access)
        copy_image(found, goal, store.content, access)
        return copy_attached(found, source, goal, store.content, access, Limits(**limits))


def refused(words: str, act: Callable[[], object]) -> None:
    with pytest.raises(UserError) as caught:
        act()
    assert caught.value.code == "too-many-referrers"
    assert words in caught.value.diagnostics[0].message


def test_referrers_and_tags_go_along(store: Store, origin: Attached, target: Attached) -> None:
    subject = put(origin).digest
    direct = origin.add(subject)
    second = origin.add(direct)
    stale = origin.add(subject, of="sha256:" + "0" * 64)
    tags = {kind: origin.tag(subject, kind, note=kind) for kind in ("sig", "att", "sbom")}
    of_tag = origin.tag(tags["att"], "sig", note="of att")
    found = bring(store, origin, target)
    assert found == Along(count=6)
    for digest in (direct, second):
        assert digest in target.manifests
    assert stale not in target.manifests
    for kind, digest in tags.items():
        assert sha256(target.manifests[f"{fallback_tag(subject)}.{kind}"][1]) == digest
    assert sha256(target.manifests[f"{fallback_tag(tags['att'])}.sig"][1]) == of_tag
    # Again: all is there.
    assert bring(store, origin, target) == Along(count=6)


def test_a_circle_is_walked_once(store: Store, origin: Attached, target: Attached) -> None:
    subject = put(origin).digest
    one = origin.tag(subject, "sig", note="one")
    two = origin.tag(one, "sig", note="two")
    # The tags may lead to where they came from; digests cannot.
    origin.add_manifest(f"{fallback_tag(two)}.sig", *origin.manifests[one])
    origin.add_manifest(f"{fallback_tag(two)}.att", *origin.manifests[subject])
    origin.listed[subject] = origin.listed.get(subject, []) * 3
    assert bring(store, origin, target).count == 4


def test_how_many_is_bounded(store: Store, origin: Attached, target: Attached) -> None:
    subject = put(origin).digest
    for number in range(12):
        origin.add(subject, note=str(number))
    refused("more than 10", lambda: bring(store, origin, target, count=10))
    # None was copied, and no more were asked for than are allowed.
    assert len(target.manifests) == 2
    assert len(origin.requests("GET", "manifests/sha256:")) <= 12
    assert bring(store, origin, target, count=12).count == 12


def test_how_deep_is_bounded(store: Store, origin: Attached, target: Attached) -> None:
    put(origin)
    origin.endless = True
    refused("deep", lambda: bring(store, origin, target))
    assert len(target.manifests) == 2


def test_how_large_is_bounded(store: Store, origin: Attached, target: Attached) -> None:
    subject = put(origin).digest
    origin.add(subject, size=5000)
    refused("more than 4000 bytes", lambda: bring(store, origin, target, size=4000))
    assert not target.requests("POST", "blobs/uploads") or len(target.manifests) == 2


def test_an_index_is_counted_before_it_is_fetched(store: Store, origin: Attached, target: Attached) -> None:
    subject = put(origin).digest
    entries = []
    for number in range(30):
        digest, data = origin.manifest(note=f"child {number}")
        origin.add_manifest(digest, media.MANIFEST, data)
        entries.append({"mediaType": media.MANIFEST, "digest": digest, "size": len(data)})
    index = {
        "schemaVersion": 2, "mediaType": media.INDEX, "manifests": entries,
        "subject": {"mediaType": media.MANIFEST, "digest": subject, "size": 1},
    }  # fmt: skip
    data = json.dumps(index).encode()
    digest = origin.add_manifest(sha256(data), media.INDEX, data)
    origin.listed[subject] = [{"mediaType": media.INDEX, "digest": digest, "size": len(data)}]
    refused("more than 20", lambda: bring(store, origin, target, count=20))
    assert len(origin.requests("GET", "manifests/sha256:")) <= 21
    # What refers may be an index: its images come with it.
    assert bring(store, origin, target).count == 1
    assert {digest, *(one["digest"] for one in entries)} <= set(target.manifests)


def test_signatures_of_the_target_stay(store: Store, origin: Attached, target: Attached) -> None:
    subject = put(origin).digest
    origin.tag(subject, "sig", note="ours")
    _, data = target.manifest(note="theirs", size=2)
    document = json.loads(data)
    document["layers"][0]["annotations"] = {"dev.cosignproject.cosign/signature": "theirs"}
    theirs = target.add_manifest(
        f"{fallback_tag(subject)}.sig", media.MANIFEST, json.dumps(document).encode()
    )
    tag = f"{fallback_tag(subject)}.sig"
    assert bring(store, origin, target) == Along(count=0, kept=(tag,))
    assert sha256(target.manifests[tag][1]) == theirs


def test_a_signed_image_is_signed_where_it_is_copied(
    plain_registry: str, second_registry: str, scratch: Path, busybox_layout: Path
) -> None:
    """Both are docker-registry; `sign` and `verify-signature` are what cosign does."""
    builder = Builder(scratch, "single")
    name, other = f"docker://{plain_registry}/signed:1", f"docker://{second_registry}/signed:1"
    builder.run("copy", f"oci:{busybox_layout}", name)
    builder.run("key", "generate", "--no-password", "k")
    builder.run("sign", "--key", "k.key", name)
    builder.run("copy", name, other)
    builder.run("verify-signature", "--key", "k.pub", other, status=3)
    done = builder.run("copy", "--referrers", name, other)
    assert "1 referrers" in done.err
    builder.run("verify-signature", "--key", "k.pub", other)
