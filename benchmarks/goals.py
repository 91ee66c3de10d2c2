"""What is to be reached: the one table that the page and the plot take goals from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MEMORY_BYTES = 150_000_000


@dataclass(frozen=True)
class Goal:
    """`peers`: the largest ratio of Arkwright's wall time to a peer's, and of CPU time if `cpu_too`.

    `limit` says in words what Arkwright itself is to be near to; `limit_s` seconds of wall time and
    `limit_rate` bytes of the case in a second are its checkable form, where there is one.
    """

    peers: Mapping[str, float] = field(default_factory=dict)
    cpu_too: bool = False
    limit: str = ""
    limit_s: float | None = None
    limit_rate: float | None = None

    def seconds(self, size: int | None) -> float | None:
        """The limit for a case of so many bytes, if it can be told."""
        if self.limit_rate is not None and size:
            return size / self.limit_rate
        return self.limit_s


_NOOP = {"docker": 1.0, "buildah": 0.15}
_STAGES = {"docker": 1.0, "buildah": 0.5}
_PATH = "critical path + 10 %"
_GZIP = Goal({"docker": 0.25, "buildah": 0.25}, limit="150 MB/s", limit_rate=150e6)
_ZSTD = Goal({"docker": 0.5, "buildah": 0.5})
_REGISTRY = Goal({"docker": 0.7, "buildah": 0.5}, limit="120 MB/s compressed")
_FILES = Goal({"docker": 0.5, "buildah": 0.2})

# By case, in the order of the page.
GOALS: Mapping[str, Goal] = {
    "noop": Goal(_NOOP, cpu_too=True),
    "noop-1000": Goal(_NOOP, cpu_too=True, limit="100 ms", limit_s=0.1),
    "noop-20000": Goal(_NOOP, cpu_too=True, limit="200 ms", limit_s=0.2),
    "edit": Goal({"docker": 1.2, "buildah": 0.3}),
    "steps": Goal(
        {"docker": 0.3, "buildah": 0.08}, limit="15 ms (crun), 35 ms (runc) a step over the command"
    ),
    "fan": Goal(_STAGES, limit=_PATH),
    "two-languages": Goal(_STAGES, limit=_PATH),
    "two-languages-again": Goal({"docker": 0.5, "buildah": 0.5}, limit=_PATH),
    "dag13": Goal(_STAGES, limit=_PATH),
    "layer-big-gzip": _GZIP,
    "layer-big-zstd": _ZSTD,
    "layer-many-gzip": _GZIP,
    "layer-many-zstd": _ZSTD,
    "pull": _REGISTRY,
    "push": _REGISTRY,
    "context": _FILES,
    "copy-many": _FILES,
    "crowd": Goal(),
}


def goal_of(case_id: str) -> Goal:
    return GOALS.get(case_id, Goal())
