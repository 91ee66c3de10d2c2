"""Limits of a whole build in time and in output: what crosses one is stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from arkwright.build.means import Means
from arkwright.diagnostics.amounts import bytes_text
from arkwright.diagnostics.errors import ArkwrightError, Cancelled, UserError
from arkwright.events.types import AnyEvent, Log
from arkwright.sandbox.spec import StepLimits


@contextmanager
def within_bounds(
    means: Means, cancelled: threading.Event, limits: StepLimits, started_s: float
) -> Iterator[None]:
    """Stop everything when the build has taken longer since `started_s` (monotonic), or its steps have
    said more, than `limits` has in `timeout_s` and `max_output`.

    Raises `UserError` `build-timeout` or `build-output-limit` then, in place of the `Cancelled` that it leads to.
    """
    watch = _Watch(cancelled, limits)
    before = means.stopped_by
    means.stopped_by = lambda: watch.cause or before()
    if limits.max_output:
        means.stream.subscribe(watch.told)
    timer = threading.Timer(max(started_s + limits.timeout_s - time.monotonic(), 0), watch.late)
    timer.daemon = True
    if limits.timeout_s:
        timer.start()
    try:
        yield
    except Cancelled as error:
        if watch.cause is None:
            raise
        raise watch.cause from error
    finally:
        timer.cancel()


class _Watch:
    """Sets `cancelled` for the first limit that is crossed; `cause` is the error."""

    def __init__(self, cancelled: threading.Event, limits: StepLimits) -> None:
        self._cancelled = cancelled
        self._limits = limits
        self._said = 0
        self.cause: ArkwrightError | None = None

    def told(self, event: AnyEvent) -> None:
        """Count what steps say; the stream calls this once at a time."""
        if isinstance(event, Log):
            self._said += len(event.data)
            limit = self._limits.max_output
            if self._said > limit:
                self._stop(
                    UserError.of(
                        "build-output-limit",
                        f"the build was stopped: its steps wrote more than {bytes_text(limit)} of output together",
                        hint="raise --build-max-output, or let steps write to files",
                        details={"limit": limit},
                    )
                )

    def late(self) -> None:
        """The time is over."""
        limit_s = self._limits.timeout_s
        self._stop(
            UserError.of(
                "build-timeout",
                f"the build was stopped: it took more than {limit_s:g} seconds",
                notes=("what its finished steps made stays in the cache",),
                hint="build again, which goes on from there, or raise --build-timeout",
                details={"limit_s": limit_s},
            )
        )

    def _stop(self, cause: ArkwrightError) -> None:
        if self.cause is None:
            self.cause = cause
            self._cancelled.set()
