"""How much more may be pushed: a quota, and what is taken of it between two looks at the disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator

from arkwright.registry.server.answers import Problem

LOOK_S = 5.0


class Room:
    """`quota` says how many bytes there may be (-1: any number), `measure` how many there are, which
    takes a while. In between, what is written is counted. Thread-safe."""

    def __init__(
        self,
        quota: Callable[[], int] = lambda: -1,
        measure: Callable[[], int] = lambda: 0,
        *,
        look_s: float = LOOK_S,
    ) -> None:
        self._quota_of = quota
        self._measure = measure
        self._look_s = look_s
        self._lock = threading.Lock()
        self._looked_s = -look_s
        self._quota = -1
        self._used = self._taken = 0
        self._freed = False

    def freed(self) -> None:
        """Something was thrown away: look again before the next refusal."""
        with self._lock:
            self._freed = True

    def check(self, size: int = 0) -> None:
        """Raise `Problem` DENIED when so many bytes more do not fit."""
        with self._lock:
            self._require(size)

    def counted(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """Blocks that are about to be written; ends in `Problem` DENIED before the one that does not fit."""
        for block in blocks:
            with self._lock:
                self._require(len(block))
                self._taken += len(block)
            yield block

    def _require(self, size: int) -> None:
        now_s = time.monotonic()
        old = now_s - self._looked_s >= self._look_s
        if old or (self._exceeded(size) and (self._taken or self._freed)):
            # What was counted may be on the disk by now, or not come to be.
            self._freed = False
            self._quota = self._quota_of()
            self._used = self._measure() if self._quota >= 0 else 0
            self._taken, self._looked_s = 0, time.monotonic()
        if self._exceeded(size):
            raise Problem(507, "DENIED", "the quota of the store is used up")

    def _exceeded(self, size: int) -> bool:
        return 0 <= self._quota < self._used + self._taken + size
