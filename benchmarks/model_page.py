"""The cost model as a part of the page: `./dev bench --summary`, from what `--model` saved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.model import micro

BEGIN, END = "<!-- model -->", "<!-- /model -->"

# By sweep: what it is that grows, and what nobody can be faster than.
_WHY: Mapping[str, tuple[str, str]] = {
    "files in the context, cached": (
        "a stat of each, and looking it up",
        "the kernel's `getdents` and `stat`: 3 µs",
    ),
    "files changed of 20000": (
        "reading, hashing, one layer of all files anew",
        "sha256 without instructions for it",
    ),
    "files in a layer": ("a tar header each, opening and reading", "system calls for each file"),
    "MiB in a layer": (
        "hash of the content, hash of the tar, compression, hash of the blob",
        "sha256 at 3 ms a MiB; the compressor",
    ),
    "steps, cached": ("a look into the cache for each", "parsing the line; one query of SQLite"),
    "steps that run": ("mounting, starting the runtime, looking at the tree", "`crun` itself: 6 ms"),
    "layers of the base": ("one lower directory each", "overlayfs' own lookups"),
    "builds at once, cached": ("everything, divided by the number of CPUs", "the start of Python"),
    "builds in the store, cached": ("nothing", "an index lookup"),
}


def read(folder: Path) -> dict[str, Any] | None:
    """The cost model of all saved files, of each sweep the latest by the date in the file; None for none."""
    documents = sorted(
        (json.loads(path.read_text()) for path in folder.glob("*.json")), key=lambda one: str(one["date"])
    )
    models = [one for one in documents if "sweeps" in one]
    if not models:
        return None
    sweeps = {sweep["sweep"]: sweep for model in models for sweep in model["sweeps"]}
    return {**models[-1], "sweeps": [sweeps[name] for name in _WHY if name in sweeps]}


def markdown(document: Mapping[str, Any]) -> str:
    """A table of sweeps, and where it was measured."""
    about = document["machine"]
    rows = [
        "| With more … | The cost that grows | The limit | Measured | One more costs |",
        "|" + " --- |" * 5,
    ]
    for sweep in document["sweeps"]:
        grows, limit = _WHY[sweep["sweep"]]
        points = [f"{one['value']:,}: {median(one['wall_s']) * 1000:.0f} ms" for one in sweep["values"]]
        each = f"{micro(sweep['wall_s_each'])}, CPU {micro(sweep['cpu_s_each'])}"
        rows.append(f"| {sweep['sweep']} | {grows} | {limit} | {'; '.join(points)} | {each} |")
    turns = [len(value["wall_s"]) for sweep in document["sweeps"] for value in sweep["values"]]
    where = (
        f"Measured on {document['date'][:10]}: {about['cpus']} × {about['cpu']}, Linux {about['kernel']}, "
        f"{about['file_system']}; medians of {min(turns)} to {max(turns)} runs of the whole program."
    )
    return "\n".join(rows) + f"\n\n{where}"
