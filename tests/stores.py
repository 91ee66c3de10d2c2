"""File systems for stores under test: this machine's, a tmpfs, an ext4 of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FILE_SYSTEMS = ("host", "tmpfs", "ext4")


@contextmanager
def mounted(kind: str, path: Path, size_mb: int = 256) -> Iterator[None]:
    """Let the directory `path` be on a file system of this kind for the body; skips where it cannot."""
    if kind == "host":
        yield
        return
    if os.geteuid() != 0:
        pytest.skip("needs-root: mounting a file system")
    image = path.with_name(path.name + ".img")
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "test-store", str(path)]
    else:
        if shutil.which("mkfs.ext4") is None:
            pytest.skip("needs-mkfs.ext4: an ext4 file system of our own (package e2fsprogs)")
        with open(image, "wb") as file:
            file.truncate(size_mb << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "^has_journal", str(image)], check=True)
        command = ["mount", "-o", "loop", str(image), str(path)]
    status = path.stat()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs-loop-mounts: {done.stderr.strip()}")
    try:
        os.chown(path, status.st_uid, status.st_gid)
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
        image.unlink(missing_ok=True)
