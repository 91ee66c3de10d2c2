"""Fixtures of the example builds: bases made once for all workers, and `examples/build.sh` as one of the users."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from arkwright.bootstrap import apt_sources
from building import Builder
from example_builds import BUILD_S, PASSED_ON, Examples, MakeExamples


def _answers(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=5):
        return True
    return False


def _needs_network() -> None:
    """Skip if nothing at all is reachable; a mirror that fails on a host with network is no reason."""
    sources = apt_sources.select(apt_sources.read_sources(), "debian", "bookworm", "bookworm")
    urls = [uri for source in sources for uri in source.uris]
    urls += [
        os.environ[name]
        for name in PASSED_ON
        if name.lower() in ("http_proxy", "https_proxy") and os.environ.get(name)
    ]
    urls += ["https://pypi.org", "https://registry.npmjs.org"]
    for url in urls:
        parts = urlsplit(url)
        if parts.hostname and _answers(
            parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
        ):
            return
    pytest.skip("needs-network: no package mirror, PyPI, npm registry or proxy is reachable")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def bases() -> Iterator[Callable[[str], Path]]:
    """`bases(name)`: an archive of a base image, made by the first worker that asks.

    The workers of one run share a directory, which the last of them deletes.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", f"alone-{os.getpid()}")
    directory = Path(tempfile.gettempdir()) / f"arkwright-examples-{run}"
    directory.mkdir(exist_ok=True)
    directory.chmod(0o755)
    lock = directory / "lock"
    member = directory / f"member-{os.getpid()}"
    with _locked(lock):
        member.touch()

    def make(name: str) -> Path:
        archive = directory / f"{name.replace(':', '-')}.tar"
        with _locked(lock):
            if not archive.exists():
                if name != "busybox":
                    _needs_network()
                builder = Builder(directory, "root")
                builder.run("bootstrap", "--quiet", name, timeout_s=BUILD_S)
                partial = archive.with_suffix(".partial")
                builder.run("save", "--format", "oci-archive", "-o", str(partial), name)
                partial.chmod(0o644)
                partial.rename(archive)
        return archive

    yield make
    with _locked(lock):
        member.unlink()
        if not list(directory.glob("member-*")):
            shutil.rmtree(directory)


@pytest.fixture
def make_examples(scratch: Path, bases: Callable[[str], Path]) -> MakeExamples:
    """`make_examples(identity, *bases)`: build.sh as a user whose store has these bases."""

    def make(identity: str, *names: str) -> Examples:
        examples = Examples(Builder(scratch, identity), bases)
        for name in names:
            examples.with_base(name)
        return examples

    return make


@pytest.fixture(scope="session")
def shared_examples(bases: Callable[[str], Path]) -> Iterator[Callable[[str], Examples]]:
    """`shared_examples(identity)`: a user whose store has all bases and is kept for this worker's tests."""
    scratch = Path(tempfile.mkdtemp(prefix="arkwright-examples-"))
    scratch.chmod(0o755)
    made: dict[str, Examples] = {}

    def make(identity: str) -> Examples:
        if identity not in made:
            examples = Examples(Builder(scratch, identity), bases)
            made[identity] = examples.with_base("busybox").with_base("debian:bookworm")
        return made[identity]

    yield make
    shutil.rmtree(scratch)
