from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest
from registry_images import AMD64, image

from arkwright.oci import descriptor as media
from arkwright.oci.manifest import Manifest, parse
from arkwright.oci.reference import parse_reference
from arkwright.registry.parallel import run_all
from arkwright.registry.pull import pull_image
from arkwright.store.store import Store
from loopback_server import Exchange, LoopbackRegistry, open_access

Task = Callable[[threading.Event], int]


def nothing() -> None:
    raise AssertionError("not to be called")


@pytest.mark.parametrize("jobs", [1, 3, 50])
def test_results_come_in_order(jobs: int) -> None:
    def task(number: int) -> Task:
        return lambda stop: number

    assert run_all([task(number) for number in range(20)], jobs=jobs, abort=nothing) == list(range(20))
    assert run_all([], jobs=jobs, abort=nothing) == []


def test_so_many_at_a_time_and_no_more() -> None:
    together = threading.Barrier(3, timeout=120)
    lock, running, most = threading.Lock(), [0], [0]

    def task(stop: threading.Event) -> int:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        together.wait()
        with lock:
            running[0] -= 1
        return 0

    run_all([task] * 9, jobs=3, abort=nothing)
    assert most == [3]


def test_the_first_failure_stops_the_others() -> None:
    stopped = []

    def fails(stop: threading.Event) -> int:
        raise KeyError("first")

    def waits(stop: threading.Event) -> int:
        stopped.append(stop.wait(20))
        return 0

    with pytest.raises(KeyError):
        run_all([waits, fails, waits, waits], jobs=2, abort=nothing)
    assert stopped in ([True], [True, True])


def test_an_interrupt_ends_a_pull_that_hangs(server: LoopbackRegistry, store: Store) -> None:
    made = image(server.add_blob, "hangs", layers=4)
    server.add_manifest("v1", media.MANIFEST, server.blobs[made.digest])
    document = parse(server.blobs[made.digest])
    assert isinstance(document, Manifest)
    leave = threading.Event()
    together = threading.Barrier(2, timeout=120)

    def hang(exchange: Exchange) -> None:
        if together.wait() == 0:
            # An interrupt that falls into a callback of the interpreter's own is lost (the exception
            # is ignored there): people press the key again.
            while not access.cancelled.is_set() and not leave.is_set():
                os.kill(os.getpid(), signal.SIGINT)
                access.cancelled.wait(2)
        leave.wait(20)

    server.on("GET", "/blobs/", hang, times=2)
    with open_access() as access:
        with pytest.raises(KeyboardInterrupt):
            pull_image(parse_reference(f"{server.host}/app:v1"), store.content, AMD64, access=access, jobs=2)
        assert access.cancelled.is_set()
    assert not leave.is_set()
    leave.set()
