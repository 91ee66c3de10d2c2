"""Errors as the user sees them at the end: excerpts and, for a failed step, what it did last."""

from __future__ import annotations

from typing import Any

from arkwright.cli.steplog import neutralise
from arkwright.diagnostics.cells import escape
from arkwright.diagnostics.errors import ArkwrightError, HostUnsupported, RemoteError, StepFailed, parts
from arkwright.diagnostics.render import DEFAULT_WIDTH, render


def describe(error: ArkwrightError, *, color: bool = False, width: int = DEFAULT_WIDTH) -> str:
    """The error as text: its diagnostics and the facts of its class that help; ends with a line end.

    Several failures of one build come one after the other, the first cause first.
    """
    if "failures" in error.details:
        each = [describe(one, color=color, width=width) for one in parts(error)]
        return "\n".join([*each, _count(len(each), int(error.details.get("skipped", 0)))])
    text = render(error.diagnostics, color=color, width=width)
    details = error.details
    if isinstance(error, StepFailed):
        hinted = any(
            details.get("shell") and str(details["shell"]) in (found.hint or "")
            for found in error.diagnostics
        )
        return text + _step(details, with_shell=not hinted)
    if isinstance(error, RemoteError):
        return text + _remote(details)
    if isinstance(error, HostUnsupported) and details.get("fix"):
        return text + f"  fix: {escape(str(details['fix']))}\n"
    return text


def _count(failed: int, skipped: int) -> str:
    text = "1 step failed" if failed == 1 else f"{failed} steps failed"
    return text + (f"; {skipped} that need what failed did not run" if skipped else "") + "\n"


def _step(details: dict[str, Any], *, with_shell: bool) -> str:
    lines: list[str] = []
    if details.get("command"):
        first, *rest = escape(str(details["command"])).split("\n")
        lines += [f"  command: {first}", *(f"           {line}" for line in rest)]
    status = _status(details)
    if status:
        lines.append(f"  status:  {status}")
    tail = [str(line) for line in details.get("tail") or ()]
    if tail:
        lines.append("  last output:")
        lines += [f"    │ {neutralise(line)}".rstrip() for line in tail]
    if details.get("shell") and with_shell:
        lines.append(f"  to open a shell where it failed: {escape(str(details['shell']))}")
    return "".join(line + "\n" for line in lines)


def _status(details: dict[str, Any]) -> str:
    parts: list[str] = []
    if details.get("status") is not None:
        parts.append(f"exit {details['status']}")
    if details.get("signal"):
        parts.append(f"killed by signal {_signal(int(details['signal']))}")
    if details.get("oom"):
        parts.append("out of memory")
    return ", ".join(parts)


def _signal(number: int) -> str:
    import signal

    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:
        return str(number)


def _remote(details: dict[str, Any]) -> str:
    request = " ".join(str(details[key]) for key in ("method", "url") if details.get(key))
    answer = " ".join(str(details[key]) for key in ("status", "remote_code") if details.get(key))
    lines = [f"  request: {request}"] if request else []
    lines += [f"  answer:  {answer}"] if answer else []
    attempts = details.get("attempts") or 0
    lines += [f"  attempts: {attempts}"] if attempts > 1 else []
    return "".join(escape(line) + "\n" for line in lines)
