"""`arkwright doctor`: what this host can do, and what would fix the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, root_option
from arkwright.diagnostics.cells import escape

if TYPE_CHECKING:
    from arkwright.build.doctor import Examination

_UNABLE = 4  # as every HostUnsupported


@click.command(
    "doctor",
    cls=Arguments,
    short_help="Say what this host can do, and how to fix the rest.",
    epilog="""\
\b
Examples:
  arkwright doctor
  arkwright doctor --format json
""",
)
@click.option("--format", "form", type=click.Choice(("text", "json")), default="text", help="How to print.")
@root_option
@click.pass_obj
@click.pass_context
def doctor(ctx: click.Context, invocation: Invocation, /, form: str, root_path: str | None) -> None:
    """Try what builds need, say how the steps of a build would be isolated and why, and give the command
    that fixes each thing that is missing. The exit status is 0 when builds with RUN work, otherwise 4."""
    from arkwright.build.doctor import examine

    found = examine(invocation.store_root(root_path))
    if form == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        click.echo("\n".join(_lines(found)))
    ctx.exit(0 if found.isolation.tier else _UNABLE)


def _lines(found: Examination) -> list[str]:
    lines = []
    width = max(len(finding.name) for finding in found.findings)
    for finding in found.findings:
        mark = "ok" if finding.ok else "NO" if found.needed(finding) else "--"
        lines.append(f"{mark}  {finding.name.ljust(width)}  {escape(finding.reason)}")
        if not finding.ok and finding.fix:
            lines.append(f"    {' ' * width}  fix: {escape(finding.fix)}")
    isolation = found.isolation
    lines.append("")
    if isolation.tier:
        lines.append(f"Steps are isolated by {isolation.tier}, on {isolation.snapshots} snapshots.")
        own = (
            "share the host's network"
            if isolation.network == "host"
            else f"have a network of their own, by {isolation.network}"
        )
        lines.append(f"They {own}.")
    else:
        lines.append("Builds with RUN do not work here; those without do.")
    lines += [f"  {escape(reason)}" for reason in isolation.reasons]
    if isolation.fix:
        lines.append(f"  fix: {escape(isolation.fix)}")
    return lines
