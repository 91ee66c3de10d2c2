"""What goes wrong on the way: a server on loopback that breaks off, lies, and sends elsewhere."""

from __future__ import annotations

import io
import re
import traceback
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from registry_images import AMD64, failure, image, noise

from arkwright.diagnostics.errors import Cancelled
from arkwright.oci import descriptor as media
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.manifest import Manifest, parse
from arkwright.oci.reference import parse_reference
from arkwright.registry import client
from arkwright.registry.access import Access
from arkwright.registry.client import Registry, open_registries
from arkwright.registry.pull import fetch_blob, fetch_manifest, pull_image
from arkwright.registry.push import push_image
from arkwright.registry.upload import push_blob
from arkwright.store.store import Store
from loopback_server import Exchange, FakeClock, Loopback, LoopbackRegistry, open_access

DATA = noise(3 << 20)
OCTETS = "application/octet-stream"


def blob(server: LoopbackRegistry, data: bytes = DATA) -> Descriptor:
    return Descriptor(media_type=OCTETS, digest=server.add_blob(data), size=len(data))


def repository(access: Access, server: Loopback, path: str = "app") -> Registry:
    return open_registries(access, parse_reference(f"{server.host}/{path}"))[0]


def fetch(server: LoopbackRegistry, store: Store, wanted: Descriptor, **more: Any) -> None:
    with open_access(**more) as access:
        fetch_blob(repository(access, server), wanted, store.content)


def broken_off(after: int) -> Callable[[Exchange], None]:
    """The whole body is announced and its beginning sent."""
    return lambda exchange: exchange.reply(200, DATA[:after], announce=len(DATA))


def ranges(server: Loopback) -> list[str]:
    return [one.headers.get("Range", "") for one in server.requests("GET", "/blobs/")]


# Interruptions


@pytest.mark.parametrize("after", [1, 100_000, 2 << 20])
def test_an_interrupted_blob_goes_on_where_it_stopped(
    server: LoopbackRegistry, store: Store, after: int
) -> None:
    wanted = blob(server)
    server.on("GET", "/blobs/", broken_off(after))
    fetch(server, store, wanted)
    assert store.content.read(wanted.digest) == DATA
    assert ranges(server) == ["", f"bytes={after}-"]
    assert sum(size for size in server.sent if size > 2) == len(DATA) - (1 if after == 1 else 0)


def test_a_later_process_goes_on_too(server: LoopbackRegistry, store: Store) -> None:
    wanted = blob(server)
    server.on("GET", "/blobs/", broken_off(100_000))
    error = failure("registry-interrupted", lambda: fetch(server, store, wanted, attempts=1))
    assert error.details["retryable"] is True and not store.content.has(wanted.digest)
    fetch(server, store, wanted, attempts=1)
    assert ranges(server) == ["", "bytes=100000-"]
    assert store.content.read(wanted.digest) == DATA


def test_large_pieces_count_as_no_failure(server: LoopbackRegistry, store: Store) -> None:
    data = noise(6 << 20, "pieces")
    wanted = blob(server, data)

    def piece(exchange: Exchange) -> None:
        begin = int(re.sub(r"\D", "", exchange.headers.get("Range", "")) or 0)
        rest, status = data[begin:], 206 if begin else 200
        more = {"Content_Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"} if begin else {}
        exchange.reply(status, rest[: (1 << 20) + 1], announce=len(rest), **more)

    server.on("GET", "/blobs/", piece, times=5)
    fetch(server, store, wanted, attempts=1)
    assert store.content.read(wanted.digest) == data and len(ranges(server)) == 6


def test_breaks_without_progress_end_in_an_error(server: LoopbackRegistry, store: Store) -> None:
    wanted = blob(server)
    server.on("GET", "/blobs/", lambda exchange: exchange.reply(200, b"", announce=len(DATA)), times=99)
    clock = FakeClock()
    error = failure("registry-interrupted", lambda: fetch(server, store, wanted, attempts=4, clock=clock))
    assert error.details["attempts"] == 4 and len(clock.slept) == 3
    assert clock.slept == sorted(clock.slept)


def test_a_server_that_ignores_ranges(server: LoopbackRegistry, store: Store) -> None:
    wanted = blob(server)
    server.on("GET", "/blobs/", broken_off(100_000))
    server.on("GET", "/blobs/", lambda exchange: exchange.reply(200, DATA))
    fetch(server, store, wanted)
    assert ranges(server) == ["", "bytes=100000-"]
    assert store.content.read(wanted.digest) == DATA


