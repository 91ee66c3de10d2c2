"""The world of a case: its context, files beside it, a site, repositories and base images."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import socket
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from conformance_cases import Base, Case, Repository
from conformance_nodes import Node, read_nodes, tar_bytes
from conformance_site import CaseSite

_GIT_ENV = {
    "PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": "/nonexistent",
    "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_DATE": "1700000000 +0200", "GIT_COMMITTER_DATE": "1700000000 +0200",
    "GIT_AUTHOR_NAME": "somebody", "GIT_COMMITTER_NAME": "somebody",
    "GIT_AUTHOR_EMAIL": "somebody@example.org", "GIT_COMMITTER_EMAIL": "somebody@example.org",
}  # fmt: skip


class World:
    """A case's surroundings in a directory of its own. `uid` owns what has no owner of its own."""

    def __init__(self, case: Case, path: Path, uid: int, site: CaseSite, busybox: Path) -> None:
        self.case, self.path, self.uid = case, path, uid
        self.context_path, self.side_path = path / "context", path / "side"
        self.busybox = busybox
        self.words = {"side": str(self.side_path), "context": str(self.context_path)}
        self.words |= {"site": f"{site.url}/{case.id}", "git": f"{site.url}/{case.id}"}
        self.words["registry"] = site.host
        self.words["agent"] = str(path / "agent")
        self.words |= {"layout": str(busybox.with_suffix("")), "layout:digest": _image_digest(busybox)}
        for name, repository in case.git.items():
            commits = _make_repository(path / "git" / f"{name}.git", repository, path / f"work-{name}")
            site.repositories[f"/{case.id}/{name}.git"] = path / "git" / f"{name}.git"
            self.words |= {f"git:{name}:{number}": sha for number, sha in enumerate(commits)}
        for name, node in self.nodes(case.site, "site").items():
            site.files[f"/{case.id}/{name}"] = node.data or b""
        write_nodes(self.side_path, self.nodes(case.side, "side"), uid)
        self.write_context(case.context, case.dockerfile)

    def fill(self, text: str) -> str:
        """The text with `{side}` and the like replaced, `{x*9}` by nine x."""
        for word, value in self.words.items():
            text = text.replace("{" + word + "}", value)
        return re.sub(r"\{x\*(\d+)\}", lambda match: "x" * int(match[1]), text)

    def nodes(self, table: Mapping[str, Any], where: str, *, result: bool = False) -> dict[str, Node]:
        return read_nodes(self._filled(table), where, result=result)

    def _filled(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.fill(value)
        if isinstance(value, dict):
            return {key: self._filled(item) for key, item in value.items()}
        return [self._filled(item) for item in value] if isinstance(value, list) else value

    def config(self, table: Mapping[str, Any]) -> dict[str, Any]:
        return {key: self._filled(value) for key, value in table.items()}

    def write_context(self, table: Mapping[str, Any], dockerfile: str) -> None:
        nodes = self.nodes(table, "context")
        if dockerfile:
            nodes["Dockerfile"] = Node(kind="file", data=self.fill(dockerfile).encode(), mode=0o644)
        write_nodes(self.context_path, nodes, self.uid)

    def change(self, table: Mapping[str, Any], dockerfile: str | None) -> None:
        """Apply an `again`'s changes."""
        nodes = self.nodes(table, "change")
        if dockerfile is not None:
            nodes["Dockerfile"] = Node(kind="file", data=self.fill(dockerfile).encode(), mode=0o644)
        write_nodes(self.context_path, nodes, self.uid)

    def bases(self) -> Iterator[tuple[str, Path]]:
        """Names and OCI archives of the case's own base images, in order."""
        made: dict[str, Path] = {"busybox": self.busybox}
        for number, (name, base) in enumerate(self.case.bases.items()):
            path = self.path / f"base-{number}.tar"
            files = self.nodes(base.files, "files")
            path.write_bytes(base_archive(name, base, files, made.get(base.parent)))
            path.chmod(0o644)
            made[name] = path
            yield name, path

    @contextmanager
    def opened(self) -> Iterator[World]:
        """With the socket that `{agent}` names, if the case does."""
        with ExitStack() as stack:
            if any("{agent}" in arg for arg in self.case.args):
                agent = stack.enter_context(socket.socket(socket.AF_UNIX))
                agent.bind(self.words["agent"])
                os.chown(self.words["agent"], self.uid, self.uid)
                agent.listen()
            yield self


@cache
def _image_digest(archive: Path) -> str:
    with tarfile.open(archive) as tar:
        index = json.loads(tar.extractfile("index.json").read())  # type: ignore[union-attr]
    return str(index["manifests"][0]["digest"])


def write_nodes(root: Path, nodes: Mapping[str, Node], uid: int) -> None:
    """Write nodes into a directory: new ones, changed ones, and absent ones taken away."""
    root.mkdir(parents=True, exist_ok=True)
    for name, node in nodes.items():
        if node.kind == "touch":
            os.utime(root / name, (1_500_000_000, 1_500_000_000), follow_symlinks=False)
        elif node.kind == "absent":
            subprocess.run(["rm", "-rf", str(root / name)], check=True)
        else:
            _write(root, name, node, uid)
    for name, node in reversed(list(nodes.items())):
        if node.kind not in ("touch", "absent"):
            _settle(root / name, node, uid)


def _write(root: Path, name: str, node: Node, uid: int) -> None:
    path = root / name
    missing = [path.parent]
    while not missing[-1].is_dir():
        missing.append(missing[-1].parent)
    for parent in reversed(missing[:-1]):
        parent.mkdir()
        parent.chmod(0o755)
        os.chown(parent, uid, uid)
    if node.kind == "dir":
        path.mkdir(exist_ok=True)
        return
    if path.is_symlink() or path.exists():
        path.unlink()
    if node.kind == "file":
        path.write_bytes(node.data or b"")
    elif node.kind == "link":
        path.symlink_to(node.target)
    elif node.kind == "hard":
        os.link(root / node.target, path)
    else:
        os.mkfifo(path)


def _settle(path: Path, node: Node, uid: int) -> None:
    if node.kind != "hard":
        os.chown(path, *(node.owner or (uid, uid)), follow_symlinks=False)
    if node.mode >= 0 and node.kind != "link":
        path.chmod(node.mode)
    for key, value in (node.xattrs or {}).items():
        os.setxattr(path, key, value, follow_symlinks=False)
    if node.mtime_s >= 0:
        os.utime(path, (node.mtime_s, node.mtime_s), follow_symlinks=False)


def _git(path: Path, *args: str) -> str:
    done = subprocess.run(["git", *args], cwd=path, env=_GIT_ENV, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _make_repository(bare: Path, repository: Repository, work: Path) -> list[str]:
    """A bare repository whose commits are all on main; gives their names."""
    work.mkdir(parents=True)
    _git(work, "init", "--quiet", "--initial-branch=main")
    found = []
    for commit in repository.commits:
        write_nodes(work, read_nodes(commit.files, "files"), 0)
        _git(work, "add", "--all")
        _git(work, "commit", "--quiet", "--allow-empty", "--message", "change")
        found.append(_git(work, "rev-parse", "HEAD"))
        for kind, name in (("tag", commit.tag), ("branch", commit.branch)):
            if name:
                _git(work, kind, name)
    bare.parent.mkdir(exist_ok=True)
    _git(work, "clone", "--quiet", "--bare", str(work), str(bare))
    for key in ("uploadpack.allowAnySHA1InWant", "uploadpack.allowFilter"):
        _git(bare, "config", key, "true")
    return found


def base_archive(name: str, base: Base, files: Mapping[str, Node], parent: Path | None) -> bytes:
    """An OCI archive, by hand: the parent's layers, one more with the files, and the config."""
    blobs: dict[str, bytes] = {}
    config: dict[str, Any] = {"architecture": "", "os": "", "config": {}}
    layers: list[dict[str, Any]] = []
    diff_ids: list[str] = []
    if parent is not None:
        old_manifest, old_config, old_blobs = _open_archive(parent)
        blobs |= old_blobs
        layers += old_manifest["layers"]
        config, diff_ids = old_config, list(old_config["rootfs"]["diff_ids"])
    system, architecture = (base.platform or f"linux/{_architecture()}").split("/")[:2]
    config |= {"os": system, "architecture": architecture}
    if base.platform.count("/") == 2:
        config["variant"] = base.platform.split("/")[2]
    if files:
        owned = {path: _with_owner(node) for path, node in files.items()}
        data = tar_bytes(owned)
        layers.append(_add_blob(blobs, data, "application/vnd.oci.image.layer.v1.tar"))
        diff_ids.append(layers[-1]["digest"])
    config["rootfs"] = {"type": "layers", "diff_ids": diff_ids}
    config["config"] = {**config.get("config", {}), **base.config}
    config["history"] = [{"created_by": "by hand"} for _ in diff_ids]
    if not base.history:
        del config["history"]
    described = _add_blob(blobs, json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json")
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"}
    manifest |= {"config": described, "layers": layers}
    found = _add_blob(blobs, json.dumps(manifest).encode(), str(manifest["mediaType"]))
    reference = name if ":" in name else f"{name}:latest"
    found["annotations"] = {"org.opencontainers.image.ref.name": reference}
    index = {"schemaVersion": 2, "manifests": [found]}
    return _archive(blobs, index)


def _with_owner(node: Node) -> Node:
    import msgspec

    return msgspec.structs.replace(node, mode=node.mode if node.mode >= 0 else 0o644)


def _architecture() -> str:
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _add_blob(blobs: dict[str, bytes], data: bytes, media_type: str) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    blobs[f"blobs/sha256/{digest}"] = data
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def _archive(blobs: Mapping[str, bytes], index: Mapping[str, Any]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        members = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode()}
        for name, data in {**members, **blobs}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def _open_archive(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]:
    """Manifest, config and layer blobs of an archive with one image."""
    with tarfile.open(path) as tar:
        members = {info.name: tar.extractfile(info).read() for info in tar if info.isreg()}  # type: ignore[union-attr]

    def blob(descriptor: Mapping[str, Any]) -> bytes:
        return members["blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")]

    manifest = json.loads(blob(json.loads(members["index.json"])["manifests"][0]))
    names = {"blobs/sha256/" + layer["digest"].removeprefix("sha256:") for layer in manifest["layers"]}
    return manifest, json.loads(blob(manifest["config"])), {name: members[name] for name in names}
