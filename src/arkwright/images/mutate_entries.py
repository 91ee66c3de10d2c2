"""Layers rewritten entry by entry: paths dropped, owners changed.

A layer of which no entry changes keeps its bytes; the others keep their order, times and compression. Each
is read twice, as a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import BinaryIO, Protocol, cast

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.images.layer_trees import Layer, verified_layer
from arkwright.images.mutate import Image, with_history, with_layers
from arkwright.images.path_tree import PathNode, PathTree
from arkwright.layer.entry import Change, Entry
from arkwright.layer.export import export_layer
from arkwright.layer.profile import CONSTANT_NS, Codec, profile_for
from arkwright.layer.tar_read import read_tar
from arkwright.oci.descriptor import layer_codec
from arkwright.sources.patterns import BadPattern, match_path
from arkwright.store.content import ContentStore

_MAX_LINKS = 40
_KNOWN = 1024
_MAX_ID = 0xFFFFFFFE

_THEIRS = -1

Item = tuple[Entry, BinaryIO | None]


class IdMap(msgspec.Struct, frozen=True, kw_only=True):
    """`count` ids from `first` on become those from `to` on."""

    first: int
    to: int
    count: int = 1


class Links:
    """The symbolic links of the layers that were read so far: says where a name really leads."""

    def __init__(self) -> None:
        self._targets: PathTree[str] = PathTree()
        self._known: dict[str, str] = {}

    def canonical(self, entry: Entry) -> str:
        """The path of an entry with the links in its parents followed, as an unpacker does it."""
        # The mark of an emptied directory lies in it.
        return self._directory(entry.path) if entry.type == "opaque" else self.name(entry.path)

    def name(self, path: str) -> str:
        """A path with the links in its parents followed."""
        parent, slash, name = path.rpartition("/")
        return f"{self._directory(parent)}/{name}".lstrip("/") if slash else path

    def add(self, path: str, entry: Entry, layer: int) -> None:
        """An entry was put at a canonical path. Raises `UserError` `archive-too-large`."""
        if entry.type in ("whiteout", "opaque"):
            self._targets.clear(path, layer, itself=entry.type == "whiteout")
            self._known.clear()
            return
        target = entry.link if entry.type == "symlink" else ""
        if entry.type == "hardlink":
            origin = self._targets.find(self.name(entry.link))
            target = (origin.value or "") if origin is not None else ""
        there = self._targets.find(path)
        if target:
            self._targets.put(path, target, layer).children.clear()
        elif there is not None and entry.type != "dir":
            self._targets.cut(path)
        elif there is not None and there.value is not None:
            there.value = None
        else:
            return
        self._known.clear()

    def _directory(self, path: str) -> str:
        if not self._targets.root.children:
            return path
        found = self._known.get(path)
        if found is None:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            found = self._known[path] = self._follow(path)
        return found

    def _follow(self, path: str) -> str:
        done: list[str] = []
        # Beside each name its node, as far as there are links at it or below.
        nodes: list[PathNode[str] | None] = [self._targets.root]
        rest = path.split("/")[::-1]
        links = 0
        while rest:
            part = rest.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if done:
                    done.pop()
                    nodes.pop()
                continue
            node = nodes[-1].children.get(part) if nodes[-1] is not None else None
            target = node.value if node is not None else None
            if target is None or links == _MAX_LINKS:
                done.append(part)
                nodes.append(node)
                continue
            links += 1
            if target.startswith("/"):
                done.clear()
                del nodes[1:]
            rest.extend(target.split("/")[::-1])
        return "/".join(done)


def filter_paths(
    image: Image, content: ContentStore, patterns: Sequence[str], *, created: str,
    note: Callable[[str], None] = lambda text: None,
) -> Image:  # fmt: skip
    """The image without the paths that match, and what is below them, in every layer.

    Patterns are those of an ignore file, from the root: `**` crosses directories. A hard link to a
    dropped file gets its content. Raises `UserError` `invalid-wildcard`, `dangling-hard-link`.
    """
    dropping = _Dropping(patterns)
    links = Links()
    layers = [
        _rewritten(content, layer, number, links, _Filter(dropping))
        for number, layer in enumerate(image.layers)
    ]
    for pattern in dropping.unused():
        note(f"nothing matched {pattern}")
    return _with_rewritten(image, layers, created, "arkwright filter")


def map_owners(image: Image, content: ContentStore, maps: Sequence[IdMap], *, created: str) -> Image:
    """The image with other user and group ids.

    Directories that no layer mentions are the root user's when they are unpacked: where that id
    is mapped, they get an entry. Raises `UserError` `invalid-id-map`.
    """
    _check_maps(maps)
    links = Links()
    known: PathTree[int] = PathTree()
    layers = [
        _rewritten(content, layer, number, links, _Owners(maps, known, number))
        for number, layer in enumerate(image.layers)
    ]
    return _with_rewritten(image, layers, created, "arkwright chown-map")


def _with_rewritten(image: Image, layers: list[Layer], created: str, by: str) -> Image:
    if tuple(layers) == image.layers:
        return image
    entry = {"created_by": by, "empty_layer": True}
    config = with_history(image.config, entry, layers=len(layers), created=created)
    return with_layers(image, layers, config=config)


class _Pass(Protocol):
    """What is done to one layer: `see` gets every entry with its canonical path, then `finish` says whether
    anything changes, then `rewrite` gets every entry again, and says what stands in its place."""

    def see(self, entry: Entry, path: str) -> None: ...
    def finish(self, links: Links) -> bool: ...
    def rewrite(self, entry: Entry, path: str) -> Sequence[Entry]: ...
    def before(self) -> Iterable[Entry]:
        """What the new layer begins with."""
        ...


def _rewritten(content: ContentStore, layer: Layer, number: int, links: Links, work: _Pass) -> Layer:
    paths: list[str] = []
    with verified_layer(content, layer) as tar:
        for entry, _ in read_tar(tar, require_end=False):
            path = links.canonical(entry)
            paths.append(path)
            work.see(entry, path)
            links.add(path, entry, number)
    if not work.finish(links):
        return layer
    profile = profile_for(cast(Codec, layer_codec(layer[1].media_type)))
    with verified_layer(content, layer) as tar:
        items = read_tar(tar, require_end=False)
        return export_layer(_written(items, paths, work), content, profile, mtime_ns=None)


def _written(items: Iterator[Item], paths: list[str], work: _Pass) -> Iterator[Change]:
    for entry in work.before():
        yield Change(entry)
    for (entry, stream), path in zip(items, paths, strict=True):
        for new in work.rewrite(entry, path):
            if new.type == "file" and stream is not None:
                yield Change(new, stream.__enter__)
            else:
                yield Change(new)


class _Dropping:
    """The patterns, and which of them matched anything."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = {_cleaned(text): text for text in patterns}
        self._matched: set[str] = set()
        self._known: PathTree[bool] = PathTree()

    def covers(self, path: str) -> bool:
        """Whether the path, or a directory that it is in, is to go. Raises `UserError` `archive-too-large`."""
        slash = path.find("/")
        node = self._known.root
        while slash >= 0:
            node = self._known.below(node, path[path.rfind("/", 0, slash) + 1 : slash])
            if node.value is None:
                node.value = self._matches(path[:slash])
            if node.value:
                return True
            slash = path.find("/", slash + 1)
        return self._matches(path)

    def unused(self) -> list[str]:
        return [text for pattern, text in self._patterns.items() if pattern not in self._matched]

    def _matches(self, path: str) -> bool:
        found = [pattern for pattern in self._patterns if path and match_path(pattern, path)]
        self._matched.update(found)
        return bool(found)


