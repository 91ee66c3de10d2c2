"""The nearest name, for "did you mean"."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `word` most likely was meant to be, None when none is close.

    Close: at most one slip per three characters (and always one), where a slip is a wrong, missing
    or extra character or two neighbours swapped; case is ignored. The first of equals wins.
    """
    folded = word.casefold()
    best: str | None = None
    limit = max(1, len(folded) // 3)
    for candidate in candidates:
        slips = _distance(folded, candidate.casefold(), limit)
        if slips <= limit and (slips < len(folded) or not folded):
            best, limit = candidate, slips - 1
    return best


def _distance(first: str, second: str, limit: int) -> int:
    """Optimal string alignment distance; anything above `limit` may be returned as `limit + 1`."""
    if abs(len(first) - len(second)) > limit:
        return limit + 1
    before: list[int] = []
    row = list(range(len(second) + 1))
    for i, char in enumerate(first, 1):
        older, before, row = before, row, [i]
        for j, other in enumerate(second, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (char != other))
            if i > 1 and j > 1 and char == second[j - 2] and first[i - 2] == other:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
        if min(row) > limit:
            return limit + 1
    return row[-1]
