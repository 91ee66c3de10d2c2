"""Results as lines for people and as a document for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import Taken
from benchmarks.play import Outcome

MIB = 1 << 20


def spread(numbers: Sequence[float]) -> tuple[float, float, float]:
    """Smallest, median, largest."""
    return min(numbers), median(numbers), max(numbers)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float] | None:
    """The spread of ours / theirs, turn by turn: what loads the machine in a turn loads both."""
    pairs = [mine / other for mine, other in zip(ours, theirs, strict=False) if other > 0]
    return spread(pairs) if pairs else None


def duration(seconds: float) -> str:
    """Seconds for people."""
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def _times(runs: Sequence[float]) -> str:
    return " / ".join(duration(number) for number in spread(runs))


def _ratio(found: tuple[float, float, float] | None) -> str:
    return " / ".join(f"{number:.2f}" for number in found) if found else "–"


def lines(outcome: Outcome) -> Iterator[str]:
    """A case as text: times are min / median / max; ratios are Arkwright's by the peer's, pair by pair."""
    case = outcome.case
    yield f"{case.id}: {case.text}"
    if outcome.skipped:
        yield f"  skipped: {outcome.skipped}"
        return
    for name, runs in outcome.runs.items():
        wall, cpu = _times([taken.wall_s for taken in runs]), _times([taken.cpu_s for taken in runs])
        yield f"  {name:<10} wall {wall:<28} cpu {cpu:<28} {_memory(outcome, name)}".rstrip()
    for name in outcome.peaks:
        if name not in outcome.runs:
            yield f"  {name:<10} {_memory(outcome, name)}"
    for name, why in outcome.failures.items():
        yield f"  {name:<10} {why}"
    ours = outcome.runs.get("arkwright", [])
    for name, runs in outcome.runs.items():
        if ours and name != "arkwright":
            wall = _ratio(ratios([one.wall_s for one in ours], [one.wall_s for one in runs]))
            cpu = _ratio(ratios([one.cpu_s for one in ours], [one.cpu_s for one in runs]))
            yield f"  ratio to {name:<10} wall {wall:<22} cpu {cpu}"


def _memory(outcome: Outcome, name: str) -> str:
    return f"peak {outcome.peaks[name] / MIB:.0f} MiB" if name in outcome.peaks else ""


def floor_line(name: str, runs: Sequence[Taken]) -> str:
    wall, cpu = _times([taken.wall_s for taken in runs]), _times([taken.cpu_s for taken in runs])
    return (
        f"  {name:<24} wall {wall:<24} cpu {cpu:<24} peak {max(t.largest_bytes for t in runs) / MIB:.0f} MiB"
    )


def document(outcome: Outcome) -> dict[str, Any]:
    """A case for the file of results; times in seconds, sizes in bytes, runs in the order of turns."""
    return {
        "case": outcome.case.id,
        "text": outcome.case.text,
        "sizes": outcome.case.sizes(),
        "load_average": list(outcome.load_average),
        "skipped": outcome.skipped,
        "contestants": {
            name: {
                "wall_s": [round(taken.wall_s, 6) for taken in outcome.runs.get(name, [])],
                "cpu_s": [round(taken.cpu_s, 6) for taken in outcome.runs.get(name, [])],
                "largest_process_bytes": [taken.largest_bytes for taken in outcome.runs.get(name, [])],
                "peak_bytes": outcome.peaks.get(name),
                "failure": outcome.failures.get(name, ""),
            }
            for name in sorted({*outcome.runs, *outcome.peaks, *outcome.failures})
        },
    }


def save(folder: Path, name: str, whole: dict[str, Any]) -> Path:
    """Write a file that does not exist yet."""
    folder.mkdir(exist_ok=True)
    path, number = folder / f"{name}.json", 1
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}.json"
    path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    return path
