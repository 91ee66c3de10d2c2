"""`arkwright save|load`: images to and from archive files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import click

from arkwright.cli.images import IMAGE_HELP, open_store
from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, root_option, switch
from arkwright.diagnostics.errors import UsageError, UserError

FORMATS = ("oci-archive", "docker-archive")


@click.command(
    "save",
    cls=Arguments,
    short_help="Write images to an archive.",
    help=f"Write images to an archive that other tools read.\n\n{IMAGE_HELP}",
    epilog="""\
\b
Examples:
  arkwright save -o app.tar app:1                          # OCI archive
  arkwright save --format docker-archive app:1 | podman load
""",
)
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    "path",
    metavar="FILE",
    default="-",
    help="Where to; default is standard output, unless it is a terminal.",
)
@click.option("--format", "form", type=click.Choice(FORMATS), default=FORMATS[0], help="The kind of archive.")
@root_option
@click.pass_obj
def save(
    invocation: Invocation, /, images: tuple[str, ...], path: str, form: str, root_path: str | None
) -> None:
    from arkwright.images import archives
    from arkwright.images.references import resolve

    kind: archives.Format = "docker-archive" if form == "docker-archive" else "oci-archive"
    with open_store(invocation, root_path) as store:
        found = [resolve(store, text) for text in images]
        pairs = [(image.descriptor, (image.name,) if image.name else ()) for image in found]
        archives.save(store.content, pairs, path, kind)


@click.command(
    "load",
    cls=Arguments,
    short_help="Read images from an archive.",
    epilog="\b\nExamples:\n  arkwright load -i app.tar\n  docker save app | arkwright load\n",
)
@click.option(
    "-i", "--input", "path", metavar="FILE", default="-", help="Where from. [default: standard input]"
)
@switch("-q", "--quiet", help="Print digests only.")
@root_option
@click.pass_obj
def load(invocation: Invocation, /, path: str, quiet: bool, root_path: str | None) -> None:
    """Read the images of an OCI or docker archive, compressed or not, or of an OCI layout directory, into
    the local store."""
    from arkwright.build.upkeep import quota_kept
    from arkwright.images.load import load_archive, load_layout

    if path == "-" and sys.stdin.isatty():
        raise UsageError.of(
            "refusing-terminal",
            "there is no archive on standard input",
            hint="name a file with -i, or pipe an archive in",
        )
    with quota_kept(invocation.store_root(root_path)), open_store(invocation, root_path) as store:
        if os.path.isdir(path):
            found = load_layout(store, path)
        else:
            with _source(path) as stream:
                found = load_archive(store, stream)
    for image in found:
        for name in ("",) if quiet else image.names or ("",):
            click.echo(f"{name} {image.descriptor.digest}".lstrip())


@contextmanager
def _source(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UserError.of("unreadable-file", f"cannot read {path}: {error.strerror}") from error
    with os.fdopen(fd, "rb") as stream:
        yield stream
