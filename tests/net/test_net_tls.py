from __future__ import annotations

import shutil
import ssl
from pathlib import Path

import pytest

from arkwright.diagnostics.errors import RemoteError, UserError
from arkwright.net.proxy import is_loopback, proxy_for
from arkwright.net.tls import TlsContexts
from arkwright.net.transport import Transport
from loopback_server import Loopback


def ask(url: str, *directories: Path, verify: bool = True) -> int:
    with Transport(env={}, tls=TlsContexts([str(one) for one in directories])) as transport:
        with transport.request("GET", url, verify=verify) as response:
            return response.status


def code(url: str, *directories: Path) -> str:
    with pytest.raises((RemoteError, UserError)) as caught:
        ask(url, *directories)
    return caught.value.code


def certs(tmp_path: Path, host: str, *files: Path) -> Path:
    directory = tmp_path / "certs.d" / host
    directory.mkdir(parents=True, exist_ok=True)
    for one in files:
        shutil.copy(one, directory)
    return tmp_path / "certs.d"


def test_a_ca_for_one_host(secure_server: Loopback, certificates: Path, tmp_path: Path) -> None:
    assert code(secure_server.url) == "tls-verification-failed"
    base = certs(tmp_path, f"127.0.0.1:{secure_server.port}", certificates / "ca.crt")
    assert ask(secure_server.url, tmp_path / "none", base) == 404
    assert code(f"https://localhost:{secure_server.port}", base) == "tls-verification-failed"


def test_the_port_belongs_to_the_name(secure_server: Loopback, certificates: Path, tmp_path: Path) -> None:
    assert (
        code(secure_server.url, certs(tmp_path, "127.0.0.1", certificates / "ca.crt"))
        == "tls-verification-failed"
    )


def test_a_bundle_in_the_environment(
    secure_server: Loopback, certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.crt"))
    assert ask(secure_server.url) == 404
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    assert code(secure_server.url) == "invalid-certificate"


def test_a_wrong_name(server_context: ssl.SSLContext, certificates: Path, tmp_path: Path) -> None:
    with Loopback(server_context, "127.0.0.2") as server:
        base = certs(tmp_path, server.host, certificates / "ca.crt")
        with pytest.raises(RemoteError) as caught:
            ask(server.url, base)
        assert caught.value.code == "tls-verification-failed" and "127.0.0.2" in str(caught.value)
        assert caught.value.details["retryable"] is False
        assert ask(server.url, base, verify=False) == 404


def test_strictness_is_not_mixed(secure_server: Loopback) -> None:
    with Transport(env={}, tls=TlsContexts(())) as transport:
        with transport.request("GET", secure_server.url, verify=False) as response:
            response.read()
        with pytest.raises(RemoteError) as caught:
            transport.request("GET", secure_server.url)
    assert caught.value.code == "tls-verification-failed"


def test_our_own_certificate(server_context: ssl.SSLContext, certificates: Path, tmp_path: Path) -> None:
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.load_verify_locations(certificates / "ca.crt")
    with Loopback(server_context) as server:
        base = certs(tmp_path, server.host, certificates / "ca.crt")
        assert code(server.url, base) in ("tls-failed", "network-interrupted")
        shutil.copy(certificates / "client.crt", base / server.host / "client.cert")
        shutil.copy(certificates / "client.key", base / server.host)
        assert ask(server.url, base) == 404


@pytest.mark.parametrize("name", ["ca.crt", "client.cert"])
def test_a_file_that_is_no_certificate(secure_server: Loopback, tmp_path: Path, name: str) -> None:
    base = certs(tmp_path, secure_server.host)
    (base / secure_server.host / name).write_text("not PEM")
    (base / secure_server.host / "client.key").write_text("secret key")
    with pytest.raises(UserError) as caught:
        ask(secure_server.url, base)
    assert caught.value.code == "invalid-certificate" and caught.value.exit_code == 1
    assert name in str(caught.value) and "secret key" not in str(caught.value)


def test_a_server_without_tls() -> None:
    with Loopback() as server:
        assert code(f"https://{server.host}/") == "tls-failed"


# Proxies


@pytest.mark.parametrize(
    ("env", "scheme", "host", "port"),
    [
        ({}, "https", "a.test", 0),
        ({"HTTPS_PROXY": "http://p:3"}, "https", "a.test", 3),
        ({"HTTPS_PROXY": "p:3"}, "https", "a.test", 3),
        ({"https_proxy": "http://p:1", "HTTPS_PROXY": "http://p:2"}, "https", "a.test", 1),
        ({"HTTP_PROXY": "http://p:3"}, "https", "a.test", 0),
        ({"HTTP_PROXY": "http://p"}, "http", "a.test", 80),
        ({"all_proxy": "http://p:4"}, "http", "a.test", 4),
        ({"HTTP_PROXY": "http://p:3", "REQUEST_METHOD": "GET"}, "http", "a.test", 0),
        ({"all_proxy": "http://p:4"}, "http", "localhost", 0),
        ({"all_proxy": "http://p:4"}, "http", "127.1.2.3", 0),
        ({"all_proxy": "http://p:4"}, "http", "::1", 0),
        ({"all_proxy": "http://p:4", "no_proxy": "*"}, "http", "a.test", 0),
        ({"all_proxy": "http://p:4", "NO_PROXY": "b.test, a.test"}, "http", "a.test", 0),
        ({"all_proxy": "http://p:4", "NO_PROXY": "test"}, "http", "a.test", 0),
        ({"all_proxy": "http://p:4", "NO_PROXY": ".test"}, "http", "A.test", 0),
        ({"all_proxy": "http://p:4", "NO_PROXY": "*.test"}, "http", "a.test", 0),
        ({"all_proxy": "http://p:4", "NO_PROXY": "est"}, "http", "a.test", 4),
        ({"all_proxy": "http://p:4", "NO_PROXY": "a.test:81"}, "http", "a.test", 4),
        ({"all_proxy": "http://p:4", "NO_PROXY": "a.test:80"}, "http", "a.test", 0),
        ({"all_proxy": "http://p:4", "NO_PROXY": "10.0.0.0/8"}, "http", "10.2.3.4", 0),
        ({"all_proxy": "http://p:4", "NO_PROXY": "10.0.0.0/8"}, "http", "11.2.3.4", 4),
        ({"all_proxy": "http://p:4", "NO_PROXY": "fd00::/8"}, "http", "fd00::1", 0),
    ],
)
def test_which_proxy(env: dict[str, str], scheme: str, host: str, port: int) -> None:
    found = proxy_for(scheme, host, 80, env)
    assert (found.port if found else 0) == port


@pytest.mark.parametrize("text", ["https://p:1", "socks5://u:hidden@p", "http://", "http://p:x"])
def test_proxies_that_are_not_supported(text: str) -> None:
    with pytest.raises(UserError) as caught:
        proxy_for("http", "a.test", 80, {"http_proxy": text})
    assert caught.value.code == "unsupported-proxy" and "hidden" not in str(caught.value)


def test_a_proxys_password_is_not_shown() -> None:
    found = proxy_for("http", "a.test", 80, {"http_proxy": "http://u:hidden@p"})
    assert found is not None and found.authorization.startswith("Basic ")
    assert "hidden" not in repr(found) and found.authorization not in repr(found)


def test_loopback_addresses() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1")))
    assert not any(map(is_loopback, ("localhost.evil.test", "128.0.0.1", "", "::2", "0.0.0.0")))
