"""Images to look into: layers written by `tarfile`, layouts written by hand, trees as the kernel shows them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arkwright.images.view import View, walk
from arkwright.oci.platform import host_platform

Member = tuple[tarfile.TarInfo, bytes]
Tree = dict[str, tuple[Any, ...]]

MTIME = 1_600_000_000
_KINDS = {
    "file": tarfile.REGTYPE, "dir": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE,
    "char": tarfile.CHRTYPE, "fifo": tarfile.FIFOTYPE,
}  # fmt: skip


def entry(
    path: str,
    data: bytes = b"",
    *,
    kind: str = "file",
    link: str = "",
    mode: int = 0o644,
    owner: tuple[int, int] = (0, 0),
    xattrs: dict[str, str] | None = None,
    device: tuple[int, int] = (0, 0),
    mtime: int = MTIME,
) -> Member:
    info = tarfile.TarInfo(path)
    info.type, info.linkname, info.mode, info.size, info.mtime = _KINDS[kind], link, mode, len(data), mtime
    info.uid, info.gid = owner
    info.devmajor, info.devminor = device
    info.pax_headers = {f"SCHILY.xattr.{name}": value for name, value in (xattrs or {}).items()}
    return info, data


def folder(path: str, mode: int = 0o755, **more: Any) -> Member:
    return entry(path, kind="dir", mode=mode, **more)


def symlink(path: str, target: str) -> Member:
    return entry(path, kind="symlink", link=target, mode=0o777)


def hardlink(path: str, target: str) -> Member:
    return entry(path, kind="hardlink", link=target)


def gone(path: str) -> Member:
    """A whiteout."""
    parent, name = os.path.split(path)
    return entry(os.path.join(parent, f".wh.{name}"))


def emptied(path: str) -> Member:
    """An opaque marker."""
    return entry(os.path.join(path, ".wh..wh..opq"))


def tar(*members: Member) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return out.getvalue()


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Layout:
    """An OCI layout as the specification describes it, made without the product."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: list[dict[str, Any]] = []
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        self._write_index()

    def blob(self, digest: str) -> Path:
        return self.path / "blobs" / digest.replace(":", "/")

    def put(self, data: bytes, media_type: str) -> dict[str, Any]:
        digest = digest_of(data)
        self.blob(digest).write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def add(
        self,
        tag: str,
        layers: Sequence[bytes],
        *,
        config: dict[str, Any] | None = None,
        manifest: dict[str, Any] | None = None,
        packed: bool = True,
    ) -> dict[str, Any]:
        """An image of these tars; `config` and `manifest` are fields over the usual ones."""
        platform = host_platform()
        fields: dict[str, Any] = {
            "architecture": platform.architecture, "os": platform.os, "config": {"Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(one) for one in layers]},
            "history": [{"created_by": f"step {number}"} for number in range(len(layers))],
            **(config or {}),
        }  # fmt: skip
        kind = "application/vnd.oci.image.layer.v1.tar"
        document = {
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.put(json.dumps(fields).encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": [
                self.put(gzip.compress(one, mtime=0), kind + "+gzip") if packed else self.put(one, kind)
                for one in layers
            ],
            **(manifest or {}),
        }  # fmt: skip
        return self.name(tag, self.put(json.dumps(document).encode(), str(document["mediaType"])))

    def name(self, tag: str, descriptor: dict[str, Any]) -> dict[str, Any]:
        named = {**descriptor, "annotations": {"org.opencontainers.image.ref.name": tag}}
        self._entries.append(named if tag else descriptor)
        self._write_index()
        return descriptor

    def open_to_all(self) -> None:
        for directory, _, names in os.walk(self.path):
            os.chmod(directory, 0o755)
            for name in names:
                os.chmod(os.path.join(directory, name), 0o644)

    def _write_index(self) -> None:
        document = {"schemaVersion": 2, "manifests": self._entries}
        (self.path / "index.json").write_text(json.dumps(document))


def tree_on_disk(root: Path) -> Tree:
    """What the kernel shows: type, mode, owner, content or target, attributes; the names of a file with
    several are one group."""
    found: Tree = {}
    groups: dict[tuple[int, int], str] = {}
    for directory, folders, names in os.walk(root):
        folders.sort()
        for name in sorted([*folders, *names]):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            relative = os.path.relpath(path, root)
            group = (
                ""
                if stat.S_ISDIR(status.st_mode)
                else groups.setdefault((status.st_dev, status.st_ino), relative)
            )
            what: object = None
            if stat.S_ISREG(status.st_mode):
                what = digest_of(Path(path).read_bytes())
            elif stat.S_ISLNK(status.st_mode):
                what = os.readlink(path)
            elif stat.S_ISCHR(status.st_mode):
                what = (os.major(status.st_rdev), os.minor(status.st_rdev))
            xattrs = {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in os.listxattr(path, follow_symlinks=False)
            }
            found[relative] = (
                stat.filemode(status.st_mode),
                status.st_uid,
                status.st_gid,
                what,
                xattrs,
                group,
            )
    return _regrouped(found)


def tree_of(view: View) -> Tree:
    """The same of a view."""
    found: Tree = {}
    groups: dict[int, str] = {}
    for path, node in walk(view.root):
        what: object = {
            "file": f"sha256:{node.content.hex()}", "symlink": node.link, "char": (node.major, node.minor),
        }.get(node.type)  # fmt: skip
        group = "" if node.is_dir else groups.setdefault(id(node), path)
        found[path] = (node.mode_text, node.uid, node.gid, what, dict(node.xattrs), group)
    return _regrouped(found)


def _regrouped(found: Tree) -> Tree:
    """Groups named by their first path in one order."""
    first: dict[str, str] = {}
    for path in sorted(found):
        first.setdefault(found[path][-1], path)
    return {path: (*fields[:-1], first[fields[-1]] if fields[-1] else "") for path, fields in found.items()}
