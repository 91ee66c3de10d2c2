"""The busybox base: equal for everybody, static, with the names that people expect."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from arkwright.bootstrap import busybox
from arkwright.bootstrap.run import bootstrap
from arkwright.diagnostics.errors import UserError
from arkwright.layer.codec import decompress
from arkwright.layer.entry import Entry
from arkwright.layer.tar_read import read_tar
from arkwright.store.store import Store


def make(root_path: str) -> tuple[str, dict[str, Entry], dict[str, object]]:
    reference, descriptor = bootstrap("busybox", root_path)
    assert str(reference) == "docker.io/library/busybox:latest"
    with Store.open(root_path) as store:
        assert store.names.get(str(reference)) == descriptor
        manifest = msgspec.json.decode(store.content.read(descriptor.digest))
        config = msgspec.json.decode(store.content.read(manifest["config"]["digest"]))
        with store.content.open(manifest["layers"][0]["digest"]) as blob, decompress(blob, "gzip") as tar:
            entries = {entry.path: entry for entry, _ in read_tar(tar)}
    return descriptor.digest, entries, config


@pytest.fixture(autouse=True)
def _needs_busybox() -> None:
    if busybox._host_program() is None:
        pytest.skip("needs-busybox-static: no static /bin/busybox")


def test_the_tree_has_what_a_system_expects(tmp_path: Path) -> None:
    _, entries, config = make(str(tmp_path))
    assert entries["tmp"].mode == 0o1777
    assert entries["etc/shadow"].mode == 0o640
    assert {"bin/sh", "bin/busybox", "usr/bin/env", "bin/wget", "etc/group", "etc/nsswitch.conf"} <= set(
        entries
    )
    names = [entry for entry in entries.values() if entry.type == "hardlink"]
    assert {entry.link for entry in names} == {"bin/["}
    assert {entry.uid for entry in entries.values()} == {0}
    assert config["config"] == {
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "Cmd": ["sh"],
    }
    assert config["created"] == "2000-01-01T00:00:00Z"


def test_two_runs_and_two_users_give_one_digest(
    tmp_path: Path, bootstrap_unprivileged: Callable[[str], str]
) -> None:
    first, _, _ = make(str(tmp_path / "one"))
    again, _, _ = make(str(tmp_path / "one"))
    assert first == again == bootstrap_unprivileged("busybox")


def test_the_applets_are_asked_for_without_privileges(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs-root: only root has privileges to drop")
    script = tmp_path / "program"
    script.write_text("#!/bin/sh\necho bin/uid-$(id -u)-$(id -g)-$(id -G | wc -w)\n")
    assert busybox._applets(script.read_bytes()) == ["bin/uid-65534-65534-1"]


def test_a_dynamic_program_is_not_taken() -> None:
    assert not busybox._is_static(Path("/bin/sh").read_bytes())
    assert busybox._is_static(Path("/bin/busybox").read_bytes())
    assert not busybox._is_static(b"#!/bin/sh\n")


def test_the_package_is_fetched_where_the_host_has_no_program(tmp_path: Path) -> None:
    if subprocess.run(["apt-cache", "show", busybox.PACKAGE], capture_output=True, check=False).returncode:
        pytest.skip("needs-apt-lists: apt knows no package busybox-static here")
    probe = subprocess.run(
        ["apt-get", "-q", "download", busybox.PACKAGE],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    if probe.returncode:
        pytest.skip(f"needs-mirror: {probe.stderr.strip()[-200:]}")
    assert busybox._is_static(busybox._package_program())


def test_busybox_has_no_variant(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        bootstrap("busybox", str(tmp_path), variant="minbase")
    assert caught.value.code == "invalid-bootstrap-option"
