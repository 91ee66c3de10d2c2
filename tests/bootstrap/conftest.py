"""Fixtures of the bootstrap tests: a store, and a way to do the same as another user."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from arkwright.store.store import Store

_USER = "arkwright-test"
_PACKAGES = ("arkwright", "msgspec", "isal", "zstandard")
_SCRIPT = """
import sys
from arkwright.bootstrap.run import bootstrap
print(bootstrap(sys.argv[1], sys.argv[2])[1].digest)
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(str(tmp_path / "store")) as opened:
        yield opened


def _is_mapped(user: str) -> bool:
    try:
        return any(line.startswith(f"{user}:") for line in Path("/etc/subuid").read_text().splitlines())
    except OSError:
        return False


@pytest.fixture
def bootstrap_unprivileged() -> Iterator[Callable[[str], str]]:
    """Make a base image as an unprivileged user, in a store of theirs; gives the digest.

    The interpreter's packages are copied to a place that the user can read.
    """
    if os.geteuid() == 0:
        try:
            account = pwd.getpwnam(_USER)
        except KeyError:
            pytest.skip(f"needs-{_USER}: ./dev setup makes this user")
    else:
        account = pwd.getpwuid(os.geteuid())
    if not _is_mapped(account.pw_name):
        pytest.skip(f"needs-subordinate-ids: {account.pw_name} has none")
    directory = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="arkwright-bootstrap-"))
    try:
        for name in _PACKAGES:
            found = importlib.util.find_spec(name)
            assert found is not None and found.origin is not None
            source = Path(found.origin).parent
            shutil.copytree(source, directory / "lib" / name, ignore=shutil.ignore_patterns("__pycache__"))
        for path in (directory, *directory.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        home = directory / "home"
        home.mkdir()
        if os.geteuid() == 0:
            os.chown(home, account.pw_uid, account.pw_gid)

        def run(name: str) -> str:
            done = subprocess.run(
                [sys._base_executable, "-c", _SCRIPT, name, str(home / "store")],  # type: ignore[attr-defined]
                user=account.pw_uid if os.geteuid() == 0 else None,
                group=account.pw_gid if os.geteuid() == 0 else None,
                extra_groups=[] if os.geteuid() == 0 else None,
                umask=0o077,
                cwd=home,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(home),
                    "PYTHONPATH": str(directory / "lib"),
                    "TZ": "Pacific/Apia",
                },
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()

        yield run
    finally:
        shutil.rmtree(directory)
