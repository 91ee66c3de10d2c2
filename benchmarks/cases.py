"""The table of cases, in the order in which they are reported."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch

from benchmarks.case import Case
from benchmarks.cases_build import Crowd, Dag13, Edit, Fan, Noop, Steps, TwoLanguages
from benchmarks.cases_bytes import CopyMany, LargeContext, LayerBig, LayerMany, Pull, Push
from benchmarks.site import Site

MEMORY = "memory"


def all_cases(site: Site, scale: float) -> list[Case]:
    return [
        *(Noop(site, scale, files) for files in (200, 1000, 20_000)),
        Edit(site, scale),
        Steps(site, scale),
        Fan(site, scale),
        TwoLanguages(site, scale),
        TwoLanguages(site, scale, again=True),
        Dag13(site, scale),
        *(LayerBig(site, scale, "big", codec) for codec in ("gzip", "zstd")),
        *(LayerMany(site, scale, "many", codec) for codec in ("gzip", "zstd")),
        Pull(site, scale),
        Push(site, scale),
        LargeContext(site, scale),
        CopyMany(site, scale),
        Crowd(site, scale),
    ]


def chosen(cases: Sequence[Case], patterns: Sequence[str]) -> list[Case]:
    """Cases whose id or group one of the patterns matches; all without patterns.

    Raises ValueError when a pattern matches none.
    """
    for pattern in patterns:
        if pattern != MEMORY and not any(
            fnmatch(case.id, pattern) or case.group == pattern for case in cases
        ):
            raise ValueError(
                f"no case {pattern}; there are: {MEMORY}, {', '.join(case.id for case in cases)}"
            )
    patterns = [pattern for pattern in patterns if pattern != MEMORY]
    if not patterns:
        return list(cases)
    return [case for case in cases if any(fnmatch(case.id, p) or case.group == p for p in patterns)]
