"""`arkwright history ls|show|logs|rm`: the builds of the store, from their journals."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from arkwright.cli.cache import age_text
from arkwright.cli.columns import columns
from arkwright.cli.images import open_store, print_json
from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, Commands, root_option, switch
from arkwright.cli.values import duration_s
from arkwright.diagnostics.errors import UsageError

if TYPE_CHECKING:
    from arkwright.cache.history import BuildDetail, BuildSummary

_FORM = click.option(
    "--format", "form", type=click.Choice(("table", "json")), default="table", help="How to print."
)
_BUILD = click.argument("build", required=False, default="")


@click.group(
    "history",
    cls=Commands,
    short_help="Look at the builds of this store.",
    epilog="""\
\b
Examples:
  arkwright history ls
  arkwright history show                       # the last build: inputs, steps, times, outputs
  arkwright history logs 20250131-142501       # a build by its id, or the beginning of it
  arkwright history logs 20250131-142501 gcc   # of the steps with gcc in their names
  arkwright history rm --older-than 30d
""",
)
def history() -> None:
    """Look at the builds of this store. Every build keeps a journal: what was asked for, its steps with
    their times and output, and its result. BUILD is an id or the beginning of one; the last build by
    default."""


@history.command("ls", cls=Arguments, short_help="List builds, newest first.")
@click.option("-n", "--last", type=click.IntRange(1), metavar="N", help="Only so many.")
@switch("-q", "--quiet", help="Print ids only.")
@_FORM
@root_option
@click.pass_obj
def ls(invocation: Invocation, /, last: int | None, quiet: bool, form: str, root_path: str | None) -> None:
    """List builds, newest first."""
    from arkwright.cache.history import list_builds

    with open_store(invocation, root_path) as store:
        found = list_builds(store.root_path)[:last]
    if quiet:
        for one in found:
            click.echo(one.build)
    elif form == "json":
        _print_json(found)
    else:
        click.echo(
            columns([("BUILD", "STATUS", "AGE", "TIME", "STEPS", "RESULT"), *map(_row, found)]), nl=False
        )


def _row(one: BuildSummary) -> tuple[str, ...]:
    from arkwright.diagnostics.cells import escape

    ended = one.status in ("succeeded", "failed", "cancelled")
    result = ", ".join(one.names) or one.digest.partition(":")[2][:12]
    if one.status == "failed":
        result = " ".join(one.message.split())[:60]
    return (
        one.build,
        one.status,
        age_text((time.time_ns() - one.at) / 1e9) if one.at else "",
        f"{one.duration_s:.1f}s" if ended else "",
        f"{one.steps_run} run, {one.steps_cached} cached" if one.status == "succeeded" else "",
        escape(result),
    )


@history.command("show", cls=Arguments, short_help="Show a build: inputs, steps, times, outputs.")
@_BUILD
@_FORM
@root_option
@click.pass_obj
def show(invocation: Invocation, /, build: str, form: str, root_path: str | None) -> None:
    """Show a build: what was asked for, each step with its time, warnings, outputs and the result."""
    from arkwright.cache.explain import find_build
    from arkwright.cache.history import detail

    with open_store(invocation, root_path) as store:
        found = detail(store.root_path, find_build(store.root_path, build))
    if form == "json":
        _print_json(found)
    else:
        click.echo(_text(found), nl=False)


def _text(found: BuildDetail) -> str:
    from arkwright.diagnostics.cells import escape

    one = found.summary
    facts = [
        ("build", one.build),
        ("status", f"{one.status}: {one.message}" if one.message else one.status),
        ("began", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.at / 1e9)) if one.at else ""),
        ("took", f"{one.duration_s:.1f}s" if one.duration_s else ""),
        ("context", one.context),
        ("dockerfile", one.dockerfile),
        ("target", ", ".join(one.targets)),
        ("platform", ", ".join(one.platforms)),
        *((f"build-arg {name}", value) for name, value in one.build_args.items()),
        *((f"build-context {name}", value) for name, value in one.named_contexts.items()),
        ("digest", one.digest),
        *(("output", _output(item)) for item in found.outputs),
        *(("warning", message) for message in found.warnings),
    ]
    lines = [f"{name}: {escape(' '.join(value.split()))}\n" for name, value in facts if value]
    if found.steps:
        rows = [
            (
                step.status,
                f"{step.duration_s:.1f}s" if step.duration_s else "",
                escape(" ".join(step.name.split()))[:120],
            )
            for step in found.steps
        ]
        lines += ["\n", columns([("STATUS", "TIME", "STEP"), *rows])]
    return "".join(lines)


def _output(item: Any) -> str:
    names = f" {', '.join(item.names)}" if item.names else ""
    return f"{item.kind} {item.destination}{names} {item.digest}".strip()


@history.command("logs", cls=Arguments, short_help="Print what the steps of a build printed.")
@_BUILD
@click.argument("step", required=False, default="")
@root_option
@click.pass_obj
def logs(invocation: Invocation, /, build: str, step: str, root_path: str | None) -> None:
    """Print what the steps of a build printed, in the order in which they printed it. STEP is a part of
    a step's name, or the beginning of its digest; all steps by default."""
    from arkwright.cache.explain import find_build
    from arkwright.cache.history import logs
    from arkwright.cli.steplog import neutralise

    safe = sys.stdout.isatty()
    with open_store(invocation, root_path) as store:
        for _, event in logs(store.root_path, find_build(store.root_path, build), step):
            text = event.data.decode(errors="replace")
            click.echo(neutralise(text) if safe else text, nl=False)


@history.command("rm", cls=Arguments, short_help="Delete journals of builds.")
@click.argument("builds", nargs=-1, metavar="[BUILD]...")
@switch("-a", "--all", "everything", help="All builds that have ended.")
@click.option("--older-than", metavar="DURATION", default="", help="Those that began before: 48h, 30d.")
@root_option
@click.pass_obj
def rm(
    invocation: Invocation,
    /,
    builds: tuple[str, ...],
    everything: bool,
    older_than: str,
    root_path: str | None,
) -> None:
    """Delete journals of builds. Builds that still run keep theirs; images and the cache stay as they
    are, but `explain` can no longer tell the names of such a build's steps."""
    from arkwright.cache.explain import find_build
    from arkwright.cache.history import list_builds, remove

    if not builds and not everything and not older_than:
        raise UsageError.of(
            "invalid-usage", "nothing says which builds to delete",
            hint="name builds, or give --all or --older-than 30d",
        )  # fmt: skip
    with open_store(invocation, root_path) as store:
        chosen = [find_build(store.root_path, build) for build in builds]
        if everything or older_than:
            before = (
                time.time_ns() - int(duration_s("--older-than", older_than) * 1e9) if older_than else None
            )
            chosen += [one.build for one in list_builds(store.root_path) if before is None or one.at < before]
        count = remove(store.root_path, list(dict.fromkeys(chosen)))
    click.echo(f"deleted {count} build{'' if count == 1 else 's'}")


def _print_json(found: Any) -> None:
    print_json(found)
