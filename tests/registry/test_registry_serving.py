"""What `serve registry` is to those who run it: names, clean-up, access, signals, interrupted uploads."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from registry_images import AMD64, PASSWORD, USER, Authority, image, needs, noise
from serving import OCTETS, Client, Serving, described, eventually, htpasswd, in_process, sha256

from arkwright.cli.invocation import Invocation
from arkwright.cli.main import program
from arkwright.diagnostics.errors import ArkwrightError, UserError
from arkwright.oci import descriptor as media
from arkwright.oci.reference import parse_reference
from arkwright.registry.pull import pull_image
from arkwright.registry.push import push_image
from arkwright.registry.server.answers import Problem
from arkwright.registry.server.guard import Guard, Passwords
from arkwright.registry.server.room import Room
from arkwright.registry.server.uploads import Uploads
from arkwright.store.store import Store
from building import Builder
from loopback_server import open_access
from stores import mounted

DATA = noise(3 << 20, "serving")


@pytest.fixture
def builder() -> Iterator[Builder]:
    path = Path(tempfile.mkdtemp(prefix="arkwright-serve-"))
    path.chmod(0o755)
    yield Builder(path, "root")
    shutil.rmtree(path)


def names(builder: Builder) -> dict[str, str]:
    return {one["name"]: one["digest"] for one in json.loads(builder.run("images", "--json").out)}


# Names


def test_an_image_of_the_store_is_there_by_its_name(builder: Builder, tmp_path: Path) -> None:
    with Serving(builder) as serving, serving.client() as client:
        assert client.call("GET", "/v2/_catalog").json() == {"repositories": []}
        # Another process names it while we serve.
        builder.run("bootstrap", "busybox")
        builder.run("tag", "busybox", "registry.example/team/box:1")
        builder.run("tag", "busybox", "registry.example:5000/unreachable")
        assert client.call("GET", "/v2/_catalog").json()["repositories"] == [
            "busybox",
            "registry.example/team/box",
        ]
        digest = names(builder)["docker.io/library/busybox:latest"]
        for name, tag in (("busybox", "latest"), ("library/busybox", "latest"), ("docker.io/library/busybox", "latest"),
                          ("registry.example/team/box", "1")):  # fmt: skip
            assert client.call("GET", f"/v2/{name}/manifests/{tag}").digest == digest
        with open_access() as access, Store.open(str(tmp_path / "there")) as there:
            found = pull_image(parse_reference(f"{serving.host}/busybox"), there.content, None, access=access)
        assert found.digest == digest


def test_what_is_pushed_has_a_name_here(builder: Builder) -> None:
    with Serving(builder) as serving, serving.client() as client:
        first, _ = client.put_image("app", "1", "one")
        second, _ = client.put_image("team/app", "1", "two")
        third, _ = client.put_image("registry.example/team/app", "1", "three")
        loose, _ = client.put_image("team/app", "digest", "four")
        assert names(builder) == {
            "docker.io/library/app:1": first,
            "docker.io/team/app:1": second,
            "registry.example/team/app:1": third,
            f"docker.io/team/app@{loose}": loose,
        }
        assert client.call("DELETE", "/v2/app/manifests/1").status == 202
        assert client.call("DELETE", f"/v2/team/app/manifests/{loose}").status == 202
        assert set(names(builder)) == {"docker.io/team/app:1", "registry.example/team/app:1"}
        assert builder.run("inspect", "--format", "digest", "team/app:1").out.strip() == second


def test_an_index_takes_the_names_of_its_images(builder: Builder) -> None:
    with Serving(builder) as serving, serving.client() as client:
        digest, document = client.put_image("multi", "digest", "child")
        child = described(json.dumps(document).encode(), media.MANIFEST)
        index = {"schemaVersion": 2, "mediaType": media.INDEX, "manifests": [child]}
        _, data = client.put_manifest("multi", "1", index)
        assert names(builder) == {"docker.io/library/multi:1": sha256(data)}
        assert serving.stop() == 0
    builder.run("prune")
    with Serving(builder) as serving, serving.client() as client:
        assert client.call("GET", f"/v2/multi/manifests/{digest}").status == 200


def test_the_rest_of_the_store_is_not_there(builder: Builder) -> None:
    with Store.open(str(builder.store)) as store:
        hidden = store.content.write(b"a layer of the build cache")
    with Serving(builder) as serving, serving.client() as client:
        client.put_image("app", "1", "one")
        assert client.call("GET", f"/v2/app/blobs/{hidden}").status == 404
        reply = client.call("POST", f"/v2/app/blobs/uploads/?mount={hidden}&from=app")
        assert reply.status == 202


# Clean-up


def test_a_clean_up_keeps_what_names_and_subjects_keep(builder: Builder) -> None:
    with Serving(builder) as serving, serving.client() as client:
        digest, document = client.put_image("app", "1", "subject")
        subject = described(json.dumps(document).encode(), media.MANIFEST)
        signature, _ = client.put_image("app", "digest", "signature", subject=subject)
        twice = described(client.call("GET", f"/v2/app/manifests/{signature}").body, media.MANIFEST)
        onward, _ = client.put_image("app", "digest", "of the signature", subject=twice)
        loose = client.put_blob("app", b"no manifest came for it")
        assert set(names(builder)) == {"docker.io/library/app:1"}
        assert serving.stop() == 0
    builder.run("prune")
    with Serving(builder) as serving, serving.client() as client:
        for one in (digest, signature, onward):
            assert client.call("GET", f"/v2/app/manifests/{one}").status == 200
        listed = client.call("GET", f"/v2/app/referrers/{digest}").json()["manifests"]
        assert [one["digest"] for one in listed] == [signature]
        layer = document["layers"][0]["digest"]
        assert client.call("GET", f"/v2/app/blobs/{layer}").status == 200
        assert client.call("GET", f"/v2/app/blobs/{loose}").status == 404
        assert serving.stop() == 0
    builder.run("rm", "app:1")
    builder.run("prune")
    with Store.open(str(builder.store)) as store:
        assert not any(store.content.has(one) for one in (digest, signature, onward))
    with Serving(builder) as serving, serving.client() as client:
        assert client.call("GET", f"/v2/app/referrers/{digest}").json()["manifests"] == []


def test_a_server_with_nothing_to_do_leaves_the_store(builder: Builder) -> None:
    with (
        in_process(builder.store, depot_idle_s=0.0, push_idle_s=30.0) as server,
        Client(server.address) as client,
    ):
        client.put_blob("app", b"of a push that is under way")
        builder.run("prune", status=1)
        digest, _ = client.put_image("app", "1", "one")
        builder.run("prune", "--timeout", "20s")
        assert client.call("GET", f"/v2/app/manifests/{digest}").status == 200
        location = client.begin("app")
        builder.run("prune", status=1)
        assert client.call("DELETE", location).status == 204
        builder.run("prune", "--timeout", "20s")


def test_a_quota_is_not_crossed(builder: Builder) -> None:
    builder.run("quota", "20m")
    with Serving(builder) as serving, serving.client() as client:
        client.put_image("app", "1", "fits")
        assert serving.stop() == 0
    with Store.open(str(builder.store)) as store:
        store.content.write(noise(21 << 20))
    with Serving(builder) as serving, serving.client() as client:
        reply = client.call("POST", "/v2/app/blobs/uploads/")
        assert (reply.status, reply.codes) == (507, ["DENIED"])
        assert client.call("GET", "/v2/app/manifests/1").status == 200
        assert client.call("DELETE", "/v2/app/manifests/1").status == 202


def ingested(builder: Builder) -> list[str]:
    return os.listdir(builder.store / "ingest")


def test_a_quota_ends_what_is_being_sent(builder: Builder) -> None:
    builder.run("quota", "20m")
    with Serving(builder) as serving, serving.client() as client:
        # What is announced is refused at once, before a byte of it came.
        for method, more in (("PUT", f"?digest={sha256(b'')}"), ("PATCH", "")):
            location = client.begin("app") + more
            name, port = client.host.rsplit(":", 1)
            head = f"{method} {location} HTTP/1.1\r\nHost: {client.host}\r\nContent-Length: 30000000\r\n\r\n"
            with socket.create_connection((name, int(port)), 30) as wire:
                wire.sendall(head.encode())
                assert wire.recv(1000).startswith(b"HTTP/1.1 507 ")
            assert client.call("DELETE", location.partition("?")[0]).status == 204
        # And what is not, when there is no more room.
        location = client.begin("app")
        with serving.client() as other:
            reply = other.call(
                "PATCH", location, iter([noise(1 << 20)] * 30), chunked=True, Transfer_Encoding="chunked",
                Content_Type=OCTETS,
            )  # fmt: skip
            assert (reply.status, reply.codes) == (507, ["DENIED"])
        # Nothing of it is left, and there is room again.
        assert client.call("GET", location).status == 404
        assert ingested(builder) == []
        client.put_image("app", "1", "fits")


def test_what_is_written_counts_until_the_next_look() -> None:
    disk, looks = 10, 0

    def measure() -> int:
        nonlocal looks
        looks += 1
        return disk

    def write(*sizes: int) -> int:
        """How many bytes were let in."""
        done = 0
        with suppress(Problem):
            for block in room.counted(bytes(size) for size in sizes):
                done += len(block)
        return done

    room = Room(lambda: 100, measure, look_s=3600)
    assert (write(30, 30), looks) == (60, 1)
    # What is on the disk by now was counted already: a look before a refusal tells.
    disk = 70
    assert (write(20, 20), looks) == (40, 2)
    disk = 90
    assert write(11) == 0
    with pytest.raises(Problem) as caught:
        room.check(11)
    assert (caught.value.status, caught.value.code) == (507, "DENIED")
    room.check(10)
    # Nothing was written since the last look: no other look.
    seen = looks
    assert write(11) == 0 and looks == seen
    assert write(10) == 10
    # What was thrown away makes room at once.
    seen, disk = looks, 0
    assert write(1) == 1 and looks == seen + 1
    disk = 200
    assert write(100) == 0
    disk = 0
    room.freed()
    assert write(100) == 100
    seen = looks
    # Without a quota nothing is measured.
    free = Room(lambda: -1, measure, look_s=0)
    free.check(1 << 60)
    assert looks == seen


def test_uploads_of_a_killed_server_are_forgotten(builder: Builder) -> None:
    with Serving(builder) as serving, serving.client() as client:
        location = client.begin("app")
        assert client.call("PATCH", location, b"half", Content_Type=OCTETS).status == 202
        assert len(ingested(builder)) == 1
        serving.stop(signal.SIGKILL)
    with Serving(builder) as serving, serving.client() as client:
        assert ingested(builder) == []
        for method in ("GET", "PATCH", "PUT", "DELETE"):
            query = f"?digest={sha256(b'half')}" if method == "PUT" else ""
            reply = client.call(method, location + query, b"" if method in ("GET", "DELETE") else b"rest")
            assert (reply.status, reply.codes) == (404, ["BLOB_UPLOAD_UNKNOWN"])
        client.put_image("app", "1", "begun again")
        # An orderly end forgets them at once.
        client.call("PATCH", client.begin("app"), b"half", Content_Type=OCTETS)
        assert serving.stop() == 0
    assert ingested(builder) == []


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "small"
    root.mkdir()
    with mounted("tmpfs", root, size_mb=8), in_process(root) as server, Client(server.address) as client:
        location = client.begin("app")
        reply = client.call("PATCH", location, noise(12 << 20), Content_Type=OCTETS)
        assert (reply.status, reply.codes) == (507, ["UNKNOWN"])
        assert client.call("GET", location).status == 404
        client.put_image("app", "1", "small enough")


# Access


def test_read_only(builder: Builder) -> None:
    builder.run("bootstrap", "busybox")
    with Serving(builder, "--read-only") as serving, serving.client() as client:
        for method, path in (
            ("POST", "/v2/a/blobs/uploads/"), ("PUT", "/v2/busybox/manifests/latest"),
            ("DELETE", "/v2/busybox/manifests/latest"), ("PATCH", "/v2/a/blobs/uploads/x"),
        ):  # fmt: skip
            reply = client.call(method, path)
            assert (reply.status, reply.codes) == (405, ["UNSUPPORTED"])
        assert client.call("GET", "/v2/busybox/manifests/latest").status == 200


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_a_password_is_asked_for(builder: Builder) -> None:
    path = htpasswd(builder.scratch / "htpasswd")
    with Serving(builder, "--auth-file", str(path), "--access-log") as serving, serving.client() as client:
        for given in ({}, {"Authorization": basic(USER, "wrong but secret")}, {"Authorization": "Basic !"},
                      {"Authorization": basic("nobody", PASSWORD)}, {"Authorization": "Bearer x"},
                      {"Authorization": basic(USER, PASSWORD + "\0")}):  # fmt: skip
            reply = client.call("GET", "/v2/", **given)
            assert (reply.status, reply.codes) == (401, ["UNAUTHORIZED"])
            assert reply.header("WWW-Authenticate").startswith("Basic realm=")
        for _ in range(2):
            assert client.call("GET", "/v2/", Authorization=basic(USER, PASSWORD)).status == 200
        # Whoever is taken out of the file is out.
        htpasswd(path, "bob", "other password")
        os.utime(path, ns=(1, 1))
        assert client.call("GET", "/v2/", Authorization=basic(USER, PASSWORD)).status == 401
        assert client.call("GET", "/v2/", Authorization=basic("bob", "other password")).status == 200
        assert serving.stop() == 0
        log = "".join(serving.said)
    assert " GET /v2/ 401 " in log and " GET /v2/ 200 " in log
    assert PASSWORD not in log and "secret" not in log and "Basic" not in log


def test_hashes_of_other_kinds(tmp_path: Path) -> None:
    needs("openssl")
    path = tmp_path / "htpasswd"
    for option in ("-5", "-6"):
        hashed = subprocess.run(["openssl", "passwd", option, "pass word"], check=True, capture_output=True,
                                text=True).stdout.strip()  # fmt: skip
        path.write_text(f"# a comment\n\ncarol:{hashed}\n")
        found = Passwords(str(path))
        assert found.accept("carol", b"pass word") and not found.accept("carol", b"pass")


@pytest.mark.parametrize(
    "text",
    ["", "carol\n", "carol:\n", "carol:plain\n", "carol:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=\n", ":$6$a$b\n",
     "carol:$apr1$abcdefgh$0123456789012345678901\n", "carol:$2y$99$abc\n"],
)  # fmt: skip
def test_a_password_file_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "htpasswd"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        Passwords(str(path))
    assert caught.value.code == "invalid-htpasswd"


def test_with_tls(builder: Builder, authority: Authority, tmp_path: Path) -> None:
    tls = ("--tls-cert", str(authority.certificate_path), "--tls-key", str(authority.key_path))
    with (
        Serving(builder, *tls, "--listen", "127.0.0.1:0") as serving,
        Store.open(str(tmp_path / "s")) as store,
    ):
        certs = tmp_path / "certs.d" / serving.host
        certs.mkdir(parents=True)
        shutil.copy(authority.ca_path, certs / "ca.crt")
        reference = parse_reference(f"{serving.host}/app:1")
        made = image(store.content.write, "tls", size=300_000)
        with open_access(tls_directories=(str(tmp_path / "certs.d"),)) as access:
            assert push_image(made, reference, store.content, access=access).uploaded == 3
        with (
            Store.open(str(tmp_path / "t")) as there,
            open_access(tls_directories=(str(tmp_path / "certs.d"),)) as access,
        ):
            assert pull_image(reference, there.content, AMD64, access=access).digest == made.digest
        # Plain HTTP at the port of TLS is no request, and harms nobody.
        with socket.create_connection(tuple(serving.host.split(":"))) as raw:
            with suppress(ConnectionResetError):
                raw.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
                assert b"HTTP/1.1" not in raw.recv(100)
        context = ssl.create_default_context(cafile=str(authority.ca_path))
        with (
            socket.create_connection(tuple(serving.host.split(":"))) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as wrapped,
        ):
            assert wrapped.version() in ("TLSv1.2", "TLSv1.3")
        assert serving.stop() == 0


@pytest.mark.parametrize(
    ("options", "code", "status"),
    [
        (("--listen", "0.0.0.0:0"), "unsafe-listen", 2),
        (("--listen", ":0"), "unsafe-listen", 2),
        (("--listen", "[::]:0"), "unsafe-listen", 2),
        (("--listen", "0.0.0.0:0", "--read-only"), "unsafe-listen", 2),
        (("--listen", "0.0.0.0:0", "--tls-cert", "c", "--tls-key", "k"), "unsafe-listen", 2),
        (("--listen", "0.0.0.0:0", "--auth-file", "f"), "unsafe-listen", 2),
        (("--tls-cert", "c"), "conflicting-options", 2),
        (("--tls-cert", "/nonexistent", "--tls-key", "/nonexistent"), "invalid-certificate", 1),
        (("--listen", "127.0.0.1:99999"), "invalid-option-value", 2),
        (("--listen", "a:b:c"), "invalid-option-value", 2),
        (("--listen", "192.0.2.1:1", "--insecure"), "listen-failed", 1),
        (("--auth-file", "/nonexistent"), "invalid-htpasswd", 1),
    ],
)
def test_what_does_not_begin(tmp_path: Path, options: tuple[str, ...], code: str, status: int) -> None:
    with pytest.raises(ArkwrightError) as caught:
        arguments = ["serve", "registry", "--root", str(tmp_path / "store"), *options]
        program.main(arguments, standalone_mode=False, obj=Invocation())
    assert (caught.value.code, caught.value.exit_code) == (code, status)


def test_other_hosts_when_asked_for(builder: Builder) -> None:
    with Serving(builder, "--listen", "0.0.0.0:0", "--insecure") as serving:
        with Client(f"127.0.0.1:{serving.host.rpartition(':')[2]}") as client:
            # Whoever opens it to others goes by any name.
            assert client.call("GET", "/v2/", Host="registry.example").status == 200


def test_a_port_that_is_taken(builder: Builder) -> None:
    with Serving(builder) as serving:
        assert "listen-failed" in builder.run("serve", "registry", "--listen", serving.host, status=1).err


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://example.com"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "rebound.example.com:5000"}, 403),
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:5000"}, 200),
        ({"Host": "10.0.2.2:5000"}, 200),
        ({"Host": "host.containers.internal:5000"}, 200),
    ],
)
def test_web_pages_get_nothing(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    with in_process(tmp_path / "store") as server, Client(server.address) as client:
        reply = client.call("GET", "/v2/", **headers)
        assert reply.status == status
        assert status == 200 or reply.codes == ["DENIED"]


# Beginning and end


def test_scripts_learn_the_port(builder: Builder) -> None:
    port_path = builder.home / "port"
    read_fd, write_fd = os.pipe()
    process = builder.start(
        "serve", "registry", "--listen", "localhost:0", "--port-file", str(port_path), "--ready-fd", str(write_fd),
        pass_fds=(write_fd,),
    )  # fmt: skip
    os.close(write_fd)
    with os.fdopen(read_fd) as ready:
        address = ready.readline().strip()
    port = int(port_path.read_text())
    assert address == f"localhost:{port}"
    with Client(f"127.0.0.1:{port}") as client:
        assert client.call("GET", "/v2/").status == 200
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (0, f"listening on http://localhost:{port}\n", "")
    assert not port_path.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_cleanly(builder: Builder, number: int) -> None:
    with Serving(builder) as serving, serving.client() as client:
        client.call("PATCH", client.begin("app"), DATA)
        assert os.listdir(builder.store / "ingest")
        assert serving.stop(number) == 0
        assert serving.said == []
    assert os.listdir(builder.store / "ingest") == []


def test_a_request_under_way_is_answered_at_the_end(tmp_path: Path) -> None:
    with in_process(tmp_path / "store") as server, Client(server.address) as client:
        digest = sha256(DATA)

        def body() -> Iterator[bytes]:
            yield DATA[:1000]
            eventually(lambda: bool(os.listdir(tmp_path / "store/ingest")))
            server.stop()
            yield DATA[1000:]

        reply = client.call("POST", f"/v2/app/blobs/uploads/?digest={digest}", body(), chunked=True,
                            Transfer_Encoding="chunked")  # fmt: skip
        assert (reply.status, reply.header("Connection")) == (201, "close")


def test_a_kill_leaves_a_store_that_works(builder: Builder) -> None:
    with Serving(builder) as serving, serving.client() as client:
        digest, _ = client.put_image("app", "1", "before")
        location = client.begin("app")
        client.call("PATCH", location, DATA)
        serving.stop(signal.SIGKILL)
    with Serving(builder) as serving, serving.client() as client:
        assert client.call("GET", "/v2/app/manifests/1").digest == digest
        assert client.call("HEAD", f"/v2/app/blobs/{sha256(DATA)}").status == 404
        reply = client.call("GET", location)
        assert (reply.status, reply.codes) == (404, ["BLOB_UPLOAD_UNKNOWN"])
        client.put_blob("app", DATA)


# Uploads


def raw_patch(host: str, location: str, announced: int, data: bytes) -> socket.socket:
    sock = socket.create_connection(host.split(":"))  # type: ignore[arg-type]
    head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {announced}\r\n\r\n"
    sock.sendall(head.encode() + data)
    return sock


@pytest.mark.parametrize("hangs", [False, True])
def test_an_interrupted_upload_goes_on(tmp_path: Path, hangs: bool) -> None:
    """Also when the first connection is still open, as a lost one looks to the server."""
    part = 1 << 20
    with in_process(tmp_path / "store") as server, Client(server.address) as client:
        location = client.begin("app")
        sock = raw_patch(server.address, location, len(DATA), DATA[:part])
        if not hangs:
            sock.close()
        eventually(lambda: client.call("GET", location).header("Range") == f"0-{part - 1}")
        reply = client.call("PATCH", location, DATA[part:], Content_Range=f"{part}-{len(DATA) - 1}")
        assert (reply.status, reply.header("Range")) == (202, f"0-{len(DATA) - 1}")
        assert client.call("PUT", f"{location}?digest={sha256(DATA)}").status == 201
        sock.close()


def test_an_upload_that_nobody_goes_on_with(tmp_path: Path) -> None:
    uploads = Uploads(life_s=0.0)
    with in_process(tmp_path / "store", uploads=uploads) as server, Client(server.address) as client:
        location = client.begin("app")
        eventually(lambda: client.call("GET", location).status == 404)
        assert os.listdir(tmp_path / "store/ingest") == []


def test_uploads_have_a_bound(tmp_path: Path) -> None:
    with in_process(tmp_path / "store", uploads=Uploads(most=2)) as server, Client(server.address) as client:
        first = client.begin("app")
        client.begin("app")
        reply = client.call("POST", "/v2/app/blobs/uploads/")
        assert (reply.status, reply.codes) == (429, ["TOOMANYREQUESTS"])
        assert reply.header("Retry-After")
        client.call("DELETE", first)
        client.begin("app")


def test_many_push_and_pull_at_once(builder: Builder, tmp_path: Path) -> None:
    made: dict[int, Any] = {}
    with (
        Serving(builder) as serving,
        Store.open(str(tmp_path / "here")) as here,
        ThreadPoolExecutor(6) as pool,
    ):

        def push(number: int) -> None:
            # Every second image is the same for all.
            seed = f"own {number}" if number % 2 else "shared"
            made[number] = image(here.content.write, seed, size=200_000)
            with open_access() as access:
                push_image(
                    made[number],
                    parse_reference(f"{serving.host}/many:v{number}"),
                    here.content,
                    access=access,
                )

        def pull(number: int) -> str:
            with Store.open(str(tmp_path / f"there-{number}")) as there, open_access() as access:
                reference = parse_reference(f"{serving.host}/many:v{number}")
                return pull_image(reference, there.content, AMD64, access=access).digest

        list(pool.map(push, range(12)))
        assert list(pool.map(pull, range(12))) == [made[number].digest for number in range(12)]
        with serving.client() as client:
            assert len(client.call("GET", "/v2/many/tags/list").json()["tags"]) == 12
        assert serving.stop() == 0
        assert serving.said == []
    builder.run("fsck")


def test_memory_does_not_grow_with_what_is_sent(builder: Builder) -> None:
    data = noise(1 << 20) * 128
    digest = sha256(data)
    with Serving(builder) as serving, serving.client() as client:
        reply = client.call("POST", f"/v2/app/blobs/uploads/?digest={digest}", data)
        assert reply.status == 201
        location = client.begin("app")
        assert (
            client.call("PATCH", location, iter([data]), chunked=True, Transfer_Encoding="chunked").status
            == 202
        )
        assert client.call("GET", f"/v2/app/blobs/{digest}").body == data
        status = Path(f"/proc/{serving.process.pid}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0])
    assert peak < 70_000, f"{peak} KiB"


@pytest.mark.parametrize("chunk_size", [0, 1 << 20])
def test_our_client_pushes_large_blobs(tmp_path: Path, chunk_size: int) -> None:
    with in_process(tmp_path / "served") as server, Store.open(str(tmp_path / "here")) as here:
        made = image(here.content.write, "large", layers=1, size=6 << 20)
        reference = parse_reference(f"{server.address}/large:1")
        with open_access() as access:
            report = push_image(made, reference, here.content, access=access, chunk_size=chunk_size)
            assert report.uploaded == 2
            report = push_image(made, reference, here.content, access=access)
            assert (report.uploaded, report.skipped) == (0, 2)


def test_a_guard_of_ones_own(tmp_path: Path) -> None:
    path = htpasswd(tmp_path / "htpasswd")
    guard = Guard(Passwords(str(path)), local=True)
    with in_process(tmp_path / "store", guard=guard) as server, Client(server.address) as client:
        # A refused body is not read, and the answer arrives all the same.
        reply = client.call("POST", "/v2/app/blobs/uploads/", bytes(8 << 20))
        assert reply.status == 401
