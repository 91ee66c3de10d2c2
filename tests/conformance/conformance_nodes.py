"""Files, directories and links as conformance cases write them: in contexts and in results."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

_CONTENTS = ("file", "base64", "sha256", "dir", "link", "hard", "fifo", "tar", "random")
ARCHIVE_MTIME_S = 1_000_000_000
_COMPRESS: Mapping[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: _zstd(data),
}


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One thing in a tree. `kind` is file, dir, link, hard, fifo, sha256, any, touch or absent. -1 and
    None: not said. `data` is content; `target` that of a link or the digest."""

    kind: str
    data: bytes | None = None
    target: str = ""
    mode: int = -1
    owner: tuple[int, int] | None = None
    mtime_s: int = -1
    xattrs: Mapping[str, bytes] | None = None


def read_nodes(table: Mapping[str, Any], where: str, *, result: bool = False) -> dict[str, Node]:
    """The nodes of a table. Raises `ValueError` that names the path."""
    found = {}
    for path, value in table.items():
        try:
            odd = path.startswith("/") or path.endswith("/") or ".." in path.split("/")
            if odd and where != "tar":
                raise ValueError("paths are relative, without .. and without a slash at the end")
            found[path] = _node(value, result=result)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{where}: {path!r}: {error}") from None
    return found


def _node(value: Any, *, result: bool) -> Node:
    if isinstance(value, str):
        if value in ("absent", "touch"):
            return Node(kind=value)
        return Node(kind="file", data=value.encode(), mode=-1 if result else 0o644)
    if not isinstance(value, dict):
        raise ValueError("a text or a table is needed")
    kinds = [kind for kind in _CONTENTS if kind in value]
    if result and not kinds:
        value, kinds = {**value, "any": ""}, ["any"]
    if len(kinds) != 1:
        raise ValueError(f"exactly one of {', '.join(_CONTENTS)} is needed")
    kind = kinds[0]
    known = {kind, "mode", "owner", "mtime", "xattrs"} | ({"compress"} if kind == "tar" else set())
    if set(value) - known:
        raise ValueError(f"unknown keys {sorted(set(value) - known)}")
    if result and kind in ("tar", "random"):
        raise ValueError(f"{kind} is for contexts")
    more = {
        "owner": _owner(value["owner"]) if "owner" in value else None,
        "mtime_s": int(value.get("mtime", -1)),
        "xattrs": {key: _bytes(text) for key, text in value["xattrs"].items()} if "xattrs" in value else None,
    }
    return _of_kind(kind, value, result=result, **more)


def _of_kind(kind: str, value: Mapping[str, Any], *, result: bool, **more: Any) -> Node:
    content = value[kind]
    mode = _mode(value["mode"]) if "mode" in value else -1
    if kind in ("dir", "fifo"):
        default = -1 if result else {"dir": 0o755, "fifo": 0o644}[kind]
        given = _mode(content) if content else default
        return Node(kind=kind, mode=mode if mode >= 0 else given, **more)
    if kind in ("link", "hard"):
        return Node(kind=kind, target=content, mode=mode, **more)
    if kind in ("sha256", "any"):
        return Node(kind=kind, target=content, mode=mode, **more)
    mode = mode if mode >= 0 or result else 0o644
    if kind == "random":
        data = bytes((n * n * 7 + n // 3) % 251 for n in range(int(content)))
    elif kind == "tar":
        data = tar_bytes(read_nodes(content, "tar"), value.get("compress", "none"))
    else:
        data = base64.b64decode(content) if kind == "base64" else content.encode()
    return Node(kind="file", data=data, mode=mode, **more)


def _mode(text: Any) -> int:
    if not isinstance(text, str):
        raise ValueError(f'a mode is octal digits in quotes ("0644"), not {text!r}')
    return int(text, 8)


def _owner(text: str) -> tuple[int, int]:
    uid, colon, gid = text.partition(":")
    if not colon:
        raise ValueError(f"an owner is uid:gid, not {text!r}")
    return int(uid), int(gid)


def _bytes(text: str) -> bytes:
    if text.startswith("base64:"):
        return base64.b64decode(text.removeprefix("base64:"))
    return text.encode()


def tar_bytes(nodes: Mapping[str, Node], compress: str = "none") -> bytes:
    """An archive with these members, in the order given, compressed as named."""
    if compress not in _COMPRESS:
        raise ValueError(f"compress is one of {', '.join(_COMPRESS)}, not {compress!r}")
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, node in nodes.items():
            _add(tar, name, _like_its_file(node, nodes))
    return _COMPRESS[compress](sink.getvalue())


def _like_its_file(node: Node, nodes: Mapping[str, Node]) -> Node:
    """Archives tell of a hard link what they tell of its file."""
    if node.kind != "hard" or node.target not in nodes:
        return node
    file = nodes[node.target]
    return msgspec.structs.replace(node, mode=file.mode, owner=file.owner, mtime_s=file.mtime_s)


def _add(tar: tarfile.TarFile, name: str, node: Node) -> None:
    info = tarfile.TarInfo(name)
    info.mode = node.mode if node.mode >= 0 else 0o777
    info.mtime = node.mtime_s if node.mtime_s >= 0 else ARCHIVE_MTIME_S
    info.uid, info.gid = node.owner or (0, 0)
    for key, value in (node.xattrs or {}).items():
        info.pax_headers[f"SCHILY.xattr.{key}"] = value.decode("utf-8", "surrogateescape")
    if node.kind in ("dir", "link", "hard", "fifo"):
        info.type = {
            "dir": tarfile.DIRTYPE, "link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "fifo": tarfile.FIFOTYPE,
        }[node.kind]  # fmt: skip
        info.linkname = node.target
        tar.addfile(info)
        return
    data = node.data or b""
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(data)
