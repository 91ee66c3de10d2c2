"""What must not stand in the files of the repository: paths of one machine, hosts that are not public."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from house_codes import REPOSITORY

FOLDERS = ("src", "tests", "docs", "examples", "benchmarks", ".ci")
SUFFIXES = {".py", ".md", ".toml", ".sh", ".c", ".txt", ".json", ".yaml", ".yml", ""}

# Public places that the code or the documentation speaks of. Tests may also use names that the
# standards keep for examples (RFC 2606, RFC 6761) and names of one label.
HOSTS = {
    "archive.ubuntu.com",
    "github.com",
    "index.docker.io",
    "keepachangelog.com",
    "opencontainers.org",
    "pypi.org",
    # Names of formats, as their specifications write them.
    "cyclonedx.org",
    "in-toto.io",
    "slsa.dev",
    "spdx.dev",
    "www.w3.org",
    "www.debian.org",
    "registry.npmjs.org",
    "semver.org",
    "www.apache.org",
}
RESERVED = re.compile(r"(^|\.)(example|test|invalid|localhost|example\.(com|net|org))$")
URL = re.compile(r"https?://(?:[^\s/@\"'`<>]*@)?(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)")
# Written so that this file does not hold them.
MACHINE_PATHS = ("/work" + "/main", "/work" + "/shared", "/root" + "/.pyenv", "/home" + "/runner")


def _files() -> Iterator[Path]:
    yield from (path for path in sorted(REPOSITORY.iterdir()) if path.is_file() and path.name != "LICENSE")
    for folder in FOLDERS:
        for path in sorted((REPOSITORY / folder).rglob("*")):
            if path.is_file() and path.suffix in SUFFIXES and "__pycache__" not in path.parts:
                yield path


def _texts() -> Iterator[tuple[str, str]]:
    for path in _files():
        try:
            yield str(path.relative_to(REPOSITORY)), path.read_text()
        except UnicodeDecodeError:
            continue


def _is_public(host: str) -> bool:
    host = host.lower().rstrip(".")
    if host in HOSTS or RESERVED.search(host) or "." not in host:
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return address.is_loopback or not address.is_global


def test_urls_name_public_or_reserved_hosts() -> None:
    strangers = {
        f"{name}: {host}" for name, text in _texts() for host in URL.findall(text) if not _is_public(host)
    }
    assert strangers == set()


@pytest.mark.parametrize("part", MACHINE_PATHS)
def test_no_path_of_one_machine(part: str) -> None:
    assert [name for name, text in _texts() if part in text] == []


def test_the_walk_sees_the_files() -> None:
    names = {name for name, _ in _texts()}
    assert {"README.md", "pyproject.toml", "dev", "examples/hello/Dockerfile"} <= names
    assert len(names) > 200


def test_strangers_are_seen() -> None:
    stranger = "packages.corp-net" + ".io"
    assert URL.findall("see https://u:p@" + stranger + "/x") == [stranger]
    assert not _is_public(stranger)
    assert not _is_public("8.8.8.8")
