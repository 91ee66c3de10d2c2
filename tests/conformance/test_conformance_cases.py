"""Every case of the conformance suite, as root and as a user with subordinate ids."""

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
    found = player(identity).differences(case, case_site)
    assert not found, f"{case.id} ({case.source})\n" + "\n".join(found)
