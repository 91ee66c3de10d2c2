"""Small cases of whole builds: what is in the context, what is in the result."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from building import Builder


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
    context: Mapping[str, str]
    result: Mapping[str, Seen | None] = {}
    error: str = ""
    args: tuple[str, ...] = ()


def make(root: Path, files: Mapping[str, str], uid: int = 0) -> None:
    """Write a context of plain files that belongs to a user."""
    root.mkdir(parents=True, exist_ok=True)
    root.chmod(0o755)
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    subprocess.run(["chown", "-hR", f"{uid}:{uid}", str(root)], check=True)


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
