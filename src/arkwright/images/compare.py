"""How two images differ: fields of their configs, and their files.

Times of files do not count unless asked for, and neither does which names of a file are hard links of
each other: what a program in the container reads is compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from arkwright.images.view import Node, View
from arkwright.layer.names import encode

Kind = Literal["added", "removed", "changed"]


class FieldChange(msgspec.Struct, frozen=True, kw_only=True):
    """A field of the config by its dotted path; a value is None where there is no such field."""

    field: str
    kind: Kind
    old: Any = None
    new: Any = None


class FileState(msgspec.Struct, frozen=True, kw_only=True):
    """What a file is. `digest` is the content's, of a regular file; xattr values are in hexadecimal."""

    type: str
    mode: str
    uid: int
    gid: int
    size: int = 0
    digest: str = ""
    link: str = ""
    device: str = ""
    mtime_ns: int = 0
    xattrs: dict[str, str] = {}


class FileChange(msgspec.Struct, frozen=True, kw_only=True):
    """A path, absolute in the image. `fields` are what differs of a file that was changed."""

    path: str
    kind: Kind
    fields: tuple[str, ...] = ()
    old: FileState | None = None
    new: FileState | None = None


def compare_configs(old: dict[str, Any], new: dict[str, Any]) -> Iterator[FieldChange]:
    """Every field that differs, in the order of their names. Variables of `Env` and lines of the
    history are fields of their own; other lists are compared as a whole."""
    before, after = _fields(old), _fields(new)
    for field in sorted(before.keys() | after.keys()):
        if field not in after:
            yield FieldChange(field=field, kind="removed", old=before[field])
        elif field not in before:
            yield FieldChange(field=field, kind="added", new=after[field])
        elif before[field] != after[field]:
            yield FieldChange(field=field, kind="changed", old=before[field], new=after[field])


def compare_files(old: View, new: View, *, times: bool = False) -> Iterator[FileChange]:
    """Every path that differs, each directory before what is in it; of a directory that was added or
    removed everything in it, too."""
    root = _changed("/", old.root, new.root, times)
    if root is not None:
        yield root
    pending: list[tuple[str, Node | None, Node | None]] = [("", old.root, new.root)]
    while pending:
        path, before, after = pending.pop()
        if path:
            change = _change(path, before, after, times)
            if change is not None:
                yield change
        left = before.children if before is not None else {}
        right = after.children if after is not None else {}
        for name in sorted(left.keys() | right.keys(), key=encode, reverse=True):
            pending.append((f"{path}/{name}", left.get(name), right.get(name)))


def state_of(node: Node) -> FileState:
    """A file as text and numbers."""
    device = f"{node.major}:{node.minor}" if node.type in ("char", "block") else ""
    return FileState(
        type=node.type,
        mode=f"{node.mode:04o}",
        uid=node.uid,
        gid=node.gid,
        size=node.size,
        digest=f"sha256:{node.content.hex()}" if node.type == "file" else "",
        link=node.link,
        device=device,
        mtime_ns=node.mtime_ns,
        xattrs={name: value.hex() for name, value in node.xattrs},
    )


def _change(path: str, before: Node | None, after: Node | None, times: bool) -> FileChange | None:
    if before is not None and after is not None:
        return _changed(path, before, after, times)
    if before is not None:
        return FileChange(path=path, kind="removed", old=state_of(before))
    assert after is not None
    return FileChange(path=path, kind="added", new=state_of(after))


def _changed(path: str, before: Node, after: Node, times: bool) -> FileChange | None:
    fields = tuple(_differences(before, after, times))
    if not fields:
        return None
    return FileChange(path=path, kind="changed", fields=fields, old=state_of(before), new=state_of(after))


def _differences(before: Node, after: Node, times: bool) -> Iterator[str]:
    if before.type != after.type:
        yield "type"
    # A link's own mode means nothing (symlink(7)).
    if before.mode != after.mode and (before.type, after.type) != ("symlink", "symlink"):
        yield "mode"
    if (before.uid, before.gid) != (after.uid, after.gid):
        yield "owner"
    if before.xattrs != after.xattrs:
        yield "xattrs"
    if before.type == after.type:
        if before.size != after.size:
            yield "size"
        if before.content != after.content:
            yield "content"
        if before.link != after.link:
            yield "link"
        if (before.major, before.minor) != (after.major, after.minor):
            yield "device"
    if times and before.mtime_ns != after.mtime_ns:
        yield "time"


def _fields(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    pending: list[tuple[str, Any]] = [("", config)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, dict) and value:
            pending += [(f"{path}.{key}" if path else str(key), item) for key, item in value.items()]
        elif path == "history" and isinstance(value, list):
            found.update({f"history[{number}]": line for number, line in enumerate(value)})
        elif path == "config.Env" and isinstance(value, list):
            found.update(_variables(path, value))
        elif value is not None and value != {}:
            found[path] = value
    return found


def _variables(path: str, values: list[Any]) -> Iterator[tuple[str, Any]]:
    for value in values:
        if isinstance(value, str):
            name, _, text = value.partition("=")
            yield f"{path}.{name}", text
