"""`arkwright inspect`: the documents of an image, and what belongs to it."""

from __future__ import annotations

import sys

import click
import msgspec

from arkwright.cli.images import PLACE_HELP, print_json
from arkwright.cli.invocation import Invocation
from arkwright.cli.looking import look_options, looking
from arkwright.cli.parameters import Arguments, switch


@click.command(
    "inspect",
    cls=Arguments,
    short_help="Show an image's config, manifest, history and referrers.",
    help="Show all there is to know of an image but its files, as JSON: config, manifest, index, layers with the "
    "step that made each, history, sizes, annotations, and the signatures and attestations attached to "
    f"it. Of an image in a registry no layer is fetched.\n\n{PLACE_HELP}",
    epilog="""\
\b
Examples:
  arkwright inspect debian:bookworm
  arkwright inspect --format digest docker://registry.example/app
  arkwright inspect --format config.config.Env app
  arkwright inspect --format layers.0.created_by app
  arkwright inspect --raw app | sha256sum      # the manifest, byte for byte
""",
)
@click.argument("image")
@click.option(
    "--format",
    "form",
    metavar="json|FIELD.PATH",
    default="json",
    help="One field by its path; list items by number. Text is printed bare.",
)
@switch("--raw", help="The manifest or index as it is stored.")
@look_options
@click.pass_obj
def inspect(
    invocation: Invocation,
    /,
    image: str,
    form: str,
    raw: bool,
    platform: str | None,
    tls_verify: bool | None,
    root_path: str | None,
) -> None:
    from arkwright.images.describe import describe_image
    from arkwright.images.graph import DOCUMENT_LIMIT

    with looking(invocation, root_path, tls_verify, image) as look:
        opened = look.documents(image, platform)
        if raw:
            sys.stdout.buffer.write(look.store.content.read(opened.root.digest, limit=DOCUMENT_LIMIT))
            sys.stdout.buffer.flush()
            return
        found = msgspec.to_builtins(describe_image(look.store, opened, access=look.access(image)))
    print_json(found, form)
