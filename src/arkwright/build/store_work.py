"""Looking through a store and cleaning it, with the rights that its files need."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from arkwright.diagnostics.errors import HostUnsupported

if TYPE_CHECKING:
    from arkwright.linux.worker import Worker


def on_store(body: Callable[[], bytes], root_path: str) -> bytes:
    """Run a body in the worker, which can read and delete files of subordinate ids too.

    Where this user gets no worker, only builds without steps were possible, and every file of the store
    is the user's own: there the body runs here. Raises what the body and `run_in_worker` raise.
    """
    return _in_worker(lambda worker: body(), root_path)


def check_store(root_path: str, *, repair: bool, wait_s: float) -> bytes:
    """The findings of `cache.fsck.check`, as JSON. Raises `UserError` `store-in-use` after `wait_s`."""
    from functools import cache

    import msgspec

    from arkwright.cache.fsck import check
    from arkwright.snapshot.base import Snapshotter
    from arkwright.store.store import Store

    def inside(worker: Worker | None) -> bytes:
        with Store.open(root_path) as store, store.exclusive(wait_s), ExitStack() as stack:

            @cache
            def snapshotter() -> Snapshotter:
                from arkwright.build.tiers import chosen_snapshotter

                assert worker is not None
                return stack.enter_context(closing(chosen_snapshotter(store, worker, "auto", lambda _: None)))

            found = check(store, repair=repair, snapshotter=None if worker is None else snapshotter)
        return msgspec.json.encode(found)

    return _in_worker(inside, root_path)


def _in_worker(body: Callable[[Worker | None], bytes], root_path: str) -> bytes:
    from arkwright.linux.worker import run_in_worker

    try:
        return run_in_worker(body, store_root_path=root_path)
    except HostUnsupported as error:
        if error.code != "no-user-namespace":
            raise
    return body(None)
