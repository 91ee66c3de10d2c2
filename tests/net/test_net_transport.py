from __future__ import annotations

import io
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from arkwright.diagnostics.errors import RemoteError, UserError
from arkwright.net.connection import Connection, Origin
from arkwright.net.response import Response
from arkwright.net.transport import Limits, Transport, parse_url
from loopback_server import Exchange, Loopback


def failure(code: str, call: Callable[[], object]) -> RemoteError:
    with pytest.raises(RemoteError) as caught:
        call()
    assert (caught.value.code, caught.value.exit_code) == (code, 5)
    return caught.value


def whole(response: Response) -> bytes:
    with response:
        return response.read()


def say(body: bytes, status: int = 200, **headers: str) -> Callable[[Exchange], None]:
    def answer(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.reply(status, body, announce=None, **headers)

    return answer


@pytest.fixture
def clients(server: Loopback) -> list[tuple[str, int]]:
    """The client's address of every request: equal ones came over one connection."""
    found: list[tuple[str, int]] = []

    def note(exchange: Exchange) -> None:
        exchange.read_body()
        found.append(exchange.client_address)
        exchange.reply(200, b"hello")

    server.on("GET", "^/kept", note, times=1e9)
    server.on("POST", "^/kept", note, times=1e9)
    return found


@contextmanager
def raw_server(*answers: bytes) -> Iterator[str]:
    """A server that answers each connection with these bytes, whatever it was asked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join()


# Connections


def test_a_connection_is_kept(server: Loopback, transport: Transport, clients: list[tuple[str, int]]) -> None:
    for _ in range(3):
        assert whole(transport.request("GET", f"{server.url}/kept")) == b"hello"
    assert whole(transport.request("POST", f"{server.url}/kept", body=b"x" * 70_000)) == b"hello"
    assert len(set(clients)) == 1


def test_an_unread_body_ends_its_connection(
    server: Loopback, transport: Transport, clients: list[tuple[str, int]]
) -> None:
    transport.request("GET", f"{server.url}/kept").close()
    assert whole(transport.request("GET", f"{server.url}/kept")) == b"hello"
    assert len(set(clients)) == 2


def test_requests_at_the_same_time_have_connections_of_their_own(
    server: Loopback, transport: Transport, clients: list[tuple[str, int]]
) -> None:
    with transport.request("GET", f"{server.url}/kept") as first:
        assert whole(transport.request("GET", f"{server.url}/kept")) == b"hello"
        assert first.read() == b"hello"
    assert len(set(clients)) == 2


def test_a_connection_that_the_server_closed_is_no_failure(transport: Transport) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    with raw_server(answer, answer) as url:
        assert whole(transport.request("GET", url)) == b"ok"
        assert whole(transport.request("GET", url)) == b"ok"


def test_many_threads_share_a_transport(
    server: Loopback, transport: Transport, clients: list[tuple[str, int]]
) -> None:
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            for _ in range(20):
                assert whole(transport.request("GET", f"{server.url}/kept")) == b"hello"
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert failures == [] and len(clients) == 160 and len(set(clients)) <= 8


def test_a_connection_is_not_shared_across_a_fork(
    server: Loopback, transport: Transport, clients: list[tuple[str, int]]
) -> None:
    """The pool of another process is left alone."""
    assert whole(transport.request("GET", f"{server.url}/kept")) == b"hello"
    transport._pid = os.getpid() + 1
    assert whole(transport.request("GET", f"{server.url}/kept")) == b"hello"
    assert len(set(clients)) == 2


def test_abort_ends_those_who_wait(server: Loopback, transport: Transport) -> None:
    reached, leave = threading.Event(), threading.Event()

    def hang(exchange: Exchange) -> None:
        reached.set()
        leave.wait(20)
        exchange.close_connection = True

    server.on("GET", "/", hang)
    found: list[RemoteError] = []

    def ask() -> None:
        found.append(failure("network-interrupted", lambda: transport.request("GET", server.url)))

    thread = threading.Thread(target=ask)
    thread.start()
    assert reached.wait(120)
    transport.abort()
    thread.join(120)
    leave.set()
    assert not thread.is_alive() and len(found) == 1


def test_abort_is_for_good(server: Loopback, transport: Transport) -> None:
    """Who waits on a kept connection does not try a fresh one, and nobody begins anew."""
    reached, leave = threading.Event(), threading.Event()
    server.on("GET", "/first", lambda exchange: exchange.reply(200, b"hello"))
    assert whole(transport.request("GET", f"{server.url}/first")) == b"hello"

    def hang(exchange: Exchange) -> None:
        reached.set()
        leave.wait(120)
        exchange.close_connection = True

    server.on("GET", "/second", hang, times=99)
    codes: list[str] = []

    def ask() -> None:
        with pytest.raises(RemoteError) as caught:
            transport.request("GET", f"{server.url}/second")
        codes.append(caught.value.code)

    thread = threading.Thread(target=ask)
    thread.start()
    assert reached.wait(120)
    transport.abort()
    thread.join(120)
    ask()
    leave.set()
    assert codes == ["network-interrupted"] * 2
    assert len(server.requests("GET", "/second")) == 1


def test_a_connection_that_comes_about_after_an_abort_is_ended(server: Loopback) -> None:
    connection = Connection(
        Origin("http", "127.0.0.1", server.port, True), proxy=None, context=None, connect_timeout_s=20,
        timeout_s=60,
    )  # fmt: skip
    connection.break_off()
    connection.connect()
    assert connection.sock.recv(1) == b""
    connection.close()


# Bodies


@pytest.mark.parametrize("sent", [0, 1, 999])
def test_a_truncated_body_is_noticed(server: Loopback, transport: Transport, sent: int) -> None:
    server.on("GET", "/", lambda exchange: exchange.reply(200, b"x" * sent, announce=1000))
    with transport.request("GET", server.url) as response:
        assert response.length == 1000
        error = failure("network-interrupted", response.read)
    assert error.details["retryable"] is True


def test_a_truncated_chunk_is_noticed(transport: Transport) -> None:
    with raw_server(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nabc") as url:
        with transport.request("GET", url) as response:
            assert response.length == -1
            failure("network-interrupted", response.read)


def test_chunks_are_joined(transport: Transport) -> None:
    with raw_server(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    ) as url:
        assert whole(transport.request("GET", url)) == b"abcde"


@pytest.mark.parametrize(
    "answer",
    [
        b"hello\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200,
    ],
)
def test_what_is_no_http(transport: Transport, answer: bytes) -> None:
    with raw_server(answer) as url:
        assert failure("http-protocol", lambda: transport.request("GET", url)).details["retryable"] is False


def test_a_server_that_hangs_up(transport: Transport) -> None:
    with raw_server(b"") as url:
        assert (
            failure("network-interrupted", lambda: transport.request("GET", url)).details["retryable"] is True
        )


def test_a_silent_server(server: Loopback) -> None:
    leave = threading.Event()
    server.on("GET", "/", lambda exchange: leave.wait(20))  # type: ignore[arg-type]
    with Transport(env={}, limits=Limits(timeout_s=0.2)) as transport:
        assert (
            failure("network-timeout", lambda: transport.request("GET", server.url)).details["retryable"]
            is True
        )
    leave.set()


def test_a_stream_is_sent_to_its_length(server: Loopback, transport: Transport) -> None:
    bodies: list[bytes] = []

    def keep(exchange: Exchange) -> None:
        bodies.append(exchange.read_body())
        exchange.reply(201)

    server.on("PUT", "/", keep, times=2)
    data = os.urandom(700_000)
    assert transport.request("PUT", server.url, body=io.BytesIO(data), length=600_000).status == 201
    assert bodies == [data[:600_000]]
    failure("http-protocol", lambda: transport.request("PUT", server.url, body=io.BytesIO(b"x"), length=2))
    with pytest.raises(ValueError):
        transport.request("PUT", server.url, body=io.BytesIO(b"x"))


def test_an_early_answer_is_heard(server: Loopback, transport: Transport) -> None:
    server.on("PUT", "/", lambda exchange: exchange.reply(413, b"no", announce=2, Connection="close"))
    response = transport.request("PUT", server.url, body=b"x" * 10)
    assert response.status == 413


def test_reading_has_a_limit(server: Loopback, transport: Transport) -> None:
    server.on("GET", "/", say(b"x" * 200_000))
    with transport.request("GET", server.url) as response:
        assert len(response.read(150_000)) == 150_000
        assert len(response.read()) == 50_000
        assert response.read() == b"" == response.read(5)


def test_no_compression_is_asked_for(server: Loopback, transport: Transport) -> None:
    server.on("GET", "/", say(b""))
    transport.request("GET", server.url).close()
    headers = server.requests()[0].headers
    assert headers["Accept-Encoding"] == "identity" and headers["User-Agent"].startswith("arkwright/")


# Redirections


def test_redirections_are_followed(server: Loopback, transport: Transport) -> None:
    server.on("GET", "^/a$", say(b"moved", 302, Location="/b?q=1"))
    server.on("GET", "^/b", say(b"found"))
    response = transport.request(
        "GET", f"{server.url}/a", headers={"Authorization": "Bearer t", "Range": "bytes=1-"}
    )
    assert (whole(response), response.url) == (b"found", f"{server.url}/b?q=1")
    assert server.requests("GET", "^/b")[0].headers["Authorization"] == "Bearer t"


def test_redirections_can_be_left_to_the_caller(server: Loopback, transport: Transport) -> None:
    server.on("GET", "/", say(b"", 307, Location="/b"))
    assert transport.request("GET", server.url, redirects="return").status == 307
    server.on("POST", "/", say(b"", 307, Location="/b"))
    assert transport.request("POST", server.url).status == 307
    assert len(server.requests()) == 2


def test_another_origin_gets_no_credentials(server: Loopback, transport: Transport) -> None:
    headers = {
        "Authorization": "Basic c2VjcmV0",
        "cookie": "a=b",
        "Proxy-Authorization": "x",
        "Range": "bytes=3-",
    }
    with Loopback() as other:
        other.on("GET", "/", say(b"", 302, Location=f"{server.url}/back"))
        server.on("GET", "^/back", say(b"here"))
        server.on("GET", "^/$", say(b"", 301, Location=f"{other.url}/x"))
        assert whole(transport.request("GET", f"{server.url}/", headers=headers)) == b"here"
        for request in (*other.requests(), *server.requests("GET", "back")):
            assert request.headers["Range"] == "bytes=3-"
            assert not {"authorization", "cookie", "proxy-authorization"} & {
                name.lower() for name in request.headers
            }


def test_another_port_or_host_name_is_another_origin(server: Loopback, transport: Transport) -> None:
    server.on("GET", "^/a", say(b"", 302, Location=f"http://localhost:{server.port}/b"))
    server.on("GET", "^/b", say(b"here"))
    assert whole(transport.request("GET", f"{server.url}/a", headers={"Authorization": "x"})) == b"here"
    assert "Authorization" not in server.requests("GET", "^/b")[0].headers


def test_a_circle_of_redirections(server: Loopback, transport: Transport) -> None:
    server.on("GET", "^/a", say(b"", 302, Location="/b"), times=9)
    server.on("GET", "^/b", say(b"", 302, Location="/a"), times=9)
    error = failure("redirect-refused", lambda: transport.request("GET", f"{server.url}/a"))
    assert error.details["retryable"] is False and len(server.requests()) == 2


def test_endless_redirections(server: Loopback, transport: Transport) -> None:
    server.on("GET", "/", lambda exchange: exchange.reply(302, Location=exchange.path + "x"), times=99)
    failure("redirect-refused", lambda: transport.request("GET", f"{server.url}/a"))
    assert len(server.requests()) == 9


def test_https_is_never_left_for_http(
    secure_server: Loopback, server: Loopback, transport: Transport
) -> None:
    secure_server.on("GET", "/", say(b"", 302, Location=f"{server.url}/"))
    failure("redirect-refused", lambda: transport.request("GET", secure_server.url, verify=False))
    assert server.requests() == []


@pytest.mark.parametrize(
    "location", ["ftp://example.test/", "file:///etc/passwd", "http://[::1", "http://a b/"]
)
def test_redirections_to_nowhere(server: Loopback, transport: Transport, location: str) -> None:
    server.on("GET", "/", say(b"", 302, Location=location))
    failure("http-protocol", lambda: transport.request("GET", server.url))


# URLs


def test_urls_are_taken_apart() -> None:
    found = parse_url("https://user:secret@Example.test:443/a b/ü?q=x y#part")
    assert found.url == "https://example.test/a%20b/%C3%BC?q=x%20y"
    assert (found.origin.host, found.origin.port, found.path) == (
        "example.test",
        443,
        "/a%20b/%C3%BC?q=x%20y",
    )
    assert parse_url("http://[::1]:5000").origin.netloc == "[::1]:5000"
    assert parse_url("http://a/%2F?%3D").path == "/%2F?%3D"


@pytest.mark.parametrize(
    "url", ["", "a", "ftp://a/", "http://", "http://a:b/", "http://a:99999/", "https://a\x00b/"]
)
def test_what_is_no_url(url: str) -> None:
    failure("http-protocol", lambda: parse_url(url))


def test_a_line_break_cannot_smuggle_a_header(server: Loopback, transport: Transport) -> None:
    server.on("GET", "/", say(b""), times=9)
    transport.request("GET", f"{server.url}/a\r\nX-Evil: 1").close()
    assert "X-Evil" not in server.requests()[0].headers
    failure("http-protocol", lambda: transport.request("GET", server.url, headers={"A": "b\r\nX-Evil: 1"}))
    assert len(server.requests()) == 1


# Proxies


def test_a_plain_request_through_a_proxy(server: Loopback) -> None:
    server.on("GET", "", say(b"by proxy"))
    env = {"http_proxy": f"http://us%40er:pass@{server.host}"}
    with Transport(env=env) as transport:
        assert whole(transport.request("GET", "http://example.test/a?b")) == b"by proxy"
    asked = server.requests()[0]
    assert asked.path == "http://example.test/a?b" and asked.headers["Host"] == "example.test"
    assert asked.headers["Proxy-Authorization"] == "Basic dXNAZXI6cGFzcw=="


def test_tunnels_that_are_refused(server: Loopback) -> None:
    server.on("CONNECT", "", say(b"", 407))
    server.on("CONNECT", "", say(b"", 503))
    with Transport(env={"HTTPS_PROXY": f"http://u:hidden@{server.host}"}) as transport:
        for status, retryable in ((407, False), (503, True)):
            error = failure("proxy-failed", lambda: transport.request("GET", "https://example.test/"))
            assert (error.details["status"], error.details["retryable"]) == (status, retryable)
            assert "hidden" not in str(error) + repr(error.details)
    assert server.requests()[0].path == "example.test:443"


def test_a_tunnel(secure_server: Loopback, server: Loopback) -> None:
    """The name leads nowhere, so that only the tunnel can have led to the server."""
    secure_server.on("GET", "/", say(b"through"))

    def tunnel(exchange: Exchange) -> None:
        exchange.send_response(200)
        exchange.end_headers()
        with socket.create_connection(("127.0.0.1", secure_server.port)) as far:

            def back() -> None:
                while data := far.recv(1 << 16):
                    exchange.connection.sendall(data)

            thread = threading.Thread(target=back)
            thread.start()
            while data := exchange.rfile.read1(1 << 16):
                far.sendall(data)
            far.shutdown(socket.SHUT_WR)
            thread.join()
        exchange.close_connection = True

    server.on("CONNECT", "^example.test:443$", tunnel)
    with Transport(env={"https_proxy": server.host}) as transport:
        assert whole(transport.request("GET", "https://example.test/a", verify=False)) == b"through"
    asked = secure_server.requests()[0]
    assert asked.path == "/a" and "Proxy-Authorization" not in asked.headers


def test_a_proxy_of_an_unknown_kind() -> None:
    with Transport(env={"https_proxy": "socks5://user:hidden@127.0.0.1:1"}) as transport:
        with pytest.raises(UserError) as caught:
            transport.request("GET", "https://example.test/")
    assert caught.value.code == "unsupported-proxy" and "hidden" not in str(caught.value)


def test_nobody_listens(transport: Transport) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    error = failure("network-unreachable", lambda: transport.request("GET", f"http://127.0.0.1:{port}/"))
    assert error.details["retryable"] is True and str(port) in str(error)
    failure("network-unreachable", lambda: transport.request("GET", "http://no-such-host.invalid/"))
