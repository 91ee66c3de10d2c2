"""`arkwright rebase`: an image on another base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from arkwright.cli.change import PLACES, Changing, changing, output_options
from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, switch
from arkwright.diagnostics.errors import UserError

if TYPE_CHECKING:
    from arkwright.images.rebase import Base
    from arkwright.oci.descriptor import Descriptor


@click.command(
    "rebase",
    cls=Arguments,
    short_help="Put an image on another base, without a build.",
    help=f"Replace the layers that an image has from its base by those of another base. Nothing is run again.\n\n{PLACES}",
    epilog="""\
\b
Example:
  arkwright rebase app:1 --old-base debian:bookworm@sha256:… --new-base debian:bookworm -t app:1-patched

Refused, unless --force, when the bases differ in operating system, architecture, release of the
distribution or C library (a newer one is fine), and when a file was changed both in the image and in
the new base. Without --old-base, the annotation org.opencontainers.image.base.digest says it.
""",
)
@click.argument("image")
@click.option(
    "--old-base", metavar="IMAGE", help="What it was built from: its layers must be the first ones."
)
@click.option("--new-base", metavar="IMAGE", required=True, help="What it is to stand on.")
@switch("-f", "--force", help="Go on where the rules forbid it; the image's own files win.")
@output_options
@click.pass_obj
def rebase(
    invocation: Invocation, /, image: str, old_base: str | None, new_base: str, force: bool, **options: Any
) -> None:
    from arkwright.images.rebase import rebase_images

    with changing(invocation, options) as work, work.scratch() as scratch_path:
        found = work.fetch(image).descriptor
        old = _base(work, old_base or _recorded(work, found))
        made = rebase_images(
            work.store.content, found, old, _base(work, new_base), scratch_path, created=work.created,
            platform=work.platform, force=force,
        )  # fmt: skip
        work.deliver(made)


def _base(work: Changing, text: str) -> Base:
    from arkwright.images.places import parse_place
    from arkwright.images.rebase import Base

    found = work.fetch(text)
    reference = parse_place(text).reference
    return Base(descriptor=found.descriptor, text=text, name=str(reference) if reference else found.name)


def _recorded(work: Changing, root: Descriptor) -> str:
    """The base that the image itself names."""
    from arkwright.images.graph import runnable
    from arkwright.images.rebase import BASE_DIGEST

    found = runnable(work.store.content, root)
    digests = {manifest.annotations.get(BASE_DIGEST, "") for _, manifest in found}
    if len(digests) != 1 or not (digest := digests.pop()):
        raise UserError.of(
            "unknown-base",
            "the image does not say what its base is",
            hint="name it with --old-base, by digest if its name stands for another image by now",
        )
    return digest
