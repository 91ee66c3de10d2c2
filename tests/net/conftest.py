from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from arkwright.net.tls import TlsContexts
from arkwright.net.transport import Limits, Transport
from loopback_server import Loopback


@pytest.fixture
def server() -> Iterator[Loopback]:
    with Loopback() as made:
        yield made


@pytest.fixture
def transport() -> Iterator[Transport]:
    with Transport(env={}, tls=TlsContexts(()), limits=Limits(timeout_s=20)) as made:
        yield made


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.crt, server.crt and server.key (127.0.0.1, localhost), client.crt and client.key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs-openssl: certificates")
    at = tmp_path_factory.mktemp("certificates")

    def openssl(*args: str) -> None:
        subprocess.run(["openssl", *args], cwd=at, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=Test CA", "-days", "30",
            "-addext", "keyUsage=critical,keyCertSign")  # fmt: skip
    (at / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                "-out", f"{name}.crt", "-days", "30", "-extfile", "names")  # fmt: skip
    return at


@pytest.fixture
def server_context(certificates: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
    return context


@pytest.fixture
def secure_server(server_context: ssl.SSLContext) -> Iterator[Loopback]:
    with Loopback(server_context) as made:
        yield made
