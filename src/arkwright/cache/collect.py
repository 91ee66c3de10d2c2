"""Garbage collection: the rules, from what is easy to get again to what took long to make.

    1. history                           beyond the newest 50 builds and the last 48 hours
    2. downloads, git mirrors, mounts    unused for 48 hours, by last use, while they take over 512 MiB
    3. steps and bases                   unused for 60 days
    4. everything but named images       by last use, down to a tenth of the disk (2 GiB at least); with
                                         a quota, once nine tenths are used, the store down to four fifths
    5. the cache of named images         by last use, when the quota cannot be kept otherwise

The collector has the store for itself and never waits for that: who comes last does the work.
"""

from __future__ import annotations

import os
import time

import msgspec

from arkwright.cache.filters import Condition
from arkwright.cache.history import build_ids
from arkwright.cache.history import remove as remove_builds
from arkwright.cache.marks import ALL, USUAL, Policy
from arkwright.cache.meter import Meter
from arkwright.cache.prune import prune
from arkwright.cache.settings import Limits, State, note
from arkwright.events.journal import journal_path
from arkwright.store.store import Store

_SOURCES = frozenset({"download", "git", "cache-mount"})


class Collected(msgspec.Struct, frozen=True):
    """The store's size before and after, in bytes."""

    before: int
    after: int


def collect(store: Store, limits: Limits, *, now_ns: int = 0) -> Collected:
    """Apply the rules, under the exclusive lease that the caller holds; what goes is in the trash
    then. A quota that even images with a name exceed is exceeded afterwards as well."""
    now_ns = now_ns or time.time_ns()
    meter = Meter(store.root_path)
    before = meter.measure()
    trim_history(store, limits, now_ns)
    _apply(store, _easy(limits), now_ns)
    _apply(store, Policy(conditions=(_unused(limits.unused_s),), keep_failed=False), now_ns)
    after = meter.measure()
    if limits.quota < 0:
        _apply(store, _by_disk(store, limits), now_ns)
        after = meter.measure()
    elif needs_room(after, limits):
        target = max(0, min(limits.quota * 4 // 5, limits.quota - limits.room))
        for keep_images in (True, False):
            # The cache of images with a name goes only for the quota itself, not for room below it.
            if keep_images or after > limits.quota:
                policy = Policy(kinds=ALL, keep_images=keep_images, keep_failed=False, max_used_space=target)
                _apply(store, policy, now_ns)
                after = meter.measure()
    note(store.metadata, State(at=now_ns / 1e9))
    return Collected(before, after)


def trim_history(store: Store, limits: Limits, now_ns: int) -> int:
    """Delete the journals of builds that are neither new nor among the newest."""
    root_path = store.root_path
    at = {build: _written_ns(root_path, build) for build in build_ids(root_path)}
    newest = sorted(at, key=lambda build: (at[build], build), reverse=True)
    oldest_ns = now_ns - int(limits.history_s * 1e9)
    return remove_builds(root_path, [one for one in newest[limits.history_builds :] if at[one] < oldest_ns])


def _written_ns(root_path: str, build: str) -> int:
    return os.stat(journal_path(root_path, build)).st_mtime_ns


def needs_room(used: int, limits: Limits) -> bool:
    """Whether the store is so near its quota that it should shrink: nine tenths of it."""
    return limits.quota >= 0 and used > min(limits.quota * 9 // 10, limits.quota - limits.room)


def _unused(age_s: float) -> Condition:
    return Condition("unused-for", "=", "", age_s)


def _easy(limits: Limits) -> Policy:
    """What is easy to get again: room for some of it, whatever else there is."""
    return Policy(
        kinds=_SOURCES, conditions=(_unused(limits.sources_s),), max_used_space=limits.sources_space,
        beside_images=True,
    )  # fmt: skip


def _by_disk(store: Store, limits: Limits) -> Policy:
    disk = os.statvfs(store.root_path)
    allowed = max(limits.least_space, int(disk.f_blocks * disk.f_frsize * limits.disk_share))
    return Policy(kinds=USUAL | _SOURCES, max_used_space=allowed, beside_images=True)


def _apply(store: Store, policy: Policy, now_ns: int) -> None:
    prune(store, policy, now_ns=now_ns, empty_trash=False)
