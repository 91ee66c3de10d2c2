"""A program in namespaces of its own: a user namespace with all of the user's ids, and a mount namespace.

What it mounts is seen by it and by what it starts, and is gone with the last of them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence

from arkwright.diagnostics.errors import UserError
from arkwright.linux import namespaces

_PASSED = (signal.SIGTERM, signal.SIGHUP)


def run_unshared(args: Sequence[str], env: Mapping[str, str]) -> int:
    """Run a program to its end; its exit status, or 128 and the signal's number.

    The caller must have one thread. Raises `UserError` `command-not-found`, `HostUnsupported`
    `no-user-namespace`, `mount-refused`.
    """
    wanted = namespaces.needs_user_namespace()
    maps = namespaces.plan_id_maps() if wanted else None
    ready, told = os.pipe()
    mapped, go = os.pipe()
    failed, failure = os.pipe()
    child = os.fork()
    if child == 0:
        for fd in (ready, go, failed):
            os.close(fd)
        _become(args, env, told, mapped, failure, new_user=wanted)
    for fd in (told, mapped, failure):
        os.close(fd)
    try:
        if maps is not None and os.read(ready, 1):
            try:
                namespaces.write_id_maps(child, maps)
            except BaseException:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise
        os.write(go, b"g")
        # Empty when the program was started: the pipe is closed then.
        why = os.read(failed, 4096).decode(errors="replace")
        return _awaited(child, why)
    finally:
        for fd in (ready, go, failed):
            os.close(fd)


def _become(
    args: Sequence[str], env: Mapping[str, str], told: int, mapped: int, failure: int, *, new_user: bool
) -> None:
    """The child: enter the namespaces, become the program."""
    try:
        if new_user:
            namespaces.enter_user_namespace()
        os.write(told, b"r")
        os.read(mapped, 1)
        if new_user:
            namespaces.become_namespace_root()
        namespaces.enter_mount_namespace()
        os.execvpe(args[0], list(args), dict(env))  # noqa: S606
    except FileNotFoundError:
        os.write(failure, b"not-found")
    except BaseException as error:
        os.write(failure, str(error).encode(errors="replace")[:4000])
    finally:
        os._exit(127)


def _awaited(child: int, why: str) -> int:
    previous = {
        number: signal.signal(number, lambda number, frame: os.kill(child, number)) for number in _PASSED
    }
    previous[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _, status = os.waitpid(child, 0)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if why == "not-found":
        raise UserError.of("command-not-found", "the program to run is not there")
    if why:
        raise namespaces.no_user_namespace(OSError(0, why))
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
