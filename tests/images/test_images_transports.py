"""Into docker or podman, through their own `load`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from imaging import put_image, refused

from arkwright.images.transports import find_engine, load_into
from arkwright.oci.descriptor import Descriptor
from arkwright.store.store import Store

BUSYBOX = "docker.io/library/busybox:latest"


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a script in the place of an engine; PATH holds nothing else."""
    bin_path = tmp_path / "bin"
    bin_path.mkdir()
    monkeypatch.setenv("PATH", str(bin_path))
    monkeypatch.delenv("ARKWRIGHT_LOAD_INTO", raising=False)

    def install(name: str, script: str) -> None:
        (bin_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (bin_path / name).chmod(0o755)

    return install


def test_podman_has_the_image(store: Store, busybox: Descriptor, podman: Callable[..., str]) -> None:
    assert load_into(store.content, [(busybox, (BUSYBOX, "registry.example/box:2"))]) == "podman"
    (found,) = json.loads(podman("image", "inspect", BUSYBOX))
    assert sorted(found["RepoTags"]) == [BUSYBOX, "registry.example/box:2"]
    config = json.loads(store.content.read(busybox.digest))["config"]["digest"]
    assert f"sha256:{found['Id']}" == config


def test_docker_comes_first_and_can_be_overruled(
    engine: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine("podman", "exit 0")
    assert find_engine() == "podman"
    engine("docker", "exit 0")
    assert find_engine() == "docker"
    assert find_engine("podman") == "podman"
    monkeypatch.setenv("ARKWRIGHT_LOAD_INTO", "podman")
    assert find_engine() == "podman"


def test_no_engine_is_said_so(engine: Callable[[str, str], None], store: Store) -> None:
    with refused("no-container-engine", "type=docker"):
        load_into(store.content, [(put_image(store), ())])
    with refused("no-container-engine", "nerdctl"):
        find_engine("nerdctl")


@pytest.mark.parametrize(
    "script", ["echo no room >&2; exit 3", "while read -r line; do :; done; echo no room; exit 3"]
)
def test_what_the_engine_says_is_told(engine: Callable[[str, str], None], store: Store, script: str) -> None:
    """Whether it leaves at once, before it read the archive, or at the end."""
    engine("docker", script)
    image = put_image(store, files={"big": bytes(4 << 20), "more": __file__.encode() * 4096})
    with refused("load-failed", "status 3", "no room"):
        load_into(store.content, [(image, ())])


@pytest.mark.parametrize(("status", "chosen"), [(0, "docker"), (1, "podman")])
def test_docker_is_taken_only_if_its_daemon_answers(
    status: int, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("docker", "podman"):
        script = tmp_path / name
        script.write_text(f"#!/bin/sh\nexit {status}\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("ARKWRIGHT_LOAD_INTO", raising=False)
    assert find_engine() == chosen
