"""Options that people bring from other builders and that are not filled yet: never ignored.

Each is declared (so that a mistyped neighbour knows it), and using it is an error that says what will
fill it; `--help` lists them apart. A value that asks for nothing (`--provenance=false`) is accepted.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import click
import msgspec

from arkwright.cli.parameters import Decorated
from arkwright.diagnostics.errors import UsageError

_CACHE = "remote caches will fill it; the local cache works without it"
_LIMITS = "limits per step will fill it"
_RECORDS = "attestations will fill it; none are made until then"
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
    Pending(("--cache-from",), _CACHE),
    Pending(("--cache-to",), _CACHE),
    Pending(("--allow",), "entitlements will fill it"),
    Pending(("--attest",), _RECORDS, None, _OFF),
    Pending(("--provenance",), _RECORDS, "true", _OFF),
    Pending(("--sbom",), _RECORDS, "true", _OFF),
    Pending(("--squash",), "the image toolbox will fill it", "true", _OFF),
    Pending(("-m", "--memory"), _LIMITS),
    Pending(("--memory-swap",), _LIMITS),
    Pending(("--cpus",), _LIMITS),
    Pending(("-c", "--cpu-shares"), _LIMITS),
    Pending(("--cpu-period",), _LIMITS),
    Pending(("--cpu-quota",), _LIMITS),
    Pending(("--cpuset-cpus",), _LIMITS),
    Pending(("--cpuset-mems",), _LIMITS),
    Pending(("--cgroup-parent",), _LIMITS),
    Pending(("--security-opt",), "the isolation tiers will fill it"),
    Pending(("--policy",), "policies on inputs will fill it"),
)


class PendingOption(click.Option):
    """Declared like any option; those with a bare form may stand without a value."""

    def __init__(self, *args: Any, bare: str | None = None, **attributes: Any) -> None:
        self.bare = bare
        attributes.update(hidden=True, allow_from_autoenv=False)
        super().__init__(*args, **attributes)


def pending_options(command: Decorated) -> Decorated:
    """Declare every option of `PENDING`."""
    for option in reversed(PENDING):
        command = _declare(option)(command)
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
    return "\b\n" + textwrap.fill(text, 76, break_on_hyphens=False)


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


def _asks(option: Pending, value: str) -> bool:
    if option.key == "pending_attest":
        return "disabled=true" not in value.lower().split(",")
    return value.lower() not in option.harmless
