"""A secret as a named pipe: where nothing can be mounted, its bytes are still on no disk, only in the kernel's buffer.

Each time that a program opens it to read, it gets the whole secret and then the end of the file. It then has
another pipe in its place, so that who opens it next gets the secret once, too. Sources: fifo(7), pipe(7).
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable

_LOOK_MS = 100


class SecretPipe:
    """Serves `data` until closed.

    `make()` makes a pipe and returns its path, `put(path)` places it where the step reads it, in place of the
    one before; false when the step has put something else there.
    """

    def __init__(self, data: bytes, make: Callable[[], str], put: Callable[[str], bool]) -> None:
        self._data = data
        self._make = make
        self._put = put
        self._closed = threading.Event()
        path = make()
        # Held before the step can reach it: nobody can lead us to another file.
        self._handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            put(path)
        except BaseException:
            os.close(self._handle)
            raise
        self._thread = threading.Thread(target=self._serve, name="secret", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving; nothing of the secret is left in a pipe."""
        self._closed.set()
        while self._thread.is_alive():
            # Who waits for a reader has one.
            with contextlib.suppress(OSError):
                os.close(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            self._thread.join(_LOOK_MS / 1000)
        os.close(self._handle)

    @property
    def _path(self) -> str:
        return f"/proc/self/fd/{self._handle}"

    def _serve(self) -> None:
        while not self._closed.is_set():
            writer = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)  # waits for a reader
            try:
                if self._closed.is_set():
                    return
                renewed = False
                with contextlib.suppress(OSError):
                    renewed = self._renew()
                self._write(writer)
            finally:
                os.close(writer)
            if not renewed:
                return

    def _renew(self) -> bool:
        path = self._make()
        handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        if not self._put(path):
            os.close(handle)
            os.unlink(path)
            return False
        former, self._handle = self._handle, handle
        os.close(former)
        return True

    def _write(self, writer: int) -> None:
        """Write all of it to a reader that may be slow, or may leave."""
        os.set_blocking(writer, False)
        poll = select.poll()
        poll.register(writer, select.POLLOUT)
        rest = memoryview(self._data)
        while rest and not self._closed.is_set():
            if poll.poll(_LOOK_MS):
                try:
                    rest = rest[os.write(writer, rest) :]
                except BrokenPipeError:
                    return


def make_pipe(path: str, mode: int, uid: int, gid: int) -> str:
    """Make a named pipe in a private directory; returns its path."""
    os.mkfifo(path, 0o600)
    os.chown(path, uid, gid, follow_symlinks=False)
    os.chmod(path, mode)
    return path
