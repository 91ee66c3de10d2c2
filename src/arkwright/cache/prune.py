"""Clean-up: mark what is needed, forget and delete the rest.

Only under the store's exclusive lease, and in the worker, because files of a rootless store belong
to subordinate ids. Records go first, in one transaction that is on the disk before anything is
deleted: a kill at any moment leaves garbage, which the next clean-up finds, and never a record of
something that is gone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import msgspec

from arkwright.cache.inventory import (
    FAILED_STEPS,
    Inventory,
    layers_of,
    take_inventory,
    with_parents,
)
from arkwright.cache.reach import Reached, reach
from arkwright.cache.records import RECORDS, SIBLINGS
from arkwright.cache.sizes import BUCKET as SIZES
from arkwright.cache.sizes import LayerSizes, disk_size
from arkwright.oci.descriptor import Descriptor
from arkwright.snapshot.layers import BUCKET as LAYERS
from arkwright.snapshot.layers import directory_path
from arkwright.snapshot.publish import discard_unrecorded
from arkwright.store import gc
from arkwright.store.store import Store

# Buckets of `sources`: what a name was at its registry, who has a blob, downloads by URL.
RESOLVED, ORIGINS, HTTP = "resolved", "origins", "http"
# The layer's blob as it came, which may not have been fetched (see `ops.trees`).
SOURCE_BLOB = "source"


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What stays besides images with a name.

    `keep_images`: the records and layers that they were built from. `keep_failed`: the trees of
    failed steps. Of the rest, what was made in the last `keep_duration_s` seconds, and the newest
    records as long as all that stays of layers takes at most `keep_storage` bytes; -1 is no limit
    where the other one is given. Both -1: nothing of the rest stays.
    """

    keep_images: bool = True
    keep_failed: bool = True
    keep_duration_s: float = -1
    keep_storage: int = -1


class Freed(msgspec.Struct, frozen=True, kw_only=True):
    """What went, or would go: counts, and `bytes` on disk."""

    records: int = 0
    layers: int = 0
    blobs: int = 0
    images: int = 0
    failed_steps: int = 0
    bytes: int = 0


class Plan(msgspec.Struct, kw_only=True):
    """The marks: keys and digests that stay, and the inventory that they were made from."""

    inventory: Inventory
    records: set[str]
    layers: set[str]
    failed: set[str]
    blobs: set[str]
    resolved: set[str]
    images: int
    drop_stats: bool


def prune(store: Store, policy: Policy, *, dry_run: bool = False, now_ns: int = 0) -> Freed:
    """Clean up, under the exclusive lease that the caller holds."""
    sizes = LayerSizes(store)
    plan = _mark(store, policy, sizes, now_ns or time.time_ns())
    freed = _count(store, plan, sizes)
    if dry_run:
        sizes.remember()
        return freed
    _forget(store, plan)
    # SQLite leaves its log to the kernel: it must be on the disk before anything is deleted.
    os.sync()
    discard_unrecorded(store)
    for digest in list(store.content.digests()):
        if digest not in plan.blobs:
            store.content.delete(digest)
    store.clean()
    store.empty_trash()
    return freed


def _mark(store: Store, policy: Policy, sizes: LayerSizes, now_ns: int) -> Plan:
    inventory = take_inventory(store.metadata)
    named = reach(store.content, [descriptor for _, descriptor in store.names.list()])
    failed = set(inventory.failed) if policy.keep_failed else set()
    kept = with_parents((id for key in failed for id in inventory.failed[key].layers), inventory.layers)
    records = _kept_records(inventory, policy, named, kept, sizes, now_ns)
    for key in records:
        kept |= with_parents(layers_of(inventory.records[key].results), inventory.layers)
    kept &= inventory.layers.keys()
    source_digests = {
        blob.digest for id in kept for name, blob in inventory.layers[id].blobs.items() if name == SOURCE_BLOB
    }
    blobs = named.present | {blob.digest for id in kept for blob in inventory.layers[id].blobs.values()}
    oldest_ns = now_ns - int(policy.keep_duration_s * 1e9) if policy.keep_duration_s >= 0 else now_ns
    resolved, documents = _kept_bases(store, source_digests, oldest_ns)
    blobs |= documents | _young_downloads(store, oldest_ns)
    images = _unnamed_images(store, blobs)
    return Plan(
        inventory=inventory, records=records, layers=kept, failed=failed, blobs=blobs, resolved=resolved,
        images=images, drop_stats=not policy.keep_images,
    )  # fmt: skip


