"""`arkwright pull|push`: images from and to registries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from arkwright.cli.images import PLACE_HELP, exclusive, platform_option, store_and_access, tell_image, wanted
from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, root_option, switch, tls_option
from arkwright.diagnostics.errors import UsageError

if TYPE_CHECKING:
    from arkwright.oci.descriptor import Descriptor
    from arkwright.registry.pull import BlobProgress


@contextmanager
def shown(title: str, *, quiet: bool) -> Iterator[BlobProgress]:
    """Show a transfer as a build shows a step; gives what is to be called with each blob's bytes
    done and in all, from any thread."""
    from arkwright.cli.progress import progress_view
    from arkwright.events.stream import EventStream
    from arkwright.events.types import Declared, Failed, Finished, Progress, Started

    stream = EventStream(title)
    view = progress_view("quiet" if quiet else "auto")
    stream.subscribe(view)
    stream.emit(Declared(vertex=title, name=title))
    stream.emit(Started(vertex=title))

    def progress(blob: Descriptor, done: int, total: int) -> None:
        stream.emit(Progress(vertex=title, item=blob.digest[:19], done=done, total=total))

    try:
        yield progress
        stream.emit(Finished(vertex=title))
    except BaseException as error:
        # The command tells the error itself, once, at its end.
        stream.emit(Failed(vertex=title, message="", cancelled=not isinstance(error, Exception)))
        raise
    finally:
        view.finish()


@click.command(
    "pull",
    cls=Arguments,
    short_help="Fetch an image from a registry, or from anywhere else.",
    epilog="""\
\b
Examples:
  arkwright pull debian:bookworm
  arkwright pull --platform linux/arm64 busybox
  arkwright pull --all-platforms registry.example/app@sha256:…
  arkwright pull oci:layout:app                 # a place of any kind, see `arkwright copy --help`
  arkwright pull containers-storage:app:1

Credentials come from ~/.docker/config.json and from containers' auth.json. A pull that was
interrupted goes on where it stopped.
""",
)
@click.argument("name")
@platform_option
@switch("--all-platforms", help="Every platform of an index.")
@switch("-q", "--quiet", help="Print the digest only.")
@tls_option()
@root_option
@click.pass_obj
def pull(
    invocation: Invocation,
    /,
    name: str,
    platform: str | None,
    all_platforms: bool,
    quiet: bool,
    tls_verify: bool | None,
    root_path: str | None,
) -> None:
    """Fetch an image into the local store, for this host's platform. NAME is one in a registry; other
    places, such as oci:DIR:TAG, are written as for `copy`."""
    from arkwright.images.fetch import fetch_entry, full_name
    from arkwright.images.places import in_registry, parse_place
    from arkwright.oci.descriptor import plain
    from arkwright.oci.platform import host_platform
    from arkwright.oci.reference import is_short, parse_reference

    if platform and all_platforms:
        raise exclusive("--platform", "--all-platforms")
    place = parse_place(name)
    # docker:// names a registry's image in full; a bare name may be short for one.
    reference = parse_reference(name) if place.transport == "store" else place.reference
    chosen = None if all_platforms else wanted(platform) or host_platform()
    with store_and_access(invocation, root_path, tls_verify) as (store, access):
        if place.transport == "store":
            assert reference is not None
            place = in_registry(access.config.qualify(name) if is_short(name) else reference)
        shown_name = place.reference.familiar() if place.reference else place.text
        with shown(f"pull {shown_name}", quiet=quiet) as progress:
            entry = fetch_entry(store, place, chosen, access=access, progress=progress)
        names = {full_name(place, entry), str(reference) if reference else ""} - {""}
        descriptor = plain(entry)
        for full in names:
            store.names.set(full, descriptor)
    label = reference.familiar() if reference else min(names, default="")
    tell_image(label, descriptor.digest, quiet=quiet)


@click.command(
    "push",
    cls=Arguments,
    short_help="Send an image to a registry, or to anywhere else.",
    help="Send an image to a registry, to the place that its name says or to DESTINATION; other places, "
    f"such as oci:DIR:TAG, are written as for `copy`.\n\n{PLACE_HELP}",
    epilog="""\
\b
Examples:
  arkwright push registry.example/team/app:1
  arkwright push app:1 registry.example/team/app:1
  arkwright push sha256:0f9e1d registry.example/team/app
  arkwright push app:1 containers-storage:app:1

Blobs that the registry has already are not sent again.
""",
)
@click.argument("image")
@click.argument("destination", required=False)
@switch("-q", "--quiet", help="Print the digest only.")
@tls_option()
@root_option
@click.pass_obj
def push(
    invocation: Invocation,
    /,
    image: str,
    destination: str | None,
    quiet: bool,
    tls_verify: bool | None,
    root_path: str | None,
) -> None:
    from arkwright.images.deliver import deliver
    from arkwright.images.fetch import fetch
    from arkwright.images.places import in_registry, parse_place
    from arkwright.oci.reference import parse_reference

    source = parse_place(image)
    if destination is None and source.transport != "store":
        raise UsageError.of(
            "invalid-usage", f"where is {image} to be sent?", hint=f"arkwright push {image} DESTINATION"
        )
    target = parse_place(destination or image)
    if target.transport == "store":
        target = in_registry(parse_reference(target.text))
    label = target.reference.familiar() if target.reference else target.text
    adds = source.transport != "store"
    with store_and_access(invocation, root_path, tls_verify, adds=adds) as (store, access):
        found = fetch(store, source, access=access)
        with shown(f"push {label}", quiet=quiet) as progress:
            if target.transport == "docker" and target.reference is not None:
                from arkwright.registry.push import push_image

                report = push_image(
                    found.descriptor, target.reference, store.content, access=access, progress=progress
                )
                name, digest = str(target.reference), report.digest
            else:
                arrived = deliver(store, found.descriptor, target, access=access, progress=progress)
                name, digest, report = arrived.name, arrived.digest, None
    tell_image(name, digest, quiet=quiet, place=target)
    if report is not None and not quiet:
        sent = f"{report.uploaded} blobs uploaded, {report.mounted} mounted, {report.skipped} there already"
        click.echo(sent, err=True)
