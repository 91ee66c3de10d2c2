"""How a step ended, from an exit status."""

from __future__ import annotations

from arkwright.sandbox.spec import StepStatus

_SIGNALS_END = 65


def status_of(code: int, tier: str) -> StepStatus:
    """From a wait status: negative for a signal, or as a shell gives it."""
    if code < 0:
        return StepStatus(status=128 - code, signal=-code, tier=tier)
    return StepStatus(status=code, signal=code - 128 if 128 < code < 128 + _SIGNALS_END else None, tier=tier)
