"""Every benchmark case does its work at a tiny scale; what is measured is complete; nothing is compared."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.measure import CommandFailed, Taken, Work, run
from benchmarks.report import ratios, save, spread

REPOSITORY = Path(__file__).parents[2]
MIB = 1 << 20
# The ids of the table of cases in docs/explanation/performance.md.
QUICK = ("noop*", "edit", "steps", "layer-*", "context", "copy-many")
STAGES = ("fan", "dag13", "crowd")
REGISTRIES = ("pull", "push")
ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


def bench(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *args]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def played(tmp_path: Path, *patterns: str, scale: str = "0.001", memory: bool = False) -> dict[str, Any]:
    """The cases by id, after one turn of Arkwright alone."""
    out = tmp_path / "out.json"
    few = ["--turns", "1", "--warmup", "0", "--settle", "0", "--scale", scale]
    done = bench(*few, *([] if memory else ["--no-memory"]), "--json", str(out), *patterns)
    assert done.returncode == 0, done.stdout + done.stderr
    whole = json.loads(out.read_text())
    assert set(whole) >= {"date", "machine", "versions", "load_average", "scale"}
    return {case["case"]: case for case in whole["cases"]}


def assert_measured(cases: dict[str, Any]) -> None:
    for case in cases.values():
        ours = case["contestants"]["arkwright"]
        assert (case["skipped"], ours["failure"]) == ("", "")
        assert len(ours["wall_s"]) == len(ours["cpu_s"]) == 1
        assert ours["wall_s"][0] > 0 and ours["cpu_s"][0] > 0


def test_cases_of_files(tmp_path: Path) -> None:
    cases = played(tmp_path, *QUICK)
    assert set(cases) == {
        "noop", "noop-1000", "noop-20000", "edit", "steps", "layer-big-gzip", "layer-big-zstd",
        "layer-many-gzip", "layer-many-zstd", "context", "copy-many",
    }  # fmt: skip
    assert_measured(cases)


def test_cases_of_stages(tmp_path: Path) -> None:
    cases = played(tmp_path, *STAGES)
    assert set(cases) == set(STAGES)
    assert_measured(cases)


def test_cases_of_registries(tmp_path: Path) -> None:
    if shutil.which("docker-registry") is None:
        pytest.skip("needs-docker-registry: images to pull and push")
    cases = played(tmp_path, *REGISTRIES)
    assert set(cases) == set(REGISTRIES)
    assert_measured(cases)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_two_languages(tmp_path: Path) -> None:
    if not os.environ.get("ARKWRIGHT_SOAK"):
        pytest.skip("soak: a Debian base and two compilers, from the network")
    if shutil.which("mmdebstrap") is None:
        pytest.skip("needs-mmdebstrap: a base with a package manager")
    cases = played(tmp_path, "two-languages", scale="1")
    assert set(cases) == {"two-languages", "two-languages-again"}
    assert_measured(cases)


def test_memory_is_measured_without_times(tmp_path: Path) -> None:
    cases = played(tmp_path, "memory", "steps", memory=True)
    ours = cases["steps"]["contestants"]["arkwright"]
    assert ours["wall_s"] == []
    assert 10 * MIB < ours["peak_bytes"] < 1000 * MIB


def test_the_list_has_every_group_of_the_table() -> None:
    listed = {line.split()[0] for line in bench("--list").stdout.splitlines()}
    assert {*STAGES, *REGISTRIES, "noop", "edit", "steps", "two-languages", "context", "copy-many"} <= listed


def test_an_unknown_case_is_an_error() -> None:
    done = bench("nonesuch")
    assert done.returncode == 2
    assert "no case nonesuch" in done.stderr


BUSY = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"


def cpu_of(script: str, tmp_path: Path, parallel: int = 1) -> Taken:
    work = Work([["sh", "-c", script]] * parallel, parallel=parallel > 1)
    return run(work, ENV, tmp_path / "log")


def test_cpu_counts_what_a_command_leaves_behind(tmp_path: Path) -> None:
    direct = cpu_of(BUSY, tmp_path)
    left_behind = cpu_of(f"(sh -c '{BUSY}') & exit 0", tmp_path)
    assert left_behind.cpu_s > direct.cpu_s / 2
    assert left_behind.wall_s < left_behind.cpu_s


def test_commands_of_a_work_run_in_order_or_at_once(tmp_path: Path) -> None:
    ordered = Work([["sh", "-c", "echo 1 >> order"], ["sh", "-c", "echo 2 >> order"]])
    run(ordered, ENV, tmp_path / "log")
    assert (tmp_path / "order").read_text() == "1\n2\n"
    # Each waits for the other: only at once do both end.
    meet = [["sh", "-c", f"mkfifo f{n} 2>/dev/null; echo x > f{n} & read -r _ < f{1 - n}"] for n in (0, 1)]
    for number in (0, 1):
        subprocess.run(["mkfifo", str(tmp_path / f"f{number}")], check=True)
    run(Work(meet, parallel=True), ENV, tmp_path / "log")


def test_a_failed_command_ends_the_work_and_says_why(tmp_path: Path) -> None:
    work = Work([["sh", "-c", "echo the reason >&2; exit 3"], ["touch", "never"]])
    with pytest.raises(CommandFailed, match="status 3: the reason"):
        run(work, ENV, tmp_path / "log")
    assert not (tmp_path / "never").exists()


def test_ratios_are_taken_pair_by_pair() -> None:
    # The second turn was slow for both: by medians of each alone it would tell nothing.
    assert ratios([1.0, 10.0, 1.0], [2.0, 20.0, 4.0]) == (0.25, 0.5, 0.5)
    assert ratios([], []) is None
    assert spread([3.0, 1.0, 2.0]) == (1.0, 2.0, 3.0)


def test_results_are_never_overwritten(tmp_path: Path) -> None:
    first, second = save(tmp_path, "a", {"n": 1}), save(tmp_path, "a", {"n": 2})
    assert (first.name, second.name) == ("a.json", "a-2.json")
    assert json.loads(first.read_text()) == {"n": 1}
