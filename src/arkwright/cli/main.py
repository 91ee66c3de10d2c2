"""The program: a table of commands that are imported when they are asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from arkwright import __version__
from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments
from arkwright.cli.table import COMMANDS, SECTIONS
from arkwright.diagnostics.errors import UsageError

_EPILOG = """\
\b
A first image:
  arkwright bootstrap debian:bookworm     # a base, from the distribution's packages
  arkwright build -t hello .              # build ./Dockerfile
  arkwright run hello                     # try it out

Every option can be given in the environment too: ARKWRIGHT_BUILD_PROGRESS=plain stands for
`arkwright build --progress plain`; ARKWRIGHT_ROOT names the store. NO_COLOR turns colours off.

Exit status: 0 done, 1 wrong input or a failed step, 2 wrong command line, 3 denied by policy,
4 this host lacks something, 5 a remote server failed, 70 a fault of Arkwright, 130 interrupted.
"""


class Program(Arguments, click.Group):
    """Looks commands up in the table, and ends with our own messages and exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(f"arkwright.cli.{entry.module}"), entry.attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not ctx.resilient_parsing and not name.startswith("-"):
            from arkwright.diagnostics.suggest import nearest

            found = nearest(name, COMMANDS)
            raise UsageError.of(
                "unknown-command",
                f"there is no command {name!r}",
                hint=f"did you mean `arkwright {found}`?" if found else "see `arkwright --help`",
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, entries in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.short_help) for name, entry in entries.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Click takes any EPIPE for a closed output and any EOFError for an interrupt; what is
        neither of them is a fault, and reported as one."""
        try:
            return super().invoke(ctx)
        except (BrokenPipeError, EOFError) as error:
            from arkwright.cli.report import internal_error, output_is_gone

            if isinstance(error, BrokenPipeError) and output_is_gone():
                raise
            raise internal_error(error) from error

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run and, in stand-alone mode, exit; never shows a traceback unless asked to."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        invocation = extra.setdefault("obj", Invocation())
        extra.setdefault("auto_envvar_prefix", "ARKWRIGHT")
        try:
            status = super().main(
                args, prog_name or "arkwright", complete_var, standalone_mode=False, **extra
            )
            sys.stdout.flush()
        except BaseException as error:
            if isinstance(error, SystemExit):
                raise
            from arkwright.cli.report import report

            status = report(error, invocation)
        sys.exit(status if isinstance(status, int) else 0)


@click.group(
    "arkwright",
    cls=Program,
    epilog=_EPILOG,
    no_args_is_help=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--root", "root_path", metavar="DIR", envvar="ARKWRIGHT_ROOT", help="The store to work in.")
@click.version_option(__version__, prog_name="arkwright", message="%(prog)s %(version)s")
@click.pass_context
def program(ctx: click.Context, root_path: str | None) -> None:
    """Build container images from Dockerfiles: no daemon, no root needed, the same input always
    giving the same image."""
    ctx.obj.root_path = root_path or ""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> NoReturn:
    """The entry point of the `arkwright` script."""
    program.main()
    raise AssertionError("the program returned")
