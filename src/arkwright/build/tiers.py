"""Which snapshots and which sandbox a worker gives a build: the strongest that work there."""

from __future__ import annotations

import os
from collections.abc import Callable

from arkwright.diagnostics.errors import HostUnsupported
from arkwright.layer.stamps import Stamps
from arkwright.linux.worker import Worker
from arkwright.sandbox.choice import needs_copies
from arkwright.snapshot.base import Snapshotter
from arkwright.snapshot.publish import discard, make_work_directory
from arkwright.store.store import Store

_Notice = Callable[[str], None]


def chosen_snapshotter(
    store: Store,
    worker: Worker,
    isolation: str,
    notice: _Notice,
    stamps: Stamps = Stamps(),  # noqa: B008 - frozen
) -> Snapshotter:
    """Overlays where the store's file system and the worker's namespaces take them, else copies. `stamps` is
    the rule under which layers are made."""
    if needs_copies(worker, isolation):
        return _copies(store, stamps)
    refusal = _overlay_refused(store)
    if refusal:
        notice(f"{refusal}: trees are copied, which takes more time and disk")
        return _copies(store, stamps)
    from arkwright.snapshot.overlay import OverlaySnapshotter

    return OverlaySnapshotter(store, stamps=stamps)


def _copies(store: Store, stamps: Stamps) -> Snapshotter:
    from arkwright.linux.syscalls import syncfs
    from arkwright.snapshot.copy import CopySnapshotter

    return CopySnapshotter(store, sync=lambda: syncfs(store.root_path), stamps=stamps)


def _overlay_refused(store: Store) -> str:
    """Why no overlay can be mounted in the store, or nothing."""
    from arkwright.linux import mounts

    claim = store.claim_work()
    try:
        lower, upper, work, merged = (
            os.path.join(claim.path, name) for name in ("lower", "upper", "work", "merged")
        )
        for path in (lower, upper, work, merged):
            make_work_directory(path)
        mounts.overlay([lower], upper, work, merged, volatile=True)
        mounts.unmount(merged)
    except HostUnsupported as error:
        return str(error)
    finally:
        discard(store, claim)
    return ""
