"""Builds by the real program, in stores of their own, as root and as a user with subordinate ids."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from identities import identity_prefix

from arkwright.events.journal import read_journal
from arkwright.events.types import AnyEvent

TIMEOUT_S = 120


class Builder:
    """`arkwright` with one store, as one user."""

    def __init__(self, scratch: Path, identity: str, store: str = "store") -> None:
        self.prefix, self.uid = identity_prefix(identity)
        self.identity = identity
        self.scratch = scratch
        self.store = scratch / f"{store}-{identity}"
        self.store.mkdir(exist_ok=True)
        os.chown(self.store, self.uid, self.uid)
        self.home = scratch / f"home-{identity}"
        self.home.mkdir(exist_ok=True)
        os.chown(self.home, self.uid, self.uid)
        self.env: dict[str, str] = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.home),
            "ARKWRIGHT_ROOT": str(self.store),
        }

    def command(self, *args: str) -> list[str]:
        return [*self.prefix, sys.executable, "-m", "arkwright", *args]

    def start(
        self, *args: str, cwd: Path | None = None, umask: int = 0o022, **more: Any
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*args), cwd=cwd or self.home, env=self.env, text=True, umask=umask,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more,
        )  # fmt: skip

    def run(
        self,
        *args: str,
        cwd: Path | None = None,
        status: int = 0,
        umask: int = 0o022,
        input: bytes | None = None,
    ) -> Done:
        done = subprocess.run(
            self.command(*args), cwd=cwd or self.home, env=self.env, umask=umask, timeout=TIMEOUT_S,
            capture_output=True, check=False, input=input if input is not None else b"",
        )  # fmt: skip
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        assert done.returncode == status, f"status {done.returncode}, not {status}\n{out}\n{err}"
        return Done(out, err)

    def build(self, context: Path, *args: str, **more: Any) -> Built:
        """Build a context; gives the image digest and the journal."""
        metadata = self.home / "metadata.json"
        self.run(
            "build", "--progress", "plain", "--metadata-file", str(metadata), *args, str(context), **more
        )
        fields = msgspec.json.decode(metadata.read_bytes())
        return Built(self, fields)


class Done:
    """What a run printed."""

    def __init__(self, out: str, err: str) -> None:
        self.out, self.err = out, err


class Built:
    """A finished build."""

    def __init__(self, builder: Builder, fields: dict[str, Any]) -> None:
        self.digest: str = fields.get("containerimage.digest", "")
        self.fields = fields
        path = builder.store / "history" / fields["arkwright.build"] / "journal.jsonl"
        self.events: list[AnyEvent] = list(read_journal(str(path)))
        self.names = {event.vertex: event.name for event in self.events if type(event).__name__ == "Declared"}

    def having(self, kind: str) -> list[str]:
        """The names of the vertices with an event of this kind."""
        return [self.names[event.vertex] for event in self.events if type(event).__name__ == kind]  # type: ignore[union-attr]

    @property
    def ran(self) -> list[str]:
        return self.having("Started")


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


MakeBuilder = Callable[..., Builder]


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


Context = Callable[..., Path]


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


def processes_with(marker: str) -> list[int]:
    """Pids of processes whose command line holds a marker, other than ours."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                text = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            if marker.encode() in text:
                found.append(int(name))
    return found
