"""`arkwright copy|sync`: images from place to place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from arkwright.cli.containers import copied_files, file_options
from arkwright.cli.images import exclusive, platform_option, store_and_access, tell_image, wanted
from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, root_option, switch, tls_option
from arkwright.cli.transfer import shown
from arkwright.diagnostics.errors import ArkwrightError, Cancelled, joined

if TYPE_CHECKING:
    from arkwright.images.pairs import Pair
    from arkwright.images.places import Place
    from arkwright.images.transfer import Copying, CopyOptions
    from arkwright.registry.access import Access
    from arkwright.store.store import Store

PLACES = """\
\b
A place is one of
  NAME[:TAG][@DIGEST]              the local store
  docker://NAME[:TAG][@DIGEST]     a registry
  oci:DIR[:TAG]                    an OCI image layout
  oci-archive:FILE[:TAG]           a tar of one
  docker-archive:FILE[:NAME]       a tar as of `docker save`
  dir:DIR                          a directory as of skopeo
  containers-storage:NAME          podman's images, through podman
  docker-daemon:NAME               docker's images, through docker"""


# Their text has the transport in it.
_WHOLE = frozenset({"store", "oci", "oci-archive", "docker-archive", "dir"})
_SLASHES = {"docker": "//"}
_CONVERSION = ("preserve_digests", "referrers", "form", "codec")


def conversion_options(command: Any) -> Any:
    """What may become of an image on its way; as fields of `CopyOptions`."""
    command = click.option(
        "--dest-compress",
        "--dest-compress-format",
        "codec",
        type=click.Choice(("gzip", "zstd", "none")),
        help="Compress layers in this way, where they are not; diffIDs are verified and stay.",
    )(command)
    command = click.option(
        "--format",
        "form",
        type=click.Choice(("oci", "docker")),
        help="The media types to have: OCI's, or those of Docker's schema 2.",
    )(command)
    command = switch(
        "--referrers",
        help="Copy what is attached to the image too (referrers, cosign's tags), from registry to registry.",
    )(command)
    return switch("--preserve-digests", help="Fail where a destination would change the digest.")(command)


@click.command(
    "copy",
    cls=Arguments,
    short_help="Copy an image to other places, or files into a container.",
    help="Copy an image, with all of its platforms, from any place to others. Digests stay as they are unless "
    f"--format or --dest-compress asks for a conversion.\n\n{PLACES}\n\nA first word that is a working container's name copies files into it: copy CONTAINER SRC... [DST], as "
    "COPY does; DST is its working directory by default.",
    epilog="""\
\b
Examples:
  arkwright copy docker://debian:bookworm docker://registry.example/debian:bookworm
  arkwright copy app:1 docker://registry.example/app:1 oci:layout:app dir:app
  arkwright copy --platform linux/arm64 docker://busybox docker-archive:busybox.tar:busybox
  arkwright copy --dest-compress zstd oci:layout:app docker://registry.example/app:zstd
  arkwright copy --chown 1000 $container app lib /srv/      # files, into a working container

From registry to registry only blobs that the destination lacks are fetched, and within one registry
they are mounted. An interrupted copy goes on where it stopped.
""",
)
@click.argument("source")
@click.argument("destinations", nargs=-1, required=True)
@platform_option
@switch("-a", "--all", "every", help="All platforms, also to places that hold one only, which then refuse.")
@conversion_options
@file_options
@switch("-q", "--quiet", help="Print digests only.")
@tls_option()
@root_option
@click.pass_obj
def copy(
    invocation: Invocation,
    /,
    source: str,
    destinations: tuple[str, ...],
    platform: str | None,
    every: bool,
    quiet: bool,
    tls_verify: bool | None,
    root_path: str | None,
    **more: Any,
) -> None:
    conversion = {name: more.pop(name) for name in _CONVERSION}
    if copied_files(invocation, root_path, source, destinations, more):
        return
    from arkwright.images.places import parse_place
    from arkwright.images.transfer import Copying, CopyOptions

    if platform and every:
        raise exclusive("--platform", "--all")
    options = CopyOptions(platform=wanted(platform), every=every, **conversion)
    targets = [parse_place(text) for text in destinations]
    with store_and_access(invocation, root_path, tls_verify) as (store, access):
        copying = Copying(store, parse_place(source), options, access=access)
        copying.check(targets)
        for target in targets:
            _bring(copying, f"{source} to {spelled(target)}", target, quiet=quiet)


