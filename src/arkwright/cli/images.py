"""`arkwright images|tag|rm`: the names of the local store and what they stand for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click
import msgspec

from arkwright.cli.columns import columns
from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, root_option, switch
from arkwright.diagnostics.errors import UsageError, UserError

if TYPE_CHECKING:
    from arkwright.images.local import LocalImage
    from arkwright.images.places import Place
    from arkwright.oci.platform import Platform
    from arkwright.registry.access import Access
    from arkwright.store.store import Store

IMAGE_HELP = "IMAGE is a name (`debian:bookworm`), a digest (`sha256:…`), or the beginning of one, at least six hex digits."


PLACE_HELP = """\
IMAGE is an image of the local store (a name, a digest, or the beginning of one), or
`docker://NAME`, `oci:DIR[:TAG]`, `oci-archive:FILE`, `docker-archive:FILE`, `dir:DIR`,
`containers-storage:NAME`, `docker-daemon:NAME`."""


@contextmanager
def open_store(invocation: Invocation, root_path: str | None) -> Iterator[Store]:
    """The store that a command works in."""
    from arkwright.store.store import Store

    with Store.open(invocation.store_root(root_path)) as store:
        yield store


def from_elsewhere(*texts: str) -> bool:
    """Whether any of these images has to be fetched into the store."""
    from arkwright.images.places import parse_place

    return any(parse_place(text).transport != "store" for text in texts)


@contextmanager
def store_and_access(
    invocation: Invocation, root_path: str | None, tls_verify: bool | None, *, adds: bool = True
) -> Iterator[tuple[Store, Access]]:
    """The store that a command works in, kept to its quota if the command `adds` to it, and what the
    command's conversations with registries share."""
    from arkwright.build.upkeep import quota_kept
    from arkwright.registry.access import Access

    with (
        quota_kept(invocation.store_root(root_path)) if adds else nullcontext(),
        open_store(invocation, root_path) as store,
        Access(tls_verify=tls_verify) as access,
    ):
        yield store, access


def tell_image(name: str, digest: str, *, quiet: bool, place: Place | None = None) -> None:
    """What a command made or sent. Standard output may be where the archive went."""
    click.echo(digest if quiet else f"{name} {digest}".lstrip(), err=place is not None and place.path == "-")


def print_json(value: Any, form: str | None = None) -> None:
    """A document for programs, or the field of it that `form` names, text bare; what an image says does
    not drive a terminal.

    Raises `UserError` `unknown-field`.
    """
    if form not in (None, "json"):
        value = field(value, form or "")
    if not isinstance(value, str):
        value = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    elif sys.stdout.isatty():
        from arkwright.diagnostics.cells import escape

        value = escape(value)
    click.echo(value)


def wanted(platform: str | None) -> Platform | None:
    """The platform that was asked for."""
    from arkwright.oci.platform import parse_platform

    return parse_platform(platform) if platform else None


def platform_option(command: Any) -> Any:
    """`--platform` for commands that take one."""
    return click.option("--platform", metavar="OS/ARCH", help="Choose one platform of an index.")(command)


def epoch_option(command: Any) -> Any:
    """`--source-date-epoch` for commands that write a config."""
    return click.option(
        "--source-date-epoch", "--timestamp", "epoch", type=click.IntRange(0, 2**33), metavar="SECONDS",
        envvar="SOURCE_DATE_EPOCH",
        help="The time in config and history. [default: $SOURCE_DATE_EPOCH, else 2000-01-01]",
    )(command)  # fmt: skip


def compression_option(command: Any) -> Any:
    """`--compression` for commands that make layers."""
    return click.option(
        "--compression", type=click.Choice(("gzip", "zstd", "none")), default="gzip",
        help="How to pack new layers. [default: gzip]",
    )(command)  # fmt: skip


@click.command(
    "images",
    cls=Arguments,
    short_help="List the images of the local store.",
    epilog="""\
\b
Examples:
  arkwright images
  arkwright images debian               # one repository
  arkwright images -q                   # digests only, for scripts
  arkwright images --json | jq '.[].name'
""",
)
@click.argument("name", required=False)
@switch("-q", "--quiet", help="Print digests only.")
@switch("--digests", help="Show whole digests.")
@switch("--json", "as_json", help="Print JSON; short for --format json.")
@click.option("--format", "form", type=click.Choice(("table", "json")), default="table", help="How to print.")
@root_option
@click.pass_obj
def images(
    invocation: Invocation,
    /,
    name: str | None,
    quiet: bool,
    digests: bool,
    as_json: bool,
    form: str,
    root_path: str | None,
) -> None:
    """List the images of the local store, newest first; NAME chooses a repository or a full name."""
    found = [image for image in _list(invocation, root_path) if name is None or _chosen(image.name, name)]
    if quiet:
        for digest in dict.fromkeys(image.digest for image in found):
            click.echo(digest)
    elif as_json or form == "json":
        rows = [
            {"name": image.name, "digest": image.digest, "size": image.size, "created": image.created}
            for image in found
        ]
        print_json(rows)
    else:
        click.echo(table(found, digests=digests), nl=False)


