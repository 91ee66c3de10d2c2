"""`arkwright ls-tags|delete`: what a registry has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from arkwright.cli.images import print_json
from arkwright.cli.invocation import Invocation
from arkwright.cli.looking import shown_text
from arkwright.cli.parameters import Arguments, switch, tls_option
from arkwright.diagnostics.errors import ArkwrightError, RemoteError, UserError

if TYPE_CHECKING:
    from arkwright.oci.reference import Reference


@click.command(
    "ls-tags",
    cls=Arguments,
    short_help="List the tags of a repository in a registry.",
    epilog="""\
\b
Examples:
  arkwright ls-tags debian
  arkwright ls-tags docker://registry.example/team/app
  arkwright ls-tags oci:layout
""",
)
@click.argument("name")
@switch("--json", "as_json", help="Print JSON.")
@tls_option()
@click.pass_obj
def ls_tags(invocation: Invocation, /, name: str, as_json: bool, tls_verify: bool | None) -> None:
    """List the tags of a repository, in the registry's order; or the names in an OCI layout."""
    from arkwright.images.places import parse_place
    from arkwright.oci.reference import is_short, parse_reference

    place = parse_place(name)
    if place.transport == "oci":
        from arkwright.images.archives import IMAGE_NAME
        from arkwright.oci.descriptor import REF_NAME
        from arkwright.oci.layout import Layout

        said = [entry.annotations for entry in Layout.open(place.path).index().manifests]
        tags = sorted({one.get(IMAGE_NAME) or one.get(REF_NAME, "") for one in said} - {""})
    elif place.transport in ("docker", "store"):
        from arkwright.registry.access import Access
        from arkwright.registry.client import open_registries

        with Access(tls_verify=tls_verify) as access:
            text = name.removeprefix("docker://")
            reference = parse_reference(text)
            if place.transport == "store" and is_short(text):
                reference = access.config.qualify(text)
            tags = list(open_registries(access, reference)[-1].tags())
    else:
        raise UserError.of(
            "invalid-place", f"{name}: tags are listed of registries and of OCI layouts", hint="docker://NAME"
        )
    if as_json:
        print_json({"name": name, "tags": tags})
        return
    for tag in tags:
        click.echo(shown_text(tag))


@click.command(
    "delete",
    cls=Arguments,
    short_help="Delete images from a registry.",
    epilog="""\
\b
Examples:
  arkwright delete docker://registry.example/team/app:1
  arkwright delete docker://registry.example/team/app@sha256:…
  arkwright delete --tag-only docker://registry.example/team/app:old

A tag is looked up and its manifest deleted, which takes every other tag of the same digest with it; most
registries free the space of layers later. Names of the local store are removed with `arkwright rm`.
""",
)
@click.argument("places", metavar="docker://NAME[:TAG|@DIGEST]...", nargs=-1, required=True)
@switch("--tag-only", help="Remove the tag and keep what it names, where the registry can.")
@tls_option()
@click.pass_obj
def delete(
    invocation: Invocation, /, places: tuple[str, ...], tag_only: bool, tls_verify: bool | None
) -> None:
    """Delete manifests from a registry, by digest."""
    from arkwright.registry.access import Access
    from arkwright.registry.client import open_registries

    references = [_exact(text, tag_only=tag_only) for text in places]
    with Access(tls_verify=tls_verify) as access:
        for reference in references:
            registry = open_registries(access, reference, push=True)[0]
            ref = reference.digest or reference.tag
            if not tag_only and not reference.digest:
                found = registry.head_manifest(ref)
                if found is None:
                    raise UserError.of("unknown-image", f"the registry has no image {reference}")
                ref = found.digest
            try:
                registry.delete_manifest(ref)
            except RemoteError as error:
                raise _explained(error) from error
            click.echo(f"docker://{reference}" if tag_only else f"docker://{reference.name}@{ref}")


def _exact(text: str, *, tag_only: bool) -> Reference:
    """A place in a registry that says which image: nobody wants `latest` deleted by omission."""
    from arkwright.images.places import parse_place
    from arkwright.oci.reference import parse_reference

    place = parse_place(text)
    if place.transport != "docker":
        raise UserError.of(
            "invalid-place",
            f"{text}: only images in a registry are deleted, written docker://NAME:TAG",
            hint="`arkwright rm` removes names of the local store",
        )
    reference = parse_reference(place.text, default_tag="")
    if not reference.tag and not reference.digest:
        raise UserError.of("invalid-place", f"{text}: say which image", hint=f"{text}:TAG, or {text}@DIGEST")
    if tag_only and not reference.tag:
        raise UserError.of("invalid-place", f"{text}: --tag-only needs a tag")
    return reference


def _explained(error: RemoteError) -> ArkwrightError:
    if error.details["status"] not in (400, 405):
        return error
    first = msgspec.structs.replace(
        error.diagnostics[0],
        hint="the registry does not delete this: deletion may be switched off, or only digests be taken",
    )
    return RemoteError(first, *error.diagnostics[1:], details=error.details)
