"""The fuzz targets, from committed seeds: seconds per target here, minutes under ./dev soak."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SECONDS = 300 if os.environ.get("ARKWRIGHT_SOAK") else 4
TARGETS = ("dockerfile", "words", "ignore", "reference", "git")


@pytest.mark.soak
@pytest.mark.timeout(SECONDS * 4 + 120)
@pytest.mark.parametrize("target", TARGETS)
def test_nothing_but_named_errors(target: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("needs-atheris: coverage-guided fuzzing")
    corpus = tmp_path / "corpus"
    shutil.copytree(HERE / "corpus" / target, corpus)
    done = subprocess.run(
        [
            sys.executable, str(HERE / "fuzz_targets.py"), target, str(corpus), f"-max_total_time={SECONDS}",
            "-timeout=10", "-rss_limit_mb=1024", "-max_len=4096", "-seed=1",
        ],
        cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    kept = [f"{path.name}: {path.read_bytes()!r}" for path in tmp_path.glob("*-*") if path.is_file()]
    assert done.returncode == 0, "\n".join([*kept, done.stderr[-6000:]])
    assert "Done" in done.stderr
