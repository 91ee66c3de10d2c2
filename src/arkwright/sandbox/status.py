"""How a step ended, from an exit status."""

from __future__ import annotations

from arkwright.sandbox.spec import StepStatus

_SIGNALS_END = 65


def status_of(code: int, tier: str, *, oom: bool = False) -> StepStatus:
    """From a wait status: negative for a signal, or as a shell gives it."""
    if code < 0:
        return StepStatus(status=128 - code, signal=-code, oom=oom, tier=tier)
    number = code - 128 if 128 < code < 128 + _SIGNALS_END else None
    return StepStatus(status=code, signal=number, oom=oom, tier=tier)