def _list(invocation: Invocation, root_path: str | None) -> list[LocalImage]:
    from arkwright.images.local import list_images

    with open_store(invocation, root_path) as store:
        found = list_images(store)
    return sorted(sorted(found, key=lambda image: image.name), key=lambda image: image.created, reverse=True)


def _chosen(full_name: str, wanted: str) -> bool:
    from arkwright.oci.reference import parse_reference

    reference = parse_reference(wanted, default_tag="")
    return full_name == str(reference) or (not reference.tag and full_name.startswith(f"{reference.name}:"))


def table(found: list[LocalImage], *, digests: bool) -> str:
    """Names, digests, sizes and creation times in columns."""
    from arkwright.cli.looking import shown_text
    from arkwright.diagnostics.amounts import bytes_text
    from arkwright.oci.reference import parse_reference

    rows = [("NAME", "DIGEST", "SIZE", "CREATED")]
    for image in found:
        digest = image.digest if digests else image.digest[:19]
        familiar = parse_reference(image.name).familiar()
        rows.append((familiar, digest, bytes_text(image.size), shown_text(image.created[:19]) or "-"))
    return columns(rows)


def field(document: Any, path: str) -> Any:
    """The value at a dotted path; keys match without case when no key matches exactly.

    Docker's braces (`{{.Config.Env}}`) are taken off. Raises `UserError` `unknown-field`.
    """
    plain = path.strip().removeprefix("{{").removesuffix("}}").strip().strip(".")
    value = document
    parts = plain.split(".")
    for position, part in enumerate(parts):
        key = _key(value, ".".join(parts[position:]), part)
        if key is None:
            from arkwright.diagnostics.suggest import nearest

            names = [str(name) for name in value] if isinstance(value, dict) else []
            # Docker's `.Config.Env` is below an image's config, which has a `config` itself.
            deeper = (f"{name}.{part}" for name in names if _key(value[name], part, part) is not None)
            near = next((".".join([*parts[:position], one]) for one in deeper), None) or nearest(part, names)
            raise UserError.of(
                "unknown-field",
                f"there is no field {part!r}" + (f" in {'.'.join(parts[:position])}" if position else ""),
                hint=f"did you mean {near}?" if near else ("fields: " + ", ".join(names) if names else None),
            )
        value = value[key[0]]
        if key[1]:
            break
    return value


def _key(value: Any, rest: str, part: str) -> tuple[Any, bool] | None:
    """The key or index that leads on, and whether it took the whole rest (label names hold dots)."""
    if isinstance(value, list | tuple):
        return (int(part), False) if part.isdecimal() and int(part) < len(value) else None
    if not isinstance(value, dict):
        return None
    if rest in value:
        return rest, True
    folded = {str(name).casefold(): name for name in reversed(value)}
    name = part if part in value else folded.get(part.casefold())
    return None if name is None else (name, False)


@click.command(
    "tag",
    cls=Arguments,
    short_help="Give an image another name.",
    help=f"Give an image another name in the local store.\n\n{PLACE_HELP}",
    epilog="\b\nExample:\n  arkwright tag app:1 registry.example/team/app:1\n",
)
@click.argument("image")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@root_option
@click.pass_obj
def tag(invocation: Invocation, /, image: str, names: tuple[str, ...], root_path: str | None) -> None:
    from arkwright.build.upkeep import quota_kept
    from arkwright.images.deliver import deliver
    from arkwright.images.fetch import fetch
    from arkwright.images.places import parse_place

    targets = [parse_place(name) for name in names]
    for target in targets:
        if target.transport != "store":
            raise UserError.of(
                "invalid-place",
                f"{target.text}: a name that is given is one of the local store",
                hint=f"arkwright copy {image} {target.text}",
            )
    with (
        quota_kept(invocation.store_root(root_path)) if from_elsewhere(image) else nullcontext(),
        open_store(invocation, root_path) as store,
    ):
        found = fetch(store, parse_place(image))
        for target in targets:
            deliver(store, found.descriptor, target)


@click.command(
    "rm",
    cls=Arguments,
    short_help="Remove names of images, or working containers.",
    help=f"Remove names of images; a name that is a working container's removes that. What no name leads to any more is deleted by a later clean-up; a digest removes every name that stands for it.\n\n{IMAGE_HELP}",
    epilog="\b\nExample:\n  arkwright rm app:1 app:2\n",
)
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@switch("-f", "--force", help="Do not fail when there is no such image.")
@root_option
@click.pass_obj
def rm(invocation: Invocation, /, images: tuple[str, ...], force: bool, root_path: str | None) -> None:
    from arkwright.cli.containers import remove_containers
    from arkwright.images import local

    images = remove_containers(invocation.store_root(root_path), images)
    if not images:
        return
    with open_store(invocation, root_path) as store:
        for image in images:
            try:
                removed = local.remove(store, image)
            except UserError as error:
                if force and error.code == "unknown-image":
                    continue
                raise
            for name in removed:
                click.echo(name)


def exclusive(first: str, second: str) -> UsageError:
    """Two options that cannot go together."""
    error = UsageError.of("conflicting-options", f"{first} and {second} exclude each other")
    assert isinstance(error, UsageError)
    return error