def spelled(place: Place) -> str:
    """A place as it is written."""
    return (
        place.text
        if place.transport in _WHOLE
        else f"{place.transport}:{_SLASHES.get(place.transport, '')}{place.text}"
    )


def _bring(copying: Copying, title: str, target: Place, *, quiet: bool) -> None:
    """Copy to one target, and say what is there now."""
    from arkwright.oci.reference import parse_reference

    with shown(f"copy {title}", quiet=quiet) as progress:
        copied = copying.to(target, progress)
    name, digest = copied.delivered.name, copied.delivered.digest
    for lost in copied.lost:
        click.echo(f"{name}: left out: {lost}", err=True)
    if copied.referrers and not quiet:
        click.echo(f"{name}: {copied.referrers} referrers", err=True)
    if target.transport == "store":
        name = parse_reference(name).familiar()
    tell_image(name, digest, quiet=quiet, place=target)


@click.command(
    "sync",
    cls=Arguments,
    short_help="Copy the images of a list.",
    help="Copy the images of a list: lines of a source and its destinations, or YAML, a list of "
    "[SOURCE, DESTINATION...] or of {from: SOURCE, to: DESTINATION or a list, platform: OS/ARCH}. FILE `-` is "
    f"standard input. One that fails does not stop the others.\n\n{PLACES}",
    epilog="""\
\b
Examples:
  arkwright sync images.txt
  arkwright sync --dry-run images.yaml
  echo docker://busybox docker://registry.example/busybox | arkwright sync -

The exit status is that of the first copy that failed. What a destination has already is not sent again.
""",
)
@click.argument("list_path", metavar="FILE")
@switch("--dry-run", help="Print what would be copied, and copy nothing.")
@platform_option
@conversion_options
@switch("-q", "--quiet", help="Print digests only.")
@tls_option()
@root_option
@click.pass_obj
def sync(
    invocation: Invocation,
    /,
    list_path: str,
    dry_run: bool,
    platform: str | None,
    quiet: bool,
    tls_verify: bool | None,
    root_path: str | None,
    **conversion: Any,
) -> None:
    from arkwright.images.fetch import opened
    from arkwright.images.pairs import LIST_LIMIT, parse_pairs
    from arkwright.images.transfer import CopyOptions

    with opened(list_path) as stream:
        pairs = parse_pairs(stream.read(LIST_LIMIT + 1), list_path)
    if dry_run:
        for pair in pairs:
            for target in pair.targets:
                click.echo(f"{spelled(pair.source)} {spelled(target)}")
        return
    options = CopyOptions(platform=wanted(platform), **conversion)
    with store_and_access(invocation, root_path, tls_verify) as (store, access):
        failures = _sync(store, access, pairs, options, quiet=quiet)
    if failures:
        raise joined(failures)


def _sync(
    store: Store, access: Access, pairs: Sequence[Pair], options: CopyOptions, *, quiet: bool
) -> list[ArkwrightError]:
    """Copy each pair; the failures, which name the pair."""
    from arkwright.images.transfer import Copying

    failures: list[ArkwrightError] = []
    for pair in pairs:
        chosen = msgspec.structs.replace(options, platform=pair.platform or options.platform)
        copying = Copying(store, pair.source, chosen, access=access)
        for target in pair.targets:
            title = f"{spelled(pair.source)} to {spelled(target)}"
            try:
                copying.check([target])
                _bring(copying, title, target, quiet=quiet)
            except Cancelled:
                raise
            except ArkwrightError as error:
                failures.append(_of_pair(error, title))
    return failures


def _of_pair(error: ArkwrightError, title: str) -> ArkwrightError:
    first, *rest = error.diagnostics
    noted = msgspec.structs.replace(first, notes=(f"while copying {title}", *first.notes))
    return type(error)(noted, *rest, details=error.details)