@pytest.mark.parametrize("status", [206, 416])
def test_a_server_that_cannot_go_on(server: LoopbackRegistry, store: Store, status: int) -> None:
    wanted = blob(server)
    server.on("GET", "/blobs/", broken_off(100_000))
    server.on("GET", "/blobs/", lambda exchange: exchange.reply(status, b"xyz", Content_Range="bytes 5-7/9"))
    fetch(server, store, wanted)
    assert ranges(server) == ["", "bytes=100000-", ""]
    assert store.content.read(wanted.digest) == DATA


def test_a_body_without_length_that_breaks_off(server: LoopbackRegistry, store: Store) -> None:
    wanted = blob(server)
    server.on("GET", "/blobs/", lambda exchange: exchange.reply(200, DATA[:1000], announce=-1))
    fetch(server, store, wanted)
    assert ranges(server) == ["", "bytes=1000-"]


def test_a_truncated_manifest(server: LoopbackRegistry, store: Store) -> None:
    server.on("GET", "/manifests/", lambda exchange: exchange.reply(200, b'{"sche', announce=900), times=3)
    with open_access(attempts=3) as access:
        reference = parse_reference(f"{server.host}/app:v1")
        error = failure(
            "registry-interrupted", lambda: pull_image(reference, store.content, AMD64, access=access)
        )
    assert error.details["attempts"] == 3


# Corruption


def test_a_corrupted_blob_is_named_and_refused(server: LoopbackRegistry, store: Store) -> None:
    wanted = blob(server)
    server.blobs[wanted.digest] = DATA[:-1] + bytes([DATA[-1] ^ 1])
    error = failure("corrupt-blob", lambda: fetch(server, store, wanted))
    assert error.details["expected"] == wanted.digest
    assert error.details["actual"].startswith("sha256:") and error.details["actual"] != wanted.digest
    assert wanted.digest in str(error) and server.host in str(error)
    assert not store.content.has(wanted.digest)
    assert ranges(server) == ["", ""]


def test_a_blob_that_was_corrupted_once(server: LoopbackRegistry, store: Store) -> None:
    wanted = blob(server)
    server.on("GET", "/blobs/", lambda exchange: exchange.reply(200, bytes(len(DATA))))
    fetch(server, store, wanted)
    assert store.content.read(wanted.digest) == DATA


def test_a_blob_that_was_too_short_once(server: LoopbackRegistry, store: Store) -> None:
    wanted = blob(server)
    server.on("GET", "/blobs/", lambda exchange: exchange.reply(200, bytes(1 << 20)))
    fetch(server, store, wanted)
    assert store.content.read(wanted.digest) == DATA
    assert ranges(server) == ["", ""]


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1])
def test_a_blob_of_another_size(server: LoopbackRegistry, store: Store, size: int) -> None:
    wanted = blob(server)
    server.blobs[wanted.digest] = (DATA + b"more")[:size]
    failure("corrupt-blob", lambda: fetch(server, store, wanted))
    assert not store.content.has(wanted.digest)


def test_a_manifest_with_another_digest(server: LoopbackRegistry, store: Store) -> None:
    made = image(server.add_blob, "lies")
    server.manifests[made.digest] = (media.MANIFEST, server.blobs[made.digest] + b"\n")
    with open_access() as access:
        there = [repository(access, server)]
        error = failure("corrupt-manifest", lambda: fetch_manifest(there, made.digest, store.content))
        assert error.details["expected"] == made.digest != error.details["actual"]
        server.on(
            "GET", "/manifests/v1",
            lambda exchange: exchange.reply(200, b"{}", Docker_Content_Digest=made.digest),
        )  # fmt: skip
        failure("corrupt-manifest", lambda: fetch_manifest(there, "v1", store.content))
    assert not store.content.has(made.digest)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"<html>log in</html>", "invalid-manifest"),
        (b'{"schemaVersion":1,"name":"app","fsLayers":[]}', "schema-1-manifest"),
        (b" " * (client.MANIFEST_LIMIT + 1), "manifest-too-large"),
    ],
)
def test_what_is_no_manifest(server: LoopbackRegistry, store: Store, data: bytes, code: str) -> None:
    server.manifests["v1"] = (media.MANIFEST, data)
    with open_access() as access:
        there = [repository(access, server)]
        error = failure(code, lambda: fetch_manifest(there, "v1", store.content))
    assert error.details["retryable"] is False
    assert list(store.content.digests()) == []


