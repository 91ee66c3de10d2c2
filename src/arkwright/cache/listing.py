"""What the cache holds: records with age and size, and how much disk all of it takes."""

from __future__ import annotations

import os

import msgspec

from arkwright.cache.inventory import layers_of, take_inventory
from arkwright.cache.reach import reach
from arkwright.cache.sizes import LayerSizes, disk_size
from arkwright.events.journal import journal_path
from arkwright.store.store import Store

_DECLARED = b'{"event":"declared"'


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One record: when (nanoseconds) and by which build it was made, what its own layer takes on
    disk, and the name of the step where the build's journal is still there."""

    key: str
    vertex: str
    name: str
    build: str
    created_at: int
    size: int


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the store: how many things, bytes on disk, and how many of these bytes are
    parts of images with a name, packed or unpacked."""

    part: str
    count: int
    size: int
    needed: int = 0


def list_records(store: Store) -> list[Listed]:
    """All records, newest first."""
    inventory = take_inventory(store.metadata)
    sizes = LayerSizes(store)
    names = StepNames(store.root_path)
    found = []
    for record in sorted(inventory.records.values(), key=lambda one: (-one.created_at, one.key)):
        layers = layers_of(record.results)
        own = layers[-1:] if layers and layers[-1] in inventory.layers else ()
        found.append(
            Listed(
                key=record.key, vertex=record.vertex, name=names.of(record.build, record.vertex),
                build=record.build, created_at=record.created_at, size=sum(map(sizes.of, own)),
            )
        )  # fmt: skip
    sizes.remember()
    return found


def usage(store: Store) -> list[Usage]:
    """The parts of the store."""
    inventory, sizes = take_inventory(store.metadata), LayerSizes(store)
    named = reach(store.content, [descriptor for _, descriptor in store.names.list()])
    blobs = {digest: disk_size(store.content.path(digest)) for digest in store.content.digests()}
    layers = {id: sizes.of(id) for id, layer in inventory.layers.items() if layer.unpacked}
    of_images = sum(
        size for id, size in layers.items()
        if any(blob.digest in named.layers for blob in inventory.layers[id].blobs.values())
    )  # fmt: skip
    sizes.remember()
    return [
        Usage(part="images", count=len(store.names.list()), size=0),
        Usage(
            part="blobs", count=len(blobs), size=sum(blobs.values()),
            needed=sum(size for digest, size in blobs.items() if digest in named.present),
        ),
        Usage(part="layers", count=len(layers), size=sum(layers.values()), needed=of_images),
        Usage(part="records", count=len(inventory.records), size=_size(store, "metadata.db")),
        Usage(part="cache mounts", count=_count(store, "cache-mounts"), size=_size(store, "cache-mounts")),
        Usage(part="sources", count=_count(store, "sources/git"), size=_size(store, "sources")),
        Usage(part="history", count=_count(store, "history"), size=_size(store, "history")),
        Usage(part="trash", count=_count(store, "trash"), size=_size(store, "trash")),
    ]  # fmt: skip


class StepNames:
    """Names of vertices, from the journals of builds; each is read once, and only for its names."""

    def __init__(self, root_path: str) -> None:
        self._root_path = root_path
        self._known: dict[str, dict[str, str]] = {}

    def of(self, build: str, vertex: str) -> str:
        """The vertex' name in a build, or ""."""
        if build not in self._known:
            self._known[build] = self._read(build)
        return self._known[build].get(vertex, "")

    def _read(self, build: str) -> dict[str, str]:
        if not build or "/" in build or build.startswith("."):
            return {}
        try:
            with open(journal_path(self._root_path, build), "rb") as journal:
                lines = [line for line in journal if line.startswith(_DECLARED)]
        except OSError:
            return {}
        found = {}
        for line in lines:
            try:
                declared = msgspec.json.decode(line, type=_Declared)
            except msgspec.MsgspecError:
                continue
            found[declared.vertex] = declared.name
        return found


class _Declared(msgspec.Struct):
    vertex: str = ""
    name: str = ""


def _size(store: Store, name: str) -> int:
    return disk_size(os.path.join(store.root_path, name))


def _count(store: Store, name: str) -> int:
    try:
        return len(os.listdir(os.path.join(store.root_path, name)))
    except FileNotFoundError:
        return 0
