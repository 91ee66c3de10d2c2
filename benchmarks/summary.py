"""Results as a part of a page: `./dev bench --summary`. Nothing in it is written by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import model_page
from benchmarks.goals import GOALS, MEMORY_BYTES, Goal, goal_of
from benchmarks.plot import picture
from benchmarks.report import duration, spread
from benchmarks.results import CANNOT, CaseResult, Measured, Results, Spread, number

PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "performance.md"
BEGIN, END = "<!-- results -->", "<!-- /results -->"
MB = 1_000_000
NONE = "–"
YES, NO, NOT_JUDGED = "yes", "**no**", "not judged"


@dataclass(frozen=True)
class Against:
    """One comparison of a case: with a peer, or with the limit."""

    name: str
    wall: str
    ratio: str
    goal: str
    verdict: str


def write(results: Results, page: Path = PAGE, model: Mapping[str, Any] | None = None) -> list[Path]:
    """Write the plot beside the page, and the parts between the markers; `model` is the cost
    model. Raises ValueError without markers."""
    plot = page.with_suffix(".svg")
    text = replaced(page.read_text(), markdown(results, plot.name))
    if model is not None:
        part = model_page.markdown(model)
        text = replaced(text, part, model_page.BEGIN, model_page.END)
    plot.write_text(picture(results))
    page.write_text(text)
    return [plot, page]


def replaced(page: str, part: str, begin: str = BEGIN, end: str = END) -> str:
    """A page with another part between the markers."""
    before, found, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"the page has no part between {begin} and {end}")
    return f"{before}{begin}\n\n{part.strip()}\n\n{end}{after}"


def goals_only() -> str:
    """What stands there while nothing has been measured."""
    rows = [
        [f"`{case_id}`", _peer_goal(goal, "docker"), _peer_goal(goal, "buildah"), goal.limit or NONE]
        for case_id, goal in GOALS.items()
        if goal != Goal()
    ]
    table = _table(["Case", "To BuildKit", "To buildah", "Toward the limit"], rows)
    memory = f"Memory of every case, whatever its size: below {MEMORY_BYTES // MB} MB."
    return f"No results yet: these are the goals.\n\n{table}\n\n{memory}"


def markdown(results: Results, plot_name: str) -> str:
    rows: list[list[str]] = []
    verdicts: list[str] = []
    for case in results.cases:
        against = [*(_to_peer(case, peer) for peer in case.peers), *_to_limit(case)]
        verdicts += [one.verdict for one in against]
        first = _ours(case)
        for one in against or [Against(NONE, NONE, NONE, NONE, NONE)]:
            rows.append([*first, one.name, one.wall, one.ratio, one.goal, one.verdict])
            first = [""] * len(first)
    heads = ["Case", "Wall", "CPU", "Peak", "Against", "Its wall", "Ratio", "Goal", "Reached"]
    reached, missed = verdicts.count(YES), verdicts.count(NO)
    return "\n\n".join([
        f"![Ratios of wall times to each peer, by case]({plot_name})",
        _about(results),
        f"Goals reached: {reached} of the {reached + missed} that could be judged. " + _memory(results),
        _table(heads, rows),
        *_missing(results),
    ])  # fmt: skip


def _about(results: Results) -> str:
    about, loads = results.machine, [case.load for case in results.cases]
    turns = [len(case.ours.wall_s) for case in results.cases if case.ours.wall_s]
    parts = [
        f"Measured on {' and '.join(results.dates)}: {about['cpus']} × {about['cpu']} ({about['architecture']})",
        f"{about['memory_mib']} MiB of memory, Linux {about['kernel']}, {about['file_system']}, {about['user']}",
        f"Python {about['python']}, {about['crun'] or 'no crun'}, {about['runc'] or 'no runc'}",
    ]
    versions = [f"{name} {' and '.join(found)}" for name, found in results.versions.items()]
    if results.commits:
        versions.append(f"commit {' and '.join(results.commits)}")
    runs = f"Measured turns of a case: {_range(turns, 'd')}" if turns else "No times"
    load = f"load average at the start of a case {_range(loads, '.1f')}" if loads else "no cases"
    return f"{'; '.join(parts)}. {'; '.join(versions)}. {runs}; {load}."


def _range(numbers: Sequence[float], form: str) -> str:
    lowest, highest = f"{min(numbers):{form}}", f"{max(numbers):{form}}"
    return lowest if lowest == highest else f"{lowest} to {highest}"


def _memory(results: Results) -> str:
    peaks = {
        case.id: case.ours.peak_bytes for case in results.cases if case.ours.peak_bytes and case.scale == 1
    }
    above = [f"`{name}` ({peak / MB:.0f} MB)" for name, peak in peaks.items() if peak >= MEMORY_BYTES]
    goal = f"{MEMORY_BYTES // MB} MB"
    if not peaks:
        return f"Memory, to be below {goal}: not measured."
    if above:
        return f"Memory above the goal of {goal}: {', '.join(above)}."
    return f"Memory is below {goal} in each of {len(peaks)} cases."


def _missing(results: Results) -> Iterator[str]:
    absent = [f"`{name}`" for name in GOALS if name not in {case.id for case in results.cases}]
    if absent:
        yield f"Not measured: {', '.join(absent)}."


def _ours(case: CaseResult) -> list[str]:
    name = f"`{case.id}`" if case.scale == 1 else f"`{case.id}`, {case.scale:g} of its size"
    if case.skipped:
        return [name, f"skipped: {_cell(case.skipped)}", NONE, NONE]
    ours = case.ours
    cpu = duration(spread(ours.cpu_s)[1]) if ours.cpu_s else NONE
    peak = f"{ours.peak_bytes / MB:.0f} MB" if ours.peak_bytes else NONE
    return [name, _wall(ours), cpu, peak]


def _wall(one: Measured) -> str:
    if one.failure:
        return "cannot" if one.failure == CANNOT else "failed"
    if not one.wall_s:
        return NONE
    low, middle, high = (duration(wall_s) for wall_s in spread(one.wall_s))
    value, unit = low.split(" ")
    return f"{middle} ({value if high.endswith(f' {unit}') else low}–{high})"


def _ratio(found: Spread | None) -> str:
    return f"{number(found[1])} ({number(found[0])}–{number(found[2])})" if found else NONE


def _peer_goal(goal: Goal, peer: str) -> str:
    if peer not in goal.peers:
        return NONE
    return f"{goal.peers[peer]:g}" + (", CPU too" if goal.cpu_too and peer == "docker" else "")


def _to_peer(case: CaseResult, peer: str) -> Against:
    goal, theirs = goal_of(case.id), case.contestants[peer]
    wall, cpu = case.wall_ratio(peer), case.cpu_ratio(peer)
    with_cpu = goal.cpu_too and peer == "docker"
    judged = [wall, cpu] if with_cpu else [wall]
    found = [one[1] for one in judged if one is not None]
    verdict = NONE
    # Who stopped half-way has runs too; ratios to it are no result.
    if peer in goal.peers and not (theirs.failure or case.ours.failure) and len(found) == len(judged):
        verdict = _verdict(case, max(found) <= goal.peers[peer])
    ratio = NONE if theirs.failure else _ratio(wall) + (f", CPU {_ratio(cpu)}" if with_cpu and cpu else "")
    return Against(peer, _wall(theirs), ratio, _peer_goal(goal, peer), verdict)


def _to_limit(case: CaseResult) -> Iterator[Against]:
    goal, ours = goal_of(case.id), case.ours
    if not goal.limit:
        return
    limit_s, wall, ratio, verdict = goal.seconds(case.size), NONE, NONE, NOT_JUDGED
    if limit_s is not None:
        wall = duration(limit_s)
        if ours.wall_s and not ours.failure:
            middle = spread(ours.wall_s)[1]
            ratio, verdict = number(middle / limit_s), _verdict(case, middle <= limit_s)
    yield Against("the limit", wall, ratio, goal.limit, verdict)


def _verdict(case: CaseResult, reached: bool) -> str:
    """Goals are for whole sizes."""
    if case.scale != 1:
        return NOT_JUDGED
    return YES if reached else NO


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
