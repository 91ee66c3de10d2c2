"""Layer directories read and filled by the package `layer`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import BinaryIO

import msgspec

from arkwright.layer.diff import Stamp, diff, diff_facts
from arkwright.layer.entry import Change, Entry
from arkwright.layer.rooted import Root
from arkwright.layer.tree import Fact, facts

View = Callable[[Sequence[str]], AbstractContextManager[str]]
# For an entry that is not a file of its own: no links, no identity.
_NO_STATUS = os.stat_result((0,) * 10)


def layer_diff(
    tree_path: str, parents: Sequence[str], view: View, stamp: Stamp | None = None
) -> Iterator[Change]:
    """The canonical diff of the layer directory `tree_path` against a view of its parents; for `stamp` see
    `layer.diff`.

    Only what the directory holds is read. A layer that was made on nothing keeps its whiteouts: it
    is a difference of other trees, made to be put on something.
    """
    with ExitStack() as stack:
        tree = stack.enter_context(Root(tree_path))
        if parents:
            lower = stack.enter_context(Root(stack.enter_context(view(parents))))
            yield from diff(lower, tree, overlay=True, stamp=stamp)
        else:
            yield from diff_facts(None, tree, (_kept(fact) for fact in facts(tree, overlay=True)))


def _kept(fact: Fact) -> Fact:
    return fact if fact.status is not None else fact._replace(status=_NO_STATUS)


def unpack(tar: BinaryIO, root_path: str, *, on_nothing: bool, times_ns: Sequence[int] = ()) -> list[str]:
    """Apply a layer tar to a tree, or make a layer directory of it: `on_nothing`.

    `times_ns` are the times of its entries, if the tar does not say them. Returns the directories of the layer directory that hold whiteouts.
    """
    from arkwright.layer.apply import apply_entries
    from arkwright.layer.tar_read import read_tar

    with Root(root_path) as root:
        items = read_tar(tar)
        if times_ns:
            items = _timed(items, times_ns)
        apply_entries(items, root, whiteouts="overlay" if on_nothing else "remove")
        return _whiteout_directories(root) if on_nothing else []


def _timed(
    items: Iterator[tuple[Entry, BinaryIO | None]], times_ns: Sequence[int]
) -> Iterator[tuple[Entry, BinaryIO | None]]:
    for (entry, content), time_ns in zip(items, times_ns, strict=True):
        yield msgspec.structs.replace(entry, mtime_ns=time_ns), content


def _whiteout_directories(tree: Root) -> list[str]:
    found = facts(tree, xattrs=False, overlay=True)
    paths = {fact.entry.path.rpartition("/")[0] for fact in found if fact.entry.type == "whiteout"}
    return sorted(paths)
