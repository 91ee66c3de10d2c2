"""Fixtures of the process model's tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from linux_harness import SCRIPTS, Started

from identities import identity_prefix


@pytest.fixture(params=["root", "subids", "single"])
def identity(request: pytest.FixtureRequest) -> str:
    identity_prefix(request.param)
    return str(request.param)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory that every user may enter."""
    path = Path(tempfile.mkdtemp(prefix="arkwright-linux-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start(scratch: Path) -> Iterator[Callable[..., Started]]:
    """Start `scripts/NAME.py STORE ARGS…` as an identity."""
    running: list[subprocess.Popen[str]] = []

    def run(name: str, identity: str, *args: str) -> Started:
        prefix, uid = identity_prefix(identity)
        store = scratch / f"store-{identity}"
        store.mkdir(exist_ok=True)
        os.chown(store, uid, uid)
        command = [*prefix, sys.executable, str(SCRIPTS / f"{name}.py"), str(store), *args]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/"
        )
        running.append(process)
        return Started(process)

    yield run
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()
