"""The files of an image as a container would see them: the listings of its layers, merged in memory.

Entries are put together as `layer.apply` unpacks them: names and their parents resolve inside the
root, deletions hide what lower layers have and nothing of their own layer (OCI image
specification, layer.md). Memory grows with the number of files, never with their sizes.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator

from arkwright.diagnostics.errors import ArkwrightError, UserError
from arkwright.images.listing import Listed
from arkwright.layer import faults
from arkwright.layer.entry import Entry, EntryType
from arkwright.layer.names import encode
from arkwright.layer.profile import CONSTANT_NS

MAX_ENTRIES = 4_000_000
"""What the layers of one image may hold together."""

# path_resolution(7): at most 40 links; the bound on steps stops `a/../a/../…`.
_MAX_LINKS = 40
_MAX_STEPS = 1 << 16
_MAX_DEPTH = 4096
_KNOWN = 1024
_KINDS = {
    "file": stat.S_IFREG, "dir": stat.S_IFDIR, "symlink": stat.S_IFLNK, "char": stat.S_IFCHR,
    "block": stat.S_IFBLK, "fifo": stat.S_IFIFO,
}  # fmt: skip
_NO_CHILDREN: dict[str, Node] = {}


class Node:
    """A file. `layer` is the number of the layer that has it, `position` that of its entry there
    (-1: no entry says anything of this directory)."""

    __slots__ = (
        "children", "content", "depth", "gid", "layer", "link", "major", "minor", "mode", "mtime_ns", "name", "nlink",
        "parent", "position", "pruned", "size", "touched", "type", "uid", "xattrs",
    )  # fmt: skip

    def __init__(self, type: EntryType, parent: Node | None, name: str, layer: int) -> None:
        self.type = type
        self.parent = parent
        self.name = name
        self.depth: int = parent.depth + 1 if parent is not None else 0
        self.layer = layer
        self.children: dict[str, Node] = {} if type == "dir" else _NO_CHILDREN
        self.nlink = 1
        # The last layer that made something below, and that hid all that lower ones had here.
        self.touched = self.pruned = -1
        self.imply()

    def imply(self) -> None:
        """What a directory has that no entry mentions."""
        self.position, self.mode, self.mtime_ns = -1, 0o755, CONSTANT_NS
        self.uid = self.gid = self.size = self.major = self.minor = 0
        self.content, self.link = b"", ""
        self.xattrs: tuple[tuple[str, bytes], ...] = ()

    def take(self, listed: Listed, layer: int) -> None:
        """Become what an entry says."""
        entry = listed.entry
        self.layer, self.position, self.content = layer, listed.position, listed.content
        self.mode, self.uid, self.gid, self.size = entry.mode, entry.uid, entry.gid, entry.size
        self.mtime_ns, self.link, self.xattrs = entry.mtime_ns, entry.link, entry.xattrs
        self.major, self.minor = entry.major, entry.minor

    @property
    def is_dir(self) -> bool:
        return self.type == "dir"

    @property
    def mode_text(self) -> str:
        """As `ls -l` shows it: `-rwxr-xr-x`."""
        return stat.filemode(_KINDS[self.type] | self.mode)

    @property
    def path(self) -> str:
        """The canonical path of the name that the file was made by."""
        parts = []
        node = self
        while node.parent is not None:
            parts.append(node.name)
            node = node.parent
        return "/".join(reversed(parts))


class Watcher:
    """Told of what happens while layers are merged. This one only refuses what is broken."""

    def hidden(self, node: Node, layer: int, *, removed: bool) -> None:
        """The last name of a file is gone: a later layer removed it or put another in its place."""

    def nothing_hidden(self, path: str) -> None:
        """A deletion names nothing."""

    def repeated(self, path: str) -> None:
        """A layer has a second entry for a path."""

    def broken(self, error: ArkwrightError) -> None:
        """An entry that cannot be unpacked, and is left out if this returns."""
        raise error


class View:
    """A tree. Layers are added lowest first."""

    def __init__(self, watcher: Watcher | None = None) -> None:
        self.root = Node("dir", None, "", -1)
        self.watcher = watcher or Watcher()
        self._layer = -1
        self._entries = 0
        self._known: dict[str, Node] = {}
        # Names by which this layer links to files of lower ones.
        self._linked: set[tuple[Node, str]] = set()

    def add_layer(self, listing: Iterable[Listed]) -> None:
        """Put the next layer on top.

        Raises `UserError` `archive-too-large`, and unless the watcher takes them
        `not-a-directory`, `symlink-loop`, `missing-link-target`, `invalid-archive`.
        """
        self._layer += 1
        self._linked.clear()
        self._known.clear()
        for listed in listing:
            self._count()
            try:
                self._add(listed)
            except UserError as error:
                if error.code == "archive-too-large":
                    raise
                self.watcher.broken(error)

    def find(self, path: str, *, follow: bool = True) -> Node:
        """The file at a path. Links in it are followed inside the image, the last name only with
        `follow`, or when a slash stands behind it.

        Raises `UserError` `path-missing`, `not-a-directory`, `symlink-loop`.
        """
        parent, name = self._locate(path, create=False)
        node = parent.children.get(name) if name else parent
        if (follow or path.endswith("/")) and node is not None and node.type == "symlink":
            node = self._descend(path.split("/"), create=False, last=True)
        if node is None:
            raise UserError.of("path-missing", f"/{path.strip('/')} does not exist in the image")
        if path.endswith("/") and not node.is_dir:
            raise _not_a_directory(path, "it")
        return node

    def _add(self, listed: Listed) -> None:
        entry = listed.entry
        if entry.type == "whiteout":
            self._whiteout(entry.path)
        elif entry.type == "opaque":
            self._prune(self._directory(entry.path, create=True), reset=False)
        elif not entry.path:
            self.root.take(listed, self._layer)
        else:
            parent, name = self._locate(entry.path, create=True)
            if entry.type == "hardlink":
                self._link(parent, name, entry)
            else:
                self._make(parent, name, listed)
            self._touch(parent)

    def _count(self) -> None:
        """One entry more, or one directory that no entry mentions: a long path can stand for 2000."""
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise faults.too_large(f"more than {MAX_ENTRIES} entries in the layers of an image")

    def _make(self, parent: Node, name: str, listed: Listed) -> None:
        old = parent.children.get(name)
        if old is not None:
            if self._is_ours(parent, name, old) and old.position >= 0:
                self.watcher.repeated(listed.entry.path)
            if old.is_dir and listed.entry.type == "dir":
                old.take(listed, self._layer)
                return
            self._drop(parent, name, removed=False)
        if parent.depth >= _MAX_DEPTH:
            raise _too_deep()
        node = Node(listed.entry.type, parent, name, self._layer)
        node.take(listed, self._layer)
        parent.children[name] = node

    def _link(self, parent: Node, name: str, entry: Entry) -> None:
        target_parent, target_name = self._locate(entry.link, create=False)
        target = target_parent.children.get(target_name)
        if target is None:
            raise UserError.of(
                "missing-link-target",
                f"{entry.path!r} is a hard link to {entry.link!r}, which does not exist",
            )
        if target.is_dir:
            raise faults.invalid(f"{entry.path!r} is a hard link to the directory {entry.link!r}")
        old = parent.children.get(name)
        if old is not None and self._is_ours(parent, name, old):
            self.watcher.repeated(entry.path)
        if old is not target:
            if old is not None:
                self._drop(parent, name, removed=False)
            parent.children[name] = target
            target.nlink += 1
        if target.layer != self._layer:
            self._linked.add((parent, name))

    def _whiteout(self, path: str) -> None:
        try:
            parent, name = self._locate(path, create=False)
        except UserError:
            self.watcher.nothing_hidden(path)
            return
        node = parent.children.get(name)
        if node is None:
            self.watcher.nothing_hidden(path)
            return
        ours = self._is_ours(parent, name, node)
        if not ours and node.touched != self._layer:
            self._drop(parent, name, removed=True)
        elif node.is_dir:
            self._prune(node, reset=not ours)

    def _prune(self, top: Node, *, reset: bool) -> None:
        """Hide what is below a directory and was not made by this layer."""
        pending = [(top, reset)]
        while pending:
            node, anew = pending.pop()
            if anew:
                node.imply()
                node.layer = self._layer
            if node.pruned == self._layer:
                continue
            node.pruned = self._layer
            for name, child in list(node.children.items()):
                ours = self._is_ours(node, name, child)
                if not ours and child.touched != self._layer:
                    self._drop(node, name, removed=True)
                elif child.is_dir:
                    pending.append((child, not ours))

    def _drop(self, parent: Node, name: str, *, removed: bool) -> None:
        node = parent.children.pop(name)
        self._linked.discard((parent, name))
        if node.type in ("dir", "symlink"):
            self._known.clear()
        pending = [node]
        while pending:
            node = pending.pop()
            node.nlink -= 1
            if not node.nlink and node.type == "file":
                self.watcher.hidden(node, self._layer, removed=removed)
            pending.extend(node.children.values())

    def _is_ours(self, parent: Node, name: str, node: Node) -> bool:
        """Whether this layer made the name."""
        return node.layer == self._layer or (parent, name) in self._linked

    def _touch(self, node: Node | None) -> None:
        while node is not None and node.touched != self._layer:
            node.touched = self._layer
            node = node.parent

    def _locate(self, path: str, *, create: bool) -> tuple[Node, str]:
        """The directory that holds a path, and the last name; of the root, itself and no name."""
        head, _, name = path.rstrip("/").rpartition("/")
        if name in ("", ".", ".."):
            return self._directory(path, create=create), ""
        return self._directory(head, create=create), name

    def _directory(self, path: str, *, create: bool) -> Node:
        node = self._known.get(path)
        if node is None:
            node = self._descend(path.split("/"), create=create, last=False)
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[path] = node
        return node

    def _descend(self, parts: list[str], *, create: bool, last: bool) -> Node:
        """Follow names and links from the root to a directory; with `last` to any file."""
        node, links, steps = self.root, 0, 0
        pending = parts[::-1]
        while pending:
            name = pending.pop()
            steps += 1
            if steps > _MAX_STEPS:
                raise _loop("/".join(parts))
            if name in ("", "."):
                continue
            if name == "..":
                node = node.parent or node
                continue
            child = node.children.get(name)
            if child is None:
                if not create:
                    raise UserError.of(
                        "path-missing", f"/{'/'.join(parts).strip('/.')} does not exist in the image"
                    )
                child = self._imply(node, name)
            if child.type == "symlink":
                links += 1
                if links > _MAX_LINKS:
                    raise _loop("/".join(parts))
                node = self.root if child.link.startswith("/") else node
                pending.extend(reversed(child.link.split("/")))
            elif child.is_dir:
                node = child
            elif last and all(rest in ("", ".") for rest in pending):
                return child
            else:
                raise _not_a_directory("/".join(parts), f"/{child.path}")
        return node

    def _imply(self, parent: Node, name: str) -> Node:
        self._count()
        if parent.depth >= _MAX_DEPTH:
            raise _too_deep()
        node = parent.children[name] = Node("dir", parent, name, self._layer)
        self._touch(parent)
        return node


def walk(top: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Everything below a directory with its path, in the order of layers: by name as bytes, each
    directory before what is in it. `path` is that of `top`."""
    pending = [(path, top)]
    while pending:
        path, node = pending.pop()
        if node is not top:
            yield path, node
        for name in sorted(node.children, key=encode, reverse=True):
            pending.append((f"{path}/{name}" if path else name, node.children[name]))


def _too_deep() -> ArkwrightError:
    return UserError.of("name-too-long", f"more than {_MAX_DEPTH} directories stand in each other")


def _loop(path: str) -> ArkwrightError:
    return UserError.of("symlink-loop", f"{path!r} lies behind symbolic links in a circle")


def _not_a_directory(path: str, what: str) -> ArkwrightError:
    return UserError.of("not-a-directory", f"{path!r}: {what} is not a directory")
