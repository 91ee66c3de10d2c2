"""`arkwright save|load`: images to and from archive files."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from arkwright.cli.images import (
    PLACE_HELP,
    exclusive,
    from_elsewhere,
    open_store,
    store_and_access,
    tell_image,
)
from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, root_option, switch, tls_option
from arkwright.diagnostics.errors import UsageError
from arkwright.oci.descriptor import plain

if TYPE_CHECKING:
    from arkwright.images import archives
    from arkwright.images.load import LoadedImage
    from arkwright.oci.descriptor import Descriptor
    from arkwright.registry.access import Access
    from arkwright.store.store import Store

FORMATS = ("oci-archive", "docker-archive", "oci-layout")


@click.command(
    "save",
    cls=Arguments,
    short_help="Write images to an archive.",
    help=f"Write images to an archive that other tools read.\n\n{PLACE_HELP}",
    epilog="""\
\b
Examples:
  arkwright save -o app.tar app:1                          # OCI archive
  arkwright save --format docker-archive app:1 | podman load
  arkwright save -o oci:layout app:1 app:2                 # an OCI layout
""",
)
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    "path",
    metavar="FILE",
    default="-",
    help="Where to: a file, or oci:DIR, oci-archive:FILE, docker-archive:FILE; default is standard output, "
    "unless it is a terminal.",
)
@click.option(
    "--format", "form", type=click.Choice(FORMATS), help="The kind of archive. [default: oci-archive]"
)
@tls_option()
@root_option
@click.pass_obj
def save(
    invocation: Invocation,
    /,
    images: tuple[str, ...],
    path: str,
    form: str | None,
    tls_verify: bool | None,
    root_path: str | None,
) -> None:
    from arkwright.images import archives

    kind, path = _output(path, form)
    adds = from_elsewhere(*images)
    with store_and_access(invocation, root_path, tls_verify, adds=adds) as (store, access):
        archives.save(store.content, named_images(store, images, access), path, kind)


def named_images(
    store: Store, texts: Sequence[str], access: Access
) -> list[tuple[Descriptor, tuple[str, ...]]]:
    """Images from any place, with the full name that each has there, if any."""
    from arkwright.images.fetch import fetch, fetch_entry, full_name
    from arkwright.images.places import parse_place

    found: list[tuple[Descriptor, tuple[str, ...]]] = []
    for place in [parse_place(text) for text in texts]:
        if place.transport == "store":
            image = fetch(store, place)
            name, descriptor = image.name, image.descriptor
        else:
            entry = fetch_entry(store, place, access=access)
            name, descriptor = full_name(place, entry), plain(entry)
        found.append((descriptor, (name,) if name else ()))
    return found


def _output(path: str, form: str | None) -> tuple[archives.Format, str]:
    """What to write, and where, of `-o` and `--format`."""
    kinds: dict[str, archives.Format] = {
        "oci": "oci-layout", "oci-archive": "oci-archive", "docker-archive": "docker-archive"
    }  # fmt: skip
    transport, colon, rest = path.partition(":")
    kind = kinds.get(transport) if colon and rest else None
    if kind is None:
        return next((one for one in kinds.values() if one == form), "oci-archive"), path
    if form and form != kind:
        raise exclusive(f"--output {transport}:", f"--format {form}")
    if ":" in rest:
        raise UsageError.of(
            "invalid-option-value",
            f"--output {path}: images keep their names",
            hint=f"write {transport}:{rest.partition(':')[0]}, or `arkwright copy IMAGE {path}`",
        )
    return kind, rest


@click.command(
    "load",
    cls=Arguments,
    short_help="Read images from an archive.",
    epilog="""\
\b
Examples:
  arkwright load -i app.tar
  docker save app | arkwright load
  arkwright load -i oci-archive:many.tar:app    # one of several
""",
)
@click.option(
    "-i",
    "--input",
    "path",
    metavar="FILE",
    default="-",
    help="Where from: a file, a directory, or a place such as oci:DIR:TAG. [default: standard input]",
)
@switch("-q", "--quiet", help="Print digests only.")
@root_option
@click.pass_obj
def load(invocation: Invocation, /, path: str, quiet: bool, root_path: str | None) -> None:
    """Read the images of an OCI or docker archive, compressed or not, or of an OCI layout directory, into
    the local store, under the names that they have there. A place with a tag or a name is that one image."""
    from arkwright.build.upkeep import quota_kept

    if path == "-" and sys.stdin.isatty():
        raise UsageError.of(
            "refusing-terminal",
            "there is no archive on standard input",
            hint="name a file with -i, or pipe an archive in",
        )
    with quota_kept(invocation.store_root(root_path)), open_store(invocation, root_path) as store:
        found = _load(store, path)
    for image in found:
        for name in ("",) if quiet else image.names or ("",):
            tell_image(name, image.descriptor.digest, quiet=quiet)


def _load(store: Store, path: str) -> list[LoadedImage]:
    """All images of a file or a layout, or the one that a place names."""
    from arkwright.images.fetch import fetch_entry, full_name, opened
    from arkwright.images.load import LoadedImage, load_archive, load_layout, publish
    from arkwright.images.places import Place, parse_place

    # A file whose name looks like a place is read with ./ before it.
    place = Place(transport="store", text=path) if os.path.exists(path) else parse_place(path)
    selects = bool(place.selector) or place.transport not in ("oci", "oci-archive", "docker-archive")
    if place.transport != "store" and selects:
        entry = fetch_entry(store, place)
        name = full_name(place, entry)
        return publish(store, [LoadedImage(descriptor=plain(entry), names=(name,) if name else ())])
    path = place.path or path
    if os.path.isdir(path):
        return load_layout(store, path)
    with opened(path) as stream:
        return load_archive(store, stream)
