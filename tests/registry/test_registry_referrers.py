"""Referrers: through the API of `serve registry`, and through the tagged index of docker-registry,
which has no such API; with others at it at the same time."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from registry_images import failure, image
from serving import in_process

from arkwright.diagnostics.errors import UserError
from arkwright.oci import descriptor as media
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.reference import parse_reference
from arkwright.registry import referrers
from arkwright.registry.access import Access
from arkwright.registry.client import Registry, open_registries
from arkwright.registry.push import push_image
from arkwright.registry.referrers import attach, fallback_tag, list_referrers, make_artifact
from arkwright.store.store import Store
from loopback_server import Exchange, LoopbackRegistry, open_access

SBOM, SIGNATURE = "application/vnd.test.sbom", "application/vnd.test.signature"


def repository(access: Access, host: str, path: str = "refer") -> Registry:
    return open_registries(access, parse_reference(f"{host}/{path}"))[0]


def subject_at(host: str, store: Store, seed: str) -> Descriptor:
    made = image(store.content.write, seed)
    with open_access() as access:
        push_image(made, parse_reference(f"{host}/refer:{seed}"), store.content, access=access)
    return made


def with_tag(access: Access, host: str, digest: str) -> bool:
    return repository(access, host).head_manifest(fallback_tag(digest)) is not None


def test_what_is_attached_is_listed(host: str, store: Store) -> None:
    subject = subject_at(host, store, "attach")
    data = b'{"packages":[]}'
    blob = Descriptor(media_type=SBOM, digest=store.content.write(data), size=len(data))
    sbom = make_artifact(store.content, subject, SBOM, [blob], {"made": "by test"})
    signature = make_artifact(store.content, subject, SIGNATURE, [])
    with open_access() as access:
        registry = repository(access, host)
        assert list_referrers(registry, subject.digest) == ()
        for artifact in (sbom, signature, sbom):
            attach(registry, artifact, store.content)
        found = {one.digest: one for one in list_referrers(registry, subject.digest)}
        assert set(found) == {sbom.digest, signature.digest}
        assert found[sbom.digest] == Descriptor(
            media_type=media.MANIFEST, digest=sbom.digest, size=sbom.size, artifact_type=SBOM,
            annotations={"made": "by test"},
        )  # fmt: skip
        assert [one.digest for one in list_referrers(registry, subject.digest, SIGNATURE)] == [
            signature.digest
        ]
        assert list_referrers(registry, subject.digest, "application/other") == ()
        assert registry.has_blob(blob.digest)
        assert registry.get_manifest(sbom.digest)[1] == store.content.read(sbom.digest)


def test_the_tag_is_used_where_the_api_is_missing(plain_registry: str, store: Store, tmp_path: Path) -> None:
    subject = subject_at(plain_registry, store, "fallback")
    artifact = make_artifact(store.content, subject, SBOM, [])
    with open_access() as access, in_process(tmp_path / "served") as server:
        subject_at(server.address, store, "fallback")
        for host, uses in ((plain_registry, True), (server.address, False)):
            attach(repository(access, host), artifact, store.content)
            assert with_tag(access, host, subject.digest) == uses
        _, data = repository(access, plain_registry).get_manifest(fallback_tag(subject.digest))
    document = json.loads(data)
    assert (document["schemaVersion"], document["mediaType"]) == (2, media.INDEX)
    assert [one["digest"] for one in document["manifests"]] == [artifact.digest]


def test_the_tag_is_that_of_the_specification() -> None:
    assert fallback_tag("sha256:" + "a" * 64) == "sha256-" + "a" * 64
    assert fallback_tag("sha512:" + "b" * 128) == "sha512-" + "b" * 64


def test_an_index_of_others_keeps_all_that_it_has(plain_registry: str, store: Store) -> None:
    subject = subject_at(plain_registry, store, "others")
    theirs = {
        "mediaType": media.MANIFEST,
        "digest": "sha256:" + "1" * 64,
        "size": 7,
        "unknown": {"kept": [1]},
    }
    index = {
        "schemaVersion": 2,
        "mediaType": media.INDEX,
        "manifests": [],
        "annotations": {"a": "b"},
        "more": 1,
    }
    # docker-registry wants the images of an index to be there.
    extra = make_artifact(store.content, subject, SIGNATURE, [], {"of": "others"})
    theirs |= {"digest": extra.digest, "size": extra.size}
    index["manifests"] = [theirs]
    with open_access() as access:
        registry = repository(access, plain_registry)
        attach(registry, extra, store.content)
        registry.put_manifest(fallback_tag(subject.digest), media.INDEX, json.dumps(index).encode())
        artifact = make_artifact(store.content, subject, SBOM, [])
        attach(registry, artifact, store.content)
        document = json.loads(registry.get_manifest(fallback_tag(subject.digest))[1])
    assert document["manifests"][0] == theirs
    assert [one["digest"] for one in document["manifests"]] == [extra.digest, artifact.digest]
    assert (document["annotations"], document["more"]) == ({"a": "b"}, 1)


def test_a_manifest_without_subject_refers_to_nothing(host: str, store: Store) -> None:
    made = image(store.content.write, "no subject")
    with open_access() as access:
        with pytest.raises(UserError) as caught:
            attach(repository(access, host), made, store.content)
    assert caught.value.code == "invalid-manifest"


def test_many_attach_at_once(host: str, store: Store) -> None:
    """From threads that know nothing of each other's registries, as processes do."""
    subject = subject_at(host, store, "crowd")
    made = [make_artifact(store.content, subject, SBOM, [], {"number": str(number)}) for number in range(6)]

    def one(artifact: Descriptor) -> None:
        with open_access() as access:
            attach(repository(access, host), artifact, store.content)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(one, made))
    with open_access() as access:
        found = list_referrers(repository(access, host), subject.digest)
    assert {one.digest for one in found} == {one.digest for one in made}


