"""A small language for facts about COPY and ADD: what is in the context, what is in the result."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from building import Builder

OLD_S = 1_000_000_000


class Node(NamedTuple):
    """One thing in a context. `kind` is file, dir, link, hard or fifo; `data` content or target."""

    kind: str
    data: bytes = b""
    mode: int = -1
    owner: tuple[int, int] | None = None
    mtime_s: int = -1
    xattrs: Mapping[str, bytes] = {}


def file(text: str | bytes = "", mode: int = 0o644, **more: Any) -> Node:
    return Node("file", text.encode() if isinstance(text, str) else text, mode, **more)


def folder(mode: int = 0o755, **more: Any) -> Node:
    return Node("dir", b"", mode, **more)


def link(target: str) -> Node:
    return Node("link", target.encode())


def hard(target: str) -> Node:
    return Node("hard", target.encode())


class Seen(NamedTuple):
    """What a result holds at a path, as far as a case cares: None fits everything."""

    kind: str
    text: str | None = None
    mode: int | None = None
    owner: tuple[int, int] | None = None


class Case(NamedTuple):
    """A Dockerfile over a context, and the result's paths; None: no such path. `error` is the
    code of a build that must fail."""

    fact: str
    text: str
    context: Mapping[str, Node | str]
    result: Mapping[str, Seen | None] = {}
    error: str = ""
    args: tuple[str, ...] = ()


def make(root: Path, nodes: Mapping[str, Node | str], uid: int = 0) -> None:
    """Write a context that belongs to a user, but for what has an owner of its own."""
    root.mkdir(parents=True, exist_ok=True)
    root.chmod(0o755)
    settled: list[tuple[Path, Node]] = []
    for name, given in nodes.items():
        node = file(given) if isinstance(given, str) else given
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if node.kind == "file":
            path.write_bytes(node.data)
        elif node.kind == "dir":
            path.mkdir(exist_ok=True)
        elif node.kind == "link":
            path.symlink_to(node.data.decode())
        elif node.kind == "hard":
            os.link(root / node.data.decode(), path)
        else:
            os.mkfifo(path)
        settled.append((path, node))
    subprocess.run(["chown", "-hR", f"{uid}:{uid}", str(root)], check=True)
    for path, node in reversed(settled):
        if node.owner is not None:
            os.chown(path, *node.owner, follow_symlinks=False)
        if node.mode >= 0:
            path.chmod(node.mode)
        for key, value in node.xattrs.items():
            os.setxattr(path, key, value)
        if node.mtime_s >= 0:
            os.utime(path, (node.mtime_s, node.mtime_s), follow_symlinks=False)


_KINDS = {
    tarfile.REGTYPE: "file", tarfile.DIRTYPE: "dir", tarfile.SYMTYPE: "link", tarfile.LNKTYPE: "hard",
    tarfile.FIFOTYPE: "fifo", tarfile.CHRTYPE: "char", tarfile.BLKTYPE: "block",
}  # fmt: skip


class Tree:
    """The files of a result, read from its tar."""

    def __init__(self, path: Path) -> None:
        with tarfile.open(path) as tar:
            self.members = {member.name: member for member in tar}
            self.contents = {
                member.name: tar.extractfile(member).read()  # type: ignore[union-attr]
                for member in self.members.values()
                if member.isreg()
            }

    def seen(self, path: str) -> Seen | None:
        member = self.members.get(path)
        if member is None:
            return None
        kind = _KINDS[member.type]
        text = self.contents[path].decode() if kind == "file" else member.linkname
        return Seen(kind, text, member.mode, (member.uid, member.gid))

    def check(self, expected: Mapping[str, Seen | None]) -> None:
        found = {path: self.seen(path) for path in expected}
        shown = {
            path: None if seen is None or want is None else Seen(
                *(have if asked is not None else None for have, asked in zip(seen, want, strict=True))  # type: ignore[arg-type]
            )
            for path, want in expected.items()
            for seen in [found[path]]
        }  # fmt: skip
        absent = {path for path, want in expected.items() if want is None and found[path] is not None}
        assert not absent, f"in the result: {sorted(absent)}"
        assert shown == dict(expected), shown


def result_tree(builder: Builder, root: Path, *args: str) -> Tree:
    """Build a context and read the result."""
    archive = builder.home / "result.tar"
    builder.run("build", "--progress", "plain", "-o", f"type=tar,dest={archive}", *args, str(root))
    return Tree(archive)


def run_case(builder: Builder, root: Path, case: Case) -> None:
    """Build in a fresh context and compare."""
    shutil.rmtree(root, ignore_errors=True)
    make(root, {"Dockerfile": case.text, **case.context}, builder.uid)
    if case.error:
        done = builder.run("build", "--progress", "plain", *case.args, str(root), status=1)
        assert f"error[{case.error}]" in done.err
    else:
        result_tree(builder, root, *case.args).check(case.result)


def tar_bytes(members: Mapping[str, Node], mode: str = "w") -> bytes:
    """An archive with these members."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode) as tar:  # type: ignore[call-overload]
        for name, node in members.items():
            info = tarfile.TarInfo(name)
            info.mode, info.mtime = node.mode if node.mode >= 0 else 0o777, OLD_S
            info.uid, info.gid = node.owner or (0, 0)
            if node.kind == "dir":
                info.type = tarfile.DIRTYPE
            elif node.kind in ("link", "hard"):
                info.type = tarfile.SYMTYPE if node.kind == "link" else tarfile.LNKTYPE
                info.linkname = node.data.decode()
            else:
                info.size = len(node.data)
            tar.addfile(info, io.BytesIO(node.data) if info.size else None)
    return sink.getvalue()
