"""Base images looked up side by side, each by a process of its own.

The process that the user started must stay without threads until it has forked the worker, and a
registry answers slowly: so children ask, and hand back what they found. A child that fails says
nothing; the parent then asks itself, and gets the error with its place.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, decode, encode
from arkwright.graph.ops import SourceOp
from arkwright.oci.platform import Platform
from arkwright.sources.base import PinnedImage
from arkwright.sources.door import Door, as_asked
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


def pin_behind(
    door: Door, store: Store, asked: Sequence[Asked], *, tls_verify: bool | None
) -> list[PinnedImage | None]:
    """The same for what a door admits; None for what it refuses too: who asks by itself learns why."""
    admitted = [_admitted(door, *one) for one in asked]
    wanted = [(op, platform) for op, (_, platform) in zip(admitted, asked, strict=True) if op is not None]
    pinned = iter(pin_together(store, wanted, tls_verify=tls_verify))
    found = [None if op is None else next(pinned) for op in admitted]
    return [_inspected(door, *one, image) for one, image in zip(asked, found, strict=True)]


def apart(work: Callable[[], bytes]) -> bytes:
    """What `work` gives in a process of its own, which may have threads. Raises what it raises, as far as
    that is an `ArkwrightError`.

    The calling process must have one thread, and no open connection to the store's metadata.
    """
    pid, read_fd = _child(lambda: _encoded(work))
    try:
        with os.fdopen(read_fd, "rb") as pipe:
            data = b"".join(iter(lambda: pipe.read(_CHUNK), b""))
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.waitpid(pid, 0)
    if data[:1] == b"+":
        return data[1:]
    if not data:
        raise RuntimeError("a child of the build ended without an answer")
    raise decode(data[1:])


def _encoded(work: Callable[[], bytes]) -> bytes:
    try:
        return b"+" + work()
    except ArkwrightError as error:
        return b"-" + encode(error)


def _admitted(door: Door, op: SourceOp, platform: Platform) -> SourceOp | None:
    try:
        return door.admit(op, platform)
    except ArkwrightError:
        return None


def _inspected(door: Door, op: SourceOp, platform: Platform, image: PinnedImage | None) -> PinnedImage | None:
    if image is None:
        return None
    image = as_asked(op, image)
    try:
        door.inspect(op, image, platform)
    except ArkwrightError:
        return None
    return image


def _ask(root_path: str, asked: Asked, tls_verify: bool | None) -> tuple[int, int]:
    return _child(lambda: msgspec.msgpack.encode(_pin(root_path, asked, tls_verify)))


def _child(work: Callable[[], bytes]) -> tuple[int, int]:
    """A child, and the pipe from which its answer is read."""
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
        data = memoryview(work())
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
