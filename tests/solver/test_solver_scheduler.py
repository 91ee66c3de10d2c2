"""Room for steps, and failures that stop all or only what needs them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from test_solver_walk import World, world

from arkwright.diagnostics.errors import Cancelled, UserError, decode, encode, parts
from arkwright.solver.scheduler import Room, Scheduler, Weight, host_memory

__all__ = ["world"]


class Busy:
    """How much is in a room at once, at most."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now, self.most = 0.0, 0.0

    def step(self, room: Room, weight: Weight) -> None:
        with room.of(weight):
            with self.lock:
                self.now += weight.cpus
                self.most = max(self.most, self.now)
            with self.lock:
                self.now -= weight.cpus


def test_a_room_is_never_overfull() -> None:
    room, busy = Room(2, 0, threading.Event()), Busy()
    weights = [Weight(cpus) for cpus in (1, 2, 0.5, 0.5, 1, 2, 0.25) * 20]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda weight: busy.step(room, weight), weights))
    assert 0 < busy.most <= 2


@pytest.mark.parametrize("weight", [Weight(8, 0), Weight(1, 1 << 40), Weight(8, 1 << 40)])
def test_what_is_too_heavy_runs_alone(weight: Weight) -> None:
    room = Room(2, 100, threading.Event())
    entered = threading.Event()

    def light() -> None:
        with room.of(Weight(1, 60)):
            entered.set()

    with room.of(weight):
        other = threading.Thread(target=light)
        other.start()
        assert not entered.wait(0.05)
    other.join(20)
    assert entered.is_set()


def test_a_heavy_step_is_not_overtaken() -> None:
    """While one CPU of two is taken, a step of two waits, and one of one that comes later too."""
    room, order = Room(2, 0, threading.Event()), list[str]()

    def enter(name: str, weight: Weight) -> None:
        with room.of(weight):
            order.append(name)

    threads = []
    with room.of(Weight(1)):
        for name, weight in (("heavy", Weight(2)), ("light", Weight(1))):
            thread = threading.Thread(target=enter, args=(name, weight))
            thread.start()
            threads.append(thread)
            while len(room._line) < len(threads):
                assert threads[-1].is_alive()
        assert order == []
    for thread in threads:
        thread.join(20)
    assert order == ["heavy", "light"]


def test_memory_bounds_what_runs_together() -> None:
    with Scheduler(8, memory=100, weights={"big": Weight(1, 60)}) as scheduler, ExitStack() as stack:
        stack.enter_context(scheduler.step_room("BIG"))
        stack.enter_context(scheduler.step_room("small"))
        scheduler.cancelled.set()
        with pytest.raises(Cancelled), scheduler.step_room("big"):
            pytest.fail("60 and 60 are more than 100")
    assert host_memory() > 1 << 20


def failing(
    code: str, before: Callable[[], object] = lambda: None
) -> Callable[[list[str], threading.Event], str]:
    def body(given: list[str], cancelled: threading.Event) -> str:
        before()
        raise UserError.of(code, f"it broke with {code}")

    return body


def test_keep_going_runs_what_needs_no_failed_step_and_reports_all(world: World) -> None:
    one = world.step("one", body=failing("first"))
    fine = world.step("fine")
    two = world.step("two", fine, body=failing("second"))
    above = world.step("above", one, fine)
    top = world.step("top", above, two, world.step("other", fine))
    with pytest.raises(UserError) as caught, Scheduler(1) as scheduler:
        world.solver().solve([world.definition(top)], scheduler, keep_going=True)
    assert sorted(world.ran()) == ["fine", "one", "other", "two"]
    error = decode(encode(caught.value))
    assert sorted(one.code for one in parts(error)) == ["first", "second"]
    assert error.details["skipped"] == 2
    assert [found.code for found in error.diagnostics] == [one.code for one in parts(error)]
    assert type(error) is UserError


def test_a_failure_without_keep_going_stops_its_siblings(world: World) -> None:
    started = threading.Event()

    def sibling(given: list[str], cancelled: threading.Event) -> str:
        started.set()
        assert cancelled.wait(60)
        # Killed from outside, a step may well fail before it hears of the end.
        raise UserError.of("consequence", "it was killed")

    broken = world.step("broken", body=failing("cause", lambda: started.wait(60)))
    top = world.step("top", broken, world.step("sibling", body=sibling))
    with pytest.raises(UserError) as caught, Scheduler(4) as scheduler:
        world.solver().solve([world.definition(top)], scheduler)
    assert caught.value.code == "cause"
    assert parts(caught.value) == (caught.value,)


def test_many_steps_that_wait_leave_no_step_behind(world: World) -> None:
    """More vertices than threads, each waiting for room."""
    steps = [world.step(f"step-{number}") for number in range(300)]
    assert len(world.solve(world.step("top", *steps), jobs=1)) == 1
    assert len(world.ran()) == 301
