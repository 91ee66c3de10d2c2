"""What ends a step that takes too long or says too much."""

from __future__ import annotations

import threading
import time

from arkwright.diagnostics.amounts import bytes_text
from arkwright.diagnostics.errors import ArkwrightError, UserError
from arkwright.sandbox.spec import Output, StepLimits


class StepWatch(threading.Event):
    """Set when the step is to be stopped: as `cancelled` says, or because of a limit; `cause` then
    is the error (`step-timeout`, `step-output-limit`)."""

    def __init__(self, cancelled: threading.Event, limits: StepLimits) -> None:
        super().__init__()
        self._cancelled = cancelled
        self._limits = limits
        self._began_s = time.monotonic()
        self._said = 0
        self.cause: ArkwrightError | None = None

    def is_set(self) -> bool:
        limit_s = self._limits.timeout_s
        if self.cause is None and limit_s and time.monotonic() - self._began_s > limit_s:
            self.cause = UserError.of(
                "step-timeout",
                f"the step was stopped: it ran for more than {limit_s:g} seconds",
                hint="raise --step-timeout, if the step is as slow as that",
                details={"limit_s": limit_s},
            )
        return self.cause is not None or self._cancelled.is_set()

    def counted(self, output: Output) -> Output:
        """`output`, with a count of what goes through."""

        def counting(fd: int, data: bytes) -> None:
            output(fd, data)
            self._said += len(data)
            limit = self._limits.max_output
            if limit and self._said > limit and self.cause is None:
                self.cause = UserError.of(
                    "step-output-limit",
                    f"the step was stopped: it wrote more than {bytes_text(limit)} of output",
                    hint="raise --max-output, or let the step write to a file",
                    details={"limit": limit},
                )

        return counting
