"""Expectations of a case against a result: every difference as a line of text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from conformance_nodes import Node
from conformance_read import Found, Result


def tree_differences(expected: Mapping[str, Node], tree: Mapping[str, Found]) -> Iterator[str]:
    """What is not as expected, path by path."""
    for path, want in expected.items():
        have = tree.get(path)
        if want.kind == "absent":
            if have is not None:
                yield f"/{path}: is there ({have.kind}), should not be"
        elif have is None:
            yield f"/{path}: is missing"
        else:
            for what, wanted, found in _aspects(want, have, tree):
                if wanted != found:
                    yield f"/{path}: {what} is {_show(found)}, not {_show(wanted)}"


def _aspects(want: Node, have: Found, tree: Mapping[str, Found]) -> Iterator[tuple[str, Any, Any]]:
    if want.kind == "hard":
        other = tree.get(want.target)
        yield "one file with " + want.target, True, other is not None and other.inode == have.inode
    elif want.kind != "any":
        yield "type", {"sha256": "file"}.get(want.kind, want.kind), have.kind
    if want.kind == "file" and want.data is not None:
        yield "content", want.data, have.data
    if want.kind == "sha256":
        yield "sha256", want.target, hashlib.sha256(have.data).hexdigest()
    if want.kind == "link":
        yield "target", want.target, have.target
    if want.mode >= 0:
        yield "mode", f"{want.mode:04o}", f"{have.mode:04o}"
    if want.owner is not None:
        yield "owner", want.owner, have.owner
    if want.mtime_s >= 0:
        yield "mtime", want.mtime_s, have.mtime_s
    if want.xattrs is not None:
        yield "xattrs", dict(want.xattrs), dict(have.xattrs)


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) < 200 else text[:200] + "…"


def config_differences(
    expected: Mapping[str, Any], config: Mapping[str, Any], where: str = "config"
) -> Iterator[str]:
    """Keys whose value is not exactly the expected one; "absent" stands for missing, null or empty."""
    for key, want in expected.items():
        have = config.get(key)
        if want == "absent":
            if have:
                yield f"{where}: {key} is {_show(have)}, should be absent"
        elif have != want or isinstance(have, bool) != isinstance(want, bool):
            yield f"{where}: {key} is {_show(have)}, not {_show(want)}"


def layers_above(result: Result, bases: Sequence[Sequence[str]]) -> int:
    """How many layers a result has above the longest of these bases (their diff_ids) beneath it."""
    ids = tuple(result.diff_ids)
    beneath = [len(base) for base in bases if ids[: len(base)] == tuple(base)]
    return len(ids) - max(beneath, default=0)
