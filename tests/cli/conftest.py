"""Running the program: in this process through click's runner, or as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from arkwright.cli.main import program

Run = Callable[..., Result]
Spawn = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run("build", "--help")`: the program's result, with a store of its own."""
    for name in [name for name in os.environ if name.startswith("ARKWRIGHT_") or name == "SOURCE_DATE_EPOCH"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ARKWRIGHT_ROOT", str(tmp_path / "store"))

    def invoke(*args: str, **more: object) -> Result:
        return CliRunner().invoke(program, args, **more)  # type: ignore[arg-type]

    return invoke


@pytest.fixture
def spawn(tmp_path: Path) -> Spawn:
    """`spawn("--version")`: the program as a process."""

    def start(
        *args: str, env: dict[str, str] | None = None, **more: object
    ) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "ARKWRIGHT_ROOT": str(tmp_path / "store"), **(env or {})}
        return subprocess.run(  # type: ignore[call-overload,no-any-return]
            [sys.executable, "-c", "from arkwright.cli.main import main; main()", *args],
            env=environment, text=True, capture_output=True, timeout=60, check=False, **more,
        )  # fmt: skip

    return start