def _cleaned(text: str) -> str:
    pattern = text.strip("/")
    try:
        match_path(pattern, "a")
    except BadPattern as error:
        raise UserError.of("invalid-wildcard", f"--drop {text}: {error}") from error
    if not pattern:
        raise UserError.of("invalid-wildcard", f"--drop {text!r} would drop everything")
    return pattern


class _Filter:
    """One layer without what is dropped. A file whose name goes lives on under the first name that
    links to it in this layer, its heir."""

    def __init__(self, dropping: _Dropping) -> None:
        self._dropping = dropping
        # By canonical path: the path of the file of this layer that a name is, as stored.
        self._file: dict[str, str] = {}
        self._seen: set[str] = set()
        self._twice: set[str] = set()
        self._links: list[tuple[str, Entry]] = []
        self._heirs: dict[str, str] = {}
        self._new_target: dict[str, str] = {}
        self._stored: dict[str, str] = {}
        self._any = False

    def see(self, entry: Entry, path: str) -> None:
        self._any |= self._dropping.covers(path)
        if entry.type in ("whiteout", "opaque"):
            return
        (self._twice if path in self._seen else self._seen).add(path)
        self._stored[path] = entry.path
        if entry.type == "file":
            self._file[path] = path
        elif entry.type == "hardlink":
            self._links.append((path, entry))

    def finish(self, links: Links) -> bool:
        for path, entry in self._links:
            target = links.name(entry.link)
            origin = self._file.get(target)
            if origin is not None:
                self._file[path] = origin
            if self._dropping.covers(path):
                continue
            if not self._dropping.covers(target) and (origin is None or not self._dropping.covers(origin)):
                continue
            if origin is None or {path, target, origin} & self._twice:
                raise _dangling(entry.path, target)
            if not self._dropping.covers(origin):
                self._new_target[path] = self._stored[origin]
            elif origin not in self._heirs:
                self._heirs[origin] = path
            else:
                self._new_target[path] = self._stored[self._heirs[origin]]
        return self._any

    def before(self) -> Sequence[Entry]:
        return ()

    def rewrite(self, entry: Entry, path: str) -> Sequence[Entry]:
        if self._dropping.covers(path):
            heir = self._heirs.get(path) if entry.type == "file" else None
            return () if heir is None else (msgspec.structs.replace(entry, path=self._stored[heir]),)
        if entry.type == "hardlink":
            if self._heirs.get(self._file.get(path, "")) == path:
                return ()
            if path in self._new_target:
                return (msgspec.structs.replace(entry, link=self._new_target[path]),)
        return (entry,)


