"""`arkwright annotate|index`: annotations, and indexes of several images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from arkwright.cli.change import PLACES, Changing, changing, output_options
from arkwright.cli.images import exclusive
from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, Commands, switch
from arkwright.cli.values import invalid

if TYPE_CHECKING:
    from arkwright.images.mutate_index import Where
    from arkwright.oci.descriptor import Descriptor


@click.command(
    "annotate",
    cls=Arguments,
    short_help="Set annotations of an image or an index.",
    help=f"Set annotations: of the manifest, or of the index if IMAGE is one.\n\n{PLACES}",
    epilog="""\
\b
Examples:
  arkwright annotate app org.opencontainers.image.source=https://example.com/app -t app
  arkwright annotate app --manifest stage=qa -t app        # of each image of the index
  arkwright annotate app --platform linux/arm64 stage=qa -t app
  arkwright annotate app --remove stage -t app
""",
)
@click.argument("image")
@click.argument("values", metavar="KEY=VALUE...", nargs=-1)
@switch("--index", "of_index", help="Annotate the index.")
@switch("--manifest", "of_manifests", help="Annotate the manifests: of all platforms, or of --platform.")
@click.option("--remove", metavar="KEY", multiple=True, help="Take an annotation away; may be repeated.")
@output_options
@click.pass_obj
def annotate(
    invocation: Invocation, /, image: str, values: tuple[str, ...], of_index: bool, of_manifests: bool,
    remove: tuple[str, ...], **options: Any,
) -> None:  # fmt: skip
    from arkwright.images import mutate_index

    if of_index and (of_manifests or options["platform"]):
        raise exclusive("--index", "--manifest" if of_manifests else "--platform")
    if not values and not remove:
        invalid("annotate", image, "say what: KEY=VALUE, or --remove KEY")
    pairs = dict(_pair(text) for text in values)
    where: Where = "index" if of_index else "manifests" if of_manifests else "root"
    with changing(invocation, options) as work:
        found = work.fetch(image)
        made = mutate_index.annotate(
            work.store.content, found.descriptor, pairs, remove=remove, where=where, platform=work.platform
        )
        work.deliver(made)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        invalid("annotate", text, "write KEY=VALUE; --remove KEY takes one away")
    return key, value


@click.group(
    "index",
    cls=Commands,
    short_help="Make an index of images for several platforms, and change it.",
    epilog="""\
\b
Examples:
  arkwright index create app:1 app:amd64 app:arm64
  arkwright index add app:1 oci:build/s390x
  arkwright index rm app:1 linux/s390x
""",
)
def index() -> None:
    """Make an index of images for several platforms, and change it. An index has one image for each
    platform, which is what the image's config says."""


@index.command("create", cls=Arguments, short_help="Make an index of images.")
@click.argument("name")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@output_options
@click.pass_obj
def create(invocation: Invocation, /, name: str, images: tuple[str, ...], **options: Any) -> None:
    """Make an index of images, and put it at NAME: a name of the local store, or a place such as
    docker://NAME or oci:DIR:TAG."""
    from arkwright.images.mutate import Changed
    from arkwright.images.mutate_index import create_index

    with changing(invocation, {**options, "tags": (name, *options["tags"])}) as work:
        made = create_index(work.store.content, _chosen(work, images))
        work.deliver(Changed(descriptor=made))


@index.command("add", cls=Arguments, short_help="Put more images in an index.")
@click.argument("name", metavar="INDEX")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@output_options
@click.pass_obj
def add(invocation: Invocation, /, name: str, images: tuple[str, ...], **options: Any) -> None:
    """Put more images in an index. Without --tag, a name of the local store then stands for the new
    index; the old one is kept as it is."""
    from arkwright.images.mutate import Changed
    from arkwright.images.mutate_index import add_to_index

    with changing(invocation, options) as work:
        found = work.fetch(name, whole=True)
        made = add_to_index(work.store.content, found.descriptor, _chosen(work, images))
        work.deliver(Changed(descriptor=made), default=found.name)


@index.command("rm", cls=Arguments, short_help="Take images out of an index.")
@click.argument("name", metavar="INDEX")
@click.argument("gone", metavar="PLATFORM|DIGEST...", nargs=-1, required=True)
@output_options
@click.pass_obj
def rm(invocation: Invocation, /, name: str, gone: tuple[str, ...], **options: Any) -> None:
    """Take images out of an index, by platform or by digest. Without --tag, a name of the local store
    then stands for the new index; the old one is kept as it is."""
    from arkwright.images.mutate_index import remove_from_index

    with changing(invocation, options) as work:
        found = work.fetch(name, whole=True)
        work.deliver(remove_from_index(work.store.content, found.descriptor, gone), default=found.name)


def _chosen(work: Changing, images: tuple[str, ...]) -> list[tuple[str, Descriptor]]:
    """The images by their words; with `--platform`, that one of each index."""
    from arkwright.images.graph import select_platform

    found = []
    for text in images:
        descriptor = work.fetch(text).descriptor
        if work.platform is not None:
            descriptor = select_platform(work.store.content, descriptor, work.platform)[0]
        found.append((text, descriptor))
    return found
