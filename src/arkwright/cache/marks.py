"""Marking: what of a store stays, under a policy.

First what stays in any case; then the rest by last use, the latest first, as long as it is young
enough and there is room. What a kept thing stands on stays with it, so a thing's cost is what it
adds to what is kept already.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from arkwright.cache.filters import Condition
from arkwright.cache.inventory import Inventory, layers_of, with_parents
from arkwright.cache.items import KINDS, Holdings, downloads, list_items
from arkwright.cache.reach import reach
from arkwright.cache.sizes import disk_size, written_to_mounts
from arkwright.cache.uses import last_use
from arkwright.oci.descriptor import Descriptor

# The bucket of `sources`: what a name was at its registry.
RESOLVED = "resolved"
# The layer's blob as it came, which may not have been fetched (see `ops.trees`).
SOURCE_BLOB = "source"
# What goes without being asked for by its type; cache mounts and the history of builds do not.
USUAL = frozenset({"step", "base", "blob", "download", "git", "failed-step"})
ALL = frozenset(KINDS)


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What stays besides images with a name.

    Only things of `kinds` that fulfil all `conditions` may go; the rest stays. `keep_images`: the
    records and layers that named images were built from stay. `keep_failed`: so do the trees of
    failed steps. Of what may go stays what was used in the last `keep_duration_s` seconds, and, by
    last use, as much as there is room for: `max_used_space` bytes for the whole store, less if
    `min_free_space` bytes of the disk would not be free, but never less than `reserved_space`.
    With `beside_images`, what stays in any case does not count. -1 is no limit where another one is
    given; all -1: nothing of it stays.
    """

    keep_images: bool = True
    keep_failed: bool = True
    keep_duration_s: float = -1
    reserved_space: int = -1
    max_used_space: int = -1
    min_free_space: int = -1
    beside_images: bool = False
    kinds: frozenset[str] = USUAL
    conditions: tuple[Condition, ...] = ()

    @property
    def limited(self) -> bool:
        """Whether sizes count."""
        return max(self.reserved_space, self.max_used_space, self.min_free_space) >= 0


class Plan(msgspec.Struct, kw_only=True):
    """The marks: keys, digests and names that stay, and the inventory that they were made from."""

    inventory: Inventory
    records: set[str]
    layers: set[str] = set()
    failed: set[str] = set()
    blobs: set[str] = set()
    resolved: set[str] = set()
    mounts: set[str] = set()
    mirrors: set[str] = set()
    drop_stats: bool = False


class _Unit(msgspec.Struct, frozen=True):
    """Something that stays or goes as a whole."""

    kind: str
    id: str
    used_at: int
    layers: tuple[str, ...] = ()
    digest: str = ""
    size: int = 0
    named: bool = False
    certain: bool = False


def mark(held: Holdings, policy: Policy, now_ns: int) -> Plan:
    """What stays."""
    return _Marker(held, policy, now_ns).run()


