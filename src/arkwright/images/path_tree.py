"""Values by path, of which whole subtrees are forgotten at once: what the layers of an image said so far.

Nothing costs more than the length of a path, but for `clear`, whose cost is paid by what it forgets and
by one look at what a layer made, however often the layer clears the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Generic, TypeVar

from arkwright.images import view
from arkwright.layer import faults

V = TypeVar("V")


class PathNode(Generic[V]):
    """One name. `layer` is the layer that gave the value, `touched` the last one that noted anything
    here or below."""

    __slots__ = ("children", "cleared", "layer", "touched", "value")

    def __init__(self) -> None:
        self.children: dict[str, PathNode[V]] = {}
        self.value: V | None = None
        self.layer = self.touched = self.cleared = -1


class PathTree(Generic[V]):
    """Paths are canonical and relative; `""` is the root. Layers come in ascending order."""

    def __init__(self) -> None:
        self.root: PathNode[V] = PathNode()
        self._made = 0

    def find(self, path: str) -> PathNode[V] | None:
        """The node at a path, if anything was noted there or below."""
        node = self.root
        for name in _parts(path):
            child = node.children.get(name)
            if child is None:
                return None
            node = child
        return node

    def touch(self, path: str, layer: int) -> PathNode[V]:
        """The node at a path, for a layer that notes something there or below.

        Raises `UserError` `archive-too-large`.
        """
        node = self.root
        node.touched = layer
        for name in _parts(path):
            node = self.below(node, name)
            node.touched = layer
        return node

    def below(self, node: PathNode[V], name: str) -> PathNode[V]:
        """The node of a name in a directory. Raises as `touch`."""
        child = node.children.get(name)
        if child is None:
            self._made += 1
            if self._made > view.MAX_ENTRIES:
                raise faults.too_large(f"more than {view.MAX_ENTRIES} entries in the layers of an image")
            child = node.children[name] = PathNode()
        return child

    def put(self, path: str, value: V, layer: int) -> PathNode[V]:
        """Note a value. Raises as `touch`."""
        node = self.touch(path, layer)
        node.value, node.layer = value, layer
        return node

    def cut(self, path: str) -> None:
        """Forget a path and all below."""
        parent, _, name = path.rpartition("/")
        node = self.find(parent)
        if node is not None:
            node.children.pop(name, None)

    def clear(self, path: str, layer: int, *, itself: bool) -> None:
        """Forget what layers before this one noted below a path, and with `itself` at it."""
        top = self.find(path)
        if top is None:
            return
        if itself and top.layer != layer:
            top.value = None
        pending = [top]
        while pending:
            node = pending.pop()
            if node.cleared == layer:
                continue
            node.cleared = layer
            for name, child in list(node.children.items()):
                if child.touched != layer:
                    del node.children[name]
                    continue
                if child.layer != layer:
                    child.value = None
                pending.append(child)

    def touched(self, layer: int) -> Iterator[tuple[str, PathNode[V]]]:
        """All nodes that a layer touched, the root first, in the order of layers."""
        if self.root.touched != layer:
            return
        pending = [("", self.root)]
        while pending:
            path, node = pending.pop()
            yield path, node
            prefix = f"{path}/" if path else ""
            for name in sorted(node.children, key=os.fsencode, reverse=True):
                if node.children[name].touched == layer:
                    pending.append((prefix + name, node.children[name]))


def _parts(path: str) -> list[str]:
    return path.split("/") if path else []
