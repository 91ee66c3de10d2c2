"""`arkwright run`: a command in an image, for trying out what was built."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from arkwright.cli import values
from arkwright.cli.build_options import ISOLATIONS, LIMITS_INSIDE, NETWORKS, PROGRESS, limit_options
from arkwright.cli.containers import command_of, is_container, run_in_container
from arkwright.cli.images import IMAGE_HELP, platform_option
from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, require_terminal, root_option, switch
from arkwright.diagnostics.errors import UsageError

if TYPE_CHECKING:
    from arkwright.build.run_image import RunRequest


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
  arkwright run --step 'apt-get' ls /etc # in the tree that a step of the last build made
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
    "--step",
    metavar="STEP",
    default="",
    help="Instead of an image: a shell, or COMMAND, in the tree that a step of a build made. STEP is a part of "
    "its name, or the beginning of its digest.",
)
@click.option(
    "--build",
    metavar="BUILD",
    default="",
    help="The build of --step: an id or the beginning of one. [default: the last]",
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
@switch("--rm", help="Accepted for the habit: nothing of an image's run is ever kept.")
@click.option(
    "--mount",
    multiple=True,
    metavar="SPEC",
    help="In a container: a mount as RUN --mount takes it; a bind's source is a path of this host, or of from=.",
)
@click.option(
    "--secret", multiple=True, metavar="SPEC", help="In a container: a secret for --mount=type=secret."
)
@click.option("--ssh", multiple=True, metavar="SPEC", help="In a container: an agent for --mount=type=ssh.")
@switch("--no-cache", help="In a container: run the command even if its result is known.")
@click.option(
    "--progress",
    type=click.Choice(PROGRESS),
    default=None,
    help="In a container: show progress as `build` does, instead of the command's output.",
)
@click.option(
    "--isolation",
    type=click.Choice(ISOLATIONS),
    default="auto",
    help="In a container: how the command is isolated, as for `build`. [default: auto]",
)
@limit_options
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
    step: str,
    build: str,
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
    **options: Any,
) -> None:
    if tty:
        require_terminal("-t")
    if not words and not failed_step and not step:
        raise click.UsageError("Missing argument 'IMAGE'.", ctx)
    if failed_step and step:
        raise UsageError.of("invalid-usage", "--failed-step and --step exclude each other")
    store_root = invocation.store_root(root_path)
    no_image = bool(failed_step or step)
    if not no_image and is_container(store_root, words[0]):
        ctx.exit(_run_in_container(ctx, invocation, store_root))
    _only_in_containers(ctx)
    from arkwright.build.run_image import RunRequest
    from arkwright.oci.platform import parse_platform

    shell = no_image and sys.stdin.isatty() and sys.stdout.isatty()
    request = RunRequest(
        image="" if no_image else words[0],
        failed_step=failed_step,
        step=step,
        build=build,
        command=words if no_image else words[1:],
        env=values.settings("--env", env),
        cwd=workdir,
        user=user,
        network=network,
        entrypoint=None if entrypoint is None else tuple(shlex.split(entrypoint)),
        interactive=interactive or shell,
        terminal=tty or shell,
        platform=parse_platform(platform) if platform else None,
    )
    ctx.exit(_run(request, store_root))


def _run_in_container(ctx: click.Context, invocation: Invocation, root_path: str) -> int:
    """Run a step in the working container that the first word names. Gives its exit status."""
    from arkwright.build.container_steps import RunCommand

    options = ctx.params
    name, *rest = options["words"]
    given = [f"-{short}" for short, of in (("i", "interactive"), ("t", "tty")) if options[of]]
    given += ["--entrypoint"] if options["entrypoint"] is not None else []
    if given:
        raise UsageError.of(
            "conflicting-options",
            f"{' and '.join(given)}: for images; a container's step has neither input nor terminal",
            hint=f"arkwright commit {name}, and run the image",
        )
    inside = RunCommand(
        args=command_of(tuple(rest)), env=values.settings("--env", options["env"]), user=options["user"],
        cwd=options["workdir"], network=options["network"], mounts=options["mount"],
        no_cache=options["no_cache"],
    )  # fmt: skip
    return run_in_container(invocation, root_path, name, inside, options)


def _only_in_containers(ctx: click.Context) -> None:
    """Refuse by name what an image's run would ignore."""
    limits = {option.name for option in run.params if getattr(option, "theme", "") == LIMITS_INSIDE}
    given = [
        max(option.opts, key=len)
        for option in run.params
        if option.name in limits | {"mount", "secret", "ssh", "no_cache", "progress", "isolation"}
        and ctx.get_parameter_source(option.name) is click.core.ParameterSource.COMMANDLINE
    ]
    if given:
        raise UsageError.of(
            "conflicting-options",
            f"{', '.join(given)}: only for working containers",
            hint="arkwright from IMAGE gives one",
        )


def _run(request: RunRequest, root_path: str) -> int:
    """Run, and leave the store within its quota, as the image may have been fetched."""
    from arkwright.build.run_image import run_image
    from arkwright.build.upkeep import quota_kept

    with quota_kept(root_path):
        return run_image(request, root_path)


@click.command(
    "debug",
    cls=Arguments,
    short_help="Open a shell where a step of a build failed.",
    epilog="""\
\b
Examples:
  arkwright debug                          # where the last build failed
  arkwright debug 20250131-142501          # where that build failed
  arkwright debug 20250131-142501 gcc      # at the step with gcc in its name
  arkwright debug 20250131-142501 gcc ls -l
""",
    context_settings={"allow_interspersed_args": False},
)
@click.argument("build", metavar="[BUILD]", default="")
@click.argument("step", metavar="[STEP]", default="")
@click.argument("command", metavar="[COMMAND...]", nargs=-1, type=click.UNPROCESSED)
@root_option
@click.pass_obj
@click.pass_context
def debug(
    ctx: click.Context,
    invocation: Invocation,
    /,
    build: str,
    step: str,
    command: tuple[str, ...],
    root_path: str | None,
) -> None:
    """Open a shell, or run COMMAND, in the state that a failed step of a build left, with its cache mounts
    and what it had mounted of other stages and of the context; without its secrets. A step that did not
    fail shows the tree that it made. What is changed there is thrown away, but for cache mounts.

    BUILD is an id or the beginning of one, by default (or as "") the last build; STEP a part of a step's
    name, by default the one that failed."""
    from arkwright.build.run_image import RunRequest

    at_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    request = RunRequest(
        step=step, build=build, debug=True, command=command, interactive=True, terminal=at_terminal
    )
    ctx.exit(_run(request, invocation.store_root(root_path)))
