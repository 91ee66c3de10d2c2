"""When and how often to try again.

Waits grow exponentially with full jitter; a server's `Retry-After` (RFC 9110, section 10.2.3:
seconds or a date) is obeyed instead, up to a limit.
"""

from __future__ import annotations

import email.utils
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC
from typing import Protocol, TypeVar

import msgspec

from arkwright.diagnostics.errors import Cancelled, RemoteError

T = TypeVar("T")


class Clock(Protocol):
    """Time, as far as retries and token lifetimes need it."""

    def wall(self) -> float:
        """Seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds of a clock that never jumps."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait. Raises `Cancelled` when the work was called off meanwhile."""
        ...


class SystemClock:
    """The machine's clocks; setting `cancelled` ends every sleep with `Cancelled`."""

    def __init__(self, cancelled: threading.Event | None = None) -> None:
        self.cancelled = cancelled or threading.Event()

    def wall(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        if self.cancelled.wait(seconds):
            raise cancelled()


def cancelled() -> Cancelled:
    """The error for a transfer that was called off."""
    error = Cancelled.of("cancelled", "the transfer was cancelled")
    assert isinstance(error, Cancelled)
    return error


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often, how long, and for which statuses.

    `attempts` counts the first try. The wait before attempt n+1 is a random part of
    `base_s * 2**(n-1)`, at most `cap_s`; a `Retry-After` beyond `retry_after_cap_s` ends the tries.
    """

    attempts: int = 5
    base_s: float = 0.5
    cap_s: float = 20.0
    retry_after_cap_s: float = 120.0
    statuses: frozenset[int] = frozenset({408, 425, 429, 500, 502, 503, 504})

    def delay_s(self, attempt: int, retry_after_s: float | None, chance: float) -> float | None:
        """Seconds to wait after the failed `attempt` (1, 2, …); None to give up.

        `chance` is a random number from 0 to 1.
        """
        if attempt >= self.attempts:
            return None
        if retry_after_s is not None:
            return retry_after_s if retry_after_s <= self.retry_after_cap_s else None
        return min(self.cap_s, self.base_s * 2.0 ** (attempt - 1)) * (0.5 + chance / 2)


def retry_after_s(value: str | None, now: float) -> float | None:
    """The seconds that a `Retry-After` header asks for, at the wall time `now`; None if unreadable."""
    if not value:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - now)


def retrying(policy: RetryPolicy, clock: Clock, call: Callable[[], T]) -> T:
    """Call until it succeeds, fails for good, or the policy gives up.

    A `RemoteError` is retried if its `retryable` detail is true; `retry_after_s` there is obeyed.
    The error that escapes says in `attempts` how often it was tried, and with `exhausted` keeps
    retries around these from multiplying them.
    """
    attempt = 1
    while True:
        try:
            return call()
        except RemoteError as error:
            error.details["attempts"] = max(attempt, error.details.get("attempts", 1))
            wait_s = None
            if error.details.get("retryable") and not error.details.get("exhausted"):
                after_s = error.details.get("retry_after_s")
                wait_s = policy.delay_s(attempt, after_s, random.random())  # noqa: S311
            if wait_s is None:
                error.details["exhausted"] = True
                raise
            clock.sleep(wait_s)
            attempt += 1
