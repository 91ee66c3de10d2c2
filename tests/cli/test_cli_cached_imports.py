"""What a fully cached build loads: the guard of its start-up time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

FORBIDDEN = ("http", "ssl", "asyncio", "rich", "yaml", "subprocess", "tarfile", "multiprocessing")

CODE = """
import json, sys
from arkwright.cli.main import program
try:
    program.main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps(sorted(sys.modules)))
"""


def loaded_by(*args: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", CODE, *args], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_a_cached_build_stays_light(tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "file").write_text("content")
    (context / "Dockerfile").write_text('FROM scratch\nCOPY file /\nCMD ["/file"]\n')
    args = ("build", "--root", str(tmp_path / "store"), "--progress=plain", "-t", "app", str(context))
    loaded_by(*args)
    loaded = loaded_by(*args)
    assert not loaded & set(FORBIDDEN)
    assert not {
        name
        for name in loaded
        if name.startswith(
            ("arkwright.linux", "arkwright.registry", "arkwright.net", "arkwright.policy.decide")
        )
    }
