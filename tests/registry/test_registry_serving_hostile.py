"""`serve registry` against clients that mean no good: malformed requests, slow ones, many at once."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import Client, eventually, in_process, sha256

from arkwright.registry.server import listener, wire
from arkwright.registry.server.listener import Server
from arkwright.registry.server.wire import Limits, Malformed, parse_head

DIGEST = sha256(b"data")
POST = f"POST /v2/app/blobs/uploads/?digest={DIGEST} HTTP/1.1\r\nHost: localhost\r\n"
SHORT = Limits(idle_s=0.4, head_s=0.4, stall_s=0.4)


@contextmanager
def connection(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as sock:
        yield sock


def all_of(sock: socket.socket) -> bytes:
    """What comes until the server ends the connection."""
    data = b""
    try:
        while block := sock.recv(1 << 16):
            data += block
    except ConnectionResetError:
        pass
    return data


def statuses(data: bytes) -> list[int]:
    return [int(one) for one in re.findall(rb"HTTP/1\.1 (\d{3}) ", data)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with in_process(tmp_path_factory.mktemp("hostile") / "store") as made:
        yield made
        with Client(made.address) as client:
            assert client.call("GET", "/v2/").status == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ("GET\r\n\r\n", 400),
        ("get /v2/ HTTP/1.1\r\n\r\n", 400),
        ("GET /v2/ HTTP/2.0\r\n\r\n", 400),
        ("GET  /v2/ HTTP/1.1\r\n\r\n", 400),
        ("GET v2 HTTP/1.1\r\n\r\n", 400),
        ("GET /v2/ HTTP/1.1\n\n\r\n\r\n", 400),
        ("GET /v2/%ff HTTP/1.1\r\n\r\n", 400),
        ("GET /v2/ä HTTP/1.1\r\n\r\n", 400),
        ("GET /v2/?" + "&".join("a" * 40) + " HTTP/1.1\r\n\r\n", 400),
        ("GET /v2/?a=%ff HTTP/1.1\r\n\r\n", 400),
        ("GET /v2/" + "x" * 9000 + " HTTP/1.1\r\n\r\n", 414),
        ("GET /v2/ HTTP/1.1\r\nName : x\r\n\r\n", 400),
        ("GET /v2/ HTTP/1.1\r\nName\r\n\r\n", 400),
        ("GET /v2/ HTTP/1.1\r\n: x\r\n\r\n", 400),
        ("GET /v2/ HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", 400),
        ("GET /v2/ HTTP/1.1\r\nA: b\nc: d\r\n\r\n", 400),
        ("GET /v2/ HTTP/1.1\r\nA: b\0\r\n\r\n", 400),
        ("GET /v2/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET /v2/ HTTP/1.1\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n", 400),
        ("GET /v2/ HTTP/1.1\r\n" + "A: b\r\n" * 200 + "\r\n", 431),
        ("GET /v2/ HTTP/1.1\r\nA: " + "b" * 40_000 + "\r\n\r\n", 431),
        ("GET /v2/ HTTP/1.1\r\nA: " + "b" * 3_000_000, 431),
        (POST + "Content-Length: 4\r\nContent-Length: 4\r\n\r\ndata", 400),
        (POST + "Content-Length: -4\r\n\r\ndata", 400),
        (POST + "Content-Length: +4\r\n\r\ndata", 400),
        (POST + "Content-Length: 0x4\r\n\r\ndata", 400),
        (POST + "Content-Length: 4, 4\r\n\r\ndata", 400),
        (POST + "Content-Length: 99999999999999999999\r\n\r\ndata", 400),
        (POST + "Content-Length: ٤\r\n\r\ndata", 400),
        (POST + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndata\r\n0\r\n\r\n", 400),
        (POST + "Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (POST + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (POST.replace("1.1", "1.0") + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (POST + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (POST + "Transfer-Encoding: chunked\r\n\r\n-4\r\ndata\r\n0\r\n\r\n", 400),
        (POST + "Transfer-Encoding: chunked\r\n\r\n4\r\ndata!\r\n0\r\n\r\n", 400),
        (POST + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\ndata", 400),
        (POST + "Transfer-Encoding: chunked\r\n\r\n" + "4;" + "x" * 5000, 400),
        (POST + "Transfer-Encoding: chunked\r\n\r\n4\r\ndata\r\n0\r\n" + "A: b\r\n" * 500 + "\r\n", 400),
    ],
)
def test_malformed_requests_end_the_connection(server: Server, sent: str, status: int) -> None:
    with connection(server) as sock:
        try:
            sock.sendall(sent.encode("utf-8"))
            # What follows must not be taken for a request of its own.
            sock.sendall(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert statuses(all_of(sock)) == [status]


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00\x01", b"\0\0\0\0", b"\xff\xff"])
def test_another_protocol_is_told_at_once(server: Server, sent: bytes) -> None:
    with connection(server) as sock:
        sock.sendall(sent)
        assert all_of(sock) == b""


def test_requests_may_come_close_together(server: Server) -> None:
    with connection(server) as sock:
        chunked = (
            POST + "Transfer-Encoding: chunked\r\n\r\n2;ext=1\r\nda\r\n2\r\nta\r\n0\r\nTrailer: x\r\n\r\n"
        )
        plain = POST + "Content-Length: 4\r\n\r\ndata"
        last = "GET http://localhost/v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        sock.sendall((chunked + plain + chunked + last).encode())
        assert statuses(all_of(sock)) == [201, 201, 201, 200]


def test_an_older_protocol(server: Server) -> None:
    with connection(server) as sock:
        sock.sendall(b"GET /v2/ HTTP/1.0\r\n\r\n")
        assert statuses(all_of(sock)) == [200]


def test_a_body_is_asked_for_when_it_is_wanted(server: Server) -> None:
    with connection(server) as sock:
        sock.sendall((POST + "Content-Length: 4\r\nExpect: 100-continue\r\n\r\n").encode())
        assert statuses(sock.recv(100)) == [100]
        sock.sendall(b"data")
        assert statuses(sock.recv(1000)) == [201]
        refused = POST.replace("app", "UPPER") + "Content-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        sock.sendall(refused.encode())
        assert statuses(all_of(sock)) == [400]


@pytest.mark.parametrize(
    "path",
    [
        "/v2/../../etc/passwd",
        "/v2/app/blobs/../../../etc/passwd",
        "/v2/app/blobs/sha256:..%2f..%2f..%2fetc%2fpasswd",
        "/v2/app/blobs/sha256:%2e%2e/%2e%2e/metadata.db",
        f"/v2/..%2f..%2fapp/blobs/{DIGEST}",
        f"/v2/app%00/blobs/{DIGEST}",
        "/v2/app/manifests/..%2f..%2fmetadata.db",
        "/v2/app/blobs/uploads/..%2f..%2fmetadata.db",
        "/v2/app/blobs/sha512:" + "../" * 42 + "ab",
        "/v2/app/referrers/..%2f..",
        "/v2/app/blobs/SHA256:" + "A" * 64,
    ],
)
@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "PATCH"])
def test_paths_lead_nowhere(server: Server, method: str, path: str) -> None:
    with Client(server.address) as client:
        reply = client.call(method, path, b"{}")
        assert reply.status in (400, 404, 405)
        assert b"SQLite" not in reply.body and b"root:" not in reply.body


@given(st.binary(max_size=300))
def test_any_head_is_read_or_refused(data: bytes) -> None:
    for head in (data, b"GET / HTTP/1.1\r\n" + data, b"GET /" + data + b" HTTP/1.1"):
        try:
            request = parse_head(head)
        except Malformed as error:
            assert 400 <= error.status <= 501
        else:
            assert request.path.startswith("/") and request.length >= -1


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /v2/ HTT", (POST + "Content-Length: 4\r\n\r\nda").encode(),
     (POST + "Transfer-Encoding: chunked\r\n\r\n4\r\nda").encode()],
)  # fmt: skip
def test_clients_that_stop_are_left(tmp_path: Path, sent: bytes) -> None:
    with in_process(tmp_path / "store", limits=SHORT) as server:
        with connection(server) as sock:
            sock.sendall(sent)
            assert all_of(sock) == b""
            assert os.listdir(tmp_path / "store/ingest") == []
    # With patience: this machine may be busy.
    with in_process(tmp_path / "store") as server, Client(server.address) as client:
        assert client.call("HEAD", f"/v2/app/blobs/{DIGEST}").status == 404


def test_clients_that_are_too_slow_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_RATE_AFTER_S", 0.0)
    with (
        in_process(tmp_path / "store", limits=Limits(least_rate=1 << 40)) as server,
        connection(server) as sock,
    ):
        sock.sendall((POST + "Content-Length: 4\r\n\r\nda").encode())
        assert all_of(sock) == b""


def test_a_client_that_does_not_read_is_left(tmp_path: Path) -> None:
    data = bytes(64 << 20)
    with in_process(tmp_path / "store") as server, Client(server.address) as client:
        digest = client.put_blob("app", data)
    with in_process(tmp_path / "store", limits=SHORT) as server:
        with connection(server) as sock:
            sock.sendall(f"GET /v2/app/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert sock.recv(1) == b"H"
            # The thread gives up by itself: nothing more is read here.
            eventually(lambda: not server._threads)
            assert 0 < len(all_of(sock)) < len(data)


def test_connections_have_a_bound(tmp_path: Path) -> None:
    with in_process(tmp_path / "store", most=2) as server:
        with connection(server) as first, connection(server) as second:
            for sock in (first, second):
                sock.sendall(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert statuses(sock.recv(1000)) == [200]
            with connection(server) as third:
                assert statuses(all_of(third)) == [503]
        eventually(lambda: not server._threads)
        with Client(server.address) as client:
            assert client.call("GET", "/v2/").status == 200


def test_a_fault_of_ours_is_answered_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Exception] = []

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a secret of ours")

    monkeypatch.setattr(listener, "respond", fail)
    with in_process(tmp_path / "store", failed=told.append) as server, Client(server.address) as client:
        reply = client.call("GET", "/v2/")
        assert (reply.status, reply.codes) == (500, ["UNKNOWN"]) and b"secret" not in reply.body
        assert [type(one) for one in told] == [ZeroDivisionError]


def test_header_values_cannot_be_smuggled_out(server: Server) -> None:
    with Client(server.address) as client:
        reply = client.call("GET", "/v2/app/tags/list?n=1&last=a%0d%0aX-Bad:%20yes")
        assert reply.header("X-Bad") == ""
        reply = client.call("POST", "/v2/app%0d%0aX-Bad:%20yes/blobs/uploads/")
        assert (reply.status, reply.header("X-Bad")) == (404, "")