class _Marker:
    def __init__(self, held: Holdings, policy: Policy, now_ns: int) -> None:
        self._held = held
        self._store = held.store
        self._policy = policy
        self._now_ns = now_ns
        self._plan = Plan(inventory=held.inventory, records=set(), drop_stats=not policy.keep_images)
        self._matching: set[tuple[str, str]] | None = None
        if policy.conditions:
            by_name = any(one.field in ("name", "description") for one in policy.conditions)
            items = list_items(held.store, held, named=by_name)
            self._matching = {
                (item.kind, item.id)
                for item in items
                if all(condition.holds(item, now_ns) for condition in policy.conditions)
            }

    def run(self) -> Plan:
        plan, inventory = self._plan, self._held.inventory
        plan.blobs = set(self._held.named.present)
        units = [
            *self._records(), *self._trees(), *self._failed(), *self._containers(), *self._others()
        ]  # fmt: skip
        rest = []
        for unit in units:
            if unit.certain:
                self._keep(unit)
            else:
                rest.append(unit)
        owned = {digest for _, digest in downloads(self._store)}
        owned |= {blob.digest for layer in inventory.layers.values() for blob in layer.blobs.values()}
        plan.blobs |= {one for one in self._held.blobs.keys() - owned if not self._may_go("blob", one)}
        self._fill(rest)
        plan.layers &= inventory.layers.keys()
        plan.blobs |= {blob.digest for id in plan.layers for blob in inventory.layers[id].blobs.values()}
        self._bases()
        return plan

    def _may_go(self, kind: str, id: str) -> bool:
        if kind not in self._policy.kinds:
            return False
        return self._matching is None or (kind, id) in self._matching

    # --- What there is -----------------------------------------------------------------------

    def _records(self) -> Iterator[_Unit]:
        held, layers = self._held, self._held.inventory.layers
        of_images = {
            id for id, layer in layers.items()
            if any(blob.digest in held.named.layers for blob in layer.blobs.values())
        }  # fmt: skip
        for key, record in held.inventory.records.items():
            whole = layers_of(record.results)
            if not whole or any(id not in layers for id in whole):
                continue
            kind = "base" if layers[whole[-1]].origin == "applied" else "step"
            named = of_images.issuperset(whole)
            certain = (named and self._policy.keep_images) or not self._may_go(kind, whole[-1])
            yield _Unit(
                "record", key, last_use(record, held.uses).at, layers=whole, named=named, certain=certain
            )

    def _trees(self) -> Iterator[_Unit]:
        """Layers that no record and no failed step stands on: of images that were only run."""
        inventory = self._held.inventory
        used = {id for record in inventory.records.values() for id in layers_of(record.results)}
        used |= {id for step in inventory.failed.values() for id in step.layers}
        used = with_parents(used, inventory.layers)
        for id, layer in inventory.layers.items():
            if id not in used:
                kind = "base" if layer.origin == "applied" else "step"
                yield _Unit(
                    "layer", id, layer.created_at * 10**9, layers=(id,), certain=not self._may_go(kind, id)
                )

    def _failed(self) -> Iterator[_Unit]:
        by_layer = self._held.layer_uses
        asked = any(condition.field == "type" for condition in self._policy.conditions)
        for key, step in self._held.inventory.failed.items():
            used_at = max((by_layer[id].at for id in step.layers[-1:] if id in by_layer), default=0)
            certain = (self._policy.keep_failed and not asked) or not self._may_go("failed-step", key)
            yield _Unit("failed", key, used_at, layers=step.layers, certain=certain)

    def _containers(self) -> Iterator[_Unit]:
        for name, container in self._held.inventory.containers.items():
            yield _Unit(
                "layer",
                container.held[-1] if container.held else name,
                0,
                layers=container.held,
                certain=True,
            )

    def _others(self) -> Iterator[_Unit]:
        for digest in {digest for _, digest in downloads(self._store)} & self._held.blobs.keys():
            made = os.stat(self._store.content.path(digest)).st_mtime_ns
            certain = not self._may_go("download", digest)
            yield _Unit("download", digest, made, digest=digest, certain=certain)
        for mount in self._held.mounts:
            certain = not self._may_go("cache-mount", mount.name)
            yield _Unit("mount", mount.name, int(mount.used_at * 1e9), size=mount.size, certain=certain)
        for one in self._held.mirrors:
            yield _Unit(
                "mirror", one.name, one.used_at, size=one.size, certain=not self._may_go("git", one.name)
            )

    # --- What stays --------------------------------------------------------------------------

    def _keep(self, unit: _Unit) -> None:
        plan = self._plan
        kept = {
            "record": plan.records, "failed": plan.failed, "layer": plan.layers,
            "download": plan.blobs, "mount": plan.mounts, "mirror": plan.mirrors,
        }  # fmt: skip
        kept[unit.kind].add(unit.digest or unit.id)
        plan.layers |= with_parents(unit.layers, plan.inventory.layers)

    def _fill(self, rest: list[_Unit]) -> None:
        """Keep of the rest what is young, by last use, while there is room."""
        policy = self._policy
        if policy.keep_duration_s < 0 and not policy.limited:
            return
        oldest_ns = self._now_ns - int(policy.keep_duration_s * 1e9) if policy.keep_duration_s >= 0 else 0
        room = self._room(rest)
        for unit in sorted(rest, key=lambda one: (-one.used_at, one.id)):
            if unit.used_at < oldest_ns:
                break
            cost = self._cost(unit)
            if room is not None and cost > room:
                continue
            self._keep(unit)
            room = None if room is None else room - cost

    def _cost(self, unit: _Unit) -> int:
        """What keeping it adds."""
        layers = self._plan.inventory.layers
        fresh = (with_parents(unit.layers, layers) - self._plan.layers) & layers.keys()
        size = unit.size + sum(self._held.sizes.of(id) for id in fresh if layers[id].unpacked)
        digests = {blob.digest for id in fresh for blob in layers[id].blobs.values()}
        digests |= {unit.digest} if unit.digest else set()
        return size + sum(self._held.blobs.get(digest, 0) for digest in digests - self._plan.blobs)

    def _room(self, rest: list[_Unit]) -> int | None:
        """Bytes that the rest may take; None for as many as it likes."""
        policy = self._policy
        if not policy.limited:
            return None
        kept = self._kept_size()
        limit = policy.max_used_space if policy.max_used_space >= 0 else None
        if policy.min_free_space >= 0:
            disk = os.statvfs(self._store.root_path)
            lacking = policy.min_free_space - disk.f_bavail * disk.f_frsize
            if lacking > 0:
                everything = kept + sum(map(self._cost, rest))
                limit = min(everything - lacking, everything if limit is None else limit)
        if policy.reserved_space >= 0:
            limited = policy.max_used_space >= 0 or policy.min_free_space >= 0
            if limit is not None or not limited:
                limit = max(limit or 0, policy.reserved_space)
        if limit is None:
            return None
        return max(0, limit if policy.beside_images else limit - kept)

    def _kept_size(self) -> int:
        """What stays so far takes, with the parts of the store that never go."""
        plan, held = self._plan, self._held
        layers = plan.inventory.layers
        size = sum(held.sizes.of(id) for id in plan.layers if id in layers and layers[id].unpacked)
        packed = {blob.digest for id in plan.layers if id in layers for blob in layers[id].blobs.values()}
        size += sum(held.blobs.get(digest, 0) for digest in plan.blobs | packed)
        size += sum(mount.size for mount in self._held.mounts if mount.name in plan.mounts)
        size += sum(one.size for one in self._held.mirrors if one.name in plan.mirrors)
        fixed: list[str] = ["metadata.db", "metadata.db-wal", "history", "ingest", "work", "claims"]
        size += sum(map(disk_size, written_to_mounts(self._store.root_path)))
        return size + sum(disk_size(os.path.join(self._store.root_path, name)) for name in fixed)

    def _bases(self) -> None:
        """Names that registries resolved and that a kept layer came from, or that are young; with the
        documents below them, so that an unchanged build needs no registry."""
        plan, content, policy = self._plan, self._store.content, self._policy
        layers = plan.inventory.layers
        sources = {
            blob.digest for id in plan.layers
            for name, blob in layers[id].blobs.items() if name == SOURCE_BLOB
        }  # fmt: skip
        oldest_ns = self._now_ns - int(max(policy.keep_duration_s, 0) * 1e9)
        for name, data in self._store.metadata.items(RESOLVED):
            try:
                root = msgspec.json.decode(data, type=Descriptor)
            except msgspec.MsgspecError:
                continue
            if not content.has(root.digest):
                continue
            below = reach(content, [root])
            young = os.stat(content.path(root.digest)).st_mtime_ns >= oldest_ns
            if below.layers & sources or young or not self._may_go("blob", root.digest):
                plan.resolved.add(name)
                plan.blobs |= below.documents
