"""Keeping secret values out of step output."""

from __future__ import annotations

from collections.abc import Callable, Sequence

MASK = b"***"
_SHORTEST = 4


class Redactor:
    """Replaces secret values in a stream of output, also where a value spans two reads.

    Values shorter than four bytes are left alone: they would mask ordinary text.
    """

    def __init__(self, values: Sequence[bytes], output: Callable[[int, bytes], None]) -> None:
        lines = {line for value in values for line in (value, value.strip()) if len(line) >= _SHORTEST}
        self._values = sorted(lines, key=len, reverse=True)
        self._output = output
        self._held: dict[int, bytes] = {}

    def __call__(self, fd: int, data: bytes) -> None:
        if not self._values:
            self._output(fd, data)
            return
        data = self._held.pop(fd, b"") + data
        for value in self._values:
            data = data.replace(value, MASK)
        keep = max((self._prefix(data, value) for value in self._values), default=0)
        if keep:
            self._held[fd] = data[-keep:]
            data = data[:-keep]
        if data:
            self._output(fd, data)

    def flush(self) -> None:
        """Pass on what was held back because it could have been the start of a secret."""
        for fd, data in self._held.items():
            self._output(fd, data)
        self._held.clear()

    @staticmethod
    def _prefix(data: bytes, value: bytes) -> int:
        longest = min(len(value) - 1, len(data))
        return next((size for size in range(longest, 0, -1) if data.endswith(value[:size])), 0)
