"""What a fully cached build loads: the guard of its start-up time."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

FORBIDDEN = (
    "http", "ssl", "asyncio", "rich", "yaml", "subprocess", "tarfile", "multiprocessing", "base64",
    "concurrent", "difflib", "queue",
)  # fmt: skip

# What runs steps, moves files and layers, asks others, or tells of errors: a cached build does none of it.
UNUSED = (
    "attest.sbom", "bootstrap", "build.ahead", "build.hermetic", "build.quota", "build.remotes",
    "build.scan_targets", "cache.inline", "cache.inventory", "cache.mounts", "cache.remote",
    "cache.remote_export", "cache.remote_siblings", "cache.sizes", "cli.cache", "cli.columns", "cli.images",
    "cli.report", "graph.state", "images", "layer.apply", "layer.codec", "layer.diff", "layer.pax",
    "layer.pending", "layer.tar_read", "layer.tar_write", "layer.tree", "layer.whiteouts", "linux", "net",
    "oci.layout", "ops.exec_mounts", "ops.exec_watch", "ops.file_actions", "ops.file_bytes", "ops.file_copy", "ops.file_unpack",
    "ops.merge_diff", "ops.modes", "ops.redact", "policy", "registry", "sandbox.users", "solver.scheduler",
    "solver.threads", "solver.walk", "sources.expand", "verify",
)  # fmt: skip

# Each takes a fifth of a millisecond or so. A few more than there are.
MODULES = 174

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
    own = {name.removeprefix("arkwright.") for name in loaded if name.startswith("arkwright.")}
    assert not {name for name in own for unused in UNUSED if name == unused or name.startswith(f"{unused}.")}
    assert len(own) <= MODULES


def test_what_must_stay_out_is_there() -> None:
    """A module that was renamed would stay out in any case."""
    missing = {name for name in UNUSED if find_spec(f"arkwright.{name}") is None}
    assert not missing


def test_a_quiet_cached_build_folds_no_events(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text('FROM scratch\nCMD ["/file"]\n')
    args = ("build", "--root", str(tmp_path / "store"), "-q", "-t", "app", str(tmp_path))
    loaded_by(*args)
    loaded = loaded_by(*args)
    assert not loaded & {"arkwright.cli.board", "arkwright.cli.steplog", "arkwright.diagnostics.cells"}
