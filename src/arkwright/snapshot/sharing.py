"""Views that equal lists of layers share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

Key = tuple[str, ...]


class Tree(NamedTuple):
    """A tree that was made to be read, and how to take it away again."""

    path: str
    dispose: Callable[[], None]


class SharedTrees:
    """Makes a tree for the first who asks, and disposes of it after the last. Thread-safe."""

    def __init__(self, make: Callable[[Key], Tree]) -> None:
        self._make = make
        self._guard = threading.Lock()
        self._trees: dict[Key, _Shared] = {}

    @contextmanager
    def use(self, key: Key) -> Iterator[str]:
        """The path of the tree of these layers."""
        with self._guard:
            shared = self._trees.setdefault(key, _Shared())
            shared.users += 1
        try:
            with shared.making:
                if shared.tree is None:
                    shared.tree = self._make(key)
            yield shared.tree.path
        finally:
            with self._guard:
                shared.users -= 1
                if shared.users == 0:
                    del self._trees[key]
            if shared.users == 0 and shared.tree is not None:
                shared.tree.dispose()


class _Shared:
    def __init__(self) -> None:
        self.making = threading.Lock()
        self.users = 0
        self.tree: Tree | None = None
