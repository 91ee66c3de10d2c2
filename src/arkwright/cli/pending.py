"""Options that people bring from other builders and that are not filled: never ignored in silence.

Each is declared (so that a mistyped neighbour knows it), and using it is an error that says what will
fill it; `--help` lists them apart. A value that asks for nothing (`--provenance=false`) is accepted.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import click
import msgspec

from arkwright.cli.parameters import BareOption, Decorated
from arkwright.diagnostics.errors import Diagnostic, Severity, UsageError

_LIMITS = "limits per step will fill it"
_OFF = ("", "false", "0", "disabled=true")


class Pending(msgspec.Struct, frozen=True):
    """An option to come: how it is written, what will fill it, and which values ask for nothing.
    `bare` is the value that the name alone means; None when it needs one."""

    names: tuple[str, ...]
    filled_by: str
    bare: str | None = None
    harmless: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return "pending_" + self.names[-1].lstrip("-").replace("-", "_")


PENDING = (
    Pending(("--squash",), "the image toolbox will fill it", "true", _OFF),
    Pending(("--cpuset-mems",), _LIMITS),
    Pending(("--security-opt",), "the isolation tiers will fill it"),
    Pending(("--builder",), "the service will fill it; there is no daemon to choose", None, ("", "default")),
    Pending(("--detach",), "the service will fill it", "true", _OFF),
    Pending(("--server-config",), "the service will fill it"),
    Pending(
        ("--invoke",),
        "a debugger will fill it; `--on-error=shell` opens a failed step, `arkwright debug` does so later",
    ),
    Pending(
        ("--on",),
        "a debugger will fill it; `--on-error=shell` opens a failed step, `arkwright debug` does so later",
    ),
    Pending(("--print",), "it is now called --call"),
    Pending(("--stream",), "nothing; contexts are read in place, never uploaded", "true", _OFF),
)


class NoEffect(msgspec.Struct, frozen=True):
    """An option of other builders that has nothing to do here, and why."""

    names: tuple[str, ...]
    why: str

    @property
    def key(self) -> str:
        return "no_effect_" + self.names[-1].lstrip("-").replace("-", "_")


_NO_CONTAINERS = "no containers are left behind"
NO_EFFECT = (
    NoEffect(("--rm",), _NO_CONTAINERS),
    NoEffect(("--force-rm",), _NO_CONTAINERS),
    NoEffect(("--compress",), "the context is read in place, not uploaded"),
    NoEffect(("--disable-content-trust",), "Docker's content trust is not used"),
    NoEffect(("-D", "--debug"), "set ARKWRIGHT_DEBUG=1 to see where an internal error happened"),
)


class PendingOption(BareOption):
    """Declared like any option, and shown in no list."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        attributes.update(hidden=True, allow_from_autoenv=False)
        super().__init__(*args, **attributes)


def pending_options(command: Decorated) -> Decorated:
    """Declare every option of `PENDING` and of `NO_EFFECT`."""
    for option in reversed(PENDING):
        command = _declare(option)(command)
    for ignored in reversed(NO_EFFECT):
        command = click.option(
            *ignored.names, ignored.key, cls=PendingOption, bare="true", multiple=True, metavar="[=VALUE]"
        )(command)
    return command


def _declare(option: Pending) -> Callable[[Decorated], Decorated]:
    return click.option(
        *option.names,
        option.key,
        cls=PendingOption,
        bare=option.bare,
        multiple=True,
        metavar="VALUE" if option.bare is None else "[=VALUE]",
    )


def pending_help() -> str:
    """The paragraph of `--help` that lists them."""
    names = ", ".join(option.names[-1] for option in PENDING)
    text = f"Not built yet; using one is an error that says what will fill it: {names}."
    accepted = ", ".join("/".join(option.names) for option in NO_EFFECT)
    also = f"Accepted with a notice, since there is nothing for them to do: {accepted}."
    return "\n\n".join("\b\n" + textwrap.fill(one, 76, break_on_hyphens=False) for one in (text, also))


def refuse_pending(values: Mapping[str, Any]) -> None:
    """Raise `UsageError` `not-built-yet` for the first pending option that asks for something."""
    for option in PENDING:
        for value in values.get(option.key) or ():
            if _asks(option, value):
                name = option.names[-1]
                raise UsageError.of(
                    "not-built-yet",
                    f"{name} is not built yet: {option.filled_by}",
                    hint=f"leave {name} away for now",
                )


def without_effect(values: Mapping[str, Any]) -> tuple[Diagnostic, ...]:
    """A warning `option-without-effect` for each option that has nothing to do here."""
    return tuple(
        Diagnostic(
            code="option-without-effect",
            message=f"{option.names[-1]} has no effect: {option.why}",
            severity=Severity.WARNING,
        )
        for option in NO_EFFECT
        if values.get(option.key)
    )


def _asks(option: Pending, value: str) -> bool:
    return value.lower() not in option.harmless
