"""The things that take disk in a store: what each is, how large, for whom, when last used."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property

import msgspec

from arkwright.cache.inventory import Inventory, layers_of, take_inventory, with_parents
from arkwright.cache.listing import StepNames
from arkwright.cache.mounts import CacheMount, list_mounts
from arkwright.cache.reach import Reached, reach, with_referrers
from arkwright.cache.sizes import LayerSizes, disk_size, written_to_mounts
from arkwright.cache.uses import Use, last_use, read_uses
from arkwright.events.journal import journal_path
from arkwright.store.store import Store

KINDS = ("step", "base", "image", "blob", "download", "git", "cache-mount", "failed-step", "history", "other")
HTTP = "http"
_BARE = 4096  # an empty directory


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One thing. `size` in bytes on disk, `created_at` and `used_at` in nanoseconds since the epoch.

    `kind` is one of `KINDS`: the layer of a `step` or of a `base`, packed and unpacked; an `image`
    with a name (its documents, and layers never unpacked); a `blob` of no image with a name; a
    `download`; a `git` mirror; a `cache-mount`; the tree of a `failed-step`; the `history` of a build;
    `other` parts of the store. `build` used it last. `users` counts images and last steps of
    builds that stand on it; `needed`: an image with a name is made of it.
    """

    kind: str
    id: str
    name: str = ""
    size: int = 0
    created_at: int = 0
    used_at: int = 0
    build: str = ""
    users: int = 0
    needed: bool = False


class Download(msgspec.Struct, frozen=True):
    """What the bucket of downloads says of a file, as far as it counts here."""

    digest: str = ""


def downloads(store: Store) -> list[tuple[str, str]]:
    """Keys of the bucket of downloads with the digests of their files; "" for what cannot be read."""
    found = []
    for key, data in store.metadata.items(HTTP):
        try:
            found.append((key, msgspec.json.decode(data, type=Download).digest))
        except msgspec.MsgspecError:
            found.append((key, ""))
    return [(key, digest if ":" in digest else "") for key, digest in found]


class Mirror(msgspec.Struct, frozen=True):
    """A git mirror: its name below `sources/git`, its size, and when it was last asked."""

    name: str
    size: int
    used_at: int


def list_mirrors(store: Store) -> list[Mirror]:
    """The copies of git repositories."""
    base_path = os.path.join(store.root_path, "sources", "git")
    if not os.path.isdir(base_path):
        return []
    paths = [entry.path for entry in os.scandir(base_path) if entry.is_dir(follow_symlinks=False)]
    return [
        Mirror(os.path.basename(path), disk_size(path), os.stat(path).st_mtime_ns) for path in sorted(paths)
    ]


class Holdings:
    """A store's things with their relations, each part looked up when it is asked for."""

    def __init__(self, store: Store, sizes: LayerSizes | None = None) -> None:
        self.store = store
        self.sizes = sizes or LayerSizes(store)
        self.inventory: Inventory = take_inventory(store.metadata)
        self.names = store.names.list()
        self.uses = read_uses(store.metadata)

    @cached_property
    def named(self) -> Reached:
        """Everything below images with a name, below what working containers stand on, and below
        what refers to one of those."""
        roots = [descriptor for _, descriptor in self.names]
        roots += [root for one in self.inventory.containers.values() for root in one.roots]
        return with_referrers(self.store, reach(self.store.content, roots), roots)

    @cached_property
    def blobs(self) -> dict[str, int]:
        """Bytes on disk by digest."""
        content = self.store.content
        return {digest: disk_size(content.path(digest)) for digest in content.digests()}

    @cached_property
    def mounts(self) -> list[CacheMount]:
        """The cache mounts."""
        return list_mounts(self.store)

    @cached_property
    def mirrors(self) -> list[Mirror]:
        """The git mirrors."""
        return list_mirrors(self.store)

    @cached_property
    def layer_uses(self) -> dict[str, Use]:
        """When each layer was last used: as the latest of the records and failed steps on it."""
        found: dict[str, Use] = {}
        for record in self.inventory.records.values():
            use = last_use(record, self.uses)
            for id in with_parents(layers_of(record.results), self.inventory.layers):
                if id not in found or use.at >= found[id].at:
                    found[id] = use
        made = {id: Use(layer.created_at * 10**9) for id, layer in self.inventory.layers.items()}
        return {id: found.get(id, use) for id, use in made.items()}

    @cached_property
    def made_by(self) -> dict[str, str]:
        """The key of the newest record whose last layer is this one, by layer."""
        found: dict[str, str] = {}
        for record in sorted(self.inventory.records.values(), key=lambda one: one.created_at):
            layers = layers_of(record.results)
            if layers:
                found[layers[-1]] = record.key
        return found

    def layer_size(self, layer_id: str) -> int:
        """What a layer takes, unpacked and packed."""
        layer = self.inventory.layers[layer_id]
        packed = {blob.digest for blob in layer.blobs.values()}
        return (self.sizes.of(layer_id) if layer.unpacked else 0) + sum(
            self.blobs.get(one, 0) for one in packed
        )

    def users(self) -> dict[str, set[str]]:
        """Who stands on each layer: names of images, and last layers of builds that no image has."""
        found: dict[str, set[str]] = defaultdict(set)
        by_blob: dict[str, list[str]] = defaultdict(list)
        layers = self.inventory.layers
        for id, layer in layers.items():
            for blob in layer.blobs.values():
                by_blob[blob.digest].append(id)
        for name, root in self.names:
            for digest in reach(self.store.content, [root]).layers:
                for id in by_blob[digest]:
                    found[id].add(name)
        for name, held in self.inventory.containers.items():
            for id in held.held:
                found[id].add(f"container {name}")
        below: set[str] = set()
        for id in self.made_by:
            below |= with_parents([id], layers) - {id}
        for id in self.made_by.keys() - below:
            if not found[id]:
                for part in with_parents([id], layers):
                    found[part].add(id)
        return found


