"""Every case of the conformance suite, as root and as a user with subordinate ids; those without RUN as
a user who may do nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conformance_cases import Case, load_all
from conformance_play import Arkwright, tool_missing
from conformance_site import CaseSite


@pytest.mark.parametrize("identity", ["root", "subids"])
@pytest.mark.parametrize("case", load_all(), ids=lambda case: case.id)
def test_case(case: Case, identity: str, player: Callable[[str], Arkwright], case_site: CaseSite) -> None:
    if case.root_only and identity != "root":
        pytest.skip(f"root-only: {case.root_only}")
    if tool_missing(case):
        pytest.skip(f"needs-{tool_missing(case)}: this case's world")
    _play(case, identity, player, case_site)


@pytest.mark.parametrize("case", [case for case in load_all() if case.runs_nothing], ids=lambda case: case.id)
def test_case_without_privileges(case: Case, player: Callable[[str], Arkwright], case_site: CaseSite) -> None:
    """What starts nothing works for a user with no capability, no subordinate ids, no namespaces."""
    if case.root_only:
        pytest.skip(f"root-only: {case.root_only}")
    if tool_missing(case):
        pytest.skip(f"needs-{tool_missing(case)}: this case's world")
    _play(case, "sealed", player, case_site)


def _play(case: Case, identity: str, player: Callable[[str], Arkwright], case_site: CaseSite) -> None:
    found = player(identity).differences(case, case_site)
    assert not found, f"{case.id} ({case.source})\n" + "\n".join(found)