class Tagged(LoopbackRegistry):
    """No API; tags are written under conditions, as `knows` says."""

    knows = True

    def respond(self, exchange: Exchange) -> None:
        ref = exchange.path.rpartition("/")[2]
        if "/referrers/" in exchange.path:
            exchange.reply(404, b"404 page not found\n")
        elif (
            exchange.command == "PUT"
            and ref.startswith("sha256-")
            and self.knows
            and self._lost(exchange, ref)
        ):
            exchange.reply(412)
        else:
            super().respond(exchange)

    def _lost(self, exchange: Exchange, ref: str) -> bool:
        wanted = exchange.headers.get("If-Match", "").strip('"')
        return wanted != (self.digest_of(ref) or "") if wanted else ref in self.manifests

    def digest_of(self, ref: str) -> str:
        return self.add_blob(self.manifests[ref][1]) if ref in self.manifests else ""


@pytest.mark.parametrize("knows", [True, False])
def test_a_change_by_others_in_between_is_not_lost(store: Store, knows: bool) -> None:
    with Tagged() as server, open_access() as access:
        server.knows = knows
        subject = image(store.content.write, "race")
        tag = fallback_tag(subject.digest)
        ours = make_artifact(store.content, subject, SBOM, [])
        theirs = {"mediaType": media.MANIFEST, "digest": "sha256:" + "2" * 64, "size": 7}
        index = msgspec.json.encode({"schemaVersion": 2, "mediaType": media.INDEX, "manifests": [theirs]})

        def intrude(exchange: Exchange) -> None:
            # Somebody else writes between our reading and our writing, or over what we wrote.
            if not knows:
                exchange.read_body()
                server.respond(exchange)
                server.add_manifest(tag, media.INDEX, index)
                return
            exchange.read_body()
            server.add_manifest(tag, media.INDEX, index)
            server.respond(exchange)

        server.on("PUT", f"/manifests/{tag}", intrude)
        attach(repository(access, server.host), ours, store.content)
        found = list_referrers(repository(access, server.host), subject.digest)
    assert [one.digest for one in found] == [theirs["digest"], ours.digest]


