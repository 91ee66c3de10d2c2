"""Reading a step's output until its end, with an eye on cancellation."""

from __future__ import annotations

import os
import select
from collections.abc import Callable

from arkwright.sandbox.spec import Output

_CHUNK = 1 << 16
_LOOK_UP_MS = 100


class OutputPipes:
    """Two pipes for a step's standard output and error. Context manager."""

    def __init__(self) -> None:
        self._readers: dict[int, int] = {}
        self._writers: dict[int, int] = {}

    def __enter__(self) -> OutputPipes:
        for number in (1, 2):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            self._readers[reader] = number
            self._writers[number] = writer
        return self

    def __exit__(self, *_: object) -> None:
        self.close_writers()
        for reader in list(self._readers):
            self._close_reader(reader)

    @property
    def writers(self) -> dict[int, int]:
        """The child's descriptor number → the end to hand over."""
        return self._writers

    def close_writers(self) -> None:
        """To be called once the child has its own copies, else reading never ends."""
        while self._writers:
            os.close(self._writers.popitem()[1])

    def _close_reader(self, reader: int) -> None:
        del self._readers[reader]
        os.close(reader)

    def pump(self, output: Output, stopped: Callable[[], bool]) -> bool:
        """Call `output` with what comes until both pipes end; false when `stopped` said so first."""
        poll = select.poll()
        for reader in self._readers:
            poll.register(reader, select.POLLIN)
        while self._readers:
            if stopped():
                return False
            for reader, _ in poll.poll(_LOOK_UP_MS):
                data = os.read(reader, _CHUNK)
                if data:
                    output(self._readers[reader], data)
                else:
                    poll.unregister(reader)
                    self._close_reader(reader)
        return True
