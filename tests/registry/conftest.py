from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from registry_images import PASSWORD, USER, Authority, Docker, Guarded, needs
from serving import in_process

from arkwright.store.store import Store
from loopback_server import LoopbackRegistry


@pytest.fixture
def make_store(tmp_path: Path) -> Iterator[Callable[[str], Store]]:
    opened: list[Store] = []

    def make(name: str) -> Store:
        opened.append(Store.open(str(tmp_path / name)))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def store(make_store: Callable[[str], Store]) -> Store:
    return make_store("store")


@pytest.fixture
def server() -> Iterator[LoopbackRegistry]:
    with LoopbackRegistry() as made:
        yield made


@pytest.fixture(scope="session")
def plain_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A docker-registry that speaks plain HTTP; its host and port. Tests take their own repositories."""
    with Docker(tmp_path_factory.mktemp("plain")) as running:
        yield running.host


@pytest.fixture(params=["api", "tag"])
def host(request: pytest.FixtureRequest) -> Iterator[str]:
    """A registry with the referrers API, and one without."""
    if request.param == "tag":
        yield request.getfixturevalue("plain_registry")
        return
    with tempfile.TemporaryDirectory() as path, in_process(Path(path) / "served") as server:
        yield server.address


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    needs("openssl")
    at = tmp_path_factory.mktemp("authority")

    def openssl(*args: str) -> None:
        subprocess.run(["openssl", *args], cwd=at, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=Test CA", "-days", "30",
            "-addext", "keyUsage=critical,keyCertSign")  # fmt: skip
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (at / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
            "-out", "server.crt", "-days", "30", "-extfile", "names")  # fmt: skip
    return Authority(at / "ca.crt", at / "server.crt", at / "server.key")


@pytest.fixture(scope="session")
def guarded_registry(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Guarded]:
    needs("htpasswd")
    at = tmp_path_factory.mktemp("guarded")
    line = subprocess.run(
        ["htpasswd", "-iBn", "-C", "4", USER], input=PASSWORD, check=True, capture_output=True, text=True
    )
    (at / "htpasswd").write_text(line.stdout.strip() + "\n")
    more = {
        "auth": {"htpasswd": {"realm": "test", "path": str(at / "htpasswd")}},
        "http": {"tls": {"certificate": str(authority.certificate_path), "key": str(authority.key_path)}},
    }
    with Docker(at, more) as running:
        directory = at / "certs.d" / running.host
        directory.mkdir(parents=True)
        shutil.copy(authority.ca_path, directory / "ca.crt")
        yield Guarded(running.host, str(at / "certs.d"), authority)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Transfers end with the call that began them."""
    yield
    assert not [one.name for one in threading.enumerate() if one.name.startswith("registry_")]
