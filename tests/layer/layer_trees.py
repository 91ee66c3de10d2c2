"""Trees and archives for the tests of the layer package."""

from __future__ import annotations

import io
import os
import pickle
import stat
import tarfile
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from arkwright.layer.entry import Change, Entry
from arkwright.layer.rooted import Root
from arkwright.layer.tar_read import read_tar
from arkwright.layer.tar_write import write_tar
from arkwright.layer.tree import walk

NOBODY = 65534


def change(path: str, type: str = "file", data: bytes = b"", **fields: Any) -> Change:
    """A change with plain defaults."""
    fields.setdefault("mode", 0o755 if type == "dir" else 0o644)
    entry = Entry(path=path, type=type, size=len(data), **fields)  # type: ignore[arg-type]
    return Change(entry, (lambda: io.BytesIO(data)) if type == "file" else None)


def whiteout(path: str) -> Change:
    return Change(Entry(path=path, type="whiteout"))


def opaque(path: str) -> Change:
    return Change(Entry(path=path, type="opaque"))


def tar_of(changes: Iterable[Change], **options: Any) -> bytes:
    out = io.BytesIO()
    write_tar(changes, out.write, **options)
    return out.getvalue()


def entries_of(data: bytes, **options: Any) -> list[tuple[Entry, bytes | None]]:
    """All entries of an archive with their content."""
    return [
        (entry, content.read() if content is not None else None)
        for entry, content in read_tar(io.BytesIO(data), **options)
    ]


def rewritten(data: bytes) -> bytes:
    """An archive read and written again, times kept."""
    found = read_tar(io.BytesIO(data))
    return tar_of(
        (
            Change(entry, None if content is None else lambda content=content: content)
            for entry, content in found
        ),
        mtime_ns=None,
    )


def python_tar(*members: tuple[str, dict[str, Any], bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive written by `tarfile`, which refuses nothing."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, fields, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return out.getvalue()


def snapshot(path: str) -> dict[str, tuple[Any, ...]]:
    """Everything that a layer says of a tree, times apart; hard links as groups."""
    found: dict[str, tuple[Any, ...]] = {}
    inodes: dict[int, str] = {}
    with Root(path) as root:
        for entry, status in walk(root):
            group = ""
            if entry.type != "dir" and status.st_nlink > 1:
                group = inodes.setdefault(status.st_ino, entry.path)
            data = b""
            if entry.type == "file":
                with open(os.path.join(path, entry.path), "rb") as file:
                    data = file.read()
            found[entry.path] = (
                entry.type, oct(entry.mode), entry.uid, entry.gid, data, entry.link,
                entry.major, entry.minor, entry.xattrs, group,
            )  # fmt: skip
    return found


def paths(path: str) -> set[str]:
    with Root(path) as root:
        return {entry.path for entry, _ in walk(root) if entry.path}


def write(path: str, data: bytes = b"", mode: int = 0o644) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
    os.chmod(path, mode)


def modes(path: str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def in_child(body: Callable[[], None], prepare: Callable[[], None]) -> None:
    """Run `body` in a forked child after `prepare`; its exception is raised here as text."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = b""
        try:
            os.close(read_fd)
            prepare()
            body()
        except BaseException:
            status = traceback.format_exc().encode()
        finally:
            os.write(write_fd, pickle.dumps(status)[:60000])
            os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as pipe:
        status = pickle.loads(pipe.read())
    os.waitpid(pid, 0)
    assert not status, status.decode()


def as_nobody(body: Callable[[], None]) -> None:
    """Run `body` as an unprivileged user."""

    def prepare() -> None:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)

    in_child(body, prepare)
