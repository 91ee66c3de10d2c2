"""Who runs a test's program: root, a user with subordinate ids, a user without, and one who may do
nothing at all (see `sealed_user`)."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SUBID_USER = "arkwright-test"
NOBODY = 65534


def identity_prefix(name: str) -> tuple[list[str], int]:
    """The command prefix and uid for `root`, `subids`, `single` or `sealed`; skips when this host cannot."""
    if os.geteuid() != 0:
        return _ourselves(name)
    if name == "root":
        return [], 0
    if name == "sealed":
        return [sys.executable, str(Path(__file__).with_name("sealed_user.py")), str(NOBODY)], NOBODY
    if name == "single":
        return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"], NOBODY
    if not shutil.which("newuidmap") or not shutil.which("useradd"):
        pytest.skip("needs-newuidmap: a user with subordinate ids (packages uidmap, passwd)")
    uid = _subid_user()
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--init-groups"], uid


def _ourselves(name: str) -> tuple[list[str], int]:
    """The user that runs the tests, if that is one of this kind."""
    uid = os.geteuid()
    if name in ("root", "sealed"):
        pytest.skip("needs-root: switching to other users")
    ranges = Path("/etc/subuid").read_text() if os.path.exists("/etc/subuid") else ""
    names = {str(uid), pwd.getpwuid(uid).pw_name}
    has_ids = bool(names & {line.split(":")[0] for line in ranges.splitlines()})
    if name == "subids" and not (has_ids and shutil.which("newuidmap")):
        pytest.skip("needs-newuidmap: a user with subordinate ids (packages uidmap, passwd)")
    if name == "single" and has_ids:
        pytest.skip("needs-root: switching to a user without subordinate ids")
    return [], uid


def _subid_user() -> int:
    try:
        uid = pwd.getpwnam(SUBID_USER).pw_uid
    except KeyError:
        # Another test process may be doing the same.
        subprocess.run(["useradd", "-M", "-U", "-s", "/bin/sh", SUBID_USER], check=False)
        uid = pwd.getpwnam(SUBID_USER).pw_uid
    for path in ("/etc/subuid", "/etc/subgid"):
        if f"{SUBID_USER}:" not in Path(path).read_text():
            with open(path, "a") as ranges:
                ranges.write(f"{SUBID_USER}:200000:65536\n")
    return uid