def test_others_that_never_stop(store: Store) -> None:
    with Tagged() as server, open_access() as access:
        subject = image(store.content.write, "never")
        server.on(
            "PUT", "/manifests/sha256-", lambda exchange: (exchange.read_body(), exchange.reply(412))[1], 999
        )
        artifact = make_artifact(store.content, subject, SBOM, [])
        error = failure(
            "referrers-conflict",
            lambda: attach(repository(access, server.host), artifact, store.content),
        )
    assert error.details["retryable"] is True


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (200, b"{", media.INDEX, "registry-error"),
        (200, b'{"schemaVersion":2,"manifests":[{"mediaType":"x","size":1,"digest":"../x"}]}', media.INDEX, "registry-error"),
        (200, b'{"schemaVersion":2,"manifests":[]}' + b" " * (33 << 20), media.INDEX, "registry-error"),
        (403, b"", "", "registry-denied"),
        (500, b"", "", "registry-error"),
    ],
)  # fmt: skip
def test_lists_that_are_none(
    server: LoopbackRegistry, status: int, body: bytes, kind: str, code: str
) -> None:
    server.on(
        "GET", "/referrers/", lambda exchange: exchange.reply(status, body, Content_Type=kind), times=99
    )
    with open_access() as access:
        failure(code, lambda: list_referrers(repository(access, server.host), "sha256:" + "0" * 64))


def test_a_web_page_is_no_list(server: LoopbackRegistry) -> None:
    page = b"<html>welcome</html>"
    server.on("GET", "/referrers/", lambda exchange: exchange.reply(200, page, Content_Type="text/html"))
    with open_access() as access:
        assert list_referrers(repository(access, server.host), "sha256:" + "0" * 64) == ()


def test_lists_in_pages_and_filters_that_are_not_applied(server: LoopbackRegistry) -> None:
    def page(number: int, kind: str) -> bytes:
        one = {"mediaType": media.MANIFEST, "digest": f"sha256:{number:064}", "size": 1, "artifactType": kind}
        return json.dumps({"schemaVersion": 2, "mediaType": media.INDEX, "manifests": [one]}).encode()

    digest = "sha256:" + "0" * 64
    following = f'</v2/refer/referrers/{digest}?page=2>; rel="next"'
    server.on(
        "GET", "page=2", lambda exchange: exchange.reply(200, page(2, "b"), Content_Type=media.INDEX), 9
    )
    server.on(
        "GET", "/referrers/",
        lambda exchange: exchange.reply(200, page(1, "a"), Content_Type=media.INDEX, Link=following), 9,
    )  # fmt: skip
    with open_access() as access:
        registry = repository(access, server.host)
        assert [one.artifact_type for one in list_referrers(registry, digest)] == ["a", "b"]
        assert [one.artifact_type for one in list_referrers(registry, digest, "b")] == ["b"]


def test_a_list_that_never_ends(server: LoopbackRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = itertools.count(1)

    def page(exchange: Exchange) -> None:
        following = f'</v2/refer/referrers/x?page={next(numbers)}>; rel="next"'
        empty = json.dumps({"schemaVersion": 2, "mediaType": media.INDEX, "manifests": []})
        exchange.reply(200, empty.ljust(1000).encode(), Content_Type=media.INDEX, Link=following)

    monkeypatch.setattr(referrers, "_LIST_LIMIT", 10_000)
    server.on("GET", "/referrers/", page, 99)
    with open_access() as access:
        registry = repository(access, server.host)
        failure("registry-error", lambda: list_referrers(registry, "sha256:" + "0" * 64))
    # Ten pages, and the one that is too much.
    assert next(numbers) == 12
