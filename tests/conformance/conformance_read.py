"""What an image holds, read by the standard library alone: OCI archives, docker archives, layers.

Nothing of `src/arkwright` is used here, so that a fault in its writer cannot be hidden by the same
fault in a reader.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

_inodes = itertools.count()
_OPAQUE = ".wh..wh..opq"
_KINDS = {
    tarfile.REGTYPE: "file", tarfile.AREGTYPE: "file", tarfile.DIRTYPE: "dir", tarfile.SYMTYPE: "link",
    tarfile.LNKTYPE: "hard", tarfile.FIFOTYPE: "fifo", tarfile.CHRTYPE: "char", tarfile.BLKTYPE: "block",
}  # fmt: skip


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One thing in a result. `inode` is the same for names of one file."""

    kind: str
    mode: int
    owner: tuple[int, int]
    mtime_s: int
    inode: int
    data: bytes = b""
    target: str = ""
    xattrs: Mapping[str, bytes] = {}


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """An image: its config document, and its tree with all layers applied."""

    config: Mapping[str, Any]
    tree: Mapping[str, Found]

    @property
    def diff_ids(self) -> Sequence[str]:
        return tuple(self.config["rootfs"]["diff_ids"])


@lru_cache(maxsize=256)
def _layer(data: bytes) -> tuple[tuple[str, Found], ...]:
    """The entries of a layer, in order; whiteouts as they stand."""
    return tuple(_entries(_plain(data)))


def _plain(data: bytes) -> bytes:
    if data[:2] == b"\x1f\x8b":
        return gzip.decompress(data)
    if data[:4] == b"\x28\xb5\x2f\xfd":
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return data


def _entries(data: bytes) -> Iterator[tuple[str, Found]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for info in tar:
            prefix = "SCHILY.xattr."
            yield (
                info.name.strip("/").removeprefix("./"),
                Found(
                    kind=_KINDS[info.type],
                    mode=info.mode & 0o7777,
                    owner=(info.uid, info.gid),
                    mtime_s=int(info.mtime),
                    inode=next(_inodes),
                    data=tar.extractfile(info).read() if info.isreg() else b"",  # type: ignore[union-attr]
                    target=info.linkname.lstrip("/") if info.islnk() else info.linkname,
                    xattrs={
                        key.removeprefix(prefix): value.encode("utf-8", "surrogateescape")
                        for key, value in info.pax_headers.items()
                        if key.startswith(prefix)
                    },
                ),
            )


def apply_layers(layers: Sequence[bytes]) -> dict[str, Found]:
    """The tree after all layers, whiteouts and opaque directories applied (OCI layer.md)."""
    tree: dict[str, Found] = {}
    for data in layers:
        entries = _layer(data)
        for name, _ in entries:
            folder, _, last = name.rpartition("/")
            if last == _OPAQUE:
                _remove_beneath(tree, folder)
            elif last.startswith(".wh."):
                gone = f"{folder}/{last[4:]}".lstrip("/")
                _remove_beneath(tree, gone)
                tree.pop(gone, None)
        for name, found in entries:
            if name.rpartition("/")[2].startswith(".wh.") or name in ("", "."):
                continue
            _put(tree, name, found)
    return tree


def _put(tree: dict[str, Found], name: str, found: Found) -> None:
    if found.kind == "hard":
        tree[name] = tree[found.target]
        return
    old = tree.get(name)
    if old is not None and old.kind == "dir" and found.kind != "dir":
        _remove_beneath(tree, name)
    tree[name] = found


def _remove_beneath(tree: dict[str, Found], folder: str) -> None:
    for path in [path for path in tree if path.startswith(f"{folder}/")]:
        del tree[path]


def read_oci_archive(path: Path, platform: str = "") -> Result:
    """An OCI archive's image, that of a platform when there are several. Checks every digest."""
    with tarfile.open(path) as tar:
        blobs = {info.name: tar.extractfile(info).read() for info in tar if info.isreg()}  # type: ignore[union-attr]

    def blob(descriptor: Mapping[str, Any]) -> bytes:
        algorithm, _, digits = descriptor["digest"].partition(":")
        data = blobs[f"blobs/{algorithm}/{digits}"]
        assert hashlib.sha256(data).hexdigest() == digits, descriptor
        assert len(data) == descriptor["size"], descriptor
        return data

    document = json.loads(blobs["index.json"])
    while "manifests" in document:
        document = json.loads(blob(_of_platform(document["manifests"], platform)))
    config = json.loads(blob(document["config"]))
    layers = [blob(layer) for layer in document["layers"]]
    ids = ["sha256:" + hashlib.sha256(_plain(data)).hexdigest() for data in layers]
    assert ids == config["rootfs"]["diff_ids"], "diff_ids are not those of the layers"
    return Result(config=config, tree=apply_layers(layers))


def _of_platform(descriptors: Sequence[Mapping[str, Any]], platform: str) -> Mapping[str, Any]:
    if not platform or (len(descriptors) == 1 and "platform" not in descriptors[0]):
        return descriptors[0]
    for descriptor in descriptors:
        found = descriptor.get("platform", {})
        parts = [found.get("os"), found.get("architecture"), found.get("variant")]
        if platform == "/".join(part for part in parts if part):
            return descriptor
    raise AssertionError(f"there is no image for {platform}")


def read_docker_archive(path: Path) -> Result:
    """The image of a `docker save`."""
    with tarfile.open(path) as tar:
        members = {info.name: info for info in tar}

        def read(name: str) -> bytes:
            info = members[name]
            return tar.extractfile(info).read()  # type: ignore[union-attr]

        manifest = json.loads(read("manifest.json"))[0]
        config = json.loads(read(manifest["Config"]))
        return Result(config=config, tree=apply_layers([read(name) for name in manifest["Layers"]]))
