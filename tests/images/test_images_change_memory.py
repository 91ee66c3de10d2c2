"""Memory does not grow with the image: the peak resident set of what changes images, with a large layer."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from building import Builder
from peak_memory import LIMIT_KB, measuring

SIZE = 2 << 30 if os.environ.get("ARKWRIGHT_SOAK") else 200 << 20


class Pattern(io.RawIOBase):
    """Bytes that compress well."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        buffer[:] = (b"0123456789abcdef" * (len(buffer) // 16 + 1))[: len(buffer)]
        return len(buffer)


def large_archive(path: Path) -> None:
    """A tar with one file of SIZE bytes."""
    with gzip.open(path, "wb", compresslevel=1) as packed, tarfile.open(fileobj=packed, mode="w|") as tar:
        entry = tarfile.TarInfo("dir/large")
        entry.size = SIZE
        tar.addfile(entry, io.BufferedReader(Pattern(), 1 << 20))


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_every_change_stays_small(scratch: Path, busybox_layout: Path) -> None:
    builder = Builder(scratch, "root")
    builder.run("load", "-q", "-i", str(busybox_layout.parent / "busybox.tar"))
    # Small on disk, so that the test measures no disk.
    large_archive(builder.home / "large.tar.gz")
    peaks = {}
    for command in (
        "append busybox --layer large.tar.gz -t a",
        "append a --layer large.tar.gz --verbatim -t a",
        "squash a --since busybox -t s",
        "filter a --drop bin/sh -t f",
        "chown-map a 0:5 -t c",
        "rebase a --old-base busybox --new-base s --force -t r",
        "flatten a -t fl",
    ):
        peak_path = scratch / "peak"
        done = subprocess.run(
            measuring(peak_path, *builder.command(*command.split())),
            cwd=builder.home, env=builder.env, capture_output=True, text=True, check=False, timeout=1200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        peaks[command] = int(peak_path.read_text())
    assert {args: peak for args, peak in peaks.items() if peak > LIMIT_KB} == {}, peaks
    # A measure that measures nothing would pass too.
    assert min(peaks.values()) > 10 << 10
