"""How options are written: switches that take `=true` and `=false`, as Docker's do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from arkwright.diagnostics.errors import UsageError

_TRUE = {"1", "t", "true", "yes", "on"}
_FALSE = {"0", "f", "false", "no", "off"}

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Switch(click.Option):
    """An option that is on when named, and that also takes `=true` or `=false`; the last wins.

    The command must be an `Arguments`, which rewrites the forms with a value; the name that
    switches off is internal and shown nowhere.
    """

    def __init__(self, declarations: list[str], **attributes: Any) -> None:
        names = [name for name in declarations if name.startswith("-")]
        long = next(name for name in names if name.startswith("--"))
        self.off = f"--no-{long[2:]}"
        attributes.setdefault("default", False)
        rest = [name for name in declarations if name not in (long,)]
        super().__init__([*rest, f"{long}/{self.off}"], is_flag=True, **attributes)
        self.long = long

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        secondary, self.secondary_opts = self.secondary_opts, []
        try:
            return super().get_help_record(ctx)
        finally:
            self.secondary_opts = secondary


class BareOption(click.Option):
    """An option that may stand without a value, which then is `bare`."""

    def __init__(self, *args: Any, bare: str | None = None, **attributes: Any) -> None:
        self.bare = bare
        super().__init__(*args, **attributes)


class Arguments(click.Command):
    """A command whose switches may be written `--switch=BOOL`, and whose options with an attribute
    `bare` may be written without a value, which then is `bare`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._rewrite(ctx, args))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options by theme, in the order in which themes are first met; then those without."""
        themes: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx) if isinstance(option, click.Option) else None
            if record is not None:
                themes.setdefault(getattr(option, "theme", "Options"), []).append(record)
        rest = themes.pop("Options", [])
        for theme, records in [*themes.items(), ("Options", rest)]:
            with formatter.section(theme):
                formatter.write_dl(records)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)

    def _rewrite(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = [option for option in self.get_params(ctx) if isinstance(option, click.Option)]
        switches = {option.long: option for option in options if isinstance(option, Switch)}
        bare = {
            name: value
            for option in options
            if (value := getattr(option, "bare", None))
            for name in option.opts
        }
        valued = {
            name for option in options if not option.is_flag for name in option.opts if name not in bare
        }
        # Click looks for `-t` among the long names first, and, not finding it, for all that are like it.
        long = {
            name: next((other for other in option.opts if other.startswith("--")), name)
            for option in options
            for name in option.opts
            if not name.startswith("--")
        }
        rewritten: list[str] = []
        rest = iter(args)
        for argument in rest:
            name, equals, value = argument.partition("=")
            if argument == "--" or (not argument.startswith("-") and not ctx.allow_interspersed_args):
                rewritten.append(argument)
                break
            if equals and name in switches:
                rewritten.append(name if _truth(name, value) else switches[name].off)
                continue
            if argument in bare:
                rewritten.append(f"{argument}={bare[argument]}")
                continue
            given = [value for value in [next(rest, None)] if value is not None] if argument in valued else []
            # What lacks its value is called as it was written.
            is_whole = bool(given) or argument not in valued
            rewritten += [long.get(argument, argument) if is_whole else argument, *given]
        return [*rewritten, *rest]


class Commands(Arguments, click.Group):
    """A command with commands of its own."""


def _truth(name: str, value: str) -> bool:
    folded = value.lower()
    if folded not in _TRUE | _FALSE:
        raise UsageError.of("invalid-option-value", f"{name}={value}: say true or false")
    return folded in _TRUE


def switch(*declarations: str, help: str, **attributes: Any) -> Callable[[Decorated], Decorated]:
    """A `Switch`, as a decorator."""
    return click.option(*declarations, cls=Switch, help=help, **attributes)


def root_option(command: Decorated) -> Decorated:
    """`--root`: which store to work in."""
    return click.option(
        "--root",
        "root_path",
        metavar="DIR",
        envvar="ARKWRIGHT_ROOT",
        help="The store to work in; /var/lib/arkwright for root, ~/.local/share/arkwright for others.",
    )(command)


def require_terminal(option: str) -> None:
    """Raise `UsageError` `not-a-terminal` unless standard input and output are one."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError.of(
            "not-a-terminal",
            f"{option} needs a terminal on standard input and output",
            hint=f"leave {option} away in scripts",
        )


def tls_option(name: str = "--tls-verify") -> Callable[[Decorated], Decorated]:
    """`--tls-verify[=BOOL]` as skopeo and podman spell it; None when not given."""
    return switch(
        name,
        default=None,
        help="Require HTTPS and a valid certificate of registries; `=false` to go without. Registries on "
        "loopback may always speak plain HTTP.",
    )
