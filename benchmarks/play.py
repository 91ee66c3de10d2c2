"""Turns: every contestant does a case once in each turn, in a rotating order, after a warm-up."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.case import Case
from benchmarks.contestants import Contestant
from benchmarks.measure import CommandFailed, Taken, run

Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """`settle_s`: files that have just changed are read again by every careful builder, so a first
    measured run waits until the context is older than that."""

    turns: int = 7
    warmup: int = 1
    settle_s: float = 3.0
    memory: bool = True
    timed: bool = True


@dataclass
class Outcome:
    """What became of a case: runs by contestant, in the order of turns, and why others have none."""

    case: Case
    runs: dict[str, list[Taken]] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    skipped: str = ""
    load_average: tuple[float, float, float] = (0.0, 0.0, 0.0)


def play(case: Case, contestants: Sequence[Contestant], settings: Settings, say: Say) -> Outcome:
    """Play one case; what a contestant fails at ends its part, not the case."""
    outcome = Outcome(case, load_average=os.getloadavg())
    if missing := case.missing():
        outcome.skipped = f"needs {', '.join(missing)}"
        return outcome
    free = shutil.disk_usage(case.site.scratch).free
    wanted = case.needed_bytes * len(contestants)
    if free < wanted:
        outcome.skipped = f"needs {wanted >> 30} GiB of disk in {case.site.scratch}, {free >> 30} are free"
        return outcome
    try:
        case.setup()
        made = time.monotonic()
        left = _begin(case, contestants, outcome)
        time.sleep(max(0.0, made + settings.settle_s - time.monotonic()))
        turns = min(settings.turns, case.most_turns) if settings.timed else 0
        for turn in range(-settings.warmup, turns):
            say(f"{case.id}: " + ("warm-up" if turn < 0 else f"turn {turn + 1} of {turns}"))
            shift = turn % len(left) if left else 0
            for one in left[shift:] + left[:shift]:
                taken = _once(case, one, f"turn{turn}", outcome)
                if taken is not None and turn >= 0:
                    outcome.runs.setdefault(one.name, []).append(taken)
        if settings.memory:
            say(f"{case.id}: memory")
            for one in left:
                taken = _once(case, one, "memory", outcome, sampled=True)
                if taken is not None:
                    outcome.peaks[one.name] = max(taken.peak_bytes, taken.largest_bytes)
    finally:
        case.teardown()
    return outcome


def _begin(case: Case, contestants: Sequence[Contestant], outcome: Outcome) -> list[Contestant]:
    """Fresh stores and first builds; gives who can go on."""
    left = []
    for one in contestants:
        try:
            one.fresh(case.archives())
            work = case.start(one)
            if work is not None:
                run(work, one.env, _log(one))
            left.append(one)
        except (CommandFailed, RuntimeError) as error:
            outcome.failures[one.name] = str(error)
    return left


def _log(one: Contestant) -> Path:
    return one.scratch / "bench.log"


def _once(
    case: Case, one: Contestant, token: str, outcome: Outcome, *, sampled: bool = False
) -> Taken | None:
    if one.name in outcome.failures:
        return None
    token = f"{token}-{one.name}"
    try:
        case.before(one, token)
        try:
            work = case.work(one, token)
            if work is None:
                outcome.failures[one.name] = "cannot do this"
                return None
            # What is still to be written belongs to the others, or to what was made before.
            os.sync()
            return run(work, one.env, _log(one), daemon=one.daemon, sampled=sampled)
        finally:
            case.after(one)
    except (CommandFailed, RuntimeError) as error:
        outcome.failures[one.name] = str(error)
        return None
