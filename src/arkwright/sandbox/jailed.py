"""Running a command under a keeper of init (see `linux.jail`) to its end."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence

import msgspec

from arkwright.diagnostics.errors import Cancelled, HostUnsupported
from arkwright.linux import jail as jails
from arkwright.linux import limits
from arkwright.linux.init import init_died
from arkwright.linux.jail import Jail
from arkwright.linux.worker import Child, Worker
from arkwright.sandbox.bundle import DEFAULT_UMASK, Confinement
from arkwright.sandbox.pump import OutputPipes
from arkwright.sandbox.spec import Output
from arkwright.sandbox.users import User

_POLL_S = 0.1
_REPORT_SIZE = 4096
_SYS_CHROOT = "CAP_SYS_CHROOT"


class JailedStep(msgspec.Struct, frozen=True, kw_only=True):
    """A command, its environment and how it is confined; `fds` are those that the jail uses, by
    number of the child; `terminal` keeps the caller's session."""

    argv: list[str]
    env: Mapping[str, str]
    jail: Jail
    fds: Mapping[int, int] = {}
    terminal: bool = False


def confined(
    confinement: Confinement, user: User, *, seccomp: bytes, single_id: bool, chroot_allowed: bool
) -> Jail:
    """The part of a jail that follows from a step's limits and user."""
    names = [name for name in confinement.capabilities if chroot_allowed or name != _SYS_CHROOT]
    return Jail(
        umask=DEFAULT_UMASK,
        rlimits=tuple(limits.as_setrlimit(confinement.rlimits)),
        capabilities=limits.mask_of(names),
        seccomp=seccomp,
        uid=user.uid,
        gid=user.gid,
        groups=None if single_id else user.groups,
    )


def environment_map(env: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE strings as a mapping; of several with one name the last counts."""
    return {name: value for name, _, value in (item.partition("=") for item in env)}


def run_jailed(
    worker: Worker,
    step: JailedStep,
    output: Output,
    stopped: Callable[[], bool],
    stdio: Sequence[int] | None,
) -> int:
    """The exit status as a shell gives it. Nothing of the step is left after.

    Raises `Cancelled`, `HostUnsupported` (`runtime-failed`) when it could not be confined as
    asked, `ArkwrightError` (`init-died`).
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        with OutputPipes() as pipes:
            fds = dict(enumerate(stdio)) if stdio is not None else dict(pipes.writers)
            report_fd = 3
            fds[report_fd] = writer
            fds.update(step.fds)
            jail = msgspec.structs.replace(step.jail, report_fd=report_fd)
            child = worker.spawn(step.argv, env=step.env, fds=fds, setsid=not step.terminal, jail=jail)
            os.close(writer)
            writer = -1
            pipes.close_writers()
            try:
                pipes.pump(output, lambda: stopped() or child.was_killed())
                _wait(child, stopped)
            except BaseException:
                _end(child)
                raise
        if not worker.alive:
            raise init_died()
        _require_started(os.read(reader, _REPORT_SIZE))
        code = child.wait()
        return 128 - code if code < 0 else code
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)


def _wait(child: Child, stopped: Callable[[], bool]) -> None:
    while True:
        with contextlib.suppress(TimeoutError):
            child.wait(_POLL_S)
            return
        if stopped():
            raise Cancelled.of("cancelled", "the step was stopped")


def _end(child: Child) -> None:
    """The keeper kills everything below it, then ends."""
    with contextlib.suppress(Exception):
        child.kill(signal.SIGTERM)
        child.wait()


def _require_started(report: bytes) -> None:
    if report.startswith(jails.SETUP_FAILED):
        reason = report.removeprefix(jails.SETUP_FAILED).decode(errors="replace")
        raise HostUnsupported.of(
            "runtime-failed",
            f"the step could not be confined: {reason}",
            hint="run arkwright doctor, which says what this host lacks",
            details={"probe": {"said": reason}, "fix": "arkwright doctor"},
        )
