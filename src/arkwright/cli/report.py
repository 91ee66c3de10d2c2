"""Errors as text on standard error, and as exit status."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress

import click

from arkwright.cli.invocation import Invocation, debugging, wants_color
from arkwright.diagnostics.errors import ArkwrightError, UsageError

INTERNAL = 70
INTERRUPTED = 130


def report(error: BaseException, invocation: Invocation) -> int:
    """Tell the user what went wrong; returns the exit status."""
    if isinstance(error, BrokenPipeError):
        _silence_output()
        return 1
    if isinstance(error, KeyboardInterrupt | click.exceptions.Abort):
        _write("interrupted\n")
        return INTERRUPTED
    known = _known(error)
    if known.exit_code == INTERNAL:
        _write(_internal(known, error, invocation))
    else:
        _write(_text(known))
        if debugging() and not isinstance(known, UsageError):
            _write(_traceback(error))
    return known.exit_code


def _text(error: ArkwrightError) -> str:
    from arkwright.cli.failure import describe

    return describe(error, color=wants_color(), width=_width())


def _known(error: BaseException) -> ArkwrightError:
    if isinstance(error, ArkwrightError):
        return error
    if isinstance(error, click.ClickException):
        return _usage(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        from arkwright.store.space import no_space

        return no_space(str(error.filename or "the store"), "a file")
    return internal_error(error)


def internal_error(error: BaseException) -> ArkwrightError:
    """Any exception that is a fault of ours, as an error with exit status 70."""
    message = str(error).strip()
    return ArkwrightError.of("internal-error", type(error).__name__ + (f": {message}" if message else ""))


def output_is_gone() -> bool:
    """Whether nobody reads our standard output or standard error any more."""
    import select

    poll = select.poll()
    for fd in (1, 2):
        poll.register(fd, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _usage(error: click.ClickException) -> ArkwrightError:
    """Click's findings in our words, with the nearest option where one was mistyped."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "arkwright"
    hint = f"see `{path} --help`"
    message = error.format_message()
    if isinstance(error, click.NoSuchOption):
        message = f"{path} has no option {error.option_name}"
        found = _nearest_option(error.option_name, context)
        hint = f"did you mean {found}?" if found else hint
    return UsageError.of("invalid-usage", message.rstrip("."), hint=hint)


def _nearest_option(name: str, context: click.Context | None) -> str | None:
    from arkwright.diagnostics.suggest import nearest

    if context is None:
        return None
    return nearest(
        name,
        (
            spelling
            for option in context.command.get_params(context)
            if isinstance(option, click.Option) and (not option.hidden or hasattr(option, "bare"))
            for spelling in option.opts
            if spelling.startswith("--")
        ),
    )


def _internal(known: ArkwrightError, error: BaseException, invocation: Invocation) -> str:
    lines = [
        f"internal error: {known.diagnostics[0].message}",
        "  This is a fault of Arkwright, not of your input.",
    ]
    if os.path.exists(invocation.journal_path):
        lines.append(f"  Please report it, with the journal of this build: {invocation.journal_path}")
    else:
        lines.append("  Please report it, with the command that you ran.")
    if debugging():
        lines.append(str(known.details.get("traceback", "")) or _traceback(error))
    else:
        lines.append("  ARKWRIGHT_DEBUG=1 shows where it happened.")
    from arkwright.diagnostics.cells import escape

    return escape("\n".join(lines)) + "\n"


def _traceback(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))


def _write(text: str) -> None:
    """Standard error may be closed, or not know the characters of the text."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except UnicodeEncodeError:
        sys.stderr.write(text.encode("ascii", "backslashreplace").decode())
    except (OSError, ValueError):
        pass


def _silence_output() -> None:
    """Let the interpreter's last flush go nowhere: the reader of our output is gone."""
    null_fd = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(null_fd, stream.fileno())
        except (OSError, ValueError):
            continue
    os.close(null_fd)


def _width() -> int:
    import shutil

    return max(60, shutil.get_terminal_size((100, 24)).columns)
