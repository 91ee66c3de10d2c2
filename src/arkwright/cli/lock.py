"""`arkwright lock`: what the sources of a Dockerfile stand for, in a file beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from arkwright.cli import values
from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, BareOption, root_option, switch, tls_option
from arkwright.diagnostics.errors import ArkwrightError, UsageError, UserError
from arkwright.policy.lock import Change

_EVERYTHING = "*"
_SHOWN = 19  # of a digest: its algorithm and the first digits


@click.command(
    "lock",
    cls=Arguments,
    short_help="Pin what a Dockerfile takes from elsewhere, in a lock file.",
    epilog="""\
\b
Examples:
  arkwright lock                          # write arkwright.lock beside the Dockerfile
  arkwright lock --update                 # find out anew what every name stands for
  arkwright lock --update=debian:bookworm # the same for one
  arkwright lock --check                  # in CI: fail unless the file is complete
  arkwright lock --update --check         # fail if anything has moved
  arkwright build --locked .
""",
)
@click.argument("context", metavar="[CONTEXT]", default=".")
@click.option("-f", "--file", "file", metavar="PATH", help="The Dockerfile. [default: CONTEXT/Dockerfile]")
@click.option(
    "--lock-file", metavar="FILE", help="The lock file. [default: arkwright.lock beside the Dockerfile]"
)
@click.option(
    "--update",
    cls=BareOption,
    bare=_EVERYTHING,
    multiple=True,
    metavar="[=NAME]",
    help="Find out anew what NAME stands for, or every name; may be repeated.",
)
@switch("--check", help="Write nothing, and fail if there is something to write.")
@click.option(
    "--target", multiple=True, metavar="STAGE", help="Pin what these stages take only. [default: every stage]"
)
@click.option(
    "--build-arg", multiple=True, metavar="NAME[=VALUE]", help="As for `build`, where names depend on it."
)
@click.option("--build-context", multiple=True, metavar="NAME=VALUE", help="As for `build`.")
@click.option(
    "--platform", multiple=True, metavar="OS/ARCH,…", help="Pin for these platforms. [default: this host's]"
)
@click.option("--secret", multiple=True, metavar="SPEC", help="As for `build`: for git.")
@click.option("--ssh", multiple=True, metavar="SPEC", help="As for `build`: for git.")
@click.option(
    "--policy", multiple=True, metavar="FILE", help="As for `build`; digests need not be known before."
)
@tls_option()
@root_option
@click.pass_obj
def lock(invocation: Invocation, /, context: str, **options: Any) -> None:
    """Pin what a Dockerfile takes from elsewhere: base images, COPY --from=IMAGE, mounts from images, URLs,
    git references, front ends.

    Nothing runs, and no layer is fetched. What the lock file has already stays as it is, what nothing needs any more
    goes. `build` takes from the file what it has; with --locked it takes nothing else.
    """
    from arkwright.build.locking import chosen, resolved, write_lock
    from arkwright.build.locks import lock_place, read_lock
    from arkwright.build.session import SessionInputs
    from arkwright.cli.session import agents, secrets
    from arkwright.events.stream import EventStream
    from arkwright.policy.lock import changes

    request = _request(context, options)
    place = lock_place(request)
    if not place:
        raise UsageError.of(
            "invalid-usage", "there is no directory for the lock file", hint="name it with --lock-file"
        )
    session = SessionInputs(
        secrets=secrets(options["secret"]), ssh=agents(options["ssh"]), tls_verify=options["tls_verify"]
    )
    stream = EventStream("lock")
    stream.subscribe(_warn)
    known = read_lock(place)
    if known is None and options["check"]:
        raise _stale(f"there is no {place}", [])
    root_path = invocation.store_root(options["root_path"])
    is_chosen = chosen(options["update"])
    _require_known(options["update"], [name for name in known or {} if is_chosen(name)], known is not None)
    found = resolved(request, session, stream, root_path, known, is_chosen)
    moved = changes(known or {}, found)
    if options["check"]:
        if moved:
            raise _stale(f"{place} is not what the Dockerfile needs", moved)
        click.echo(f"{place} is complete: {len(found)} sources")
        return
    for change in moved:
        click.echo(_line(change))
    if moved or known is None:
        write_lock(place, found.values())
        click.echo(f"wrote {place}: {len(found)} sources", err=True)
    else:
        click.echo(f"{place} is as it was: {len(found)} sources", err=True)


def _request(context: str, options: dict[str, Any]) -> Any:
    from arkwright.build.request import BuildRequest, BuildTarget
    from arkwright.cli.build_request import named_contexts, policies

    return BuildRequest(
        context=context,
        dockerfile=options["file"] or "",
        targets=tuple(BuildTarget(target=name) for name in values.listed(options["target"])),
        build_args=values.settings("--build-arg", options["build_arg"]),
        named_contexts=named_contexts(options["build_context"]),
        platforms=values.platforms(options["platform"]),
        policies=policies(options["policy"]),
        # What is missing is told with its place then, and nobody is asked.
        lock="must" if options["check"] and not options["update"] else "use",
        lock_file=options["lock_file"] or "",
        allow=("network.host", "security.insecure"),
    )


def _stale(message: str, moved: Sequence[Change]) -> ArkwrightError:
    notes = tuple(map(_line, moved))
    return UserError.of(
        "stale-lock", message, notes=notes, hint="write it with `arkwright lock`, without --check"
    )


def _require_known(wanted: Sequence[str], found: Sequence[object], there: bool) -> None:
    """A misspelt name must not be taken for one that has not moved."""
    if wanted and not found and there and _EVERYTHING not in wanted:
        raise UserError.of(
            "not-locked", f"the lock file has nothing that is called {' or '.join(wanted)}",
            hint="write a name as the lock file has it, or with *",
        )  # fmt: skip


def _line(change: Change) -> str:
    before, after = change.before[:_SHOWN], change.after[:_SHOWN]
    if not before:
        return f"+ {change.kind} {change.name} {after}"
    if not after:
        return f"- {change.kind} {change.name} {before}"
    what = f"{before} -> {after}" if change.before != change.after else f"{after}, for other platforms"
    return f"~ {change.kind} {change.name} {what}"


def _warn(event: object) -> None:
    from arkwright.diagnostics.render import render
    from arkwright.events.types import Warning

    if isinstance(event, Warning):
        click.echo(render((event.diagnostic,)), err=True, nl=False)
