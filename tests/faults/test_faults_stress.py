"""Many builds of overlapping graphs in one store at once, with clean-up beside them."""

from __future__ import annotations

import os
import random
import subprocess
import threading
from collections import Counter

import pytest

from arkwright.events.journal import read_journal
from arkwright.events.types import CacheHit, Started
from building import Context, MakeBuilder

SAMPLE, FULL = {"root": (4, 4), "subids": (2, 3)}, (16, 20)


def dockerfile(number: int) -> str:
    """Graphs that share their beginning with some others, and a stage with all."""
    return f"""\
FROM busybox AS common
RUN echo common > /common
COPY data /data
FROM common AS third
RUN echo {number % 3} > /third
FROM busybox AS fifth
RUN cat /etc/passwd > /fifth; echo {number % 5} >> /fifth
FROM third
COPY --from=fifth /fifth /
RUN cat /third /fifth /common > /all
"""


@pytest.mark.soak
@pytest.mark.parametrize("identity", ["root", "subids"])
def test_builds_with_clean_up_beside_them(identity: str, make_builder: MakeBuilder, context: Context) -> None:
    processes, rounds = FULL if os.environ.get("ARKWRIGHT_SOAK") else SAMPLE[identity]
    chance = random.Random(f"{os.environ.get('ARKWRIGHT_SEED', '1')} {identity}")
    roots = [
        context({"Dockerfile": dockerfile(number), "data": "data"}, f"graph-{number}") for number in range(4)
    ]
    judge = make_builder("root", "undisturbed")
    expected = {root: judge.build(root).digest for root in roots}
    builder = make_builder(identity)
    plans = [[chance.choice(roots) for _ in range(rounds)] for _ in range(processes)]
    wrong: list[str] = []
    cleaned: Counter[str] = Counter()
    over = threading.Event()

    def build(number: int) -> None:
        for root in plans[number]:
            process = builder.start("build", "-q", "-t", f"app:{number}", str(root))
            out, err = process.communicate(timeout=300)
            if process.returncode or out.strip() != expected[root]:
                wrong.append(f"{root.name}: {process.returncode} {out}{err}")

    def clean() -> None:
        options = [["--keep-storage", "1m"], ["--all"], [], ["--keep-duration", "1h"]]
        while not over.is_set():
            args = ["prune", "--timeout", "2s", *chance.choice(options)]
            process = builder.start(*args)
            _, err = process.communicate(timeout=300)
            cleaned["done" if process.returncode == 0 else "busy"] += 1
            if process.returncode and "error[store-in-use]" not in err:
                wrong.append(err)

    builders = [threading.Thread(target=build, args=(number,)) for number in range(processes)]
    cleaner = threading.Thread(target=clean)
    for thread in [*builders, cleaner]:
        thread.start()
    for thread in builders:
        thread.join()
    over.set()
    cleaner.join()
    assert wrong == []
    assert cleaned.total() > 0
    builder.run("fsck", "--timeout", "30s")
    for root in roots:
        assert builder.build(root).digest == expected[root]


@pytest.mark.parametrize("identity", ["root", "subids"])
def test_sixteen_at_once_build_nothing_twice(
    identity: str, make_builder: MakeBuilder, context: Context
) -> None:
    root = context(
        {"Dockerfile": dockerfile(0).replace("echo common", "sleep 0.3; echo common"), "data": "d"}
    )
    builder = make_builder(identity)
    running = [builder.start("build", "-q", str(root)) for _ in range(16)]
    digests = [finished(process) for process in running]
    assert digests == [make_builder("root", "undisturbed").build(root).digest] * 16
    events = [
        event
        for journal in (builder.store / "history").glob("*/journal.jsonl")
        for event in read_journal(str(journal))
    ]
    runs = Counter(event.vertex for event in events if isinstance(event, Started))
    assert set(runs.values()) == {1}
    assert len(runs) == 6
    keys = {event.vertex: event.key for event in events if isinstance(event, Started)}
    assert all(event.key == keys[event.vertex] for event in events if isinstance(event, CacheHit))
    assert list((builder.store / "claims").iterdir()) == []


def finished(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.strip()
