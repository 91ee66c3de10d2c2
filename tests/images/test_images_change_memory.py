"""Memory does not grow with the image: the peak resident set of what changes images, looks at them and
unpacks them, with a large layer."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from building import Builder, MakeBuilder
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


def measured(builder: Builder, *args: str, status: int = 0) -> int:
    """The peak of a command, in KiB."""
    peak_path = builder.home.parent / "peak"
    done = subprocess.run(
        measuring(peak_path, *builder.command(*args)),
        cwd=builder.home, env=builder.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        check=False, timeout=1200,
    )  # fmt: skip
    assert done.returncode == status, (args, done.stderr)
    return int(peak_path.read_text())


def check(peaks: dict[str, int]) -> None:
    assert {args: peak for args, peak in peaks.items() if peak > LIMIT_KB} == {}, peaks
    # A measure that measures nothing would pass too.
    assert min(peaks.values()) > 10 << 10


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
        "config a --env A=1 -t e",
        "annotate a a=b -t n",
        "index create x a",
    ):
        peaks[command] = measured(builder, *command.split())
    check(peaks)


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_every_look_stays_small(scratch: Path, busybox_layout: Path) -> None:
    """A new store each time, so that nothing is remembered."""
    builder = Builder(scratch, "root")
    large_archive(builder.home / "large.tar.gz")
    builder.run("load", "-q", "-i", str(busybox_layout.parent / "busybox.tar"))
    builder.run("append", "busybox", "--layer", "large.tar.gz", "--verbatim", "-t", "oci:layout:large")
    builder.run("append", "busybox", "--layer", "large.tar.gz", "--prefix", "x", "-t", "oci:layout:other")
    image, peaks = "oci:layout:large", {}
    for command, status in (
        (f"inspect {image}", 0),
        (f"ls -R {image} /", 0),
        (f"tree {image}", 0),
        (f"cat {image} /dir/large", 0),
        (f"layers --efficiency {image}", 0),
        (f"validate {image}", 0),
        (f"diff {image} oci:layout:other", 1),
        (f"mtree {image}", 0),
        (f"save -o docker.tar {image}", 0),
        (f"export --oci-layout shared {image}", 0),
    ):
        shutil.rmtree(builder.store)
        builder.store.mkdir()
        peaks[command] = measured(builder, *command.split(), status=status)
    check(peaks)


@pytest.mark.soak
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("identity", ["root", "subids", "single"])
def test_bundles_stay_small(make_builder: MakeBuilder, identity: str) -> None:
    builder = make_builder(identity)
    large_archive(builder.home / "large.tar.gz")
    builder.run("append", "busybox", "--layer", "large.tar.gz", "--verbatim", "-t", "a")
    peaks = {"unpack": measured(builder, "unpack", "a", "bundle")}
    peaks["nothing"] = measured(builder, "repack", "bundle", "same")
    # Something as large, and new.
    (builder.home / "bundle/rootfs/dir").rename(builder.home / "bundle/rootfs/elsewhere")
    peaks["repack"] = measured(builder, "repack", "bundle", "new")
    if identity == "root":
        peaks["mtree"] = measured(builder, "mtree", "bundle/rootfs")
    check(peaks)
