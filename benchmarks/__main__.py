"""`python -m benchmarks [CASE…] [--peers]`: see docs/explanation/performance.md."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import machine, model_page, report, results, summary
from benchmarks.cases import MEMORY, all_cases, chosen
from benchmarks.contestants import Arkwright, Contestant, environment, find, remove
from benchmarks.measure import Taken, Work, run
from benchmarks.model import Model
from benchmarks.play import Settings, play
from benchmarks.site import Site

RESULTS = Path(__file__).parent / "results"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument(
        "case", nargs="*", metavar="CASE", help="an id, a group or a pattern; `memory` measures memory only"
    )
    parser.add_argument("--peers", action="store_true", help="alternate with the builders that are here")
    parser.add_argument("--without", action="append", default=[], metavar="PEER", help="leave a peer out")
    parser.add_argument("--turns", type=int, default=7, help="measured runs of each contestant [7]")
    parser.add_argument("--warmup", type=int, default=1, help="turns before them [1]")
    parser.add_argument("--scale", type=float, default=1.0, help="of all sizes: 0.01 to try the harness")
    parser.add_argument("--settle", type=float, default=3.0, metavar="SECONDS", help="age of a context [3]")
    parser.add_argument("--floor", action="store_true", help="first measure starts of an empty Python")
    parser.add_argument("--no-memory", action="store_true", help="no extra run that samples memory")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/DATE-MACHINE.json")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the results there, too")
    parser.add_argument("--scratch", metavar="DIR", type=Path, help="where to work, on a real disk")
    parser.add_argument("--bases", metavar="DIR", type=Path, help="keep base images there for the next time")
    parser.add_argument("--model", action="store_true", help="the cost model: vary one thing at a time")
    parser.add_argument(
        "--summary", nargs="*", metavar="RESULT.json", type=Path,
        help="measure nothing: write saved results, by default the newest, and their plot into "
        "docs/explanation/performance.md; several files are put together, a later one winning",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="say what cases there are")
    options = parser.parse_args(argv)
    if options.summary is not None and options.case:
        parser.error("--summary measures no case")
    return options


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _scratch(parent: Path | None) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="arkwright-bench-", dir=parent))
    path.chmod(0o755)
    try:
        yield path
    finally:
        remove(path)


def _floors(scratch: Path, turns: int) -> dict[str, list[Taken]]:
    """What no program in Python can be faster than, and what Arkwright's start adds to it."""
    program = str(Path(sys.executable).with_name("arkwright"))
    commands = {
        "python -I -S -c pass": [sys.executable, "-I", "-S", "-c", "pass"],
        "python -c pass": [sys.executable, "-c", "pass"],
        "arkwright --version": [program, "--version"],
        "true": ["true"],
    }
    env = environment(scratch)
    found: dict[str, list[Taken]] = {name: [] for name in commands}
    for turn in range(turns + 1):
        for name, command in commands.items():
            taken = run(Work([command]), env, scratch / "floor.log")
            if turn > 0:
                found[name].append(taken)
    return found


def _measure(
    options: argparse.Namespace, scratch: Path, contestants: Sequence[Contestant], site: Site
) -> int:
    cases = chosen(all_cases(site, options.scale), options.case)
    settings = Settings(
        options.turns, options.warmup, options.settle, memory=not options.no_memory,
        timed=MEMORY not in options.case,
    )  # fmt: skip
    about = machine.describe(scratch)
    now = datetime.datetime.now(datetime.UTC)
    whole: dict[str, Any] = {
        "date": now.isoformat(timespec="seconds"),
        "machine": about,
        "load_average": list(os.getloadavg()),
        "commit": machine.commit(),
        "versions": {one.name: one.version for one in contestants},
        "scale": options.scale,
        "warmup": options.warmup,
    }
    floors = _floors(scratch, options.turns) if options.floor else {}
    for name, runs in floors.items():
        print(report.floor_line(name, runs))
    whole["floor"] = {name: [round(taken.wall_s, 6) for taken in runs] for name, runs in floors.items()}
    failed, whole["cases"] = False, []
    for case in cases:
        outcome = play(case, contestants, settings, _say)
        print("\n".join(report.lines(outcome)), flush=True)
        whole["cases"].append(report.document(outcome))
        failed |= "arkwright" in outcome.failures
    if options.json:
        options.json.write_text(json.dumps(whole))
    if options.save:
        _say(f"wrote {report.save(RESULTS, f'{now:%Y-%m-%d}-{machine.slug(about)}', whole)}")
    return int(failed)


def _model(options: argparse.Namespace, scratch: Path, site: Site) -> int:
    place = scratch / "arkwright"
    place.mkdir()
    arkwright = Arkwright(place)
    model = Model(arkwright, site.base("busybox"), scratch, options.scale)
    about, now = machine.describe(scratch), datetime.datetime.now(datetime.UTC)
    sweeps = []
    for sweep in model.sweeps():
        if not options.case or any(word in sweep.name for word in options.case):
            measured = model.measure(sweep, options.turns, _say)
            print("\n".join(measured.lines()), flush=True)
            sweeps.append(measured.document())
    whole = {
        "date": now.isoformat(timespec="seconds"),
        "machine": about,
        "load_average": list(os.getloadavg()),
        "versions": {arkwright.name: arkwright.version},
        "scale": options.scale,
        "sweeps": sweeps,
    }
    if options.json:
        options.json.write_text(json.dumps(whole))
    if options.save:
        _say(f"wrote {report.save(RESULTS, f'{now:%Y-%m-%d}-{machine.slug(about)}-model', whole)}")
    return 0


def _summarise(paths: Sequence[Path]) -> int:
    try:
        found = results.read(paths or [results.newest(RESULTS)])
        for line in results.differences(found):
            _say(f"warning: {line}")
        for path in summary.write(found, model=model_page.read(RESULTS)):
            _say(f"wrote {path}")
    except (OSError, ValueError) as error:
        _say(str(error))
        return 2
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    options = _arguments(argv)
    if options.summary is not None:
        return _summarise(options.summary)
    # Daemons and mounts go also when the run is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with _scratch(options.scratch) as scratch:
        site = Site(scratch, options.bases)
        if options.model:
            return _model(options, scratch, site)
        try:
            cases = chosen(all_cases(site, options.scale), options.case)
        except ValueError as error:
            _say(str(error))
            return 2
        if options.list:
            for case in cases:
                print(f"{case.id:<22} {case.text}")
            return 0
        contestants, missing = find(scratch, site.base("busybox"), options.peers, options.without)
        with ExitStack() as closing:
            for one in contestants:
                closing.callback(one.close)
                _say(f"{one.name} {one.version}")
            for line in missing:
                _say(line)
            return _measure(options, scratch, contestants, site)


if __name__ == "__main__":
    sys.exit(main())
