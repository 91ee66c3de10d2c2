"""`arkwright export-record`: all that somebody else needs to verify a build, in one file."""

from __future__ import annotations

from typing import Any

import click

from arkwright.cli import values
from arkwright.cli.images import open_store
from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, root_option, switch, tls_option
from arkwright.diagnostics.errors import UserError


@click.command(
    "export-record",
    cls=Arguments,
    short_help="Write what others need to verify a build.",
    help="Write the record of a build to one file: its provenance in full, its contexts, and the images that it used. "
    "With it `arkwright verify --record FILE` builds the image again elsewhere, without a network if no step needs "
    "one.\n\n"
    "IMAGE is a name or digest in the local store, or `docker://NAME`; BUILD an id of `arkwright history` (default: "
    "the last build). Contexts are packed as the ignore file leaves them, and must still be what the build read.",
    epilog="""\
\b
Examples:
  arkwright export-record app:1 -o app.record
  arkwright export-record --context src --sign release.key -o app.record
  arkwright verify --record app.record                   # there
""",
)
@click.argument("subject", metavar="[IMAGE|BUILD]", default="")
@click.option(
    "-o",
    "--output",
    "output",
    metavar="FILE",
    required=True,
    help="Where to write it; `-` is standard output.",
)
@click.option(
    "--context",
    "context",
    metavar="DIR",
    default="",
    help="Where the build context is. [default: as the build was given it here]",
)
@click.option(
    "--build-context",
    "build_contexts",
    multiple=True,
    metavar="NAME=DIR",
    help="The same, for a named context. [repeatable]",
)
@switch(
    "--without-bases", help="Leave the images out that the build used; who verifies fetches them by digest."
)
@switch("--with-image", help="Take the image along, so that differences can be looked into there.")
@click.option(
    "--sign", "sign_path", metavar="KEY", default="", help="Sign the provenance with this private key."
)
@tls_option()
@root_option
@click.pass_obj
def export_record(invocation: Invocation, /, subject: str, **options: Any) -> None:
    from arkwright.build.upkeep import quota_kept
    from arkwright.cli.evidence import private_key
    from arkwright.registry.access import Access
    from arkwright.verify import claims
    from arkwright.verify.bundle import export_record as export
    from arkwright.verify.inputs import Given
    from arkwright.verify.run import record_inputs

    signer = private_key(options["sign_path"]) if options["sign_path"] else None
    given = dict(values.pairs("--build-context", options["build_contexts"]))
    if options["context"]:
        given["context"] = options["context"]
    with (
        quota_kept(invocation.store_root(options["root_path"])),
        open_store(invocation, options["root_path"]) as store,
        Access(tls_verify=options["tls_verify"]) as access,
    ):
        about = claims.find_subject(store, subject, access)
        claim = claims.find_claim(store, about, (), access)
        with record_inputs(store, claim, Given(contexts=given), access) as (recorded, inputs):
            image = claims.whole_image(store, about, access) if options["with_image"] else None
            if options["with_image"] and image is None:
                raise UserError.of("unknown-image", f"the image {about.digest} is not in the store")
            export(
                store, recorded, inputs, options["output"], signer=signer,
                with_bases=not options["without_bases"], image=image,
            )  # fmt: skip
    click.echo(f"{options['output']} {recorded.digests[0]}", err=options["output"] == "-")
