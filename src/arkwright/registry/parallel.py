"""A bounded number of transfers at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")

Task = Callable[[threading.Event], T]


def run_all(tasks: Sequence[Task[T]], *, jobs: int, abort: Callable[[], None]) -> list[T]:
    """The results of all tasks, in order.

    The first failure is raised, after the others were told to stop by the event that each got.
    When this thread itself is interrupted, `abort` makes them stop at once.
    """
    stop = threading.Event()
    if len(tasks) <= 1 or jobs <= 1:
        return [task(stop) for task in tasks]
    with ThreadPoolExecutor(max_workers=min(jobs, len(tasks)), thread_name_prefix="registry") as pool:
        try:
            futures = [pool.submit(task, stop) for task in tasks]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            abort()
            raise
        failures = [error for future in futures if future in done and (error := future.exception())]
        if failures:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise failures[0]
        return [future.result() for future in futures]
