"""Memory does not grow with the image: the peak resident set of every command, with one large layer."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import msgspec
import pytest

from arkwright.oci import descriptor as media
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.layout import Layout
from arkwright.oci.manifest import Index, Manifest, encode
from building import Builder
from peak_memory import LIMIT_KB, measuring

SIZE = 2 << 30 if os.environ.get("ARKWRIGHT_SOAK") else 200 << 20


def put(layout: Layout, path: str, media_type: str) -> Descriptor:
    with open(path, "rb") as file:
        digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    descriptor = Descriptor(media_type=media_type, digest=digest, size=os.path.getsize(path))
    os.rename(path, layout.blob_path(digest))
    return descriptor


def put_bytes(layout: Layout, data: bytes, media_type: str) -> Descriptor:
    path = os.path.join(layout.path, "new")
    Path(path).write_bytes(data)
    return put(layout, path, media_type)


class Noise(io.RawIOBase):
    """Bytes that do not compress."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        buffer[:] = os.urandom(len(buffer))
        return len(buffer)


def large_image(path: Path) -> None:
    """A layout with one gzip layer of SIZE bytes."""
    layout = Layout.create(str(path))
    made = os.path.join(layout.path, "layer")
    # Stored blocks: to compress noise would only take time.
    with gzip.open(made, "wb", compresslevel=0) as packed, tarfile.open(fileobj=packed, mode="w|") as tar:
        entry = tarfile.TarInfo("large")
        entry.size = SIZE
        tar.addfile(entry, io.BufferedReader(Noise(), 1 << 20))
    with gzip.open(made, "rb") as tar_bytes:
        diff_id = "sha256:" + hashlib.file_digest(tar_bytes, "sha256").hexdigest()  # type: ignore[arg-type]
    layer = put(layout, made, media.LAYER_GZIP)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }
    manifest = Manifest(
        schema_version=2,
        media_type=media.MANIFEST,
        config=put_bytes(layout, msgspec.json.encode(config), media.CONFIG),
        layers=(layer,),
    )
    root = put_bytes(layout, encode(manifest), media.MANIFEST)
    named = msgspec.structs.replace(root, annotations={media.REF_NAME: "large"})
    layout.write_index(Index(schema_version=2, media_type=media.INDEX, manifests=(named,)))


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_every_command_stays_small(plain_registry: str, scratch: Path) -> None:
    builder = Builder(scratch, "root")
    large_image(builder.home / "layout")
    name, peaks = f"docker://{plain_registry}/large", {}

    def measured(*args: str) -> None:
        peak_path = scratch / "peak"
        done = subprocess.run(
            measuring(peak_path, *builder.command(*args)),
            cwd=builder.home, env=builder.env, capture_output=True, text=True, check=False, timeout=1200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        peaks[" ".join(args)] = int(peak_path.read_text())

    def fresh() -> None:
        shutil.rmtree(builder.store)
        builder.store.mkdir()

    measured("copy", "oci:layout:large", "large")
    shutil.rmtree(builder.home / "layout")
    measured("push", "large", f"{name}:1")
    measured("save", "-o", "large.tar", "large")
    fresh()
    measured("load", "-q", "-i", "large.tar")
    os.unlink(builder.home / "large.tar")
    fresh()
    measured("copy", f"{name}:1", f"{name}-mounted:1")
    measured("pull", "-q", f"{name}:1")
    measured("copy", "--dest-compress", "zstd", f"{name}:1", "zstd")
    measured("copy", "zstd", "docker-archive:docker.tar:large:1")
    fresh()
    measured("copy", "--dest-compress", "none", "docker-archive:docker.tar", "dir:plain")
    os.unlink(builder.home / "docker.tar")
    fresh()
    measured("copy", "--format", "docker", "--dest-compress", "gzip", "dir:plain", "docker")
    assert {args: peak for args, peak in peaks.items() if peak > LIMIT_KB} == {}, peaks
    # A measure that measures nothing would pass too.
    assert min(peaks.values()) > 10 << 10
