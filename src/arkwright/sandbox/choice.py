"""Which sandbox a build's steps run in: the strongest that works here, or the one asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Literal

from arkwright.diagnostics.errors import HostUnsupported
from arkwright.linux import namespaces
from arkwright.linux.worker import Worker
from arkwright.sandbox.bubblewrap import BubblewrapSandbox
from arkwright.sandbox.chroot import ChrootSandbox
from arkwright.sandbox.filters import Filters
from arkwright.sandbox.runtime import RUNTIMES, RuntimeSandbox
from arkwright.sandbox.spec import Output, Sandbox, StepSpec, StepStatus

ISOLATIONS = ("auto", "oci", *RUNTIMES, "bubblewrap", "chroot")

_Notice = Callable[[str], None]


def plain_worker(isolation: str) -> Literal["never", "fallback", "always"]:
    """Whether the worker of a build may do without namespaces; see `run_in_worker`."""
    if isolation == "auto":
        return "fallback"
    return "always" if isolation == "chroot" and not namespaces.lacks_for_chroot() else "never"


def needs_copies(worker: Worker, isolation: str) -> bool:
    """Whether trees must be plain directories, for a sandbox that stands in for mounts."""
    return isolation == "chroot" or not worker.namespaced or worker.proc_refused


def chosen_sandbox(
    worker: Worker, isolation: str, notice: _Notice, filters: Filters | None = None
) -> Sandbox:
    """The sandbox that `isolation` (one of `ISOLATIONS`) names; `notice` gets sentences for the user."""
    if isolation in RUNTIMES:
        return RuntimeSandbox(worker, runtimes=(isolation,), notice=notice, filters=filters)
    if isolation == "oci":
        return RuntimeSandbox(worker, notice=notice, filters=filters)
    if isolation == "bubblewrap":
        return BubblewrapSandbox(worker, notice=notice, filters=filters)
    if isolation == "chroot" or not worker.namespaced:
        return ChrootSandbox(worker, notice=notice, filters=filters)
    if worker.proc_refused:
        # No runtime starts a container that cannot have a /proc.
        return ChrootSandbox(worker, notice=notice, filters=filters)
    candidates = (
        RuntimeSandbox(worker, notice=notice, filters=filters),
        BubblewrapSandbox(worker, notice=notice, filters=filters),
    )
    return FirstThatWorks(candidates, notice)


class FirstThatWorks:
    """A `sandbox.spec.Sandbox`: of several the first whose tier can be told."""

    def __init__(self, candidates: Sequence[Sandbox], notice: _Notice) -> None:
        self._candidates = tuple(candidates)
        self._notice = notice
        self._lock = threading.Lock()
        self._chosen: Sandbox | None = None

    @property
    def tier(self) -> str:
        """That of the one in use. Raises `HostUnsupported` (`no-runtime`)."""
        return self._ready().tier

    @property
    def version(self) -> str:
        """That of an OCI runtime; empty for any other way."""
        return str(getattr(self._ready(), "version", ""))

    def run(
        self,
        spec: StepSpec,
        root: str,
        output: Output,
        *,
        cancelled: threading.Event | None = None,
        stdio: Sequence[int] | None = None,
    ) -> StepStatus:
        """See `Sandbox.run`; raises what the one in use raises."""
        return self._ready().run(spec, root, output, cancelled=cancelled, stdio=stdio)

    def _ready(self) -> Sandbox:
        with self._lock:
            if self._chosen is None:
                self._chosen = self._choose()
            return self._chosen

    def _choose(self) -> Sandbox:
        refusals: list[HostUnsupported] = []
        for candidate in self._candidates:
            try:
                tier = candidate.tier
            except HostUnsupported as error:
                refusals.append(error)
                continue
            if refusals:
                self._notice("; ".join(_reasons(refusals)) + f": steps are isolated by {tier}")
            return candidate
        first = refusals[0]
        raise HostUnsupported.of(
            "no-runtime",
            "nothing that isolates steps works on this host",
            notes=tuple(_reasons(refusals)),
            hint=first.diagnostics[0].hint,
            details={"probe": {"refusals": _reasons(refusals)}, "fix": first.diagnostics[0].hint},
        ) from first


def _reasons(refusals: Sequence[HostUnsupported]) -> list[str]:
    found = []
    for refusal in refusals:
        diagnostic = refusal.diagnostics[0]
        found.append("; ".join((diagnostic.message, *diagnostic.notes)))
    return found
