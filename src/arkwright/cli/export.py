"""`arkwright export`: images of the store as a layout that others may read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from arkwright.cli.archives import named_images
from arkwright.cli.images import PLACE_HELP, from_elsewhere, store_and_access, tell_image
from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, root_option, switch, tls_option
from arkwright.cli.values import duration_s
from arkwright.diagnostics.errors import UsageError

if TYPE_CHECKING:
    from arkwright.oci.descriptor import Descriptor


@click.command(
    "export",
    cls=Arguments,
    short_help="Bring an OCI layout up to date, to share it.",
    help="Bring an OCI layout up to date with images: blobs that it has are kept, names that it "
    "has are moved. The layout may be on a network file system and be read by anybody while it is written; "
    f"a store may not.\n\n{PLACE_HELP}",
    epilog="""\
\b
Examples:
  arkwright export --oci-layout /srv/images app:1 debian:bookworm
  arkwright export --oci-layout /srv/images --all
  arkwright copy oci:/srv/images:app:1 app:1         # on another machine
""",
)
@click.option(
    "--oci-layout", "path", metavar="DIR", required=True, help="The layout; made when it is not there."
)
@click.argument("images", metavar="IMAGE...", nargs=-1)
@switch("-a", "--all", "every", help="All names of the store.")
@switch("--prune", help="Delete blobs that no name of the layout leads to any more.")
@click.option(
    "--grace",
    metavar="DURATION",
    default="1h",
    show_default=True,
    help="With --prune: keep blobs that came within this time, for which another tool may write a name yet.",
)
@switch("-q", "--quiet", help="Print digests only.")
@tls_option()
@root_option
@click.pass_obj
def export(
    invocation: Invocation,
    /,
    path: str,
    images: tuple[str, ...],
    every: bool,
    prune: bool,
    grace: str,
    quiet: bool,
    tls_verify: bool | None,
    root_path: str | None,
) -> None:
    from arkwright.images.archives import add_to_layout, index_entries
    from arkwright.oci.reference import parse_reference

    if every == bool(images):
        raise UsageError.of("invalid-usage", "name images, or give --all for all of them")
    grace_s = duration_s("--grace", grace)
    adds = from_elsewhere(*images)
    with store_and_access(invocation, root_path, tls_verify, adds=adds) as (store, access):
        pairs: list[tuple[Descriptor, tuple[str, ...]]]
        if every:
            pairs = [(root, (name,)) for name, root in store.names.list()]
        else:
            pairs = named_images(store, images, access)
        count = add_to_layout(store.content, index_entries(pairs), path)
    for root, names in pairs:
        label = parse_reference(names[0]).familiar() if names else ""
        tell_image(label, root.digest, quiet=quiet)
    gone = 0
    if prune:
        from arkwright.images.archives import prune_layout

        gone = prune_layout(path, grace_s=grace_s)
    if not quiet:
        pruned = f", {gone} deleted" if prune else ""
        click.echo(f"{count} blobs written{pruned}", err=True)
