"""`arkwright provenance`: how an image of the local history was made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from arkwright.cli.images import open_store
from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, root_option, tls_option
from arkwright.diagnostics.errors import ArkwrightError, UserError

if TYPE_CHECKING:
    from arkwright.attest.provenance import BuildFacts, Mode
    from arkwright.registry.access import Access
    from arkwright.store.store import Store


class _Found(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of a build, the digests that are asked about, and a name where the image is."""

    facts: BuildFacts
    digests: tuple[str, ...]
    name: str


@click.command(
    "provenance",
    cls=Arguments,
    short_help="Say how an image was made, from what.",
    epilog="""\
\b
Examples:
  arkwright provenance                                  # of the last build
  arkwright provenance --mode max app:1 | jq .predicate.buildDefinition
  arkwright provenance --sign arkwright.key docker://registry.example/team/app:1
""",
)
@click.argument("subject", metavar="[BUILD|IMAGE]", default="")
@click.option(
    "--mode",
    type=click.Choice(("min", "max")),
    default=None,
    help="Leave out what may be private, or say all. [default: as the build was asked]",
)
@click.option(
    "--sign",
    "key_path",
    metavar="KEY",
    default="",
    help="Sign it as an attestation, kept beside the image as cosign does, instead of printing it.",
)
@click.option(
    "--attach",
    "attach_to",
    metavar="PLACE",
    default="",
    help="With --sign: where the image is, as docker://NAME. [default: IMAGE, else the image's first name]",
)
@tls_option()
@root_option
@click.pass_obj
def provenance(
    invocation: Invocation,
    /,
    subject: str,
    mode: Mode | None,
    key_path: str,
    attach_to: str,
    tls_verify: bool | None,
    root_path: str | None,
) -> None:
    """Print the SLSA provenance of an image that this store's builder made: an in-toto statement of what was
    asked for, which images, commits, files and contexts were used, and which steps had a network.

    BUILD is an id of `arkwright history` or the beginning of one, the last build by default; IMAGE a name or
    digest in the local store, or `docker://NAME`: then the latest build that made it.
    """
    from arkwright.attest import provenance as slsa
    from arkwright.attest import statement
    from arkwright.registry.access import Access

    if attach_to and not key_path:
        raise UserError.of("invalid-usage", "--attach goes with --sign")
    with open_store(invocation, root_path) as store, Access(tls_verify=tls_verify) as access:
        found = _find(store, subject, access)
        claim = slsa.statement(found.facts, found.digests, mode or found.facts.mode)
        data = statement.encode(claim)
        if key_path:
            _attach(store, found, data, key_path, attach_to, access)
        else:
            click.echo(data)


def _find(store: Store, text: str, access: Access) -> _Found:
    """Raises `UserError` `no-provenance`, `unknown-build`, and as `images.references.resolve` or
    `attest.attach.locate`."""
    from arkwright.attest import attach, kept
    from arkwright.cache.explain import find_build
    from arkwright.cache.history import build_ids
    from arkwright.images.places import parse_place
    from arkwright.images.references import resolve

    if not text or any(build.startswith(text) for build in build_ids(store.root_path)):
        build = find_build(store.root_path, text)
        facts = kept.read(store.root_path, build)
        if facts is None or not facts.images:
            raise _none(f"build {build}", "it failed, made no image, or was told --provenance=false")
        names = facts.images[0].names if len(facts.images) == 1 else ()
        return _Found(facts=facts, digests=facts.digests(), name=names[0] if names else "")
    place = parse_place(text)
    if place.transport == "store":
        local = resolve(store, place.text)
        digest, name = local.digest, local.name
    else:
        digest, name = attach.locate(store, place, access)[1].digest, text
    for facts in kept.of_image(store.root_path, digest):
        return _Found(facts=facts, digests=(digest,), name=name)
    raise _none(f"{text} ({digest})", "no build of this store's history made it")


def _attach(store: Store, found: _Found, data: bytes, key_path: str, attach_to: str, access: Access) -> None:
    from arkwright.attest import attach, cosign, dsse
    from arkwright.attest.provenance import PREDICATE
    from arkwright.cli.evidence import private_key
    from arkwright.images.places import parse_place

    if not (attach_to or found.name):
        raise UserError.of(
            "no-repository", "the build made several images, or one without a name",
            hint="name the image, or say where it is with --attach docker://NAME",
        )  # fmt: skip
    place = parse_place(attach_to or found.name)
    layer = cosign.attestation_layer(dsse.sign(data, [private_key(key_path)]), PREDICATE)
    for digest in found.digests:
        made = attach.attach(store, place, digest, "att", [layer], access)
        click.echo(f"{made.name} {digest}")


def _none(what: str, why: str) -> ArkwrightError:
    return UserError.of(
        "no-provenance", f"nothing is known of how {what} was made: {why}",
        hint="`arkwright history ls` lists the builds of this store",
    )  # fmt: skip
