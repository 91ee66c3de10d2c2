"""Fifty seeded faults in the front end, all of which the cases must find."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conformance_cases import load_all
from conformance_play import Arkwright
from conformance_site import CaseSite
from mutants import COUNT, Mutant, all_mutants, chosen, killer, remembered, source_of, write_mutant

SAMPLE = 4
TAKEN = chosen() if os.environ.get("ARKWRIGHT_SOAK") else random.Random(1).sample(chosen(), SAMPLE)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutant", TAKEN, ids=lambda mutant: mutant.name)
def test_it_dies(mutant: Mutant, player: Callable[[str], Arkwright], case_site: CaseSite) -> None:
    assert killer(mutant, player("root"), load_all(), case_site), (
        f"no case finds {mutant.name} (line {mutant.line} of {mutant.module}): one is missing"
    )


def test_every_change_is_a_change_and_compiles() -> None:
    texts = [source_of(mutant) for mutant in chosen()]
    assert len({(mutant.module, text) for mutant, text in zip(chosen(), texts, strict=True)}) == COUNT
    for mutant, text in zip(chosen(), texts, strict=True):
        compile(text, mutant.module, "exec")


def test_a_mutant_is_what_runs(tmp_path: Path) -> None:
    write_mutant(chosen()[0], tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", "import arkwright; print(arkwright.__file__)"],
        env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith(str(tmp_path))


def test_what_is_left_out_exists_and_has_a_reason() -> None:
    names = {mutant.name for mutant in all_mutants()}
    for name, reason in remembered("equivalent").items():
        assert name in names, f"mutants.toml: {name} is gone"
        assert len(reason.split()) > 4, f"mutants.toml: {name} needs a reason"
