"""Looking through a store and cleaning it, with the rights that its files need."""

from __future__ import annotations

from collections.abc import Callable

from arkwright.diagnostics.errors import HostUnsupported


def on_store(body: Callable[[], bytes], root_path: str) -> bytes:
    """Run a body in the worker, which can read and delete files of subordinate ids too.

    Where this user gets no worker, only builds without steps were possible, and every file of the store
    is the user's own: there the body runs here. Raises what the body and `run_in_worker` raise.
    """
    from arkwright.linux.worker import Worker, run_in_worker

    def inside(worker: Worker) -> bytes:
        return body()

    try:
        return run_in_worker(inside, store_root_path=root_path)
    except HostUnsupported as error:
        if error.code != "no-user-namespace":
            raise
    return body()
