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

from arkwright.cache.history import build_ids
from arkwright.cache.history import remove as remove_builds
from arkwright.cache.inventory import FAILED_STEPS
from arkwright.cache.items import HTTP, Holdings, downloads, list_items
from arkwright.cache.marks import RESOLVED, Plan, Policy, mark
from arkwright.cache.records import ATTEMPTS, DETAILS, RECORDS, SIBLINGS, Records, digests_in
from arkwright.cache.selections import BUCKET as SELECTIONS
from arkwright.cache.selections import layer_of
from arkwright.cache.sizes import BUCKET as SIZES
from arkwright.cache.sizes import LayerSizes, disk_size
from arkwright.cache.uses import USES
from arkwright.snapshot.layers import BUCKET as LAYERS
from arkwright.snapshot.layers import TIMES, directory_path
from arkwright.snapshot.publish import discard_unrecorded
from arkwright.store import gc
from arkwright.store.store import Store

# The bucket of `images.listing`: what the layers in blobs hold.
LISTINGS = "layer-listings"
# The bucket of `sources`: who has a blob.
ORIGINS = "origins"


class Freed(msgspec.Struct, frozen=True, kw_only=True):
    """What went, or would go: counts, and `bytes` on disk."""

    records: int = 0
    layers: int = 0
    blobs: int = 0
    images: int = 0
    failed_steps: int = 0
    cache_mounts: int = 0
    git_mirrors: int = 0
    builds: int = 0
    bytes: int = 0


def prune(
    store: Store, policy: Policy, *, dry_run: bool = False, now_ns: int = 0, empty_trash: bool = True
) -> Freed:
    """Clean up, under the exclusive lease that the caller holds.

    Without `empty_trash`, what goes is renamed into the trash, and somebody else deletes it.
    """
    sizes = LayerSizes(store)
    held = Holdings(store, sizes)
    now_ns = now_ns or time.time_ns()
    plan = mark(held, policy, now_ns)
    builds = _builds(held, policy, now_ns)
    freed = _count(held, plan, builds)
    if dry_run:
        sizes.remember()
        return freed
    _forget(store, plan)
    # SQLite leaves its log to the kernel: it must be on the disk before anything is deleted.
    os.sync()
    _discard(held, plan)
    remove_builds(store.root_path, list(builds))
    store.clean()
    if empty_trash:
        store.empty_trash()
    return freed


def _builds(held: Holdings, policy: Policy, now_ns: int) -> dict[str, int]:
    """Journals that go, with their sizes: only those that conditions ask for."""
    if not policy.conditions or "history" not in policy.kinds:
        return {}
    return {
        item.id: item.size
        for item in list_items(held.store, held, named=False)
        if item.kind == "history" and all(one.holds(item, now_ns) for one in policy.conditions)
    }


def _count(held: Holdings, plan: Plan, builds: dict[str, int]) -> Freed:
    store, layers = held.store, plan.inventory.layers
    gone = [id for id, layer in layers.items() if id not in plan.layers]
    paths = {directory_path(store.root_path, id) for id in plan.layers if layers[id].unpacked}
    layers_path = os.path.join(store.root_path, "layers")
    known = {directory_path(store.root_path, id): id for id in gone}
    total = sum(builds.values())
    for name in os.listdir(layers_path):
        path = os.path.join(layers_path, name)
        if path not in paths:
            total += held.sizes.of(known[path]) if path in known else disk_size(path)
    blobs = [digest for digest in held.blobs if digest not in plan.blobs]
    mounts = [one.size for one in held.mounts if one.name not in plan.mounts]
    copies = [one.size for one in held.mirrors if one.name not in plan.mirrors]
    total += sum(held.blobs[digest] for digest in blobs) + sum(mounts) + sum(copies)
    total += disk_size(os.path.join(store.root_path, "trash"))
    return Freed(
        records=len(plan.inventory.records) - len(plan.records),
        layers=sum(layers[id].unpacked for id in gone),
        blobs=len(blobs), images=sum(_is_manifest(held, digest) for digest in blobs),
        failed_steps=len(plan.inventory.failed) - len(plan.failed),
        cache_mounts=len(mounts), git_mirrors=len(copies), builds=len(builds), bytes=total,
    )  # fmt: skip


def _is_manifest(held: Holdings, digest: str) -> bool:
    """Whether a blob is small and reads as a manifest."""
    if held.blobs[digest] > 1 << 20:
        return False
    with held.store.content.open(digest) as blob:
        return blob.read(16).startswith(b'{"schemaVersion"')


def _forget(store: Store, plan: Plan) -> None:
    """One transaction: every record of what goes."""
    metadata = store.metadata
    with metadata.transaction():
        for bucket, key in plan.inventory.unreadable:
            metadata.delete(bucket, key)
        _keep_only(store, RECORDS, plan.records.__contains__)
        _keep_only(store, USES, plan.records.__contains__)
        _keep_only(store, SIBLINGS, lambda name: name.partition("/")[2] in plan.records)
        kept_builds = set(build_ids(store.root_path))
        _keep_only(store, ATTEMPTS, lambda name: name.partition("/")[0] in kept_builds)
        attempts = Records(metadata).attempts()
        explained = [*(plan.inventory.records[key] for key in plan.records), *attempts]
        named = (digests_in(record.fields.values()) for record in explained)
        _keep_only(store, DETAILS, set().union(*named).__contains__)
        _keep_only(store, FAILED_STEPS, plan.failed.__contains__)
        _keep_only(store, LAYERS, plan.layers.__contains__)
        _keep_only(store, SIZES, plan.layers.__contains__)
        _keep_only(store, TIMES, plan.layers.__contains__)
        _keep_only(store, SELECTIONS, lambda key: layer_of(key) in plan.layers)
        _keep_only(store, RESOLVED, plan.resolved.__contains__)
        wanted = plan.blobs | {
            blob.digest for id in plan.layers for blob in plan.inventory.layers[id].blobs.values()
        }
        _keep_only(store, ORIGINS, wanted.__contains__)
        _keep_only(store, LISTINGS, plan.blobs.__contains__)
        for key, digest in downloads(store):
            if digest not in plan.blobs:
                metadata.delete(HTTP, key)
        if plan.drop_stats:
            gc.forget_buckets(metadata, "stat:")


def _discard(held: Holdings, plan: Plan) -> None:
    store = held.store
    discard_unrecorded(store)
    for digest in held.blobs:
        if digest not in plan.blobs:
            store.content.delete(digest)
    for mount in held.mounts:
        if mount.name not in plan.mounts:
            store.trash(os.path.join(store.root_path, "cache-mounts", mount.name))
    for one in held.mirrors:
        if one.name not in plan.mirrors:
            store.trash(os.path.join(store.root_path, "sources", "git", one.name))


def _keep_only(store: Store, bucket: str, wanted: Callable[[str], bool]) -> None:
    for key in store.metadata.keys(bucket):
        if not wanted(key):
            store.metadata.delete(bucket, key)
