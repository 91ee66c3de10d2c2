"""Filters of system calls are compiled once and kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from arkwright.linux import limits, seccomp
from arkwright.sandbox import filters
from arkwright.sandbox.filters import BUCKET, Filters
from arkwright.store.store import Store

CAPABILITIES = tuple(limits.capabilities(every=False))


@pytest.fixture(autouse=True)
def _needs_libseccomp() -> None:
    if seccomp.library_version() is None:
        pytest.skip("needs-libseccomp: what compiles filters")


def test_a_filter_is_kept_from_build_to_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(str(tmp_path)) as store:
        made = Filters(store.metadata).of(CAPABILITIES)
        assert made == seccomp.compiled(limits.seccomp(CAPABILITIES))
        monkeypatch.setattr(filters, "compiled", None)
        assert Filters(store.metadata).of(CAPABILITIES) == made


def test_profiles_and_versions_have_filters_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(str(tmp_path)) as store:
        few, many = CAPABILITIES, (*CAPABILITIES, "CAP_SYS_ADMIN")
        if limits.seccomp(few) == limits.seccomp(many):
            pytest.skip("needs-profile: the built-in list is the same for all capabilities")
        made = Filters(store.metadata)
        assert made.of(few) != made.of(many)
        monkeypatch.setattr(filters, "library_version", lambda: (0, 0, 0))
        assert Filters(store.metadata).of(few) == made.of(few)
        assert len(store.metadata.keys(BUCKET)) == 3
