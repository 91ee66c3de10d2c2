"""The records of a store, decoded at once, for those who look at all of them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import msgspec

from arkwright.cache.records import RECORDS, Record
from arkwright.diagnostics.wire import ready
from arkwright.oci.descriptor import Descriptor
from arkwright.snapshot.base import Layer
from arkwright.snapshot.layers import BUCKET as LAYERS
from arkwright.store.metadata import Metadata

# The bucket of failed steps, whose trees are kept to be looked at (see `ops.exec`).
FAILED_STEPS = "failed-steps"
# The bucket of working containers (see `images.containers`).
CONTAINERS = "containers"


class Layered(msgspec.Struct, frozen=True):
    """What records and failed steps have in common: a tree, as ids of layers, lowest first. `build` is
    that of a failed step."""

    layers: tuple[str, ...] = ()
    command: str = ""
    build: str = ""


ready(Layered)


class Held(msgspec.Struct, frozen=True):
    """What a working container keeps: the layers that it names, and the manifests that it stands on."""

    held: tuple[str, ...] = ()
    roots: tuple[Descriptor, ...] = ()


class Inventory(msgspec.Struct):
    """Everything that refers to layers. `unreadable` are pairs of bucket and key."""

    records: dict[str, Record] = {}
    layers: dict[str, Layer] = {}
    failed: dict[str, Layered] = {}
    containers: dict[str, Held] = {}
    unreadable: list[tuple[str, str]] = []


def take_inventory(metadata: Metadata) -> Inventory:
    """Read it all."""
    found = Inventory()
    for key, data in metadata.items(RECORDS):
        try:
            found.records[key] = msgspec.json.decode(data, type=Record)
        except msgspec.MsgspecError:
            found.unreadable.append((RECORDS, key))
    for key, data in metadata.items(LAYERS):
        try:
            found.layers[key] = msgspec.json.decode(data, type=Layer)
        except msgspec.MsgspecError:
            found.unreadable.append((LAYERS, key))
    for key, data in metadata.items(FAILED_STEPS):
        try:
            found.failed[key] = msgspec.json.decode(data, type=Layered)
        except msgspec.MsgspecError:
            found.unreadable.append((FAILED_STEPS, key))
    for key, data in metadata.items(CONTAINERS):
        try:
            found.containers[key] = msgspec.json.decode(data, type=Held)
        except msgspec.MsgspecError:
            found.unreadable.append((CONTAINERS, key))
    return found


def layers_of(results: Iterable[bytes]) -> tuple[str, ...]:
    """The layer ids in encoded results, one after the other; what is no tree (a context) has none. A
    tree may have a layer twice, after two equal `COPY --link`."""
    found: list[str] = []
    for data in results:
        with suppress(msgspec.MsgspecError):
            found += msgspec.json.decode(data, type=Layered).layers
    return tuple(found)


def with_parents(layers: Iterable[str], known: dict[str, Layer]) -> set[str]:
    """Layers with everything that they were made on."""
    found: set[str] = set()
    pending = list(layers)
    while pending:
        layer_id = pending.pop()
        if layer_id not in found:
            found.add(layer_id)
            layer = known.get(layer_id)
            pending.extend(layer.parents if layer is not None else ())
    return found
