"""Remote caches that fail: a build loses time at most."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from remote_builds import DOCKERFILE, FILES, layer_blobs, ran, records, ref, warnings

from building import Builder, Built, Context, MakeBuilder
from loopback_server import Exchange, LoopbackRegistry

EDITED = {**FILES, "Dockerfile": DOCKERFILE + "RUN echo more > /more\n"}


@pytest.fixture
def server() -> Iterator[LoopbackRegistry]:
    with LoopbackRegistry() as made:
        yield made


@pytest.fixture
def second(make_builder: MakeBuilder) -> Builder:
    """The other machine's user has subordinate ids; the first one's is root."""
    return make_builder("subids", "two")


@pytest.fixture
def published(make_builder: MakeBuilder, context: Context, server: LoopbackRegistry) -> Built:
    """What a first machine built, and published."""
    built = make_builder("root", "one").build(
        context(FILES), "--cache-to", f"type=registry,ref={ref(server)},mode=max"
    )
    del server.seen[:]
    return built


def status(code: int) -> Callable[[Exchange], None]:
    return lambda exchange: exchange.reply(code, b"{}")


@pytest.mark.parametrize("code", [401, 403, 500])
def test_a_remote_that_answers_with_errors_is_left_out(
    code: int, second: Builder, published: Built, context: Context, server: LoopbackRegistry
) -> None:
    server.on("GET", "/manifests/", status(code), times=float("inf"))
    server.on("HEAD", "/manifests/", status(code), times=float("inf"))
    built = second.build(context(FILES), "--cache-from", ref(server), "--cache-to", ref(server))
    assert sorted(warnings(built)) == ["cache-export-failed", "cache-import-failed"]
    assert (built.digest, len(ran(built))) == (published.digest, 6)
    assert len(server.requests("GET", "/manifests/")) < 60


def test_a_registry_that_is_not_there(second: Builder, context: Context) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        name = f"127.0.0.1:{closed.getsockname()[1]}/cache"
        built = second.build(context(FILES), "--cache-from", name, "--cache-to", name)
        assert sorted(warnings(built)) == ["cache-export-failed", "cache-import-failed"]
        # Who wants to know asks for it: the image is there all the same.
        args = ("build", "-t", "app", "--cache-to", f"type=registry,ref={name},ignore-error=false")
        done = second.run(*args, str(context(FILES)), status=5)
    assert "error[cache-export-failed]" in done.err
    assert "app" in second.run("images").out


@pytest.mark.parametrize("what", ["corrupt", "missing", "broken"])
def test_blobs_that_cannot_be_had_are_made_again(
    what: str, second: Builder, published: Built, context: Context, server: LoopbackRegistry
) -> None:
    """The remote has a record and promises its layers: found out when a step needs them."""
    for digest in layer_blobs(server):
        if what == "corrupt":
            server.blobs[digest] = bytes(reversed(server.blobs[digest]))
        elif what == "missing":
            del server.blobs[digest]
        else:
            server.on("GET", f"/blobs/{digest}", status(500), times=float("inf"))
    built = second.build(context(EDITED), "--cache-from", ref(server))
    assert warnings(built) == ["cache-import-failed"]
    again = second.build(context(EDITED))
    assert (again.digest, ran(again)) == (built.digest, [])
    plain = second.build(context(FILES))
    assert plain.digest == published.digest
    second.run("fsck")


def replace_record(server: LoopbackRegistry, change: Callable[[dict[str, object]], object]) -> None:
    """Every record, rewritten by a hostile hand: manifests and digests are in order."""
    for tag in records(server):
        media_type, data = server.manifests[tag]
        manifest = json.loads(data)
        record = json.loads(server.blobs[manifest["config"]["digest"]])
        change(record)
        text = json.dumps(record).encode()
        manifest["config"].update(digest=server.add_blob(text), size=len(text))
        server.add_manifest(tag, media_type, json.dumps(manifest).encode())


HOSTILE: dict[str, Callable[[dict], object]] = {
    "another key": lambda record: record.update(key="sha256:" + "0" * 64),
    "a digest that is a path": lambda record: record["layers"][-1]["blob"].update(digest="sha256:../../x"),
    "a layer that is not there": lambda record: record.update(results=[[0, 99]]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_record_is_a_warning_and_a_miss(
    name: str, make_builder: MakeBuilder, published: Built, context: Context, server: LoopbackRegistry
) -> None:
    replace_record(server, HOSTILE[name])
    builder = make_builder("root", "two")
    built = builder.build(context(FILES), "--cache-from", ref(server), "--cache-to", ref(server))
    assert set(warnings(built)) == {"invalid-cache-record"}
    assert (built.digest, len(ran(built))) == (published.digest, 6)
    # A record that nobody can read is replaced.
    third = make_builder("root", "three").build(context(FILES), "--cache-from", ref(server))
    assert (third.digest, ran(third)) == (published.digest, [])


def test_a_blob_must_be_the_layer_that_it_is_said_to_be(
    second: Builder, published: Built, context: Context, server: LoopbackRegistry
) -> None:
    """Two blobs are swapped, each with its true digest: only what they unpack to tells."""

    def swap(record: dict) -> None:
        made = [layer for layer in record["layers"] if layer.get("blob")]
        if len(made) > 1:
            made[0]["blob"], made[1]["blob"] = made[1]["blob"], made[0]["blob"]

    replace_record(server, swap)
    built = second.build(context(FILES), "--cache-from", ref(server))
    assert built.digest == published.digest
    assert warnings(built) == ["cache-import-failed"]
    assert second.build(context(FILES)).digest == published.digest
    second.run("fsck")


def test_a_huge_record_is_not_read(
    second: Builder, published: Built, context: Context, server: LoopbackRegistry
) -> None:
    replace_record(server, lambda record: record.update(padding="x" * (2 << 20)))
    built = second.build(context(FILES), "--cache-from", ref(server))
    assert set(warnings(built)) == {"invalid-cache-record"}
    assert len(ran(built)) == 6


def test_killed_while_it_publishes(
    second: Builder, make_builder: MakeBuilder, context: Context, server: LoopbackRegistry
) -> None:
    """What was published until then is whole; the rest is not to be seen."""
    reached = threading.Event()

    def stop_here(exchange: Exchange) -> None:
        exchange.read_body()
        reached.set()

    server.on(
        "PUT",
        "/manifests/",
        lambda exchange: (exchange.read_body(), exchange.server.respond(exchange)),
        times=2,
    )
    server.on("PUT", "/manifests/", stop_here, times=float("inf"))
    process = second.start(
        "build",
        "--cache-to",
        f"type=registry,ref={ref(server)},mode=max",
        str(context(FILES)),
        start_new_session=True,
    )
    assert reached.wait(60)
    process.kill()
    process.communicate()
    server.faults.clear()
    published = len(records(server))
    assert published == 2
    third = make_builder("root", "three").build(context(FILES), "--cache-from", ref(server))
    assert warnings(third) == []
    assert len(ran(third)) < 6
    second.run("fsck")
    # The next build publishes what is left.
    second.build(context(FILES), "--cache-to", f"type=registry,ref={ref(server)},mode=max")
    assert len(records(server)) == 6


@pytest.mark.parametrize("identity", ["root", "subids"])
def test_what_a_killed_builder_had_done_is_published(
    identity: str, make_builder: MakeBuilder, context: Context, server: LoopbackRegistry
) -> None:
    """A machine is taken away in the middle of a step: what was done before is not lost."""
    evicted = make_builder(identity, "evicted")
    text = DOCKERFILE.replace("RUN echo unused > /unused\n", "")
    root = context({**FILES, "Dockerfile": text + "RUN sleep 600\n"}, "long")
    process = evicted.start(
        "build", "--cache-to", f"type=registry,ref={ref(server)},mode=max", str(root), start_new_session=True
    )
    deadline = time.monotonic() + 60
    while len(records(server)) < 5:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.communicate()
    third = make_builder(identity, "three")
    built = third.build(context({**FILES, "Dockerfile": text}, "short"), "--cache-from", ref(server))
    assert (ran(built), warnings(built)) == ([], [])


def test_killed_while_it_imports_and_then_offline(
    second: Builder, published: Built, context: Context, server: LoopbackRegistry
) -> None:
    """Records are known, and their layers are not here: a build without the remote misses them."""
    reached = threading.Event()
    for digest in layer_blobs(server):
        server.on(
            "GET",
            f"/blobs/{digest}",
            lambda exchange: (reached.set(), exchange.reply(500)),
            times=float("inf"),
        )
    process = second.start("build", "--cache-from", ref(server), str(context(EDITED)), start_new_session=True)
    assert reached.wait(60)
    process.kill()
    process.communicate()
    offline = second.build(context(FILES))
    assert (offline.digest, warnings(offline)) == (published.digest, [])
    assert len(ran(offline)) == 6
    second.run("fsck")


def test_the_end_does_not_wait_for_ever(second: Builder, context: Context, server: LoopbackRegistry) -> None:
    released = threading.Event()
    server.on("PUT", "/manifests/", lambda exchange: released.wait(60), times=float("inf"))
    try:
        built = second.build(
            context(FILES),
            "--cache-to",
            f"type=registry,ref={ref(server)},mode=max",
            "--cache-export-timeout",
            "1s",
        )
    finally:
        released.set()
    assert warnings(built) == ["cache-export-timeout"]
    assert built.fields["arkwright.duration_s"] < 30


def test_a_build_that_fails_has_published_what_it_made(
    second: Builder, make_builder: MakeBuilder, context: Context, server: LoopbackRegistry
) -> None:
    failing = context({**FILES, "Dockerfile": DOCKERFILE + "RUN exit 3\n"}, "failing")
    second.run("build", "--cache-to", ref(server), str(failing), status=1)
    third = make_builder("root", "three").build(context(FILES), "--cache-from", ref(server))
    assert (ran(third), warnings(third)) == ([], [])


def test_credentials_are_those_of_a_push_and_are_told_to_nobody(
    second: Builder, make_builder: MakeBuilder, context: Context, server: LoopbackRegistry
) -> None:
    server.guarded = True
    secret = base64.b64encode(b"alice:open-sesame").decode()
    auth = second.home / "auth.json"
    auth.write_text(json.dumps({"auths": {server.host: {"auth": secret}}}))
    auth.chmod(0o644)
    second.env["REGISTRY_AUTH_FILE"] = str(auth)
    built = second.build(
        context(FILES), "--cache-from", ref(server), "--cache-to", f"type=registry,ref={ref(server)},mode=max"
    )
    assert warnings(built) == []
    assert len(records(server)) == 6
    asked = server.requests("GET", "^/token")
    assert {one.headers["Authorization"] for one in asked} == {f"Basic {secret}"}
    journal = b"".join(path.read_bytes() for path in (second.store / "history").rglob("*") if path.is_file())
    assert b"open-sesame" not in journal
    assert secret.encode() not in journal
    assert hashlib.sha256(b"").hexdigest().encode() not in journal
