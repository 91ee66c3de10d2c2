"""What goes wrong in the middle: tokens that end, registries that are out of breath, that answer
nonsense, or send as slowly as they can; and that nothing is half there afterwards."""

from __future__ import annotations

import hashlib
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from registry_images import AMD64, failure, image, index, noise
from serving import Serving

from arkwright.net.transport import Limits, Transport
from arkwright.oci import descriptor as media
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.reference import parse_reference
from arkwright.registry.access import Access
from arkwright.registry.client import Registry, open_registries
from arkwright.registry.pull import fetch_blob, pull_image
from arkwright.registry.push import push_image
from arkwright.registry.upload import push_blob
from arkwright.store.store import Store
from building import Builder
from loopback_server import Exchange, FakeClock, Loopback, LoopbackRegistry, open_access

LARGE = noise(6 << 20, "large upload")
PLACE = r"/uploads/upload"


def repository(access: Access, server: Loopback) -> Registry:
    return open_registries(access, parse_reference(f"{server.host}/app"))[0]


def upload(server: LoopbackRegistry, store: Store, data: bytes = LARGE, **more: object) -> FakeClock:
    clock = FakeClock()
    digest = store.content.write(data)
    with open_access(clock=clock, **more) as access:  # type: ignore[arg-type]
        push_blob(repository(access, server), digest, len(data), lambda: store.content.open(digest))
    assert server.blobs[digest] == data
    return clock


def whole(store: Store) -> set[str]:
    """The digests in the store, which all are what they say."""
    found = set(store.content.digests())
    for digest in found:
        assert "sha256:" + hashlib.sha256(store.content.read(digest)).hexdigest() == digest
    assert store.names.list() == []
    return found


# Tokens


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize(("method", "place"), [("POST", "/uploads/"), ("PATCH", PLACE), ("PUT", PLACE)])
def test_a_token_that_ends_in_an_upload(
    server: LoopbackRegistry, store: Store, method: str, place: str, reads: bool
) -> None:
    """The registry may say so before it has read what is sent."""
    server.guarded = True

    def revoke(exchange: Exchange) -> None:
        server.tokens.clear()
        if reads:
            exchange.read_body()
        else:
            exchange.close_connection = True
        server.respond(exchange)

    server.on(method, place, revoke)
    upload(server, store)
    # One to look, one to push, and the one that came after the end.
    assert len(server.requests("GET", "/token")) == 3
    assert len({one.headers["Authorization"] for one in server.requests(method, place)}) == 2


def test_a_token_that_ends_before_the_manifest(server: LoopbackRegistry, store: Store) -> None:
    server.guarded = True
    made = image(store.content.write, "late token")

    def revoke(exchange: Exchange) -> None:
        server.tokens.clear()
        exchange.read_body()
        server.respond(exchange)

    server.on("PUT", "/manifests/", revoke)
    with open_access() as access:
        push_image(made, parse_reference(f"{server.host}/app:v1"), store.content, access=access)
    assert server.manifests["v1"][1] == store.content.read(made.digest)


def test_a_token_that_is_never_good_for_an_upload(server: LoopbackRegistry, store: Store) -> None:
    server.guarded = True

    def refuse(exchange: Exchange) -> None:
        exchange.read_body()
        challenge = f'Bearer realm="{server.url}/token",service="test",error="insufficient_scope"'
        exchange.reply(
            401, b'{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}', WWW_Authenticate=challenge
        )

    server.on("PATCH", PLACE, refuse, times=99)
    error = failure("registry-denied", lambda: upload(server, store))
    assert (error.details["status"], error.details["attempts"]) == (401, 1)
    assert len(server.requests("PATCH")) <= 3
    shown = "".join(traceback.format_exception(error)) + repr(error.details)
    assert "token-" not in shown


@pytest.mark.parametrize(("status", "slept"), [(429, [3]), (503, [3])])
def test_a_token_server_that_is_out_of_breath(
    server: LoopbackRegistry, store: Store, status: int, slept: list[int]
) -> None:
    server.guarded = True
    server.on("GET", "/token", lambda exchange: exchange.reply(status, Retry_After="3"))
    assert upload(server, store).slept == slept


