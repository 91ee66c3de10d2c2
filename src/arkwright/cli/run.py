"""`arkwright run`: a command in an image, for trying out what was built."""

from __future__ import annotations

import shlex
import sys

import click

from arkwright.cli import values
from arkwright.cli.build_options import NETWORKS
from arkwright.cli.images import IMAGE_HELP, platform_option
from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, root_option, switch
from arkwright.diagnostics.errors import UsageError


@click.command(
    "run",
    cls=Arguments,
    short_help="Run a command in an image, to try it out.",
    help="Run a command in an image, to try it out: its own command, or COMMAND. What it changes is thrown "
    f"away.\n\n{IMAGE_HELP}\n\nThe exit status is that of the command (128 and the signal's number when a "
    "signal ended it). Options for the command go after the image.",
    epilog="""\
\b
Examples:
  arkwright run app
  arkwright run -it debian:bookworm bash
  arkwright run --network none -u nobody app /bin/app --version
  arkwright run --failed-step 1f0c9a     # look around where a step failed
""",
    context_settings={"allow_interspersed_args": False},
)
@click.argument("words", metavar="IMAGE [COMMAND...]", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--failed-step",
    metavar="NAME",
    default="",
    help="Instead of an image: a shell, or COMMAND, where a step of a build failed. The failure says the name.",
)
@click.option(
    "-e",
    "--env",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="Set a variable; a name alone takes its value from the environment.",
)
@click.option("-w", "--workdir", metavar="DIR", default="", help="The working directory.")
@click.option("-u", "--user", metavar="USER[:GROUP]", default="", help="The user, by name or number.")
@click.option("--network", type=click.Choice(NETWORKS), default="default", help="The network.")
@click.option(
    "--entrypoint", metavar="COMMAND", default=None, help="Replace the image's entry point; empty for none."
)
@switch("-i", "--interactive", help="Pass standard input on.")
@switch("-t", "--tty", help="Give the command a terminal.")
@switch("--rm", help="Accepted for the habit: nothing is ever kept.")
@platform_option
@root_option
@click.pass_obj
@click.pass_context
def run(
    ctx: click.Context,
    invocation: Invocation,
    /,
    words: tuple[str, ...],
    failed_step: str,
    env: tuple[str, ...],
    workdir: str,
    user: str,
    network: str,
    entrypoint: str | None,
    interactive: bool,
    tty: bool,
    rm: bool,
    platform: str | None,
    root_path: str | None,
) -> None:
    at_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if tty and not at_terminal:
        raise UsageError.of(
            "not-a-terminal",
            "-t needs a terminal on standard input and output",
            hint="leave -t away in scripts",
        )
    if not words and not failed_step:
        raise click.UsageError("Missing argument 'IMAGE'.", ctx)
    from arkwright.build.run_image import RunRequest, run_image
    from arkwright.oci.platform import parse_platform

    shell = bool(failed_step) and at_terminal
    request = RunRequest(
        image="" if failed_step else words[0],
        failed_step=failed_step,
        command=words if failed_step else words[1:],
        env=values.settings("--env", env),
        cwd=workdir,
        user=user,
        network=network,
        entrypoint=None if entrypoint is None else tuple(shlex.split(entrypoint)),
        interactive=interactive or shell,
        terminal=tty or shell,
        platform=parse_platform(platform) if platform else None,
    )
    ctx.exit(run_image(request, invocation.store_root(root_path)))
