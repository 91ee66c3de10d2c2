"""Cases with RUN in the tiers without an OCI runtime: as expected, and with the digests that crun gives."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest
from conformance_cases import OF_THE_KERNEL, Case, load_all
from conformance_play import Arkwright, tool_missing
from conformance_site import CaseSite

TIERS = ("root/bubblewrap", "root/chroot", "subids/bubblewrap", "subids/chroot")
SAMPLE = 6
# What a tier without a mount or without namespaces cannot give (docs/explanation/isolation.md): words of
# cases that are about it.
LACKING = {
    "root/bubblewrap": ("/sys/class/net",),
    "subids/bubblewrap": ("/sys/class/net",),
    "root/chroot": ("--mount", "--network", "--security", "--shm-size", "/proc", "hostname"),
    "subids/chroot": ("/sys/class/net", "--security", "--shm-size", "/proc", "hostname"),
}
_WITH_RUN = [case for case in load_all() if not case.runs_nothing]


def _taken(tier: str) -> list[Case]:
    possible = [case for case in _WITH_RUN if not _lacking(case, tier)]
    if os.environ.get("ARKWRIGHT_SOAK"):
        return possible
    return random.Random(f"1 {tier}").sample(possible, SAMPLE)


def _lacking(case: Case, tier: str) -> bool:
    text = repr((case.dockerfile, case.args, case.again))
    return any(word in text for word in LACKING.get(tier, ()))


def test_most_cases_are_possible_in_every_tier() -> None:
    for tier in TIERS:
        assert len([case for case in _WITH_RUN if not _lacking(case, tier)]) > len(_WITH_RUN) // 3


@pytest.mark.soak
@pytest.mark.parametrize(
    ("tier", "case"),
    [pytest.param(tier, case, id=f"{tier}-{case.id}") for tier in TIERS for case in _taken(tier)],
)
def test_case_in_a_tier(
    tier: str, case: Case, player: Callable[[str], Arkwright], case_site: CaseSite
) -> None:
    if tool_missing(case):
        pytest.skip(f"needs-{tool_missing(case)}: this case's world")
    program = player(tier)
    found = program.differences(case, case_site)
    assert not found, f"{case.id} ({case.source})\n" + "\n".join(found)
    first = player("root")
    if case.id not in first.digests:
        first.differences(case, case_site)
    if case.id not in OF_THE_KERNEL:
        assert program.digests[case.id] == first.digests[case.id]
