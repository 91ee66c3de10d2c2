"""Where images are looked for: mirrors, blocked registries, registries that are not there."""

from __future__ import annotations

from typing import Any

import pytest
from registry_images import AMD64, ARM64, Put, failure, image, index

from arkwright.diagnostics.errors import Denied, UserError
from arkwright.oci import descriptor as media
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.reference import parse_reference
from arkwright.registry.hosts import Mirror, RegistriesConfig
from arkwright.registry.hosts import Registry as Entry
from arkwright.registry.pull import pull_image
from arkwright.registry.push import push_image
from arkwright.store.store import Store
from loopback_server import FakeClock, Loopback, LoopbackRegistry, open_access


def configured(**more: Any) -> RegistriesConfig:
    return RegistriesConfig([Entry(**more)])


def both(put: Put, *servers: LoopbackRegistry) -> Descriptor:
    made = image(put, "mirrored")
    for one in servers:
        one.add_manifest("v1", media.MANIFEST, servers[0].blobs[made.digest])
        one.blobs |= servers[0].blobs
    return made


def test_mirrors_are_asked_first(server: LoopbackRegistry, store: Store) -> None:
    with LoopbackRegistry() as mirror:
        made = both(server.add_blob, server, mirror)
        config = configured(
            prefix="example.test/team", location=f"{server.host}/team",
            mirror=(Mirror(location=f"{mirror.host}/copy/team"),),
        )  # fmt: skip
        with open_access(config=config) as access:
            found = pull_image(
                parse_reference("example.test/team/app:v1"), store.content, AMD64, access=access
            )
        assert found.digest == made.digest
        assert server.requests() == []
        assert mirror.requests("GET", "^/v2/copy/team/app/manifests/v1$")


def test_a_broken_mirror_is_stepped_over(server: LoopbackRegistry, store: Store) -> None:
    with LoopbackRegistry() as mirror:
        both(server.add_blob, server, mirror)
        for digest in list(mirror.blobs):
            mirror.blobs[digest] = b"\0" * len(mirror.blobs[digest])
        mirror.on("GET", "/manifests/", lambda exchange: exchange.reply(500), times=99)
        config = configured(location=server.host, mirror=(Mirror(location=mirror.host),))
        with open_access(config=config) as access:
            pull_image(parse_reference(f"{server.host}/app:v1"), store.content, AMD64, access=access)
        assert len(list(store.content.digests())) == 4
        assert len(mirror.requests("GET", "/blobs/")) == 3


def test_when_all_places_fail_all_are_named(server: LoopbackRegistry, store: Store) -> None:
    with LoopbackRegistry() as mirror:
        mirror.on("GET", "/manifests/", lambda exchange: exchange.reply(403), times=99)
        config = configured(location=server.host, mirror=(Mirror(location=mirror.host),))
        with open_access(config=config) as access:
            reference = parse_reference(f"{server.host}/app:v1")
            error = failure(
                "registry-not-found", lambda: pull_image(reference, store.content, AMD64, access=access)
            )
        assert any("403" in note and mirror.host in note for note in error.diagnostics[0].notes)


def test_a_push_goes_past_the_mirrors(server: LoopbackRegistry, store: Store) -> None:
    made = image(store.content.write, "no mirror")
    config = configured(prefix="example.test", location=server.host, mirror=(Mirror(location="127.0.0.1:1"),))
    with open_access(config=config) as access:
        push_image(made, parse_reference("example.test/app:v1"), store.content, access=access)
    assert made.digest in server.manifests


def test_a_blocked_registry_is_not_asked(server: LoopbackRegistry, store: Store) -> None:
    made = image(store.content.write, "blocked")
    config = configured(location=server.host, blocked=True)
    reference = parse_reference(f"{server.host}/app:v1")
    with open_access(config=config) as access:
        for call in (
            lambda: pull_image(reference, store.content, AMD64, access=access),
            lambda: push_image(made, reference, store.content, access=access),
        ):
            with pytest.raises(Denied) as caught:
                call()
            assert (caught.value.code, caught.value.exit_code) == ("registry-blocked", 3)
            assert caught.value.details["rule"] and caught.value.details["evidence"]
    assert server.requests() == []


def test_nobody_is_there(store: Store) -> None:
    with Loopback() as gone:
        host = gone.host
    clock = FakeClock()
    with open_access(clock=clock, attempts=4) as access:
        error = failure(
            "registry-unreachable",
            lambda: pull_image(parse_reference(f"{host}/app:v1"), store.content, AMD64, access=access),
        )
    assert error.details["retryable"] is True and error.diagnostics[0].hint
    assert (error.details["attempts"], len(clock.slept)) == (4, 3)


def test_an_image_without_the_platform(server: LoopbackRegistry, store: Store) -> None:
    child = image(server.add_blob, "platform", ARM64)
    root = index(server.add_blob, child)
    server.add_manifest("v1", media.INDEX, server.blobs[root.digest])
    with open_access() as access:
        with pytest.raises(UserError) as caught:
            pull_image(parse_reference(f"{server.host}/app:v1"), store.content, AMD64, access=access)
    assert caught.value.code == "no-matching-platform"
    assert "linux/arm64" in (caught.value.diagnostics[0].hint or "")