def _dangling(path: str, target: str) -> UserError:
    error = UserError.of(
        "dangling-hard-link",
        f"{path} is a hard link to {target}, which is in a layer below and would be dropped",
        hint=f"drop {path} too, or `arkwright flatten` the image first",
        details={"path": path, "target": target},
    )
    assert isinstance(error, UserError)
    return error


class _Owners:
    """One layer with other owners. `known` says of the directories that have an entry so far which
    layer was given it here; `_THEIRS` if it was there."""

    def __init__(self, maps: Sequence[IdMap], known: PathTree[int], number: int) -> None:
        self._maps = maps
        self._known = known
        self._number = number
        self._zero = _mapped(0, maps) != 0
        self._any = False

    def see(self, entry: Entry, path: str) -> None:
        if entry.type in ("whiteout", "opaque"):
            self._known.clear(path, self._number, itself=entry.type == "whiteout")
            return
        self._any |= (entry.uid, entry.gid) != self._owner(entry)
        if not self._zero:
            return
        if entry.type == "dir":
            self._known.put(path, _THEIRS, self._number)
        else:
            self._known.touch(path.rpartition("/")[0], self._number)

    def finish(self, links: Links) -> bool:
        for _, node in self._known.touched(self._number):
            if node.value is None:
                node.value = node.layer = self._number
                self._any = True
        return self._any

    def before(self) -> Iterator[Entry]:
        owner = _mapped(0, self._maps)
        for path, node in self._known.touched(self._number):
            if node.value == self._number:
                yield Entry(path=path, type="dir", mode=0o755, uid=owner, gid=owner, mtime_ns=CONSTANT_NS)

    def rewrite(self, entry: Entry, path: str) -> Sequence[Entry]:
        if entry.type in ("whiteout", "opaque"):
            return (entry,)
        uid, gid = self._owner(entry)
        return (msgspec.structs.replace(entry, uid=uid, gid=gid),)

    def _owner(self, entry: Entry) -> tuple[int, int]:
        return _mapped(entry.uid, self._maps), _mapped(entry.gid, self._maps)


def _mapped(number: int, maps: Sequence[IdMap]) -> int:
    for one in maps:
        if one.first <= number < one.first + one.count:
            return one.to + number - one.first
    return number


def _check_maps(maps: Sequence[IdMap]) -> None:
    ordered = sorted(maps, key=lambda one: one.first)
    for one in ordered:
        if one.count < 1 or one.first < 0 or one.to < 0 or max(one.first, one.to) + one.count - 1 > _MAX_ID:
            raise UserError.of("invalid-id-map", f"{one.first}:{one.to}:{one.count} holds no valid ids")
    for low, high in pairwise(ordered):
        if low.first + low.count > high.first:
            raise UserError.of("invalid-id-map", f"two maps say what becomes of id {high.first}")
