"""Saved results, read again and put together: a long run is done in parts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.goals import GOALS
from benchmarks.report import ratios

OURS = "arkwright"
# Who cannot do a case says this (`play`).
CANNOT = "cannot do this"
Spread = tuple[float, float, float]


@dataclass(frozen=True)
class Measured:
    """One contestant in one case: seconds in the order of turns, bytes."""

    wall_s: tuple[float, ...] = ()
    cpu_s: tuple[float, ...] = ()
    peak_bytes: int | None = None
    failure: str = ""


@dataclass(frozen=True)
class CaseResult:
    """One case; `load` is the load average of a minute at its start."""

    id: str
    size: int | None
    scale: float
    load: float
    skipped: str
    contestants: Mapping[str, Measured]

    @property
    def ours(self) -> Measured:
        return self.contestants.get(OURS, Measured())

    @property
    def peers(self) -> list[str]:
        return [name for name in self.contestants if name != OURS]

    @property
    def timed(self) -> bool:
        return any(one.wall_s for one in self.contestants.values())

    def wall_ratio(self, peer: str) -> Spread | None:
        """Arkwright's times by the peer's, turn by turn: smallest, median, largest."""
        return ratios(self.ours.wall_s, self.contestants[peer].wall_s)

    def cpu_ratio(self, peer: str) -> Spread | None:
        return ratios(self.ours.cpu_s, self.contestants[peer].cpu_s)


@dataclass(frozen=True)
class Results:
    """What one or more files hold. Versions and commits: each that there is, in the order of the files."""

    dates: tuple[str, ...]
    machine: Mapping[str, Any]
    versions: Mapping[str, tuple[str, ...]]
    commits: tuple[str, ...]
    cases: tuple[CaseResult, ...]

    @property
    def peers(self) -> list[str]:
        """All peers, in one order whatever the order of files."""
        return sorted({name for case in self.cases for name in case.peers})


def number(ratio: float) -> str:
    """A ratio for people; goals go down to hundredths."""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.3f}"


def newest(folder: Path) -> Path:
    """The file of the latest run of cases, by the date in it. Raises ValueError when there is none."""
    dated = []
    for path in folder.glob("*.json"):
        document = json.loads(path.read_text())
        if "cases" in document:
            dated.append((document["date"], path.name, path))
    if not dated:
        raise ValueError(f"no results in {folder}: ./dev bench --peers --save makes some")
    return max(dated)[2]


def read(paths: Sequence[Path]) -> Results:
    """Cases of all files, a later file winning. Raises OSError, and ValueError for what is no result,
    for no file, and for results of different machines."""
    documents = [_document(path) for path in paths]
    if not documents:
        raise ValueError("no results")
    if len({(machine.slug(one["machine"]), one["machine"]["cpu"]) for one in documents}) > 1:
        raise ValueError("results of different machines cannot be put together")
    cases: dict[str, CaseResult] = {}
    for document in documents:
        for case in _cases(document):
            cases[case.id] = _newer(cases[case.id], case) if case.id in cases else case
    names = sorted({name for one in documents for name in one["versions"]})
    order = list(GOALS)
    return Results(
        tuple(sorted({one["date"][:10] for one in documents})),
        documents[-1]["machine"],
        {name: _each(one["versions"].get(name, "") for one in documents) for name in names},
        _each(one.get("commit", "") for one in documents),
        tuple(sorted(cases.values(), key=lambda c: order.index(c.id) if c.id in order else len(order))),
    )


def differences(results: Results) -> Iterator[str]:
    """What is not one in files that were put together."""
    if len(results.commits) > 1:
        yield f"results of different commits: {', '.join(results.commits)}"
    for name, versions in results.versions.items():
        if len(versions) > 1:
            yield f"results of different versions of {name}: {', '.join(versions)}"


def _document(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_text())
    keys = {"date", "machine", "versions", "scale", "cases"}
    if not isinstance(document, dict) or not keys <= set(document):
        raise ValueError(f"{path}: no results of ./dev bench")
    return document


def _cases(document: Mapping[str, Any]) -> Iterator[CaseResult]:
    for case in document["cases"]:
        contestants = {
            name: Measured(tuple(one["wall_s"]), tuple(one["cpu_s"]), one["peak_bytes"], one["failure"])
            for name, one in case["contestants"].items()
        }
        yield CaseResult(
            case["case"], case["sizes"].get("bytes"), document["scale"], case["load_average"][0],
            case["skipped"], contestants,
        )  # fmt: skip


def _newer(old: CaseResult, new: CaseResult) -> CaseResult:
    """The new one; but a case that was skipped says nothing, and one of `memory` only says no times."""
    if new.skipped:
        return old
    if new.timed or not old.timed or new.scale != old.scale:
        return new
    peaks = {
        name: replace(one, peak_bytes=new.contestants[name].peak_bytes or one.peak_bytes)
        if name in new.contestants
        else one
        for name, one in old.contestants.items()
    }
    return replace(old, contestants=peaks)


def _each(values: Iterator[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value))
