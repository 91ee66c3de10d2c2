"""`./dev conformance`: every case against Arkwright and the judges on this machine, as a table."""

from __future__ import annotations

import argparse
import fnmatch
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from conformance_cases import Case, load_all, problems
from conformance_judges import Verdict, find_judges
from conformance_play import Arkwright
from conformance_site import CaseSite

from building import Builder

AGREES, EXPECTED, UNEXPECTED, NONE = "=", "≠", "✗", "·"


class Program:
    """Arkwright in the judges' place."""

    def __init__(self, scratch: Path, identity: str, busybox: Path) -> None:
        self.name = "arkwright" if identity == "root" else "rootless"
        self.identity = identity
        self.player = Arkwright(scratch, identity, busybox)
        self.version = ""

    def verdict(self, case: Case, site: CaseSite) -> Verdict:
        if case.root_only and self.identity != "root":
            return Verdict("not-applicable", (case.root_only,))
        lines = tuple(self.player.differences(case, site))
        return Verdict("differs", lines) if lines else Verdict("agrees")


def mark(case: Case, name: str, verdict: Verdict) -> str:
    """The sign of a verdict, by what the case says of the judge."""
    if verdict.kind == "not-applicable":
        return NONE
    if verdict.kind == "agrees":
        return AGREES
    listed = case.judges.get(name, "")
    return NONE if listed in ("unknown-syntax", "not-applicable") else EXPECTED if listed else UNEXPECTED


def busybox_archive(scratch: Path) -> Path:
    """Busybox as an OCI archive, and as a layout beside it."""
    builder = Builder(scratch, "root", "bases")
    builder.run("bootstrap", "busybox")
    archive = scratch / "busybox.tar"
    builder.run("save", "--format", "oci-archive", "-o", str(archive), "busybox")
    layout = scratch / "busybox"
    layout.mkdir()
    subprocess.run(["tar", "-xf", str(archive), "-C", str(layout)], check=True)
    subprocess.run(["chmod", "-R", "a+rX", str(layout), str(archive)], check=True)
    return archive


def play(case: Case, players: Sequence[object], site: CaseSite) -> list[Verdict]:
    found = []
    for player in players:
        try:
            found.append(player.verdict(case, site))  # type: ignore[attr-defined]
        except Exception as error:
            found.append(Verdict("differs", (f"could not be played: {error!r}",)))
    return found


def lines_of(case: Case, names: Sequence[str], verdicts: Sequence[Verdict]) -> Iterator[str]:
    marks = [mark(case, name, verdict) for name, verdict in zip(names, verdicts, strict=True)]
    yield f"{case.id:<72}" + "".join(f"{sign:^11}" for sign in marks)
    for name, verdict, sign in zip(names, verdicts, marks, strict=True):
        if sign == UNEXPECTED:
            yield f"    {name} differs, which nothing says ({case.source}):"
            yield from (f"      {line}" for text in verdict.lines for line in text.splitlines())
        elif sign == EXPECTED:
            yield f"    {name}, by {case.judges[name]}: {verdict.lines[0]}"
        elif sign == AGREES and case.judges.get(name, "").startswith(("decision:", "fact:")):
            yield f"    {name} was expected to differ by {case.judges[name]}, and agrees"


def report(cases: Sequence[Case], players: Sequence[object], site: CaseSite, jobs: int) -> bool:
    """Play and print; whether nothing was unexpected."""
    names = [player.name for player in players]  # type: ignore[attr-defined]
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    print(f"{'':<72}" + "".join(f"{name:^11}" for name in names))
    with ThreadPoolExecutor(jobs) as pool:
        for case, verdicts in zip(
            cases, pool.map(lambda case: play(case, players, site), cases), strict=True
        ):
            print(*lines_of(case, names, verdicts), sep="\n", flush=True)
            for name, verdict in zip(names, verdicts, strict=True):
                counts[name][mark(case, name, verdict)] += 1
    print()
    for name in names:
        count = counts[name]
        print(
            f"{name}: {count[AGREES]} agree, {count[EXPECTED]} differ as documented, "
            f"{count[UNEXPECTED]} differ unexpectedly, {count[NONE]} not applicable"
        )
    print(
        f"{AGREES} agrees  {EXPECTED} differs as documented  {UNEXPECTED} differs unexpectedly  {NONE} not applicable"
    )
    return not any(count[UNEXPECTED] for count in counts.values())


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev conformance", description=__doc__)
    parser.add_argument("--judge", choices=("arkwright", "buildah", "docker", "all"), default="all")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="cases, by name (* and ? allowed)")
    options = parser.parse_args()
    print(*problems(), sep="\n", end="\n" if problems() else "")
    cases = [
        case
        for case in load_all()
        if not options.patterns or any(fnmatch.fnmatch(case.id, pattern) for pattern in options.patterns)
    ]
    wanted = ("buildah", "docker") if options.judge == "all" else (options.judge,)
    with ExitStack() as stack:
        scratch = Path(tempfile.mkdtemp(prefix="arkwright-conformance-"))
        stack.callback(subprocess.run, ["rm", "-rf", str(scratch)], check=True)
        scratch.chmod(0o755)
        busybox = busybox_archive(scratch)
        judges, missing = find_judges(wanted, scratch, busybox)
        for judge in judges:
            stack.callback(getattr(judge, "close", lambda: None))
            print(f"{judge.name}: {judge.version}")
        print(*missing, sep="\n", end="\n" if missing else "")
        players = [Program(scratch, "root", busybox), *judges]
        if options.judge in ("arkwright", "all"):
            players.insert(1, Program(scratch, "subids", busybox))
        for player in players:
            if isinstance(player, Program):
                stack.callback(player.player.close)
        fine = report(cases, players, stack.enter_context(CaseSite()), options.jobs)
    return 0 if fine and not problems() else 1


if __name__ == "__main__":
    sys.exit(main())
