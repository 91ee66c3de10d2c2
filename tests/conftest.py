"""Builds by the real program, in stores of their own, as root and as a user with subordinate ids."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from building import Builder, Context, MakeBuilder


@pytest.fixture(scope="session", autouse=True)
def no_credentials_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Outside judges look for credentials here; /run/containers may be closed to this user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        yield


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory that every user may enter."""
    path = Path(tempfile.mkdtemp(prefix="arkwright-build-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def busybox_layout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An OCI layout that holds the busybox base, for every store to take its base from."""
    path = Path(tempfile.mkdtemp(prefix="arkwright-bases-"))
    path.chmod(0o755)
    builder = Builder(path, "root")
    builder.run("bootstrap", "busybox")
    builder.run("save", "--format", "oci-archive", "-o", str(path / "busybox.tar"), "busybox")
    layout = path / "busybox"
    layout.mkdir()
    subprocess.run(["tar", "-xf", str(path / "busybox.tar"), "-C", str(layout)], check=True)
    subprocess.run(["chmod", "-R", "a+rX", str(layout)], check=True)
    yield layout
    shutil.rmtree(path)


@pytest.fixture
def make_builder(scratch: Path, busybox_layout: Path) -> MakeBuilder:
    """`make_builder(identity, store)`: a builder whose store knows busybox by name."""

    def make(identity: str = "root", store: str = "store") -> Builder:
        builder = Builder(scratch, identity, store)
        builder.run("load", "-i", str(busybox_layout.parent / "busybox.tar"))
        return builder

    return make


@pytest.fixture(params=["root", "subids"])
def builder(request: pytest.FixtureRequest, make_builder: MakeBuilder) -> Builder:
    return make_builder(request.param)


@pytest.fixture
def context(scratch: Path) -> Context:
    """`context({"Dockerfile": …}, name)`: a directory with these files."""

    def make(files: Mapping[str, str | bytes], name: str = "context") -> Path:
        root = scratch / name
        for path, text in files.items():
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(text if isinstance(text, bytes) else text.encode())
        subprocess.run(["chmod", "-R", "a+rX", str(root)], check=True)
        return root

    return make
