from __future__ import annotations

import threading
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arkwright.diagnostics.errors import Cancelled, RemoteError
from arkwright.net.failures import remote_error
from arkwright.net.redact import redact_url
from arkwright.net.retry import RetryPolicy, SystemClock, retry_after_s, retrying
from loopback_server import FakeClock


def error(*, retryable: bool = True, **more: Any) -> RemoteError:
    return remote_error(
        "network-interrupted", "broken", method="GET", url="http://a/", retryable=retryable, **more
    )


class Failing:
    """Fails `times` times."""

    def __init__(self, times: int, **more: Any) -> None:
        self.left, self.more, self.calls = times, more, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise error(**self.more)
        return "done"


def test_it_goes_on_until_it_works() -> None:
    clock, call = FakeClock(), Failing(3)
    assert retrying(RetryPolicy(), clock, call) == "done"
    assert call.calls == 4 and len(clock.slept) == 3
    for waited, full in zip(clock.slept, (0.5, 1.0, 2.0), strict=True):
        assert full / 2 <= waited <= full


def test_it_gives_up() -> None:
    clock, call = FakeClock(), Failing(99)
    with pytest.raises(RemoteError) as caught:
        retrying(RetryPolicy(attempts=3), clock, call)
    assert caught.value.code == "network-interrupted"
    assert (caught.value.details["attempts"], call.calls, len(clock.slept)) == (3, 3, 2)


def test_what_is_final_is_not_tried_again() -> None:
    clock, call = FakeClock(), Failing(99, retryable=False)
    with pytest.raises(RemoteError) as caught:
        retrying(RetryPolicy(), clock, call)
    assert (caught.value.code, caught.value.details["attempts"], clock.slept) == (
        "network-interrupted",
        1,
        [],
    )


@pytest.mark.parametrize(("after", "slept"), [(0.0, [0.0]), (33.0, [33.0]), (120.0, [120.0]), (121.0, [])])
def test_the_server_says_when(after: float, slept: list[float]) -> None:
    clock, call = FakeClock(), Failing(1, retry_after_s=after)
    if slept:
        assert retrying(RetryPolicy(), clock, call) == "done"
    else:
        with pytest.raises(RemoteError) as caught:
            retrying(RetryPolicy(), clock, call)
        assert caught.value.code == "network-interrupted"
    assert clock.slept == slept


@given(st.integers(1, 60), st.floats(0, 1))
def test_waits_are_bounded(attempt: int, chance: float) -> None:
    wait = RetryPolicy(attempts=100).delay_s(attempt, None, chance)
    assert wait is not None and 0.25 <= wait <= 20


def test_cancelling_ends_a_wait() -> None:
    event = threading.Event()
    event.set()
    with pytest.raises(Cancelled) as caught:
        retrying(RetryPolicy(base_s=3600, cap_s=3600), SystemClock(event), Failing(1))
    assert (caught.value.code, caught.value.exit_code) == ("cancelled", 130)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None), ("", None), ("5", 5.0), (" 7 ", 7.0), ("-1", None), ("1.5", None), ("soon", None), ("٣", None),
        (formatdate(1_000_030, usegmt=True), 30.0), (formatdate(999_000, usegmt=True), 0.0), ("9" * 400, 999_999_999.0),
    ],
)  # fmt: skip
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, 1_000_000.0) == seconds


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@host/a", "https://host/a"),
        ("https://host/a?token=secret&digest=sha256:0", "https://host/a?token=…&digest=sha256:0"),
        ("https://host/a?X-Amz-Signature=secret#secret", "https://host/a?X-Amz-Signature=…"),
        ("https://user:secret@[::1/a?b=secret", "https://[::1/a"),
        ("https://host/?flag", "https://host/?flag"),
    ],
)
def test_urls_are_redacted(url: str, shown: str) -> None:
    assert redact_url(url) == shown
    assert "secret" not in repr(
        remote_error("http-protocol", "x", method="GET", url=url, retryable=False).details
    )
