"""Debian bases: what is refused, and (with a mirror in reach) one digest for all."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from arkwright.bootstrap import apt_sources, debian
from arkwright.bootstrap.run import bootstrap
from arkwright.diagnostics.errors import ArkwrightError
from arkwright.layer.codec import decompress
from arkwright.layer.tar_read import read_tar
from arkwright.store.store import Store
from identities import identity_prefix


def code_of(store: Store, name: str, **options: object) -> str:
    with pytest.raises(ArkwrightError) as caught:
        debian.bootstrap(name, store=store, **options)  # type: ignore[arg-type]
    return caught.value.code


@pytest.mark.parametrize("name", ["debian", "fedora:40", "debian:", "debian:-x", "debian:a/b", "bookworm"])
def test_a_name_is_a_distribution_and_a_release(store: Store, name: str) -> None:
    assert code_of(store, name) == "invalid-bootstrap-name"


def test_numbers_stand_for_code_names() -> None:
    assert debian.parse_release("debian:12").codename == "bookworm"
    assert debian.parse_release("ubuntu:24.04").codename == "noble"


def test_wrong_options_are_refused_before_anything_runs(store: Store) -> None:
    assert code_of(store, "debian:bookworm", variant="minbas") == "unknown-variant"
    assert code_of(store, "debian:bookworm", include=["--hook-dir=/x"]) == "invalid-package-name"
    assert code_of(store, "debian:bookworm", mirror="nonsense") == "invalid-mirror"


def test_a_missing_tool_is_named_with_the_line_that_installs_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("arkwright.bootstrap.tools._SBIN", str(tmp_path))
    with pytest.raises(ArkwrightError) as caught:
        debian.bootstrap("debian:bookworm", store=store)
    assert caught.value.code == "missing-tool"
    assert "apt-get install mmdebstrap" in str(caught.value.diagnostics[0].hint)


def test_an_unreachable_mirror_is_said_so(store: Store) -> None:
    if shutil.which("mmdebstrap") is None:
        pytest.skip("needs-mmdebstrap: not installed")
    identity_prefix("root" if os.geteuid() == 0 else "subids")
    said: list[str] = []
    assert (
        code_of(store, "debian:bookworm", mirror="http://127.0.0.1:9/debian", report=said.append)
        == "mirror-unreachable"
    )
    assert said
    assert store.names.list() == []


@pytest.mark.timeout(600)
def test_two_runs_and_two_users_give_one_digest(
    tmp_path: Path, bootstrap_unprivileged: Callable[[str], str]
) -> None:
    if shutil.which("mmdebstrap") is None:
        pytest.skip("needs-mmdebstrap: not installed")
    sources = apt_sources.select(apt_sources.read_sources(), "debian", "bookworm", "bookworm")
    if not sources:
        pytest.skip("needs-debian-sources: the host has no Debian sources")
    try:
        _, first = bootstrap("debian:bookworm", str(tmp_path / "one"))
    except ArkwrightError as error:
        if error.code == "mirror-unreachable":
            pytest.skip(f"needs-mirror: {error.diagnostics[0].notes}")
        raise
    assert first.digest == bootstrap_unprivileged("debian:bookworm")
    with Store.open(str(tmp_path / "one")) as store:
        manifest = msgspec.json.decode(store.content.read(first.digest))
        with store.content.open(manifest["layers"][0]["digest"]) as blob, decompress(blob, "gzip") as tar:
            entries = {}
            texts = {}
            for entry, content in read_tar(tar):
                entries[entry.path] = entry
                if entry.path.startswith("etc/apt/") and content is not None:
                    texts[entry.path] = content.read().decode()
    assert texts["etc/apt/sources.list.d/debian.sources"] == apt_sources.render(sources)
    assert {entry.mtime_ns for entry in entries.values()} == {946684800 * 10**9}
    assert not [path for path in entries if path.startswith(("dev/", "run/x")) or path.endswith("-old")]
    assert "etc/hostname" not in entries and "etc/resolv.conf" not in entries
    assert entries["etc/machine-id"].size == 0
    assert not [
        path for path in entries if path.startswith("var/lib/apt/lists/") and entries[path].type == "file"
    ]


def test_the_tool_dies_with_us() -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("needs-setpriv: util-linux is not installed")
    script = (
        "import os, subprocess, sys\n"
        "from arkwright.bootstrap.debian import _dying_with_us\n"
        "command = _dying_with_us(['sh', '-c', 'echo up; read line'])\n"
        "child = subprocess.Popen(command, stdin=int(sys.argv[1]), stdout=subprocess.PIPE, pass_fds=[int(sys.argv[2])])\n"
        "child.stdout.readline()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    stdin_fd, hold_fd = os.pipe()
    alive_fd, pass_fd = os.pipe()
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(stdin_fd), str(pass_fd)], pass_fds=[stdin_fd, pass_fd]
    )
    os.close(stdin_fd)
    os.close(pass_fd)
    try:
        assert parent.wait(timeout=30) == -9
        # The end of this pipe comes when the last process that holds it is gone.
        assert select.select([alive_fd], [], [], 30)[0], "the child lives on"
        assert os.read(alive_fd, 1) == b""
    finally:
        os.close(alive_fd)
        os.close(hold_fd)