# Registries out of breath


@pytest.mark.parametrize("status", [429, 500])
@pytest.mark.parametrize(
    ("method", "place"),
    [("HEAD", "/blobs/"), ("POST", "/uploads/"), ("PATCH", PLACE), ("PUT", PLACE), ("PUT", "/manifests/")],
)
def test_every_request_of_a_push_is_made_again(
    server: LoopbackRegistry, store: Store, method: str, place: str, status: int
) -> None:
    made = image(store.content.write, "breath", layers=1, size=5 << 20)

    def tired(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.reply(status, Retry_After="2")

    server.on(method, place, tired, times=2)
    clock = FakeClock()
    with open_access(clock=clock) as access:
        push_image(made, parse_reference(f"{server.host}/app:v1"), store.content, access=access, jobs=1)
    assert clock.slept == [2, 2]
    assert set(store.content.digests()) <= set(server.blobs) | set(server.manifests)


@pytest.mark.parametrize(
    "said", ["-5", "nan", "1e9", "Thu, 99 Foo 2020 00:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 GMT", "", "9" * 400,
             "Fri, 31 Dec 9999 23:59:59 -9999"]
)  # fmt: skip
def test_what_a_registry_may_say_of_waiting(server: LoopbackRegistry, store: Store, said: str) -> None:
    wanted = Descriptor(media_type="x/y", digest=server.add_blob(b"data"), size=4)
    clock = FakeClock()
    server.on("GET", "/blobs/", lambda exchange: exchange.reply(503, Retry_After=said))
    try:
        with open_access(clock=clock) as access:
            fetch_blob(repository(access, server), wanted, store.content)
    except Exception as error:
        # Too long a wait ends it; nothing else does.
        assert getattr(error, "code", "") == "registry-error"
    assert all(0 <= slept <= 120 for slept in clock.slept)


def test_an_upload_of_which_nothing_arrives(server: LoopbackRegistry, store: Store) -> None:
    def drop(exchange: Exchange) -> None:
        exchange.close_connection = True

    server.on("PATCH", PLACE, drop, times=3)
    upload(server, store)
    assert len(server.requests("POST")) == 1


def test_an_upload_of_which_nothing_ever_arrives(server: LoopbackRegistry, store: Store) -> None:
    def drop(exchange: Exchange) -> None:
        exchange.close_connection = True

    server.on("PATCH", PLACE, drop, times=99)
    error = failure("registry-interrupted", lambda: upload(server, store, attempts=3))
    assert error.details["attempts"] == 3 and "upload" in str(error) + str(error.details["url"])


# Nonsense


@pytest.mark.parametrize(
    "location", ["http://[bad/x", "file:///etc/passwd", "ftp://example.com/x", "http://", "//", "\x01"]
)
def test_a_location_that_is_none(server: LoopbackRegistry, store: Store, location: str) -> None:
    server.on(
        "POST",
        "/uploads/",
        lambda exchange: (exchange.read_body(), exchange.reply(202, Location=location))[1],
        99,
    )
    with pytest.raises(Exception) as caught:
        upload(server, store, attempts=2)
    assert getattr(caught.value, "exit_code", 70) == 5, caught.value


def test_a_location_elsewhere_gets_no_credentials(server: LoopbackRegistry, store: Store) -> None:
    server.guarded = True
    with LoopbackRegistry() as storage:
        storage.uploads["upload-x"] = bytearray()
        place = f"{storage.url}/v2/app/blobs/uploads/upload-x"
        server.on("POST", "/uploads/", lambda exchange: exchange.reply(202, Location=place), times=9)
        digest = store.content.write(LARGE)
        with open_access() as access:
            push_blob(repository(access, server), digest, len(LARGE), lambda: store.content.open(digest))
        assert storage.blobs[digest] == LARGE
        assert [one.headers.get("Authorization") for one in storage.requests()] == [None] * len(
            storage.requests()
        )


@pytest.mark.parametrize("status", [301, 307, 308])
def test_an_upload_is_not_redirected(server: LoopbackRegistry, store: Store, status: int) -> None:
    server.on(
        "POST", "/uploads/", lambda exchange: exchange.reply(status, Location="/v2/x/blobs/uploads/"), 99
    )
    error = failure("registry-error", lambda: upload(server, store))
    assert error.details["status"] == status and len(server.requests("POST")) == 1


@pytest.mark.parametrize("realm", ["http://[bad", "file:///etc/passwd", "", "x" * 5000, "https://\x7f/"])
def test_a_realm_that_is_none(server: LoopbackRegistry, store: Store, realm: str) -> None:
    challenge = f'Bearer realm="{realm}",service="x"'
    server.on("GET", "", lambda exchange: exchange.reply(401, b"", WWW_Authenticate=challenge), times=99)
    server.on("HEAD", "", lambda exchange: exchange.reply(401, b"", WWW_Authenticate=challenge), times=99)
    with pytest.raises(Exception) as caught:
        upload(server, store)
    assert getattr(caught.value, "exit_code", 70) == 5, caught.value


DEEP = b'{"token":"x","more":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def test_answers_of_great_depth(server: LoopbackRegistry, store: Store) -> None:
    server.guarded = True
    server.on("GET", "/token", lambda exchange: exchange.reply(200, DEEP), times=99)
    failure("registry-error", lambda: upload(server, store))
    server.guarded = False
    errors = b'{"errors":' + b"[" * 60_000
    server.on("HEAD", "/blobs/", lambda exchange: exchange.reply(404), times=9)
    server.on("POST", "/uploads/", lambda exchange: exchange.reply(400, errors), times=9)
    assert failure("registry-error", lambda: upload(server, store)).details["status"] == 400
    tags = b'{"tags":["a"],"more":' + b"[" * 100_000
    server.on("GET", "/tags/list", lambda exchange: exchange.reply(200, tags), times=9)
    with open_access() as access:
        failure("registry-error", lambda: list(repository(access, server).tags()))


@pytest.mark.parametrize(
    "link", ['<http://[bad>; rel="next"', '<file:///etc/passwd>; rel="next"', '<>; rel="next"']
)
def test_a_next_page_that_is_none(server: LoopbackRegistry, link: str) -> None:
    server.on(
        "GET", "/tags/list", lambda exchange: exchange.reply(200, b'{"tags":["a"]}', Link=link), times=3
    )
    with open_access() as access:
        try:
            assert list(repository(access, server).tags()) == ["a"]
        except Exception as error:
            assert getattr(error, "exit_code", 70) == 5, error


@pytest.mark.parametrize(
    "kind", ["text/html", "application/json", "", "text/plain; charset=utf-8", "x" * 900]
)
def test_a_manifest_by_another_content_type(server: LoopbackRegistry, store: Store, kind: str) -> None:
    """Proxies invent content types: what the document says counts."""
    made = image(server.add_blob, "odd type")
    server.add_manifest("v1", kind, server.blobs[made.digest])
    with open_access() as access:
        reference = parse_reference(f"{server.host}/app:v1")
        assert pull_image(reference, store.content, AMD64, access=access) == Descriptor(
            media_type=media.MANIFEST, digest=made.digest, size=made.size
        )


def test_an_index_that_says_that_it_is_a_manifest(server: LoopbackRegistry, store: Store) -> None:
    made = index(server.add_blob, image(server.add_blob, "child"))
    server.add_manifest("v1", media.MANIFEST, server.blobs[made.digest])
    with open_access() as access:
        reference = parse_reference(f"{server.host}/app:v1")
        failure("invalid-manifest", lambda: pull_image(reference, store.content, AMD64, access=access))
    assert whole(store) == set()


def test_a_web_page_instead_of_a_blob(server: LoopbackRegistry, store: Store) -> None:
    made = image(server.add_blob, "page")
    server.add_manifest("v1", media.MANIFEST, server.blobs[made.digest])
    page = b"<html>please log in</html>"
    server.on(
        "GET", "/blobs/", lambda exchange: exchange.reply(200, page, Content_Type="text/html"), times=99
    )
    with open_access() as access:
        reference = parse_reference(f"{server.host}/app:v1")
        error = failure("corrupt-blob", lambda: pull_image(reference, store.content, AMD64, access=access))
    assert "text/html" in str(error)
    assert whole(store) == {made.digest}


# Slowness


def slow_access(timeout_s: float = 0.3, **more: object) -> Access:
    limits = Limits(timeout_s=timeout_s, **more)  # type: ignore[arg-type]
    return open_access(transport=Transport(env={}, limits=limits))


def stalls(after: int) -> Callable[[Exchange], None]:
    def answer(exchange: Exchange) -> None:
        exchange.reply(200, LARGE[:after], announce=len(LARGE))
        exchange.wfile.flush()
        # Until the client has had enough.
        exchange.rfile.read(1)

    return answer


def test_a_blob_that_stalls_goes_on(server: LoopbackRegistry, store: Store) -> None:
    wanted = Descriptor(media_type="x/y", digest=server.add_blob(LARGE), size=len(LARGE))
    server.on("GET", "/blobs/", stalls(100_000), times=1)
    # Long enough for what the server does send, also on a busy machine.
    with slow_access(timeout_s=2.0) as access:
        fetch_blob(repository(access, server), wanted, store.content)
    asked = [one.headers.get("Range", "") for one in server.requests("GET", "/blobs/")]
    assert asked[:2] == ["", "bytes=100000-"] and whole(store) == {wanted.digest}


def test_a_blob_that_stalls_for_good(server: LoopbackRegistry, store: Store) -> None:
    wanted = Descriptor(media_type="x/y", digest=server.add_blob(LARGE), size=len(LARGE))
    server.on("GET", "/blobs/", stalls(0), times=99)
    with slow_access() as access:
        error = failure(
            "registry-unreachable", lambda: fetch_blob(repository(access, server), wanted, store.content)
        )
    assert error.details["attempts"] == 5 and whole(store) == set()


def test_a_blob_that_trickles(server: LoopbackRegistry, store: Store) -> None:
    """A byte now and then is no silence, and would take for ever."""
    wanted = Descriptor(media_type="x/y", digest=server.add_blob(LARGE), size=len(LARGE))

    def trickle(exchange: Exchange) -> None:
        exchange.reply(200, b"", announce=len(LARGE))
        begun = time.monotonic()
        while time.monotonic() - begun < 600:
            exchange.wfile.write(LARGE[:1])
            time.sleep(0.02)

    server.on("GET", "/blobs/", trickle, times=99)
    with slow_access(timeout_s=5.0, least_rate=1000, rate_after_s=0.3) as access:
        begun = time.monotonic()
        failure("registry-unreachable", lambda: fetch_blob(repository(access, server), wanted, store.content))
    assert time.monotonic() - begun < 300 and whole(store) == set()


# The program


def test_the_program_leaves_nothing_half_there(server: LoopbackRegistry, builder_root: Builder) -> None:
    made = image(server.add_blob, "program", layers=3)
    server.add_manifest("v1", media.MANIFEST, server.blobs[made.digest])
    layers = [digest for digest in server.blobs if digest != made.digest]
    server.blobs[layers[-1]] = b"something else"
    done = builder_root.run("pull", f"{server.host}/app:v1", status=5)
    assert "corrupt-blob" in done.err and layers[-1] in done.err
    assert builder_root.run("images", "-q").out == ""
    builder_root.run("run", f"{server.host}/app:v1", "true", status=5)
    with Store.open(str(builder_root.store)) as store:
        whole(store)


def test_a_push_that_fails_leaves_no_name_there(builder_root: Builder) -> None:
    """Against our own registry, in read-only mode, and then as it should be."""
    builder_root.run("bootstrap", "busybox")
    there = Builder(builder_root.scratch, "root", "there")
    with Serving(there, "--read-only") as serving:
        done = builder_root.run("push", "busybox", f"{serving.host}/box:1", status=5)
        assert "read-only" in done.err and there.run("images", "-q").out == ""
    with Serving(there) as serving:
        builder_root.run("push", "busybox", f"{serving.host}/box:1")
        digest = builder_root.run("inspect", "--format", "digest", "busybox").out
        assert there.run("inspect", "--format", "digest", "box:1").out == digest
        assert builder_root.run("pull", "-q", f"{serving.host}/box:1").out == digest


@pytest.fixture
def builder_root(scratch: Path) -> Builder:
    return Builder(scratch, "root")
