"""Which times the entries of an image get: the rule of `--timestamps`.

A layer is made under one rule and keeps the digest that it has under it. What a rule needs to know is in
the cache keys of what it applies to, so that a cached layer is what a clean build would make; a rule that
needs nothing is in none.
"""

from __future__ import annotations

import time
from typing import Literal

import msgspec

from arkwright.layer.entry import Entry
from arkwright.layer.profile import CONSTANT_EPOCH, CONSTANT_NS

Rule = Literal["constant", "clamp", "source", "keep"]
_NS = 1_000_000_000


class Stamps(msgspec.Struct, frozen=True, kw_only=True):
    """A rule, with the build's SOURCE_DATE_EPOCH in seconds.

    `constant`: every entry has one time, the same in all images. `source`: every entry has the epoch.
    `clamp`: what is later than the epoch has the epoch, and so has what comes from a context, whose times
    nobody keeps. `keep`: every entry has its own time.
    """

    rule: Rule = "constant"
    epoch: int = CONSTANT_EPOCH

    @property
    def key(self) -> tuple[str | int, ...]:
        """What the keys of steps have to say: nothing where a layer is the same under every epoch.

        Under `clamp`, a file that a step made before the epoch would show the time of that step, and a
        clean build would not.
        """
        match self.rule:
            case "clamp":
                return (self.rule, self.epoch)
            case "keep":
                return (self.rule,)
        return ()

    @property
    def made(self) -> Stamps:
        """The rule under which layers are made and kept; `source` changes them as they leave."""
        return Stamps() if self.rule == "source" else self

    @property
    def context_ns(self) -> int | None:
        """The time of what is copied from a context, in nanoseconds; None for its own. Never one to come: a
        later step would take its sources for newer than what it makes of them."""
        return self.epoch * _NS if self.rule == "clamp" and self.epoch <= time.time() else None

    def of(self, entry: Entry) -> int:
        """The time of an entry in nanoseconds. Deletions have none of their own."""
        if self.rule == "constant":
            return CONSTANT_NS
        has_own = entry.type not in ("whiteout", "opaque")
        if self.rule == "keep":
            return entry.mtime_ns if has_own else CONSTANT_NS
        limit = self.epoch * _NS
        return min(entry.mtime_ns, limit) if self.rule == "clamp" and has_own else limit