def list_items(store: Store, held: Holdings | None = None, *, named: bool = True) -> list[Item]:
    """Everything in the store that takes disk, the largest first.

    Without `named` no journal is read, so steps have no name.
    """
    held = held or Holdings(store)
    found = [*_layers(held, named=named), *_images(held), *_blobs(held), *_places(held), *_history(held)]
    held.sizes.remember()
    return sorted(found, key=lambda item: (-item.size, item.kind, item.id))


def _layers(held: Holdings, *, named: bool) -> Iterator[Item]:
    users = held.users()
    names = StepNames(held.store.root_path)
    references = _base_names(held)
    failed = {step.layers[-1]: key for key, step in held.inventory.failed.items() if step.layers}
    for id, layer in held.inventory.layers.items():
        use = held.layer_uses[id]
        needed = any(blob.digest in held.named.layers for blob in layer.blobs.values())
        key = held.made_by.get(id)
        if id in failed:
            step = held.inventory.failed[failed[id]]
            kind, name, use = "failed-step", step.command, Use(use.at, step.build)
        elif key is not None and layer.origin != "applied":
            record = held.inventory.records[key]
            kind, name = "step", (names.of(record.build, record.vertex) if named else "") or record.vertex
        else:
            kind = "base" if layer.origin == "applied" else "step"
            name = next(
                (references[one.digest] for one in layer.blobs.values() if one.digest in references),
                "" if kind == "base" else "of no record: the step gave something else since",
            )
        yield Item(
            kind=kind, id=failed.get(id, id), name=name, size=held.layer_size(id), created_at=layer.created_at * 10**9,
            used_at=use.at, build=use.build, users=len(users.get(id, ())), needed=needed,
        )  # fmt: skip


def _base_names(held: Holdings) -> dict[str, str]:
    """Names of images by the digests of their layers."""
    found: dict[str, str] = {}
    for name, root in held.names:
        for digest in reach(held.store.content, [root]).layers:
            found.setdefault(digest, name)
    return found


def _images(held: Holdings) -> Iterator[Item]:
    packed = {blob.digest for layer in held.inventory.layers.values() for blob in layer.blobs.values()}
    counted: set[str] = set()
    for name, root in held.names:
        below = reach(held.store.content, [root]).present - packed
        made = _mtime_ns(held.store.content.path(root.digest))
        yield Item(
            kind="image", id=root.digest, name=name, size=sum(held.blobs.get(one, 0) for one in below - counted),
            created_at=made, used_at=made, users=1, needed=True,
        )  # fmt: skip
        counted |= below


def _blobs(held: Holdings) -> Iterator[Item]:
    packed = {blob.digest for layer in held.inventory.layers.values() for blob in layer.blobs.values()}
    fetched = {digest for _, digest in downloads(held.store)}
    for digest in held.blobs.keys() - packed - held.named.present:
        made = _mtime_ns(held.store.content.path(digest))
        kind = "download" if digest in fetched else "blob"
        yield Item(kind=kind, id=digest, size=held.blobs[digest], created_at=made, used_at=made)


def _places(held: Holdings) -> Iterator[Item]:
    for mount in held.mounts:
        at = int(mount.used_at * 1e9)
        yield Item(
            kind="cache-mount", id=mount.name, name=mount.id, size=mount.size, created_at=at, used_at=at,
            build=mount.build,
        )  # fmt: skip
    for mirror in held.mirrors:
        yield Item(
            kind="git", id=mirror.name, size=mirror.size, created_at=mirror.used_at, used_at=mirror.used_at
        )
    root_path = held.store.root_path
    named = {
        name: os.path.join(root_path, name)
        for name in ("metadata.db", "metadata.db-wal", "ingest", "work", "trash")
    }
    named |= {os.path.relpath(path, root_path): path for path in written_to_mounts(root_path)}
    for name, path in named.items():
        if (size := disk_size(path)) > _BARE:
            at = _mtime_ns(path)
            yield Item(kind="other", id=name, name=name, size=size, created_at=at, used_at=at)


def _history(held: Holdings) -> Iterator[Item]:
    base_path = os.path.join(held.store.root_path, "history")
    for build in sorted(os.listdir(base_path)):
        at = _mtime_ns(journal_path(held.store.root_path, build))
        size = disk_size(os.path.join(base_path, build))
        yield Item(kind="history", id=build, size=size, created_at=at, used_at=at, build=build)


def _mtime_ns(path: str) -> int:
    try:
        return os.lstat(path).st_mtime_ns
    except FileNotFoundError:
        return 0
