"""The cost model: sweeps, their slopes, and the table of the page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.contestants import Arkwright
from benchmarks.model import Measured, Model, Sweep

from benchmarks import model_page

MACHINE = {"cpus": 2, "cpu": "A CPU", "kernel": "6.1", "file_system": "ext2/ext3"}


def test_the_slope_is_that_of_the_line_through_the_medians() -> None:
    sweep = Sweep("x", "things", (1, 3, 5), lambda value, token: None)
    measured = Measured(sweep)
    measured.wall_s = {1: [0.3, 9.0, 0.1], 3: [0.5], 5: [0.6, 0.7, 0.8]}
    assert measured.slope(measured.wall_s) == pytest.approx(0.1)
    assert measured.slope({4: [1.0]}) == 0.0


def test_every_sweep_has_its_words_and_its_row(tmp_path: Path) -> None:
    place = tmp_path / "arkwright"
    place.mkdir()
    sweeps = Model(Arkwright(place), tmp_path / "none.tar", tmp_path, 1.0).sweeps()
    document = {
        "date": "2026-05-04T03:02:01+00:00", "machine": MACHINE,
        "sweeps": [
            {
                "sweep": sweep.name, "unit": sweep.unit, "wall_s_each": 0.002, "cpu_s_each": 0.00001,
                "values": [{"value": value, "wall_s": [0.1, 0.3, 0.2], "cpu_s": [0.1]} for value in sweep.values],
            }
            for sweep in sweeps
        ],
    }  # fmt: skip
    rows = model_page.markdown(document).splitlines()
    assert next(row for row in rows if "builds in the store" in row).endswith(
        "| 10: 200 ms; 1,000: 200 ms; 10,000: 200 ms | 2.00 ms, CPU 10.0 µs |"
    )
    assert len([row for row in rows if row.startswith("|")]) == len(sweeps) + 2


def test_of_several_files_the_latest_of_each_sweep_counts(tmp_path: Path) -> None:
    def saved(name: str, date: str, **sweeps: float) -> None:
        found = [{"sweep": sweep.replace("_", " "), "wall_s_each": each} for sweep, each in sweeps.items()]
        (tmp_path / name).write_text(json.dumps({"date": date, "machine": MACHINE, "sweeps": found}))

    assert model_page.read(tmp_path) is None
    saved("b.json", "2026-05-01", files_in_a_layer=1.0, MiB_in_a_layer=1.0)
    saved("a.json", "2026-05-02", MiB_in_a_layer=2.0)
    (tmp_path / "cases.json").write_text(json.dumps({"date": "2027-01-01", "cases": []}))
    found = model_page.read(tmp_path)
    assert found is not None
    assert {one["sweep"]: one["wall_s_each"] for one in found["sweeps"]} == {
        "files in a layer": 1.0, "MiB in a layer": 2.0,
    }  # fmt: skip


def test_a_sweep_runs_the_real_program(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = subprocess.run(
        [
            sys.executable, "-m", "benchmarks", "--model", "builds in the store", "--scale", "0.001", "--turns",
            "1", "--json", str(out),
        ],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (sweep,) = json.loads(out.read_text())["sweeps"]
    assert [one["value"] for one in sweep["values"]] == [1, 10]
    assert all(len(one["wall_s"]) == 1 and one["wall_s"][0] > 0 for one in sweep["values"])
