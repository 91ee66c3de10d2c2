"""Fixtures of the store's tests."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from arkwright.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(str(tmp_path / "store")) as opened:
        yield opened


class Fork:
    """A forked child: runs a body, tells when it is ready, and ends when told or killed."""

    def __init__(self, body: Callable[[Callable[[], None]], None]) -> None:
        ready_fd, tell_fd = os.pipe()
        wait_fd, self._go_fd = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 70
            try:
                os.close(self._go_fd)

                def pause() -> None:
                    os.write(tell_fd, b"r")
                    os.read(wait_fd, 1)

                body(pause)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(tell_fd)
        os.close(wait_fd)
        self._ready_fd = ready_fd

    def wait_ready(self) -> None:
        assert os.read(self._ready_fd, 1) == b"r", "the child ended before it was ready"

    def finish(self) -> int:
        if self._go_fd >= 0:
            os.close(self._go_fd)
            os.close(self._ready_fd)
            self._go_fd = -1
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        assert self.finish() == -signal.SIGKILL


@pytest.fixture
def fork() -> Callable[[Callable[[Callable[[], None]], None]], Fork]:
    return Fork
