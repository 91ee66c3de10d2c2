"""The conformance suite itself: well-formed, complete against the inventory and the facts."""

from __future__ import annotations

import re
from pathlib import Path

from conformance_cases import facts, inventory, load_all, parse_source, problems

DECISIONS = Path(__file__).parents[2] / "docs" / "reference" / "dockerfile-compatibility.md"


def test_every_case_file_is_well_formed() -> None:
    assert not problems(), "\n".join(problems())


def test_there_are_enough_cases() -> None:
    assert len(load_all()) >= 300


def test_every_row_has_an_accepted_and_a_refused_case() -> None:
    accepted = {row for case in load_all() if case.accepted for row in case.rows}
    refused = {row for case in load_all() if case.refused for row in case.rows}
    missing = [f"{row}: no accepted case" for row in inventory() if row not in accepted]
    missing += [f"{row}: no refused case" for row in inventory() if row not in refused]
    assert not missing, "\n".join(missing)


def test_every_fact_has_a_case() -> None:
    named = {case.source.removeprefix("fact:") for case in load_all()}
    missing = [f"{fact}: {text}" for fact, text in facts().items() if fact not in named]
    assert not missing, "\n".join(missing)


def test_every_decision_is_documented() -> None:
    documented = set(re.findall(r"decision[:-]([a-z0-9-]+)", DECISIONS.read_text()))
    sources = [(case.id, source) for case in load_all() for source in (case.source, *case.judges.values())]
    missing = [
        f"{case}: {source}"
        for case, source in sources
        if source.startswith("decision:") and parse_source(source).name not in documented
    ]
    assert not missing, f"not in {DECISIONS.name}:\n" + "\n".join(missing)
