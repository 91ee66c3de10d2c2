"""A second opinion on layers, for the tests of what changes images: tars written and put on one another
by this module alone, and trees that umoci unpacks."""

from __future__ import annotations

import copy
import gzip
import hashlib
import io
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard

from arkwright.images.archives import write_layout
from arkwright.oci.descriptor import Descriptor
from arkwright.store.store import Store

FILE, DIR, SYMLINK = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE


@dataclass(frozen=True)
class Member:
    """One entry of a tar; `link` is a link's target."""

    name: str
    kind: bytes = FILE
    data: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 1_600_000_000
    link: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, str], ...] = ()


def directory(name: str, mode: int = 0o755, **more: Any) -> Member:
    return Member(name, DIR, mode=mode, **more)


def symlink(name: str, target: str, **more: Any) -> Member:
    return Member(name, SYMLINK, mode=0o777, link=target, **more)


def hardlink(name: str, target: str) -> Member:
    return Member(name, tarfile.LNKTYPE, link=target)


def whiteout(path: str) -> Member:
    parent, slash, name = path.rpartition("/")
    return Member(f"{parent}{slash}.wh.{name}", mode=0)


def opaque(path: str) -> Member:
    return Member(f"{path}/.wh..wh..opq", mode=0)


def tar_bytes(members: Iterable[Member]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            header = tarfile.TarInfo(member.name)
            header.type, header.mode, header.linkname = member.kind, member.mode, member.link
            header.uid, header.gid, header.mtime = member.uid, member.gid, member.mtime
            header.devmajor, header.devminor = member.device
            header.size = len(member.data)
            header.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in member.xattrs}
            tar.addfile(header, io.BytesIO(member.data))
    return stream.getvalue()


def members_in(data: bytes) -> list[Member]:
    """The entries of a layer, whatever its compression."""
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    elif data[:4] == b"\x28\xb5\x2f\xfd":
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    found = []
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for header in tar:
            content = tar.extractfile(header) if header.isreg() else None
            xattrs = tuple(
                sorted(
                    (key.removeprefix("SCHILY.xattr."), value)
                    for key, value in header.pax_headers.items()
                    if key.startswith("SCHILY.xattr.")
                )
            )
            found.append(
                Member(
                    name=header.name.strip("/"), kind=header.type, data=content.read() if content else b"",
                    mode=header.mode, uid=header.uid, gid=header.gid, mtime=int(header.mtime),
                    link=header.linkname, device=(header.devmajor, header.devminor)
                    if header.type in (tarfile.CHRTYPE, tarfile.BLKTYPE) else (0, 0), xattrs=xattrs,
                )
            )  # fmt: skip
    return found


@dataclass
class Node:
    """An inode of the model."""

    member: Member
    names: set[str] = field(default_factory=set)


Tree = dict[str, Node]


def put(tree: Tree, members: Sequence[Member]) -> Tree:
    """The tree with one layer on it. Parents must be there, and be directories."""
    tree = copy.deepcopy(tree)
    for member in members:
        parent, _, name = member.name.rpartition("/")
        if name == ".wh..wh..opq":
            for path in [path for path in tree if path.startswith(f"{parent}/")]:
                _drop(tree, path)
        elif name.startswith(".wh."):
            gone = f"{parent}/{name[4:]}".lstrip("/")
            for path in [path for path in tree if path == gone or path.startswith(f"{gone}/")]:
                _drop(tree, path)
    for member in members:
        parent, _, name = member.name.rpartition("/")
        if not name.startswith(".wh."):
            assert not parent or tree[parent].member.kind == DIR, f"{member.name} has no parent"
            _make(tree, member)
    return tree


def _make(tree: Tree, member: Member) -> None:
    path = member.name
    linked = tree[member.link] if member.kind == tarfile.LNKTYPE else None
    if linked is not None and linked is tree.get(path):
        return
    if not (path in tree and tree[path].member.kind == DIR == member.kind):
        for name in [name for name in tree if name == path or name.startswith(f"{path}/")]:
            _drop(tree, name)
    node = linked or Node(replace(member, name=""))
    node.names.add(path)
    tree[path] = node


def _drop(tree: Tree, path: str) -> None:
    tree.pop(path).names.discard(path)


def seen(tree: Tree) -> dict[str, tuple[Member, frozenset[str]]]:
    """What there is to see of a tree: each path's own, and the names that it is linked to."""
    return {path: (node.member, frozenset(node.names)) for path, node in tree.items()}


def tree_of(store: Store, descriptor: Descriptor) -> Tree:
    """The tree of an image of the store, by this module's reading."""
    manifest = msgspec.json.decode(store.content.read(descriptor.digest))
    tree: Tree = {}
    for layer in manifest["layers"]:
        tree = put(tree, members_in(store.content.read(layer["digest"])))
    return tree


def documents(store: Store, descriptor: Descriptor) -> tuple[dict[str, Any], dict[str, Any]]:
    """Manifest and config as they are."""
    manifest = msgspec.json.decode(store.content.read(descriptor.digest))
    return manifest, msgspec.json.decode(store.content.read(manifest["config"]["digest"]))


def check_diff_ids(store: Store, descriptor: Descriptor) -> None:
    """Every diffID is that of its layer's tar, and the history has one entry for each layer."""
    manifest, config = documents(store, descriptor)
    found = []
    for layer in manifest["layers"]:
        data = store.content.read(layer["digest"])
        assert len(data) == layer["size"]
        plain = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        if data[:4] == b"\x28\xb5\x2f\xfd":
            plain = zstandard.ZstdDecompressor().decompressobj().decompress(data)
        found.append("sha256:" + hashlib.sha256(plain).hexdigest())
    assert config["rootfs"]["diff_ids"] == found
    assert sum(not entry.get("empty_layer") for entry in config.get("history", ())) in (0, len(found))


def umoci_tree(store: Store, descriptor: Descriptor, path: Path) -> dict[str, tuple[object, ...]]:
    """Everything that umoci unpacks of an image: type, mode, owner, time, content, target, device,
    attributes, and the first name that each file is linked to. For root."""
    if not shutil.which("umoci"):
        pytest.skip("needs-umoci: another tool to unpack images")
    if os.geteuid() != 0:
        pytest.skip("needs-root: to unpack owners and devices")
    path.mkdir()
    write_layout(store.content, [(descriptor, ("docker.io/library/x:tag",))], str(path / "layout"))
    done = subprocess.run(
        ["umoci", "unpack", "--image", f"{path}/layout:tag", str(path / "bundle")],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return real_tree(path / "bundle" / "rootfs")


def real_tree(root: Path) -> dict[str, tuple[object, ...]]:
    """The files below a directory, as `umoci_tree` says."""
    found: dict[str, tuple[object, ...]] = {}
    inodes: dict[int, str] = {}
    for parent, directories, names in os.walk(root):
        directories.sort()
        for name in sorted(directories + names):
            path = os.path.join(parent, name)
            status = os.lstat(path)
            content: object = ""
            if stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif not stat.S_ISDIR(status.st_mode):
                content = status.st_rdev
            first = inodes.setdefault(status.st_ino, path)
            xattrs = tuple(
                (key, os.getxattr(path, key, follow_symlinks=False))
                for key in sorted(os.listxattr(path, follow_symlinks=False))
                if key.startswith(("user.", "security.capability"))
            )
            found[os.path.relpath(path, root)] = (
                status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, content,
                os.path.relpath(first, root), xattrs,
            )  # fmt: skip
    return found
