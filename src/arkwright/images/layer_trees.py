"""Layers put on one another as trees that exist in this process only.

The tree that a stack of layers gives is what tools unpack: parents resolve through links, whiteouts delete,
hard links are one file. Contents lie in a file without a name below a scratch directory, so memory holds the
nodes alone. Extended attributes of any namespace are kept, other than in a tree that a build makes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, cast

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.images.listing import open_layer
from arkwright.layer.apply import Item, apply_entries
from arkwright.layer.diff import diff
from arkwright.layer.entry import Change
from arkwright.layer.hashed import Hashed
from arkwright.layer.profile import CONSTANT_NS
from arkwright.layer.rooted import Root
from arkwright.layer.tar_read import read_tar
from arkwright.layer.virtual_nodes import Node, Spool, VirtualTree
from arkwright.oci.descriptor import Descriptor
from arkwright.store.content import ContentStore
from arkwright.store.space import space_needed

# A tree takes `user.*` alone; no attribute of a kernel holds a NUL, so the mark can be taken off again.
_MARK = "user.\0"
_NO_TIME = -(1 << 62)

Layer = tuple[str, Descriptor]
"""A diffID and what leads to the blob."""


class LayerTrees:
    """Makes trees of layers; `dropped` counts, by name, the attributes that no tree could hold (those
    of links and devices)."""

    def __init__(self, content: ContentStore, scratch_path: str) -> None:
        self._content = content
        self._scratch_path = scratch_path
        self._spool = Spool(scratch_path)
        self.dropped: dict[str, int] = {}

    def empty(self) -> VirtualTree:
        return VirtualTree(self._spool)

    def stack(
        self, layers: Sequence[Layer], on: VirtualTree | None = None, *, timed: bool = True
    ) -> VirtualTree:
        """The tree of layers, lowest first, on a copy of another tree; without `timed`, all its times
        are alike.

        Raises as `verified_layer`, `UserError` `no-space`, and what `layer.apply` raises.
        """
        tree = self.empty() if on is None else own_copy(on)
        for layer in layers:
            with verified_layer(self._content, layer) as tar:
                self.put(tree, read_tar(tar, require_end=False), timed=timed)
        return tree

    def put(self, tree: VirtualTree, items: Iterable[Item], *, timed: bool = True) -> None:
        """Put the entries of one layer on a tree."""
        with space_needed(self._scratch_path, "the contents of the layers"), Root(tree.path) as root:
            report = apply_entries(_marked(items, timed=timed), root)
        for key, count in report.dropped_xattrs.items():
            name = key.removeprefix(_MARK)
            self.dropped[name] = self.dropped.get(name, 0) + count


@contextmanager
def verified_layer(content: ContentStore, layer: Layer) -> Iterator[BinaryIO]:
    """The uncompressed tar of a layer; what the body did not read is read at its end, and all of it
    must have the diffID.

    Raises `UserError` `not-a-layer`, `missing-blob`, `corrupt-archive`, `layer-mismatch`.
    """
    diff_id, descriptor = layer
    with open_layer(content, descriptor) as tar:
        hashed = Hashed(tar)
        yield cast(BinaryIO, hashed)
        hashed.drain()
    if hashed.digest != diff_id:
        raise UserError.of(
            "layer-mismatch",
            f"layer {descriptor.digest} has the diffID {hashed.digest}, the image's config says {diff_id}",
            hint="the image is damaged or was altered; fetch it again",
        )


def changes(lower: VirtualTree | None, upper: VirtualTree) -> Iterator[Change]:
    """The canonical diff of two trees, with the attributes as they were."""
    if lower is None:
        with Root(upper.path) as above:
            yield from map(_unmarked, diff(None, above))
        return
    with Root(lower.path) as below, Root(upper.path) as above:
        yield from map(_unmarked, diff(below, above))


def tell_links(lower: VirtualTree, upper: VirtualTree) -> None:
    """Let a diff see files that are alike in both trees but linked to other names in one of them: in
    `lower`, they get a time that no file has. `lower` is good for that one diff only."""
    old, new = _linked_names(lower), _linked_names(upper)
    for path in {**old, **new}:
        if old.get(path) != new.get(path):
            node: Node | None = lower.root
            for name in path.split("/"):
                node = node.children.get(name) if node is not None else None
            if node is not None and not node.is_dir:
                node.mtime_ns = _NO_TIME


def _linked_names(tree: VirtualTree) -> dict[str, tuple[str, ...]]:
    """By path: all names of files that have several."""
    names: dict[int, list[str]] = {}
    waiting = [("", tree.root)]
    while waiting:
        prefix, directory = waiting.pop()
        for name, node in directory.children.items():
            if node.is_dir:
                waiting.append((f"{prefix}{name}/", node))
            elif node.nlink > 1:
                names.setdefault(node.ino, []).append(prefix + name)
    groups = [tuple(sorted(group)) for group in names.values()]
    return {path: group for group in groups for path in group}


def own_copy(tree: VirtualTree) -> VirtualTree:
    """A tree of the same files that shares only contents: hard links of the old one are links in
    the new one, to which others can be added.

    Files keep their inode numbers, so that a comparison finds at once what was not replaced;
    directories, which are changed in place, do not.
    """
    copy = VirtualTree(tree.spool)
    known: dict[int, Node] = {}
    copy.root = tree.root.copy(copy.number)
    waiting = [copy.root]
    while waiting:
        directory = waiting.pop()
        for name, node in directory.children.items():
            new = known.get(node.ino)
            if new is None:
                new = known[node.ino] = node.copy(copy.number)
                if new.is_dir:
                    waiting.append(new)
                else:
                    new.ino, new.nlink = node.ino, node.nlink
            directory.children[name] = new
    return copy


def _marked(items: Iterable[Item], *, timed: bool) -> Iterator[Item]:
    for entry, content in items:
        changed = entry
        if entry.xattrs:
            xattrs = tuple((_MARK + key, value) for key, value in entry.xattrs)
            changed = msgspec.structs.replace(changed, xattrs=xattrs)
        if not timed:
            changed = msgspec.structs.replace(changed, mtime_ns=CONSTANT_NS)
        yield changed, content


def _unmarked(change: Change) -> Change:
    if not change.entry.xattrs:
        return change
    found = [(key.removeprefix(_MARK), value) for key, value in change.entry.xattrs]
    found.sort(key=lambda item: os.fsencode(item[0]))
    return Change(msgspec.structs.replace(change.entry, xattrs=tuple(found)), change.open)
