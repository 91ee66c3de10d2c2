"""Saved results as a table and a plot: ratios, verdicts, what a peer cannot do, files put together."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from benchmarks.goals import GOALS

from benchmarks import plot, results, summary

REPOSITORY = Path(__file__).parents[2]
MACHINE = {
    "cpu": "A <fast> CPU & more", "cpus": 2, "sha_instructions": False, "memory_mib": 4000, "kernel": "6.1",
    "architecture": "x86_64", "file_system": "ext2/ext3", "user": "root", "python": "3.11.9",
    "crun": "crun version 1.8", "runc": "",
}  # fmt: skip
PAGE = f"# Title\n\nBefore.\n\n{summary.BEGIN}\nold\n{summary.END}\n\nAfter.\n"
CANNOT = {"failure": "cannot do this"}


def one(*wall: float, cpu: float = 1.0, peak: int | None = 50_000_000, failure: str = "") -> dict[str, Any]:
    return {
        "wall_s": list(wall), "cpu_s": [cpu] * len(wall), "largest_process_bytes": [1] * len(wall),
        "peak_bytes": peak, "failure": failure,
    }  # fmt: skip


def case(name: str, *, skipped: str = "", size: int = 0, **contestants: dict[str, Any]) -> dict[str, Any]:
    sizes = {"bytes": size} if size else {}
    return {
        "case": name, "text": name, "sizes": sizes, "load_average": [0.5, 0.2, 0.1], "skipped": skipped,
        "contestants": contestants,
    }  # fmt: skip


def saved(path: Path, *cases: dict[str, Any], **changed: Any) -> Path:
    whole = {
        "date": "2026-05-04T03:02:01+00:00", "machine": MACHINE, "commit": "abc", "load_average": [0, 0, 0],
        "versions": {"arkwright": "1.0", "docker": "BuildKit in Docker 20", "buildah": "1.28"},
        "scale": 1.0, "warmup": 1, "floor": {}, "cases": list(cases),
    }  # fmt: skip
    path.write_text(json.dumps({**whole, **changed}))
    return path


CASES = (
    case("edit", arkwright=one(1.2, 1.3, 1.1), docker=one(1.0, 1.0, 1.0), buildah=one(10.0, 10.0, 10.0)),
    case(
        "noop",
        arkwright=one(0.05, 0.1, 0.05, cpu=0.3),
        docker=one(0.1, 0.1, 0.1, cpu=0.2),
        buildah=one(0.5, 0.5, 0.5),
    ),
    case(
        "layer-big-gzip",
        size=300_000_000,
        arkwright=one(4.0, peak=200_000_000),
        docker=one(peak=None, **CANNOT),
        buildah=one(10.0),
    ),
    case("crowd", arkwright=one(2.0)),
    case("pull", skipped="needs docker-registry"),
    case("push", arkwright=one(1.0), docker=one(1.0, failure="status 1: broken"), buildah=one(8.0)),
)


def rows(found: results.Results) -> dict[tuple[str, str], dict[str, str]]:
    """Rows of the table by case and what it is against; the case's own cells are repeated."""
    lines = [line for line in summary.markdown(found, "plot.svg").splitlines() if line.startswith("|")]
    heads, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    by_pair, last = {}, [""] * 4
    for cells in body:
        assert len(cells) == len(heads)
        last = cells[:4] if cells[0] else last
        by_pair[last[0].strip("`"), cells[4]] = dict(zip(heads, [*last, *cells[4:]], strict=True))
    return by_pair


@pytest.fixture
def found(tmp_path: Path) -> results.Results:
    return results.read([saved(tmp_path / "a.json", *CASES)])


def test_times_and_ratios_are_medians_with_their_range(found: results.Results) -> None:
    row = rows(found)["edit", "docker"]
    assert row["Wall"] == "1200 ms (1100–1300 ms)"
    assert (row["CPU"], row["Peak"]) == ("1000 ms", "50 MB")
    assert row["Its wall"] == "1000 ms (1000–1000 ms)"
    assert (row["Ratio"], row["Goal"], row["Reached"]) == ("1.20 (1.10–1.30)", "1.2", "yes")


def test_a_goal_of_wall_and_cpu_is_missed_by_either(found: results.Results) -> None:
    table = rows(found)
    assert table["noop", "docker"]["Ratio"] == "0.50 (0.50–1.00), CPU 1.50 (1.50–1.50)"
    assert table["noop", "docker"]["Reached"] == "**no**"
    assert table["noop", "buildah"]["Reached"] == "yes"


def test_who_cannot_or_failed_is_said_and_not_judged(found: results.Results) -> None:
    table = rows(found)
    assert table["layer-big-gzip", "docker"]["Its wall"] == "cannot"
    assert table["push", "docker"]["Its wall"] == "failed"
    for pair in (("layer-big-gzip", "docker"), ("push", "docker")):
        assert (table[pair]["Ratio"], table[pair]["Reached"]) == ("–", "–")
    assert table["layer-big-gzip", "buildah"]["Reached"] == "**no**"


def test_limits_are_judged_where_the_results_tell(found: results.Results) -> None:
    table = rows(found)
    limit = table["layer-big-gzip", "the limit"]
    assert (limit["Its wall"], limit["Ratio"], limit["Reached"]) == ("2000 ms", "2.00", "**no**")
    assert table["push", "the limit"]["Reached"] == "not judged"


