"""The store's quota during a build: what crosses it is stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from arkwright.build.means import Means
from arkwright.cache.settings import read_limits
from arkwright.diagnostics.amounts import bytes_text
from arkwright.diagnostics.errors import ArkwrightError, Cancelled, UserError

if TYPE_CHECKING:
    from arkwright.cache.meter import Crossing


@contextmanager
def within_quota(means: Means, cancelled: threading.Event) -> Iterator[None]:
    """Watch the store's size while the body runs, and stop everything when it crosses the quota.

    Raises `UserError` `quota-exceeded` then, in place of the `Cancelled` that it leads to. Costs
    nothing without a quota.
    """
    quota = read_limits(means.store.metadata).quota
    if quota < 0:
        yield
        return
    from arkwright.cache.meter import QuotaWatch

    with QuotaWatch(means.store.root_path, quota, cancelled.set) as watch:
        means.stopped_by = lambda: None if watch.crossing is None else _exceeded(watch.crossing)
        try:
            yield
        except Cancelled as error:
            cause = means.stopped_by()
            if cause is None:
                raise
            raise cause from error


def _exceeded(crossing: Crossing) -> ArkwrightError:
    over = crossing.used - crossing.quota
    return UserError.of(
        "quota-exceeded",
        f"the store takes {bytes_text(crossing.used)} and its quota is {bytes_text(crossing.quota)}: "
        f"{bytes_text(over)} over",
        notes=(f"this build wrote {bytes_text(crossing.grown)} until it was stopped",),
        hint="build again, as old cache has made room; if that is not enough, remove images (arkwright rm) or "
        "raise the quota (arkwright quota SIZE)",
        details={"quota": crossing.quota, "used": crossing.used, "grown": crossing.grown, "over": over},
    )
