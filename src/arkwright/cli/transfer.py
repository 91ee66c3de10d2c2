"""`arkwright pull|push`: images from and to registries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from arkwright.cli.images import IMAGE_HELP, open_store, platform_option
from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, root_option, switch, tls_option

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
        stream.emit(Failed(vertex=title, message=str(error), cancelled=not isinstance(error, Exception)))
        raise
    finally:
        view.finish()


@click.command(
    "pull",
    cls=Arguments,
    short_help="Fetch an image from a registry.",
    epilog="""\
\b
Examples:
  arkwright pull debian:bookworm
  arkwright pull --platform linux/arm64 busybox
  arkwright pull --all-platforms registry.example/app@sha256:…

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
    """Fetch an image from a registry into the local store, for this host's platform."""
    from arkwright.cli.images import exclusive
    from arkwright.oci.platform import host_platform, parse_platform
    from arkwright.oci.reference import is_short, parse_reference

    if platform and all_platforms:
        raise exclusive("--platform", "--all-platforms")
    reference = parse_reference(name)
    wanted = None if all_platforms else parse_platform(platform) if platform else host_platform()
    from arkwright.build.upkeep import quota_kept
    from arkwright.registry.access import Access
    from arkwright.registry.pull import pull_image

    with (
        quota_kept(invocation.store_root(root_path)),
        open_store(invocation, root_path) as store,
        Access(tls_verify=tls_verify) as access,
    ):
        place = access.config.qualify(name) if is_short(name) else reference
        with shown(f"pull {place.familiar()}", quiet=quiet) as progress:
            descriptor = pull_image(place, store.content, wanted, access=access, progress=progress)
        for full in {str(place), str(reference)}:
            store.names.set(full, descriptor)
    click.echo(descriptor.digest if quiet else f"{reference.familiar()} {descriptor.digest}")


@click.command(
    "push",
    cls=Arguments,
    short_help="Send an image to a registry.",
    help=f"Send an image to a registry, to the place that its name says or to DESTINATION.\n\n{IMAGE_HELP}",
    epilog="""\
\b
Examples:
  arkwright push registry.example/team/app:1
  arkwright push app:1 registry.example/team/app:1
  arkwright push sha256:0f9e1d registry.example/team/app

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
    from arkwright.images import local
    from arkwright.oci.reference import parse_reference

    target = parse_reference(destination or image)
    with open_store(invocation, root_path) as store:
        descriptor = local.resolve(store, image).descriptor
        from arkwright.registry.push import push_image

        with shown(f"push {target.familiar()}", quiet=quiet) as progress:
            report = push_image(descriptor, target, store.content, tls_verify=tls_verify, progress=progress)
    click.echo(descriptor.digest if quiet else f"{target} {descriptor.digest}")
    if not quiet:
        sent = f"{report.uploaded} blobs uploaded, {report.mounted} mounted, {report.skipped} there already"
        click.echo(sent, err=True)
