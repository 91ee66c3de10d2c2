"""Copied trees that are kept when their layer is committed: the next step on it needs no copy of the rest.

What the step changed was moved into its layer, and comes back as a copy when the tree is used again. All else
is put in the state that a new copy would have, whatever the step did to it.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterable

from arkwright.layer.rooted import Root, remove_tree
from arkwright.layer.tree import is_whiteout
from arkwright.snapshot.attributes import copy_attributes, make_directory
from arkwright.snapshot.publish import discard
from arkwright.snapshot.sharing import Key
from arkwright.snapshot.union import copy_entry
from arkwright.snapshot.untouched import Copied
from arkwright.store.leases import Claim
from arkwright.store.store import Store

# Two stages of a build may go on in turn. Each tree takes the disk of a copy.
_CAPACITY = 2


class KeptTrees:
    """Trees by the list of layers that they are but for the changes of the last one. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._trees: dict[Key, tuple[Claim, Copied]] = {}
        self._closed = False

    def put(self, layers: Key, claim: Claim, copied: Copied) -> None:
        """Keep a tree; an older one may go for it."""
        with self._lock:
            gone = [] if not self._closed else [claim]
            if not self._closed:
                while len(self._trees) >= _CAPACITY:
                    gone.append(self._trees.pop(next(iter(self._trees)))[0])
                self._trees[layers] = (claim, copied)
        for former in gone:
            discard(self._store, former)

    def take(self, layers: Key) -> tuple[Claim, Copied] | None:
        """The tree of these layers, if it was kept; it is the caller's then."""
        with self._lock:
            return self._trees.pop(layers, None)

    def close(self) -> None:
        """Throw away what is kept; nothing is from here on."""
        with self._lock:
            self._closed = True
            trees, self._trees = self._trees, {}
        for claim, _ in trees.values():
            discard(self._store, claim)


class Looked:
    """What of a tree was not as it had been copied, seen while it is compared (`layer.diff.Untouched`)."""

    def __init__(self, root_path: str, copied: Copied) -> None:
        self._root_path = root_path
        self._copied = copied
        self.touched: set[str] = set()

    def untouched(self, path: str, status: os.stat_result) -> bool:
        if stat.S_ISREG(status.st_mode):
            if self._copied.untouched(path, status):
                return True
            self.touched.add(path)
        elif stat.S_ISDIR(status.st_mode) and self._has_attributes(path):
            # Some are no part of a layer: they must not reach the next step.
            self.touched.add(path)
        return False

    def _has_attributes(self, path: str) -> bool:
        try:
            return bool(os.listxattr(f"{self._root_path}/{path}", follow_symlinks=False))
        except OSError:
            return True


def with_ancestors(paths: Iterable[str]) -> set[str]:
    """The paths, and the directories around each."""
    found: set[str] = set()
    for path in paths:
        here = path
        while here and here not in found:
            found.add(here)
            here = here.rpartition("/")[0]
    return found


def restore(parent: Root, tree: Root, upper: Root, paths: Iterable[str], copied: Copied) -> None:
    """Put back in `tree` what `parent` has at each path that the layer directory `upper` does not have.

    `paths` have all their ancestors among them. Directories that are in both keep what is in them.
    """
    directories = []
    for path in sorted(paths):
        if not path or upper.lstat(path) is not None:
            continue
        wanted, found = parent.lstat(path), tree.lstat(path)
        both = all(info is not None and stat.S_ISDIR(info.st_mode) for info in (wanted, found))
        tree_fd, name = tree.open_parent(path)
        try:
            if found is not None and not both:
                remove_tree(tree_fd, name)
            if wanted is None:
                continue
            if stat.S_ISDIR(wanted.st_mode):
                directories.append(path)
                if not both:
                    make_directory(tree_fd, name)
                continue
            parent_fd, _ = parent.open_parent(path)
            try:
                copy_entry(parent_fd, name, tree_fd, wanted)
            finally:
                os.close(parent_fd)
            _note(copied, path, tree_fd, name)
        finally:
            os.close(tree_fd)
    for path in reversed(directories):
        _carry_attributes(parent, tree, path)


def add_layer(layer: Root, tree: Root, copied: Copied) -> None:
    """Copy into `tree`, which lacks them, the files of a canonical layer directory."""
    pending = [""]
    while pending:
        path = pending.pop()
        prefix = f"{path}/" if path else ""
        layer_fd, tree_fd = layer.open_dir(path, follow=False), tree.open_dir(path, follow=False)
        try:
            for name in os.listdir(layer_fd):
                info = os.stat(name, dir_fd=layer_fd, follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode):
                    pending.append(prefix + name)
                elif not is_whiteout(info):
                    copy_entry(layer_fd, name, tree_fd, info)
                    _note(copied, prefix + name, tree_fd, name)
            copy_attributes(layer_fd, tree_fd, os.fstat(layer_fd))
        finally:
            os.close(layer_fd)
            os.close(tree_fd)


def _note(copied: Copied, path: str, directory_fd: int, name: str) -> None:
    status = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    if stat.S_ISREG(status.st_mode):
        copied.note(path, status)


def _carry_attributes(source: Root, target: Root, path: str) -> None:
    source_fd = source.open_dir(path, follow=False)
    try:
        target_fd = target.open_dir(path, follow=False)
        try:
            copy_attributes(source_fd, target_fd, os.fstat(source_fd))
        finally:
            os.close(target_fd)
    finally:
        os.close(source_fd)