def _kept_records(
    inventory: Inventory, policy: Policy, named: Reached, kept: set[str], sizes: LayerSizes, now_ns: int
) -> set[str]:
    """Records of named images first, then the newest while they are young and there is room."""
    whole = {key: layers_of(record.results) for key, record in inventory.records.items()}
    usable = {key for key, layers in whole.items() if layers and all(id in inventory.layers for id in layers)}
    found: set[str] = set()
    marked = set(kept)
    if policy.keep_images:
        of_images = {
            id for id, layer in inventory.layers.items()
            if any(blob.digest in named.layers for blob in layer.blobs.values())
        }  # fmt: skip
        found = {key for key in usable if of_images.issuperset(whole[key])}
        for key in found:
            marked |= with_parents(whole[key], inventory.layers)
    if policy.keep_duration_s < 0 and policy.keep_storage < 0:
        return found
    oldest_ns = now_ns - int(policy.keep_duration_s * 1e9)
    room = policy.keep_storage - sum(map(sizes.of, marked)) if policy.keep_storage >= 0 else -1
    newest = sorted(usable - found, key=lambda key: (inventory.records[key].created_at, key), reverse=True)
    for key in newest:
        if policy.keep_duration_s >= 0 and inventory.records[key].created_at < oldest_ns:
            break
        fresh = with_parents(whole[key], inventory.layers) - marked
        if policy.keep_storage >= 0:
            room -= sum(map(sizes.of, fresh))
            if room < 0:
                break
        found.add(key)
        marked |= fresh
    return found


def _kept_bases(store: Store, sources: set[str], oldest_ns: int) -> tuple[set[str], set[str]]:
    """Names that registries resolved and that a kept layer came from, or that are young; with the
    documents below them, so that an unchanged build needs no registry."""
    names, documents = set(), set()
    for name, data in store.metadata.items(RESOLVED):
        try:
            root = msgspec.json.decode(data, type=Descriptor)
        except msgspec.MsgspecError:
            continue
        if not store.content.has(root.digest):
            continue
        below = reach(store.content, [root])
        if below.layers & sources or _made_ns(store, root.digest) >= oldest_ns:
            names.add(name)
            documents |= below.documents
    return names, documents


def _young_downloads(store: Store, oldest_ns: int) -> set[str]:
    digests = {digest for _, digest in downloads(store)}
    return {
        digest for digest in digests if store.content.has(digest) and _made_ns(store, digest) >= oldest_ns
    }


class _Download(msgspec.Struct, frozen=True):
    digest: str = ""


def downloads(store: Store) -> list[tuple[str, str]]:
    """Keys of the bucket of downloads with the digests of their files; "" for what cannot be read."""
    found = []
    for key, data in store.metadata.items(HTTP):
        try:
            found.append((key, msgspec.json.decode(data, type=_Download).digest))
        except msgspec.MsgspecError:
            found.append((key, ""))
    return [(key, digest if ":" in digest else "") for key, digest in found]


def _made_ns(store: Store, digest: str) -> int:
    return os.stat(store.content.path(digest)).st_mtime_ns


def _unnamed_images(store: Store, kept: set[str]) -> int:
    """How many manifests go: small blobs that read as one."""
    count = 0
    for digest in store.content.digests():
        if digest not in kept and os.stat(store.content.path(digest)).st_size < 1 << 20:
            with store.content.open(digest) as blob:
                start = blob.read(16)
            count += start.startswith(b'{"schemaVersion"')
    return count


def _count(store: Store, plan: Plan, sizes: LayerSizes) -> Freed:
    layers = plan.inventory.layers
    gone = [id for id, layer in layers.items() if id not in plan.layers]
    paths = {directory_path(store.root_path, id) for id in plan.layers if layers[id].unpacked}
    layers_path = os.path.join(store.root_path, "layers")
    known = {directory_path(store.root_path, id): id for id in gone}
    total = 0
    for name in os.listdir(layers_path):
        path = os.path.join(layers_path, name)
        if path not in paths:
            total += sizes.of(known[path]) if path in known else disk_size(path)
    blobs = [digest for digest in store.content.digests() if digest not in plan.blobs]
    total += sum(disk_size(store.content.path(digest)) for digest in blobs)
    total += disk_size(os.path.join(store.root_path, "trash"))
    return Freed(
        records=len(plan.inventory.records) - len(plan.records),
        layers=sum(layers[id].unpacked for id in gone),
        blobs=len(blobs), images=plan.images,
        failed_steps=len(plan.inventory.failed) - len(plan.failed), bytes=total,
    )  # fmt: skip


def _forget(store: Store, plan: Plan) -> None:
    """One transaction: every record of what goes."""
    metadata = store.metadata
    with metadata.transaction():
        for bucket, key in plan.inventory.unreadable:
            metadata.delete(bucket, key)
        _keep_only(store, RECORDS, plan.records.__contains__)
        _keep_only(store, SIBLINGS, lambda name: name.partition("/")[2] in plan.records)
        _keep_only(store, FAILED_STEPS, plan.failed.__contains__)
        _keep_only(store, LAYERS, plan.layers.__contains__)
        _keep_only(store, SIZES, plan.layers.__contains__)
        _keep_only(store, RESOLVED, plan.resolved.__contains__)
        wanted = plan.blobs | {
            blob.digest for id in plan.layers for blob in plan.inventory.layers[id].blobs.values()
        }
        _keep_only(store, ORIGINS, wanted.__contains__)
        for key, digest in downloads(store):
            if digest not in plan.blobs:
                metadata.delete(HTTP, key)
        if plan.drop_stats:
            gc.forget_buckets(metadata, "stat:")


def _keep_only(store: Store, bucket: str, wanted: Callable[[str], bool]) -> None:
    for key, _ in store.metadata.items(bucket):
        if not wanted(key):
            store.metadata.delete(bucket, key)