def test_a_child_whose_size_is_not_that_of_its_index(server: LoopbackRegistry, store: Store) -> None:
    made = image(server.add_blob, "child")
    server.add_manifest("v1", media.MANIFEST, server.blobs[made.digest])
    with open_access() as access:
        there, said = (
            [repository(access, server)],
            Descriptor(media_type=media.MANIFEST, digest=made.digest, size=7),
        )
        failure("corrupt-manifest", lambda: fetch_manifest(there, made.digest, store.content, said))


def test_a_config_without_bounds(server: LoopbackRegistry, store: Store) -> None:
    data = b'{"schemaVersion":2,"config":{"mediaType":"%s","size":9999999999,"digest":"%s"},"layers":[]}' % (
        media.CONFIG.encode(),
        server.add_blob(b"{}").encode(),
    )
    server.add_manifest("v1", media.MANIFEST, data)
    with open_access() as access:
        reference = parse_reference(f"{server.host}/app:v1")
        failure("config-too-large", lambda: pull_image(reference, store.content, AMD64, access=access))


# Patience


def test_too_many_requests(server: LoopbackRegistry, store: Store) -> None:
    wanted, clock = blob(server), FakeClock()
    later = formatdate(clock.now + 7 + 40, usegmt=True)
    server.on("GET", "/blobs/", lambda exchange: exchange.reply(429, Retry_After="7"))
    server.on("GET", "/blobs/", lambda exchange: exchange.reply(503, Retry_After=later))
    fetch(server, store, wanted, clock=clock)
    assert clock.slept == [7, 40]


def test_too_many_requests_for_long(server: LoopbackRegistry, store: Store) -> None:
    wanted, clock = blob(server), FakeClock()
    body = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"pay\\u001b[31m\\nus"}]}'
    server.on("GET", "/blobs/", lambda exchange: exchange.reply(429, body, Retry_After="3600"), times=9)
    error = failure("registry-rate-limited", lambda: fetch(server, store, wanted, clock=clock))
    assert (clock.slept, error.details["attempts"]) == ([], 1)
    assert error.details["remote_code"] == "TOOMANYREQUESTS"
    assert "pay" in str(error) and "\x1b" not in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_in_trouble_is_asked_again(server: LoopbackRegistry, store: Store, status: int) -> None:
    wanted, clock = blob(server), FakeClock()
    server.on("GET", "/blobs/", lambda exchange: exchange.reply(status), times=2)
    fetch(server, store, wanted, clock=clock)
    assert len(clock.slept) == 2 and store.content.has(wanted.digest)


def test_a_server_that_stays_in_trouble(server: LoopbackRegistry, store: Store) -> None:
    wanted = blob(server)
    server.on("GET", "/blobs/", lambda exchange: exchange.reply(500), times=99)
    error = failure("registry-error", lambda: fetch(server, store, wanted, attempts=3))
    assert (error.details["attempts"], error.details["status"]) == (3, 500)


@pytest.mark.parametrize(
    ("status", "code"), [(403, "registry-denied"), (404, "registry-not-found"), (400, "registry-error")]
)
def test_some_answers_are_final(server: LoopbackRegistry, store: Store, status: int, code: str) -> None:
    wanted = blob(server)
    server.on("GET", "/blobs/", lambda exchange: exchange.reply(status), times=99)
    assert failure(code, lambda: fetch(server, store, wanted)).details["attempts"] == 1


def test_cancelling_ends_a_transfer(server: LoopbackRegistry, store: Store) -> None:
    wanted = blob(server)
    with open_access() as access:
        with pytest.raises(Cancelled) as caught:
            fetch_blob(
                repository(access, server), wanted, store.content, lambda done, total: access.cancelled.set()
            )
    assert caught.value.code == "cancelled" and not store.content.has(wanted.digest)
    fetch(server, store, wanted)
    assert re.fullmatch(r"bytes=\d+-", ranges(server)[1])


def test_one_failure_ends_a_whole_pull(server: LoopbackRegistry, store: Store) -> None:
    made = image(server.add_blob, "one fails", layers=8)
    server.add_manifest("v1", media.MANIFEST, server.blobs[made.digest])
    document = parse(server.blobs[made.digest])
    assert isinstance(document, Manifest)
    del server.blobs[document.layers[0].digest]
    with open_access() as access:
        reference = parse_reference(f"{server.host}/app:v1")
        failure("registry-not-found", lambda: pull_image(reference, store.content, AMD64, access=access))


# Redirections


