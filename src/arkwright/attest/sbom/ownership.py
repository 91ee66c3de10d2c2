"""Which files of an image belong to which package, and their digests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from arkwright.attest.sbom.model import File, Materials, Package
from arkwright.diagnostics.errors import UserError
from arkwright.images.listing import open_layer
from arkwright.images.view import Node, View
from arkwright.layer.names import encode
from arkwright.layer.tar_read import read_tar
from arkwright.oci.descriptor import Descriptor
from arkwright.store.store import Store

_CHUNK = 1 << 18
# As PATH_MAX has it; a longer name is none of a file.
_MAX_PATH = 4096


def with_files(found: Materials, store: Store, layers: Sequence[Descriptor], view: View) -> Materials:
    """Tell of the files of packages too: of regular files that are in the image, by the names that their
    packages have for them. Each layer that has such files is read once more, as SPDX wants SHA-1 digests."""
    finder = _Finder(view)
    owned: dict[str, tuple[str, Node]] = {}
    for package in found.packages:
        for path in package.files:
            if path not in owned and (place := finder.find(path)) is not None:
                owned[path] = place
    nodes = {(node.layer, node.position): node for _, node in owned.values()}
    sums = _sums(store, layers, nodes)
    files: dict[str, File] = {}
    for path, (canonical, node) in owned.items():
        sha1 = sums.get((node.layer, node.position))
        if sha1 is not None:
            files[path] = File(
                path=f"/{canonical}", sha1=sha1, sha256=node.content.hex(), layer=node.layer
            )  # fmt: skip
    return msgspec.structs.replace(found, files=files)


def of_homes(packages: Iterable[Package], view: View) -> Iterator[Package]:
    """The packages; those that have a directory of their own with the files in it. Of several that share one, the
    first has them."""
    packages = list(packages)
    homes: dict[str, list[str]] = {one.home: [] for one in packages if one.home}
    pending: list[tuple[str, Node, list[str] | None]] = [("", view.root, None)] if homes else []
    while pending:
        prefix, node, owned = pending.pop()
        for name in sorted(node.children, key=encode, reverse=True):
            child, path = node.children[name], f"{prefix}/{name}" if prefix else name
            if child.is_dir:
                pending.append((path, child, homes.get(path, owned)))
            elif owned is not None:
                owned.append(f"/{path}")
    for one in packages:
        files = homes.pop(one.home, None)
        yield msgspec.structs.replace(one, files=tuple(sorted(files, key=encode))) if files else one


class _Finder:
    """Paths to files. Each directory and each link is followed once, however many names lie behind it: the
    work grows with the length of the paths, never with that of the chains of links."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._directories: dict[str, tuple[str, Node] | None] = {}
        self._links: dict[Node, Node | None] = {}

    def find(self, path: str) -> tuple[str, Node] | None:
        """The canonical path, and the regular file there; None for all else."""
        head, _, name = path.rpartition("/")
        if len(path) > _MAX_PATH or name in ("", ".", ".."):
            return None
        if head not in self._directories:
            self._directories[head] = self._directory(head)
        place = self._directories[head]
        if place is None:
            return None
        directory, parent = place
        node = parent.children.get(name)
        if node is None or node.type != "file":
            return None
        return (f"{directory}/{name}" if directory else name), node

    def _directory(self, path: str) -> tuple[str, Node] | None:
        node: Node | None = self._view.root
        for name in path.split("/"):
            if name in ("", "."):
                continue
            node = node.children.get(name) if node is not None else None
            if node is not None and node.type == "symlink":
                node = self._followed(node)
        return (node.path, node) if node is not None and node.is_dir else None

    def _followed(self, link: Node) -> Node | None:
        if link not in self._links:
            try:
                self._links[link] = self._view.find(link.path)
            except UserError:
                self._links[link] = None
        return self._links[link]


def _sums(
    store: Store, layers: Sequence[Descriptor], nodes: dict[tuple[int, int], Node]
) -> dict[tuple[int, int], str]:
    """The SHA-1 of entries, by their layers and positions."""
    wanted: dict[int, set[int]] = {}
    for layer, position in nodes:
        wanted.setdefault(layer, set()).add(position)
    found: dict[tuple[int, int], str] = {}
    for number, positions in sorted(wanted.items()):
        last = max(positions)
        with open_layer(store.content, layers[number]) as tar:
            for position, (_, stream) in enumerate(read_tar(tar, require_end=False)):
                if position in positions and stream is not None:
                    # Names the content in a format that has nothing better; nothing is proved by it.
                    hashed = hashlib.sha1(usedforsecurity=False)
                    while data := stream.read(_CHUNK):
                        hashed.update(data)
                    found[number, position] = hashed.hexdigest()
                if position == last:
                    break
    return found
