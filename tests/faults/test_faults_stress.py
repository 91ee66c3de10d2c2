"""Many builds of overlapping graphs in one store at once, with clean-up beside them."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import threading
from collections import Counter
from pathlib import Path

import pytest

from arkwright.events.journal import read_journal
from arkwright.events.types import CacheHit, Started
from building import Builder, Context, MakeBuilder, wait_until_gone

SAMPLE, FULL = {"root": (4, 4), "subids": (2, 4)}, (16, 20)
# When the last collection was (see `cache.settings`); what everything was used at.
DUE = "SELECT json_extract(CAST(value AS TEXT), '$.at') FROM records WHERE bucket = 'settings' AND key = CAST('gc' AS BLOB)"
OVERDUE = (
    "UPDATE records SET value = CAST(json_set(CAST(value AS TEXT), '$.at', 1) AS BLOB) WHERE bucket = 'uses'",
    "UPDATE records SET value = CAST(json_set(CAST(value AS TEXT), '$.created_at', 1) AS BLOB) "
    "WHERE bucket = 'records'",
    """INSERT OR REPLACE INTO records (bucket, key, value) VALUES ('settings', CAST('gc' AS BLOB), CAST('{"at":1.0}' AS BLOB))""",
)


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


class Stress:
    """Threads that start builds, and two that clean up beside them, with prune and by collection."""

    def __init__(self, builder: Builder, expected: dict[Path, str], chance: random.Random) -> None:
        self.builder = builder
        self.expected = expected
        self.chance = chance
        self.wrong: list[str] = []
        self.pruned: Counter[str] = Counter()
        self.collected = 0
        self._over = threading.Event()

    def run(self, plans: list[list[Path]]) -> None:
        # Now and then nobody builds for a moment: the only one in which anything can be deleted.
        meeting = threading.Barrier(len(plans))
        builders = [
            threading.Thread(target=self._build, args=(number, plan, meeting))
            for number, plan in enumerate(plans)
        ]
        cleaners = [threading.Thread(target=one) for one in (self._prune, self._let_collect)]
        for thread in [*builders, *cleaners]:
            thread.start()
        for thread in builders:
            thread.join()
        self._over.set()
        for thread in cleaners:
            thread.join()

    def _build(self, number: int, plan: list[Path], meeting: threading.Barrier) -> None:
        for turn, root in enumerate(plan):
            if turn % 2:
                meeting.wait(600)
            name = ["-t", f"app:{number}"] if turn % 3 == 0 else []
            process = self.builder.start("build", "-q", *name, str(root))
            out, err = process.communicate(timeout=300)
            if process.returncode or out.strip() != self.expected[root]:
                self.wrong.append(f"{root.name}: {process.returncode} {out}{err}")

    def _prune(self) -> None:
        options = [["--keep-storage", "1m"], ["--all"], [], ["--keep-duration", "1h"]]
        while not self._over.is_set():
            process = self.builder.start("prune", "--timeout", "2s", *self.chance.choice(options))
            _, err = process.communicate(timeout=300)
            self.pruned["done" if process.returncode == 0 else "busy"] += 1
            if process.returncode and "error[store-in-use]" not in err:
                self.wrong.append(err)

    def _let_collect(self) -> None:
        """Make everything old and a collection due, as often as one has been."""
        with sqlite3.connect(
            self.builder.store / "metadata.db", timeout=300, isolation_level=None
        ) as database:
            while not self._over.wait(0.05):
                due = database.execute(DUE).fetchone()
                if due is None or due[0] > 1:
                    self.collected += due is not None
                    for statement in OVERDUE:
                        database.execute(statement)
        database.close()


@pytest.mark.soak
@pytest.mark.parametrize("identity", ["root", "subids"])
def test_builds_with_clean_up_beside_them(
    identity: str, make_builder: MakeBuilder, context: Context, scratch: Path
) -> None:
    processes, rounds = FULL if os.environ.get("ARKWRIGHT_SOAK") else SAMPLE[identity]
    chance = random.Random(f"{os.environ.get('ARKWRIGHT_SEED', '1')} {identity}")
    roots = [
        context({"Dockerfile": dockerfile(number), "data": "data"}, f"graph-{number}") for number in range(4)
    ]
    judge = make_builder("root", "undisturbed")
    expected = {root: judge.build(root).digest for root in roots}
    builder = make_builder(identity)
    del builder.env["ARKWRIGHT_GC"]
    stress = Stress(builder, expected, chance)
    stress.run([[chance.choice(roots) for _ in range(rounds)] for _ in range(processes)])
    # Who collects outlives the build that it was forked from, and has its command line.
    wait_until_gone(str(scratch))
    assert stress.wrong == []
    assert stress.pruned.total() + stress.collected > 0
    if os.environ.get("ARKWRIGHT_SOAK"):
        # Of a few builds, none may have found the store due for it.
        assert stress.pruned.total() > 0
        assert stress.collected > 0
    builder.run("fsck", "--timeout", "30s")
    for root in roots:
        assert builder.build(root).digest == expected[root]
    wait_until_gone(str(scratch))


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
