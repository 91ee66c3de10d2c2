"""`arkwright bootstrap`: base images where no registry is in reach."""

from __future__ import annotations

import click

from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, root_option, switch
from arkwright.cli.values import listed
from arkwright.diagnostics.cells import escape


@click.command(
    "bootstrap",
    cls=Arguments,
    short_help="Make a base image from a distribution's packages.",
    epilog="""\
\b
Examples:
  arkwright bootstrap debian:bookworm
  arkwright bootstrap debian:trixie --include ca-certificates,curl
  arkwright bootstrap ubuntu:noble --mirror http://archive.ubuntu.com/ubuntu
  arkwright bootstrap busybox

The image's digest is a function of the packages, the suite, the variant and the sources list.
""",
)
@click.argument("name", metavar="DISTRIBUTION[:SUITE]")
@click.option(
    "--variant",
    metavar="NAME",
    default="",
    help="Which packages: a variant of mmdebstrap. [default: minbase]",
)
@click.option(
    "--mirror",
    metavar="SOURCE",
    default="",
    help="Where packages come from: a URL, a `deb …` line, or a sources file. [default: the host's own]",
)
@click.option("--include", multiple=True, metavar="PACKAGE,…", help="Further packages.")
@click.option("-t", "--tag", "image_name", metavar="NAME", default="", help="Name the image otherwise.")
@switch("-q", "--quiet", help="Print the digest only, and not what mmdebstrap says.")
@root_option
@click.pass_obj
def bootstrap(
    invocation: Invocation,
    /,
    name: str,
    variant: str,
    mirror: str,
    include: tuple[str, ...],
    image_name: str,
    quiet: bool,
    root_path: str | None,
) -> None:
    """Make a base image from a distribution's own packages, into the local store, under the name
    of the distribution."""
    from arkwright.bootstrap.run import bootstrap as make_base
    from arkwright.build.upkeep import quota_kept

    store_path = invocation.store_root(root_path)
    with quota_kept(store_path):
        reference, descriptor = make_base(
            name,
            store_path,
            variant=variant,
            mirror=mirror,
            include=listed(include),
            image_name=image_name,
            report=None if quiet else lambda line: click.echo(escape(line), err=True),
        )
    click.echo(descriptor.digest if quiet else f"{reference.familiar()} {descriptor.digest}")
