"""Fixtures of the images tests: stores, a real base image, and podman with a storage of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from arkwright.bootstrap import busybox as busybox_maker
from arkwright.images.archives import save
from arkwright.images.load import load_archive
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.reference import parse_reference
from arkwright.store.store import Store

MakeStore = Callable[[str], Store]


@pytest.fixture
def make_store(tmp_path: Path) -> Iterator[MakeStore]:
    opened: list[Store] = []

    def make(name: str) -> Store:
        opened.append(Store.open(str(tmp_path / name)))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    return make_store("store")


@pytest.fixture(scope="session")
def busybox_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """busybox as an OCI archive."""
    if busybox_maker._host_program() is None:
        pytest.skip("needs-busybox-static: no static /bin/busybox")
    root = tmp_path_factory.mktemp("images-busybox")
    reference = parse_reference("busybox")
    with Store.open(str(root / "store")) as store:
        made = busybox_maker.bootstrap(reference, store=store)
        save(store.content, [(made, (str(reference),))], str(root / "busybox.tar"), "oci-archive")
    return root / "busybox.tar"


@pytest.fixture
def busybox(store: Store, busybox_archive: Path) -> Descriptor:
    """busybox in the store, by name."""
    with busybox_archive.open("rb") as stream:
        return load_archive(store, stream)[0].descriptor


@pytest.fixture
def skopeo() -> Callable[..., str]:
    """`skopeo("copy", …)`: runs it, and gives what it prints."""
    program = shutil.which("skopeo")
    if program is None:
        pytest.skip("needs-skopeo: to exchange archives with another tool")

    def run(*args: str) -> str:
        done = subprocess.run(
            [program, "--insecure-policy", *args], capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def podman(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[..., str]:
    """`podman("images", …)`. It is the only engine on PATH, in a storage that goes with the test."""
    program = shutil.which("podman")
    if program is None:
        pytest.skip("needs-podman: to load images into an engine")
    bin_path = tmp_path / "engine-bin"
    bin_path.mkdir()
    wrapper = bin_path / "podman"
    # podman takes no runroot of more than 50 characters.
    run_path = tempfile.mkdtemp(prefix="arkwright-", dir="/tmp")
    request.addfinalizer(lambda: shutil.rmtree(run_path, ignore_errors=True))
    wrapper.write_text(
        f"#!/bin/sh\nPATH={os.environ['PATH']} exec {program} --root {tmp_path}/engine-root"
        f' --runroot {run_path} --storage-driver vfs "$@"\n'
    )
    wrapper.chmod(0o755)

    def run(*args: str) -> str:
        done = subprocess.run([str(wrapper), *args], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        run("images")
    except AssertionError as error:
        pytest.skip(f"needs-podman: it does not work here: {error}")
    monkeypatch.setenv("PATH", str(bin_path))
    monkeypatch.delenv("ARKWRIGHT_LOAD_INTO", raising=False)
    return run