def test_the_rest_of_the_part(found: results.Results) -> None:
    text = summary.markdown(found, "plot.svg")
    assert rows(found)["pull", "the limit"]["Wall"] == "skipped: needs docker-registry"
    assert rows(found)["crowd", "–"]["Reached"] == "–"
    assert "Memory above the goal of 150 MB: `layer-big-gzip` (200 MB)." in text
    # edit two, noop one, push one; not noop to docker, layer-big-gzip to buildah and to the limit.
    assert "Goals reached: 4 of the 7 that could be judged." in text
    absent = re.search(r"Not measured: (.*)\.", text)
    assert absent is not None and "`steps`" in absent[1] and "`edit`" not in absent[1]
    for part in (
        "2026-05-04",
        MACHINE["cpu"],
        "docker BuildKit in Docker 20",
        "commit abc",
        "turns of a case: 1 to 3",
    ):
        assert part in text


def test_a_smaller_scale_is_never_judged(tmp_path: Path) -> None:
    small = results.read([saved(tmp_path / "a.json", CASES[0], scale=0.02)])
    assert rows(small)["edit`, 0.02 of its size", "docker"]["Reached"] == "not judged"
    assert "sizes scaled by 0.02" in plot.picture(small)


def test_the_plot_shows_all_cases(found: results.Results) -> None:
    picture = plot.picture(found)
    root = ElementTree.fromstring(picture)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {str(one["case"]) for one in CASES} <= set(texts)
    # What was measured, in the order of the page, to buildah and docker; the median of each pair.
    assert {"0.12", "1.20", "0.50", "cannot", "failed", "skipped", "0.40"} <= set(texts)
    assert any("A <fast> CPU & more" in str(text) for text in texts)
    marks = list(root.iter("{http://www.w3.org/2000/svg}path"))
    # Two in the legend; missed: edit to none, layer-big-gzip to buildah.
    assert len(marks) == 2 + 6
    assert [mark.get("fill") for mark in marks].count("#ffffff") == 1
    assert picture == plot.picture(found)


def test_a_plot_without_peers_is_one(tmp_path: Path) -> None:
    alone = results.read([saved(tmp_path / "a.json", case("edit", arkwright=one(1.0)))])
    assert "no peer" in ElementTree.canonicalize(plot.picture(alone))
    assert rows(alone)["edit", "–"]["Reached"] == "–"


def test_of_two_files_the_later_wins_case_by_case(tmp_path: Path) -> None:
    first = saved(tmp_path / "a.json", *CASES)
    second = saved(
        tmp_path / "b.json", case("steps", arkwright=one(1.0)), case("edit", arkwright=one(9.0)), commit="def",
        versions={"arkwright": "1.1"},
    )  # fmt: skip
    both = results.read([first, second])
    walls = {case.id: case.ours.wall_s for case in both.cases}
    assert walls["edit"] == (9.0,) and walls["noop"] == (0.05, 0.1, 0.05) and walls["steps"] == (1.0,)
    assert list(walls) == [name for name in GOALS if name in walls]
    told = list(results.differences(both))
    assert told == [
        "results of different commits: abc, def",
        "results of different versions of arkwright: 1.0, 1.1",
    ]
    assert list(results.differences(results.read([first]))) == []


def test_skipped_cases_and_memory_do_not_take_times_away(tmp_path: Path) -> None:
    timed = saved(tmp_path / "a.json", CASES[0], case("push", arkwright=one(1.0)))
    memory = saved(
        tmp_path / "b.json", case("edit", arkwright=one(peak=70_000_000)), case("push", skipped="no disk")
    )
    edit, push = results.read([timed, memory]).cases
    assert (edit.ours.wall_s, edit.ours.peak_bytes) == ((1.2, 1.3, 1.1), 70_000_000)
    assert (push.skipped, push.ours.wall_s) == ("", (1.0,))


def test_different_machines_and_other_files_are_refused(tmp_path: Path) -> None:
    here = saved(tmp_path / "a.json", CASES[0])
    there = saved(tmp_path / "b.json", CASES[0], machine={**MACHINE, "cpu": "another"})
    other = tmp_path / "c.json"
    other.write_text("{}")
    for paths, why in (([here, there], "different machines"), ([other], "no results of"), ([], "no results")):
        with pytest.raises(ValueError, match=why):
            results.read(paths)


def test_the_newest_is_told_by_the_date_in_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no results"):
        results.newest(tmp_path)
    newer = saved(tmp_path / "a.json", date="2026-05-05T00:00:00+00:00")
    saved(tmp_path / "b.json")
    # The cost model's results lie there, too.
    (tmp_path / "c.json").write_text(json.dumps({"date": "2027", "sweeps": []}))
    assert results.newest(tmp_path) == newer


def test_only_the_part_between_the_markers_is_written(tmp_path: Path, found: results.Results) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert summary.write(found, page) == [tmp_path / "page.svg", page]
    text = page.read_text()
    assert text.startswith("# Title\n\nBefore.\n") and text.endswith("\n\nAfter.\n")
    assert "old" not in text and "](page.svg)" in text
    summary.write(found, page)
    assert page.read_text() == text
    page.write_text("no markers")
    with pytest.raises(ValueError, match="no part between"):
        summary.write(found, page)
    assert page.read_text() == "no markers"


def test_the_page_has_the_part_and_no_goal_is_typed_by_hand() -> None:
    text = summary.PAGE.read_text()
    part = text.partition(summary.BEGIN)[2].partition(summary.END)[0].strip()
    if not summary.PAGE.with_suffix(".svg").exists():
        assert part == summary.goals_only()
    for line in part.splitlines():
        if match := re.match(r"\| `([^`]+)`", line):
            assert match[1] in GOALS


def test_every_case_has_its_line_of_goals() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--list"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(GOALS)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--summary", str(tmp_path / "none.json")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, "none.json" in done.stderr) == (2, True)
