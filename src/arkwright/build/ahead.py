"""Base images looked up side by side, each by a process of its own.

The process that the user started must stay without threads until it has forked the worker, and a
registry answers slowly: so children ask, and hand back what they found. A child that fails says
nothing; the parent then asks itself, and gets the error with its place.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import msgspec

from arkwright.graph.ops import SourceOp
from arkwright.oci.platform import Platform
from arkwright.sources.base import PinnedImage
from arkwright.store.store import Store

_AT_ONCE = 8
_CHUNK = 1 << 20

Asked = tuple[SourceOp, Platform]


def pin_together(
    store: Store, asked: Sequence[Asked], *, tls_verify: bool | None
) -> list[PinnedImage | None]:
    """What each source is pinned to, in order; None where that failed.

    The calling process must have one thread.
    """
    found: list[PinnedImage | None] = []
    for start in range(0, len(asked), _AT_ONCE):
        with store.metadata.apart():
            children = [_ask(store.root_path, one, tls_verify) for one in asked[start : start + _AT_ONCE]]
        try:
            found += [_answer(read_fd) for _, read_fd in children]
        except BaseException:
            for pid, _ in children:
                os.kill(pid, signal.SIGKILL)
            raise
        finally:
            for pid, _ in children:
                os.waitpid(pid, 0)
    return found


def _ask(root_path: str, asked: Asked, tls_verify: bool | None) -> tuple[int, int]:
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid:
        os.close(write_fd)
        return pid, read_fd
    # The parent's lease came over the fork: it is never touched, and nothing is torn down here.
    try:
        from arkwright.linux.syscalls import set_parent_death_signal

        set_parent_death_signal(signal.SIGKILL)
        os.close(read_fd)
        data = memoryview(msgspec.msgpack.encode(_pin(root_path, asked, tls_verify)))
        while data:
            data = data[os.write(write_fd, data) :]
    finally:
        os._exit(0)


def _pin(root_path: str, asked: Asked, tls_verify: bool | None) -> PinnedImage:
    from arkwright.sources.image import StoreImageSource

    with Store.open(root_path) as store:
        source = StoreImageSource(store, tls_verify=tls_verify)
        try:
            return source.pin(*asked)
        finally:
            source.close()


def _answer(read_fd: int) -> PinnedImage | None:
    with os.fdopen(read_fd, "rb") as pipe:
        data = b"".join(iter(lambda: pipe.read(_CHUNK), b""))
    try:
        return msgspec.msgpack.decode(data, type=PinnedImage)
    except msgspec.MsgspecError:
        return None
