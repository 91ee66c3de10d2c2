"""A response whose body is read once, and noticed when it ends too early."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from types import TracebackType

from arkwright.net.failures import exchange_failure, remote_error

_CHUNK = 1 << 16

Release = Callable[[bool], None]


class Response:
    """Status, headers and body. A context manager.

    `url` is where the answer came from, after redirects. `length` is the body's announced length
    in bytes, -1 when unknown. Reading raises `RemoteError` `network-interrupted` when the body is
    shorter than announced, and `network-timeout`, also when fewer than `least_rate` bytes per second came
    in `rate_after_s` seconds.
    """

    def __init__(
        self,
        raw: http.client.HTTPResponse,
        method: str,
        url: str,
        release: Release,
        *,
        least_rate: int = 0,
        rate_after_s: float = 60.0,
    ) -> None:
        self.status = raw.status
        self.headers = raw.headers
        self.method = method
        self.url = url
        self.length = -1 if raw.length is None else raw.length
        self._raw = raw
        self._release: Release | None = release
        self._left = self.length
        self._least_rate, self._rate_after_s = least_rate, rate_after_s
        self._since_s, self._since_count = time.monotonic(), 0
        if self._left == 0:
            self._finish(reusable=True)

    def header(self, name: str, default: str = "") -> str:
        """The first value of a header, "" when absent."""
        value = self.headers.get(name)
        return default if value is None else str(value).strip()

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Read what is there, at most the buffer's size; 0 only at the end of a whole body."""
        if self._release is None or not len(buffer):
            return 0
        view = memoryview(buffer)
        try:
            count = self._read_some(view)
        except (OSError, http.client.HTTPException) as error:
            self._finish(reusable=False)
            raise exchange_failure(error, self.method, self.url) from error
        if count == 0:
            self._end()
            return 0
        self._check_rate(count)
        if self._left > 0:
            self._left -= count
            if self._left == 0:
                self._finish(reusable=True)
        return count

    def read(self, limit: int = -1) -> bytes:
        """The rest of the body, at most `limit` bytes."""
        data = bytearray()
        buffer = bytearray(_CHUNK)
        while limit < 0 or len(data) < limit:
            room = _CHUNK if limit < 0 else min(_CHUNK, limit - len(data))
            count = self.readinto(memoryview(buffer)[:room])
            if count == 0:
                break
            data += buffer[:count]
        return bytes(data)

    def close(self) -> None:
        """Give the connection back; one whose body was not read to its end is closed."""
        self._finish(reusable=False)

    def __enter__(self) -> Response:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._finish(reusable=False)

    def _read_some(self, view: memoryview) -> int:
        if self._left < 0:
            data = self._raw.read1(len(view))
            view[: len(data)] = data
            return len(data)
        # `HTTPResponse.readinto` would wait until the whole buffer is full: one timeout for a
        # megabyte instead of one for each arrival.
        return int(self._raw.fp.readinto1(view[: self._left]))

    def _check_rate(self, count: int) -> None:
        """A byte now and then is no silence, and would take for ever. The time that the reader takes
        for itself counts too, which no reader of ours does for so long."""
        self._since_count += count
        spent_s = time.monotonic() - self._since_s
        if spent_s < self._rate_after_s:
            return
        if self._since_count < spent_s * self._least_rate and self._left != count:
            self._finish(reusable=False)
            raise remote_error(
                "network-timeout",
                f"{self._since_count} bytes came in {spent_s:.0f} seconds",
                method=self.method,
                url=self.url,
                retryable=True,
            )
        self._since_s, self._since_count = time.monotonic(), 0

    def _end(self) -> None:
        truncated = self._left > 0
        self._finish(reusable=not truncated)
        if truncated:
            raise remote_error(
                "network-interrupted",
                f"the body ended {self._left} bytes too early",
                method=self.method,
                url=self.url,
                retryable=True,
            )

    def _finish(self, *, reusable: bool) -> None:
        release, self._release = self._release, None
        if release is not None:
            reusable = reusable and not self._raw.will_close
            self._raw.close()
            release(reusable)
