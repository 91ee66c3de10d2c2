"""After a build: what it used is noted, and the store is brought back to its limits.

With a quota this happens before the build ends, as a store must never be over its quota at rest.
Without one, garbage is collected now and then by a process of its own, which nobody waits for. Both
only when nobody else uses the store: of several builds that end at once, the last one does it.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import msgspec

from arkwright.build.means import Means
from arkwright.build.request import Receipt
from arkwright.cache.settings import Limits, is_due, read_limits
from arkwright.cache.uses import UseNotes
from arkwright.diagnostics.amounts import bytes_text
from arkwright.diagnostics.errors import ArkwrightError, UserError
from arkwright.oci.descriptor import Descriptor
from arkwright.store.store import Store

_PATIENCE_S = 0.5
_POLL_S = 0.05


def kept_up(means: Means, body: Callable[[], Receipt]) -> Receipt:
    """Run a build, then look after the store; the store of `means` is closed after.

    Raises what `body` raises, and `UserError` `quota-exceeded` when the images of the store, with
    those of this build, do not fit: what the build named is as before then.
    """
    notes = UseNotes()
    means.stream.subscribe(notes)
    limits = read_limits(means.store.metadata)
    before = dict(means.store.names.list()) if limits.quota >= 0 else {}
    try:
        receipt = body()
    except BaseException as error:
        with suppress(ArkwrightError, OSError):
            _after(means, notes, limits, ran=True, room=_asked_room(error, limits))
        raise
    used = _after(means, notes, limits, ran=receipt.steps_run > 0)
    if used > limits.quota >= 0:
        mine = {one.digest for one in receipt.targets} | {receipt.digest}
        _take_back(means.store.root_path, before, mine, limits, used)
    return receipt


def _asked_room(error: BaseException, limits: Limits) -> int:
    """What the next try of a build that was stopped at the quota may need: more than it had."""
    if isinstance(error, ArkwrightError) and error.code == "quota-exceeded":
        return max(2 * int(error.details.get("grown", 0)), limits.quota // 2)
    return 0


def _after(means: Means, notes: UseNotes, limits: Limits, *, ran: bool, room: int = 0) -> int:
    """Note what was used, and collect if that is due; the store's size if it was looked at, else -1."""
    root_path = means.store.root_path
    with _metadata_of(means) as store, store.metadata.transaction():
        notes.write(store.metadata, means.stream.build)
        due = is_due(store.metadata, limits, now_s=time.time())
    means.suspend()
    if limits.quota >= 0 and (ran or due):
        return _collect(root_path, msgspec.structs.replace(limits, room=room), due=due)
    if due and not limits.off:
        _detached(lambda: _collect(root_path, limits, due=True))
    return -1


@contextmanager
def _metadata_of(means: Means) -> Iterator[Store]:
    if not means.suspended:
        yield means.store
        return
    with Store.open(means.store.root_path) as store:
        yield store


def _take_back(
    root_path: str, before: dict[str, Descriptor], mine: set[str] | None, limits: Limits, used: int
) -> None:
    """Give the names that were set since back to what they stood for, and say that it does not fit;
    nothing if there are none. `mine` are the digests of what this process named; None for any."""
    with Store.open(root_path) as store:
        changed = [
            name
            for name, found in store.names.list()
            if before.get(name) != found and (mine is None or found.digest in mine)
        ]
        if not changed:
            return
        for name in changed:
            if name in before:
                store.names.set(name, before[name])
            else:
                store.names.remove(name)
    _collect(root_path, limits, due=True)
    raise UserError.of(
        "quota-exceeded",
        f"with this image the store would take {bytes_text(used)} and its quota is {bytes_text(limits.quota)}",
        notes=("images with a name are never deleted; the names that were given now were taken back",),
        hint="remove images (arkwright rm), or raise the quota (arkwright quota SIZE)",
        details={"quota": limits.quota, "used": used},
    )


@contextmanager
def quota_kept(root_path: str) -> Iterator[None]:
    """Bring the store to its quota after a body that adds images to it; the body leaves it closed.

    Raises as `kept_up` does.
    """
    with Store.open(root_path) as store:
        limits = read_limits(store.metadata)
        before = dict(store.names.list()) if limits.quota >= 0 else {}
    yield
    if limits.quota >= 0:
        used = _collect(os.path.realpath(root_path), limits, due=False)
        if used > limits.quota:
            _take_back(root_path, before, None, limits, used)


def _collect(root_path: str, limits: Limits, *, due: bool) -> int:
    """Collect in a worker, which may read and delete every file; the store's size, -1 if it was in use."""
    if len(os.listdir("/proc/self/task")) != 1:
        return -1
    from arkwright.build.store_work import on_store

    def body() -> bytes:
        return b"%d" % _collect_here(root_path, limits, due=due)

    return int(on_store(body, root_path))


def _collect_here(root_path: str, limits: Limits, *, due: bool) -> int:
    from arkwright.cache.collect import collect, needs_room
    from arkwright.cache.meter import Meter
    from arkwright.cache.settings import learn_growth, note_size
    from arkwright.store.gc import empty

    deadline = time.monotonic() + (_PATIENCE_S if limits.quota >= 0 else 0)
    while (store := Store.open_alone(root_path)) is None:
        if time.monotonic() >= deadline:
            return -1
        time.sleep(_POLL_S)
    with store:
        used = Meter(store.root_path).measure()
        room = max(limits.room, min(learn_growth(store.metadata, used), limits.quota // 2))
        limits = msgspec.structs.replace(limits, room=room)
        if due or needs_room(used, limits):
            used = collect(store, limits).after
            note_size(store.metadata, used)
    # The lease is given back: what is in the trash is nobody's.
    empty(os.path.join(root_path, "trash"))
    return used


def _detached(body: Callable[[], object]) -> None:
    """Run a body in a process that outlives this one, at the lowest priority, without its files."""
    if len(os.listdir("/proc/self/task")) != 1:
        return
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        # Objects whose descriptors are closed behind their back must never be collected.
        gc.disable()
        os.setsid()
        if os.fork() == 0:
            nothing = os.open(os.devnull, os.O_RDWR)
            for number in range(3):
                os.dup2(nothing, number)
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            os.nice(19)
            body()
    finally:
        os._exit(0)
