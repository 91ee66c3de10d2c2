"""The first and the last event of a build: what was asked for, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable

from arkwright.build.request import BuildRequest, Receipt
from arkwright.diagnostics.errors import ArkwrightError, Cancelled
from arkwright.events.stream import EventStream
from arkwright.events.types import Closed, Opened
from arkwright.frontends.secret_names import is_secret_name

HIDDEN = "…"


def recorded(request: BuildRequest, stream: EventStream, body: Callable[[], Receipt]) -> Receipt:
    """Run a build between its `Opened` and `Closed`; raises what `body` raises."""
    began = time.monotonic()
    stream.emit(opened(request))
    try:
        receipt = body()
    except BaseException as error:
        stream.emit(_failed(error, time.monotonic() - began))
        raise
    stream.emit(
        Closed(
            status="succeeded",
            digest=receipt.digest,
            duration_s=receipt.duration_s,
            steps_run=receipt.steps_run,
            steps_cached=receipt.steps_cached,
        )
    )
    return receipt


def opened(request: BuildRequest) -> Opened:
    """What may be kept of a request."""
    return Opened(
        context=_shown(request.context),
        dockerfile=_shown(request.dockerfile),
        targets=tuple(part.target for part in request.parts() if part.target),
        platforms=tuple(str(one) for one in request.platforms),
        names=tuple(name for part in request.parts() for name in part.names),
        build_args={
            name: HIDDEN if is_secret_name(name) else _shown(value)
            for name, value in sorted(request.build_args.items())
        },
        named_contexts={name: _shown(value) for name, value in sorted(request.named_contexts.items())},
    )


def _failed(error: BaseException, duration_s: float) -> Closed:
    cancelled = isinstance(error, Cancelled | KeyboardInterrupt)
    return Closed(
        status="cancelled" if cancelled else "failed",
        code=error.code if isinstance(error, ArkwrightError) else "internal-error",
        message=str(error),
        duration_s=duration_s,
    )


def _shown(text: str) -> str:
    # The at-sign in the name of an image begins its digest.
    if "://" not in text or text.startswith(("docker-image://", "oci-layout://")):
        return text
    # A cached build loads nothing of the network.
    from arkwright.net.redact import redact_url

    return redact_url(text)