def test_a_redirection_in_a_circle(server: LoopbackRegistry, store: Store) -> None:
    wanted = blob(server)
    server.on("GET", "/blobs/", lambda exchange: exchange.reply(307, Location="/v2/app/blobs/b"), times=99)
    error = failure("redirect-refused", lambda: fetch(server, store, wanted))
    assert len(server.requests("GET", "/blobs/")) == 2 and error.details["attempts"] == 1


def test_a_redirection_without_end(server: LoopbackRegistry, store: Store) -> None:
    wanted = blob(server)
    server.on("GET", "/blobs/", lambda exchange: exchange.reply(307, Location=f"{exchange.path}x"), times=99)
    failure("redirect-refused", lambda: fetch(server, store, wanted))
    assert len(server.requests("GET", "/blobs/")) == 9


def test_another_host_gets_no_authorization(server: LoopbackRegistry, store: Store) -> None:
    server.guarded = True
    wanted = blob(server)
    with LoopbackRegistry() as storage:
        storage.add_blob(DATA)
        elsewhere = f"{storage.url}/v2/data/{wanted.digest}?signature=top-secret"
        server.on("GET", "/blobs/", lambda exchange: exchange.reply(307, Location=elsewhere), times=1)
        # The first request to come meets the redirection, with the token of the probe's challenge.
        fetch(server, store, wanted)
        asked = server.requests("GET", "/blobs/")[-1]
        assert asked.headers["Authorization"] == "Bearer token-1"
        assert [one.headers.get("Authorization") for one in storage.requests()] == [None]
        storage.on("GET", "", lambda exchange: exchange.reply(403))
        server.on("GET", "/blobs/", lambda exchange: exchange.reply(307, Location=elsewhere))
        other = Store.open(f"{Path(store.content.path(wanted.digest)).parents[2]}-other")
        try:
            error = failure("registry-denied", lambda: fetch(server, other, wanted))
        finally:
            other.close()
        shown = "".join(traceback.format_exception(error)) + repr(error.details)
        assert "top-secret" not in shown and "token-" not in shown


def test_the_same_host_keeps_the_authorization(server: LoopbackRegistry, store: Store) -> None:
    server.guarded = True
    wanted = blob(server)
    server.on("GET", "/blobs/", lambda exchange: exchange.reply(307, Location=f"/v2/x/blobs/{wanted.digest}"))
    fetch(server, store, wanted)
    assert {one.headers["Authorization"] for one in server.requests("GET", "/blobs/")} == {"Bearer token-1"}


# Tokens


def test_a_token_that_ends_in_the_middle(server: LoopbackRegistry, store: Store) -> None:
    server.guarded = True
    made = image(server.add_blob, "tokens", layers=4)
    server.add_manifest("v1", media.MANIFEST, server.blobs[made.digest])

    def revoke(exchange: Exchange) -> None:
        server.tokens.clear()
        server.respond(exchange)

    server.on("GET", "/blobs/", revoke)
    with open_access() as access:
        reference = parse_reference(f"{server.host}/app:v1")
        pull_image(reference, store.content, AMD64, access=access, jobs=1)
    assert len(server.requests("GET", "/token")) == 2
    assert len(list(store.content.digests())) == 6


def test_a_token_is_renewed_before_it_ends(server: LoopbackRegistry, store: Store) -> None:
    server.guarded, server.token_life_s = True, 100.0
    clock, first, second, third = FakeClock(), *(blob(server, noise(10, f"t{n}")) for n in range(3))
    with open_access(clock=clock) as access:
        for wanted, pause in ((first, 80.0), (second, 15.0), (third, 0.0)):
            fetch_blob(repository(access, server), wanted, store.content)
            clock.now += pause
    assert len(server.requests("GET", "/token")) == 2
    assert len(server.requests("GET", "/blobs/")) == 3


def test_a_registry_that_takes_no_token(server: LoopbackRegistry, store: Store) -> None:
    server.guarded = True
    wanted = blob(server)
    server.on("GET", "/token", lambda exchange: exchange.reply(200, b'{"token":"s3cret"}'), times=99)
    error = failure("registry-denied", lambda: fetch(server, store, wanted))
    assert "s3cret" not in "".join(traceback.format_exception(error)) + repr(error.details)
    assert len(server.requests("GET", "/blobs/")) <= 3


