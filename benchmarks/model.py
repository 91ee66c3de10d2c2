"""The cost model: how each cost of a build grows with the one thing that it grows with.

`./dev bench --model`: for each sweep one thing is varied and everything else kept; what is left is a line
through the medians, whose slope is the cost of one more. Arkwright alone takes part.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.case import MIB, edit
from benchmarks.contestants import Arkwright
from benchmarks.measure import Taken, Work, run
from benchmarks.trees import context, fill

Hook = Callable[[int, str], None]

# Builds in one process each, forked from one that has loaded everything: only their number counts.
MANY_BUILDS = """
import os, sys
number, arguments = int(sys.argv[1]), sys.argv[2:]
from arkwright.cli.main import program
import arkwright.build.run
quiet = os.open(os.devnull, os.O_WRONLY)
for _ in range(number):
    child = os.fork()
    if child == 0:
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        try:
            program.main(arguments)
        except SystemExit as end:
            os._exit(end.code or 0)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0, status
"""


@dataclass(frozen=True)
class Sweep:
    """One thing that is varied. `prepare` is called for each value, `before` for each measured run;
    `parallel`: the value is how many builds run at once."""

    name: str
    unit: str
    values: Sequence[int]
    prepare: Hook
    before: Hook = lambda value, token: None
    argument: bool = False
    parallel: bool = False


@dataclass
class Measured:
    """Medians by value, and what one more costs (least squares over the medians)."""

    sweep: Sweep
    wall_s: dict[int, list[float]] = field(default_factory=dict)
    cpu_s: dict[int, list[float]] = field(default_factory=dict)

    def slope(self, runs: dict[int, list[float]]) -> float:
        points = [(value, median(times)) for value, times in runs.items()]
        mean_x = sum(x for x, _ in points) / len(points)
        mean_y = sum(y for _, y in points) / len(points)
        spread = sum((x - mean_x) ** 2 for x, _ in points)
        if spread == 0:
            return 0.0
        return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread

    def lines(self) -> Iterator[str]:
        yield f"{self.sweep.name}: {micro(self.slope(self.wall_s))} each (cpu {micro(self.slope(self.cpu_s))})"
        for value in self.sweep.values:
            wall, cpu = median(self.wall_s[value]), median(self.cpu_s[value])
            yield f"  {value:>7} {self.sweep.unit:<16} wall {wall * 1000:8.1f} ms   cpu {cpu * 1000:8.1f} ms"

    def document(self) -> dict[str, Any]:
        return {
            "sweep": self.sweep.name,
            "unit": self.sweep.unit,
            "values": [
                {"value": value, "wall_s": self.wall_s[value], "cpu_s": self.cpu_s[value]}
                for value in self.sweep.values
            ],
            "wall_s_each": self.slope(self.wall_s),
            "cpu_s_each": self.slope(self.cpu_s),
        }


def micro(seconds: float) -> str:
    """A small time for people."""
    return f"{seconds * 1e6:.1f} µs" if abs(seconds) < 1e-3 else f"{seconds * 1e3:.2f} ms"


class Model:
    """Sweeps over contexts of one scratch directory and one store."""

    def __init__(self, arkwright: Arkwright, busybox: Path, scratch: Path, scale: float) -> None:
        self._arkwright, self._busybox, self._scale = arkwright, busybox, scale
        self._context = scratch / "model"

    def _of(self, *numbers: int) -> list[int]:
        return sorted({max(1, round(number * self._scale)) for number in numbers})

    def sweeps(self) -> list[Sweep]:
        return [
            Sweep("files in the context, cached", "files", self._of(200, 2000, 20000), self._files),
            Sweep("files changed of 20000", "files", self._of(10, 500, 2000), self._many_files, self._change),
            Sweep("files in a layer", "files", self._of(500, 2500, 10000), self._files, self._change_all),
            Sweep("MiB in a layer", "MiB", self._of(16, 64, 256), self._bytes, self._change_bytes),
            Sweep("steps, cached", "steps", self._of(5, 25, 100), self._steps),
            Sweep("steps that run", "steps", self._of(1, 10, 30), self._steps, argument=True),
            Sweep("layers of the base", "layers", self._of(1, 20, 80), self._layers, argument=True),
            Sweep("builds at once, cached", "builds", self._of(1, 4, 16), self._small, parallel=True),
            Sweep("builds in the store, cached", "builds", self._of(10, 1000, 10000), self._stored),
        ]

    def measure(self, sweep: Sweep, turns: int, say: Callable[[str], None]) -> Measured:
        """Measure a sweep, in a store of its own."""
        found = Measured(sweep)
        self._arkwright.fresh({"busybox": self._busybox})
        for value in sweep.values:
            say(f"{sweep.name}: {value}")
            sweep.prepare(value, "first")
            taken = [self._once(sweep, value, f"turn{turn}") for turn in range(turns + 1)][1:]
            found.wall_s[value] = [one.wall_s for one in taken]
            found.cpu_s[value] = [one.cpu_s for one in taken]
        return found

    def _once(self, sweep: Sweep, value: int, token: str) -> Taken:
        sweep.before(value, token)
        more = ["--build-arg", f"TURN={value}-{token}"] if sweep.argument else []
        commands = [self._build(*more)] * (value if sweep.parallel else 1)
        return run(Work(commands, sweep.parallel), self._arkwright.env, self._arkwright.scratch / "log")

    def _build(self, *more: str, tag: str = "result") -> list[str]:
        return self._arkwright.build(self._context, tag, more)

    def _make(self, dockerfile: str, files: int = 0, size: int = 0) -> None:
        context(self._context, dockerfile)
        if files:
            fill(self._context / "src", files, size, "src")

    def _warm(self) -> None:
        # Files that are younger than two seconds are read again by the next build too.
        for _ in range(2):
            subprocess.run(["sleep", "2.1"], check=True)
            run(Work([self._build()]), self._arkwright.env, self._arkwright.scratch / "log")

    def _files(self, value: int, token: str) -> None:
        self._make("FROM busybox\nCOPY . /src\n", value, value * 2000)
        self._warm()

    def _many_files(self, value: int, token: str) -> None:
        self._files(max(self._of(20000)[0], value), token)

    def _change(self, value: int, token: str) -> None:
        for number in range(value):
            edit(self._context / "src", f"d{number // 100:04}/f{number:06}", token)

    _change_all = _change

    def _bytes(self, value: int, token: str) -> None:
        self._make("FROM busybox\nCOPY . /src\n", 4, value * MIB)

    def _change_bytes(self, value: int, token: str) -> None:
        fill_again(self._context / "src", token)

    def _steps(self, value: int, token: str) -> None:
        self._make("FROM busybox\nARG TURN\n" + "RUN true\n" * value)
        self._warm()

    def _layers(self, value: int, token: str) -> None:
        self._make("FROM busybox\n" + "RUN true\n" * (value - 1))
        run(Work([self._build(tag=f"base{value}")]), self._arkwright.env, self._arkwright.scratch / "log")
        self._make(f"FROM base{value}\nARG TURN\nRUN true\n")

    def _small(self, value: int, token: str) -> None:
        self._files(200, token)

    def _stored(self, value: int, token: str) -> None:
        self._small(value, token)
        stored = len(list((self._arkwright.store / "history").iterdir()))
        if value > stored:
            program = [sys.executable, "-c", MANY_BUILDS, str(value - stored), *self._build()[1:]]
            subprocess.run(program, env=self._arkwright.env, check=True)


def fill_again(path: Path, token: str) -> None:
    """Change the first bytes of every file."""
    for file in sorted(path.rglob("f*")):
        with file.open("r+b") as opened:
            opened.write(f"{token:>64}\n".encode())