@pytest.mark.parametrize("answer", [b"not json s3cret", b"{}", b'{"token":"a\\nb"}'])
def test_a_token_server_that_sends_none(server: LoopbackRegistry, store: Store, answer: bytes) -> None:
    server.guarded = True
    wanted = blob(server)
    server.on("GET", "/token", lambda exchange: exchange.reply(200, answer), times=99)
    error = failure("registry-error", lambda: fetch(server, store, wanted))
    assert "s3cret" not in "".join(traceback.format_exception(error))


# Uploads


def stored(store: Store, data: bytes = DATA) -> tuple[str, Callable[[], io.BufferedReader]]:
    digest = store.content.write(data)
    return digest, lambda: open(store.content.path(digest), "rb")


def test_an_interrupted_upload_goes_on_where_it_stopped(server: LoopbackRegistry, store: Store) -> None:
    data = noise(6 << 20, "upload")
    digest, opener = stored(store, data)

    def break_off(exchange: Exchange) -> None:
        name = exchange.path.rpartition("/")[2]
        server.uploads[name] += exchange.read_body(1 << 20)
        exchange.close_connection = True

    server.on("PATCH", "/uploads/", break_off)
    with open_access() as access:
        assert push_blob(repository(access, server), digest, len(data), opener) == "uploaded"
    assert server.blobs[digest] == data
    first, second = server.requests("PATCH", "/uploads/")
    assert first.headers["Content-Range"] == f"0-{len(data) - 1}"
    assert second.headers["Content-Range"] == f"{1 << 20}-{len(data) - 1}"


def test_an_upload_that_the_registry_forgot(server: LoopbackRegistry, store: Store) -> None:
    data = noise(6 << 20, "forgotten")
    digest, opener = stored(store, data)

    def forget(exchange: Exchange) -> None:
        server.uploads.pop(exchange.path.rpartition("/")[2])
        exchange.read_body()
        exchange.reply(503)

    server.on("PATCH", "/uploads/", forget)
    with open_access() as access:
        assert push_blob(repository(access, server), digest, len(data), opener) == "uploaded"
    assert server.blobs[digest] == data and len(server.requests("POST")) == 2


def test_an_upload_whose_answer_was_lost(server: LoopbackRegistry, store: Store) -> None:
    digest, opener = stored(store)

    def lose(exchange: Exchange) -> None:
        exchange.read_body()
        server.uploads.pop(exchange.path.partition("?")[0].rpartition("/")[2])
        server.add_blob(exchange.body)
        exchange.close_connection = True

    server.on("PUT", "/uploads/", lose)
    with open_access() as access:
        assert push_blob(repository(access, server), digest, len(DATA), opener) == "uploaded"
    assert len(server.requests("PUT", "/uploads/")) == 1 and server.blobs[digest] == DATA


def test_a_refused_upload(server: LoopbackRegistry, store: Store) -> None:
    made = image(store.content.write, "refused", layers=6)
    body = b'{"errors":[{"code":"DENIED","message":"read only"}]}'
    server.on("POST", "/uploads/", lambda exchange: exchange.reply(403, body), times=99)
    with open_access() as access:
        reference = parse_reference(f"{server.host}/app:v1")
        error = failure("registry-denied", lambda: push_image(made, reference, store.content, access=access))
    assert error.details["remote_code"] == "DENIED" and "read only" in str(error)
    assert server.requests("PUT", "/manifests/") == []


def test_a_registry_that_understood_another_manifest(server: LoopbackRegistry, store: Store) -> None:
    made = image(store.content.write, "altered")
    lie = "sha256:" + "0" * 64
    server.on("PUT", "/manifests/", lambda exchange: exchange.reply(201, Docker_Content_Digest=lie))
    with open_access() as access:
        reference = parse_reference(f"{server.host}/app:v1")
        failure("corrupt-manifest", lambda: push_image(made, reference, store.content, access=access))


def test_cancelling_ends_a_push(server: LoopbackRegistry, store: Store) -> None:
    made = image(store.content.write, "cancelled", layers=4)
    with open_access() as access:
        with pytest.raises(Cancelled) as caught:
            push_image(
                made, parse_reference(f"{server.host}/app:v1"), store.content, access=access,
                progress=lambda blob, done, total: access.cancelled.set(),
            )  # fmt: skip
    assert caught.value.code == "cancelled"
    assert server.requests("PUT", "/manifests/") == []


def test_a_registry_that_starts_late(server: LoopbackRegistry, store: Store) -> None:
    wanted, clock = blob(server), FakeClock()
    server.on("GET", "^/v2/$", lambda exchange: exchange.reply(503, Retry_After="9"), times=2)
    fetch(server, store, wanted, clock=clock)
    assert clock.slept == [9, 9]
