"""`arkwright append|squash|flatten|filter|chown-map`: other layers for an image, without a build."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import click

from arkwright.cli.images import (
    PLACE_HELP,
    compression_option,
    epoch_option,
    exclusive,
    platform_option,
    store_and_access,
    tell_image,
    wanted,
)
from arkwright.cli.invocation import Invocation
from arkwright.cli.looking import shown_text
from arkwright.cli.parameters import Arguments, root_option, switch, tls_option

if TYPE_CHECKING:
    from arkwright.images.mutate import Changed, Edit
    from arkwright.images.mutate_entries import IdMap
    from arkwright.images.mutate_layers import Owner
    from arkwright.images.references import FoundImage
    from arkwright.layer.profile import Codec
    from arkwright.oci.platform import Platform
    from arkwright.registry.access import Access
    from arkwright.store.store import Store

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

PLACES = (
    f"{PLACE_HELP} It stays as it is: a new image is made, for every platform that it has, and its digest "
    "printed."
)


def output_options(command: Decorated) -> Decorated:
    """The options of every command that makes an image of another one."""
    for add in reversed(
        (
            click.option(
                "-t",
                "--tag",
                "tags",
                metavar="PLACE",
                multiple=True,
                help="A name for the new image, or a place such as docker://NAME or oci:DIR:TAG to put it; may be repeated. Without, it is in the local store by its digest only.",
            ),
            platform_option,
            epoch_option,
            switch("-q", "--quiet", help="Print the digest only."),
            tls_option(),
            root_option,
        )
    ):
        command = add(command)
    return command


class Changing:
    """A command at work: the store, and how images come in and go out. `options` are those of
    `output_options`."""

    def __init__(self, store: Store, access: Access, options: Mapping[str, Any]) -> None:
        self.store = store
        self.access = access
        self.quiet: bool = options["quiet"]
        self._options = options
        for text in options["tags"]:
            check_target(text)

    @property
    def platform(self) -> Platform | None:
        """What `--platform` chose."""
        return wanted(self._options["platform"])

    @property
    def created(self) -> str:
        """The RFC 3339 time of what is made."""
        from arkwright.layer.profile import CONSTANT_EPOCH
        from arkwright.oci.config import rfc3339

        epoch = self._options["epoch"]
        return rfc3339(CONSTANT_EPOCH if epoch is None else epoch)

    def fetch(self, text: str, *, whole: bool = False) -> FoundImage:
        """The image in the store: with its index if it has one, but from elsewhere only the platform
        that was chosen, unless `whole`."""
        from arkwright.images.fetch import fetch
        from arkwright.images.places import parse_place

        place = parse_place(text)
        if place.transport == "store":
            return fetch(self.store, place, access=self.access)
        platform = None if whole else self.platform
        with self._shown(f"fetch {text}") as progress:
            return fetch(self.store, place, platform, access=self.access, progress=progress)

    def deliver(self, made: Changed, *, default: str = "") -> None:
        """Tell what there is to know, and send the image where `--tag` says, else to `default`."""
        from arkwright.images.deliver import deliver
        from arkwright.images.places import parse_place

        for note in made.notes:
            told(note)
        tags = self._options["tags"] or ((default,) if default else ())
        if not tags:
            click.echo(made.descriptor.digest)
        for text in tags:
            place = parse_place(text)
            remote = place.transport != "store"
            with self._shown(f"send to {text}") if remote else nullcontext() as progress:
                sent = deliver(self.store, made.descriptor, place, access=self.access, progress=progress)
            tell_image(text, sent.digest, quiet=self.quiet, place=place)

    def edit(self, text: str, edit: Edit) -> None:
        """Fetch an image, edit it, deliver it."""
        from arkwright.images.mutate import edit_images

        found = self.fetch(text)
        self.deliver(edit_images(self.store.content, found.descriptor, edit, platform=self.platform))

    @contextmanager
    def scratch(self) -> Iterator[str]:
        """A directory for what does not fit in memory."""
        claim = self.store.claim_work()
        try:
            yield claim.path
        finally:
            shutil.rmtree(claim.path, ignore_errors=True)
            claim.close()

    def _shown(self, title: str) -> Any:
        from arkwright.cli.transfer import shown

        return shown(title, quiet=self.quiet)


@contextmanager
def changing(invocation: Invocation, options: Mapping[str, Any]) -> Iterator[Changing]:
    """The store and the registries for a command with `output_options`, the store kept to its quota."""
    with store_and_access(invocation, options["root_path"], options["tls_verify"]) as (store, access):
        yield Changing(store, access, options)


def check_target(text: str) -> None:
    """Refuse what cannot be a place for an image before there is one.

    Raises `UserError` as `parse_place`, `invalid-reference`, `name-with-digest`.
    """
    from arkwright.images.deliver import local_name
    from arkwright.images.places import parse_place

    place = parse_place(text)
    if place.transport == "store":
        local_name(place)


def told(note: str) -> None:
    """Print a note of an edit."""
    click.echo(f"note: {shown_text(note)}", err=True)


@click.command(
    "append",
    cls=Arguments,
    short_help="Add a layer to an image: a tar or a directory.",
    help=f"Add a layer, or several, to an image: tars (plain, gzip, zstd, bzip2 or xz) or directories.\n\n{PLACES}",
    epilog="""\
\b
Examples:
  arkwright append debian --layer site/ --prefix /srv/www -t site:1
  arkwright append app --layer patch.tar.gz --comment "hot fix" -t app:2
  tar -c app | arkwright append debian --layer - --owner 1000:1000 -t app

A tar is checked and written anew in the canonical form: sorted, owners by number, one constant time. A
directory's files are root's unless --owner says otherwise. Whiteouts (.wh.NAME) of a tar are kept.
""",
)
@click.argument("image")
@click.option(
    "--layer",
    "sources",
    metavar="TAR|DIR",
    multiple=True,
    required=True,
    help="What to add; - is standard input. May be repeated, lowest first.",
)
@click.option(
    "--prefix",
    metavar="PATH",
    default="",
    help="The directory of the image to put it in; parents that are missing are root's with mode 0755.",
)
@click.option(
    "--owner",
    metavar="UID[:GID]|keep",
    help="Whose the files are. [default: 0:0 for a directory, as it says for a tar]",
)
@switch("--verbatim", help="Keep the bytes of a tar (gzip, zstd or plain), once every entry could be read.")
@click.option("--comment", default="", help="A comment in the history.")
@compression_option
@output_options
@click.pass_obj
def append(
    invocation: Invocation, /, image: str, sources: tuple[str, ...], prefix: str, owner: str | None,
    verbatim: bool, comment: str, compression: Codec, **options: Any,
) -> None:  # fmt: skip
    from arkwright.images import mutate_layers

    if verbatim and (prefix or owner):
        raise exclusive("--verbatim", "--prefix" if prefix else "--owner")
    whose = None if owner is None else _owner(owner)
    place = mutate_layers.clean_prefix(prefix)
    with changing(invocation, options) as work, work.scratch() as scratch_path:
        layers = [
            _layer(work, source, place, whose, verbatim, compression, scratch_path) for source in sources
        ]
        history = {"created_by": "arkwright append", **({"comment": comment} if comment else {})}

        def edit(one: Any) -> Any:
            for layer in layers:
                one = mutate_layers.append(one, layer, created=work.created, history=history)
            return one

        work.edit(image, edit)


def _layer(
    work: Changing,
    source: str,
    prefix: str,
    owner: Owner | None,
    verbatim: bool,
    codec: Codec,
    scratch_path: str,
) -> Any:
    import os

    from arkwright.images import mutate_layers
    from arkwright.images.fetch import opened
    from arkwright.layer.profile import profile_for

    content, profile = work.store.content, profile_for(codec)
    if source != "-" and os.path.isdir(source):
        if verbatim:
            from arkwright.cli.values import invalid

            invalid("--verbatim", source, "a directory has no bytes to keep; leave --verbatim away")
        placing = mutate_layers.Placing(prefix=prefix, owner=(0, 0) if owner is None else owner)
        return mutate_layers.layer_of_directory(content, source, placing, profile)
    with opened(source) as stream:
        if verbatim:
            return mutate_layers.verbatim_layer(content, stream)
        placing = mutate_layers.Placing(prefix=prefix, owner="keep" if owner is None else owner)
        return mutate_layers.layer_of_tar(content, stream, placing, profile, scratch_path)


def _owner(text: str) -> Owner:
    if text == "keep":
        return "keep"
    uid, colon, gid = text.partition(":")
    if not uid.isdecimal() or (colon and not gid.isdecimal()) or max(int(uid), int(gid or 0)) > 0xFFFFFFFE:
        from arkwright.cli.values import invalid

        invalid("--owner", text, "write numbers, such as 1000:1000, or keep")
    return int(uid), int(gid or uid)


@click.command(
    "squash",
    cls=Arguments,
    short_help="Make the layers of an image one layer.",
    help=f"Make all layers of an image, or those above a base, one layer. What is unpacked stays the same.\n\n{PLACES}",
    epilog="""\
\b
Examples:
  arkwright squash app -t app:small
  arkwright squash app --since debian:bookworm -t app:small    # the layers of debian stay shared

The history keeps its entries, without layers, and gets one for the new layer; `flatten` drops them.
""",
)
@click.argument("image")
@click.option(
    "--since", "base", metavar="BASE", help="Keep the layers of this image, which must be the first ones."
)
@compression_option
@output_options
@click.pass_obj
def squash(
    invocation: Invocation, /, image: str, base: str | None, compression: Codec, **options: Any
) -> None:
    from arkwright.images import mutate_layers
    from arkwright.images.graph import select_platform
    from arkwright.images.mutate import Image, normal_platform, read_image
    from arkwright.layer.profile import profile_for

    with changing(invocation, options) as work, work.scratch() as scratch_path:
        content = work.store.content
        below = work.fetch(base).descriptor if base else None

        def edit(one: Image) -> Image:
            chosen = None
            if below is not None:
                chosen = read_image(content, select_platform(content, below, normal_platform(one.config))[0])
            return mutate_layers.squash(
                one, content, scratch_path, profile_for(compression), created=work.created, base=chosen,
                base_name=base or "", note=told,
            )  # fmt: skip

        work.edit(image, edit)


@click.command(
    "flatten",
    cls=Arguments,
    short_help="Make an image one layer with one entry of history.",
    help=f"Make all layers of an image one layer, and its history one entry. What is unpacked stays the same.\n\n{PLACES}",
    epilog="\b\nExample:\n  arkwright flatten app -t docker://registry.example/app:flat\n",
)
@click.argument("image")
@compression_option
@output_options
@click.pass_obj
def flatten(invocation: Invocation, /, image: str, compression: Codec, **options: Any) -> None:
    from arkwright.images import mutate_layers
    from arkwright.layer.profile import profile_for

    with changing(invocation, options) as work, work.scratch() as scratch_path:
        work.edit(
            image,
            lambda one: mutate_layers.flatten(
                one,
                work.store.content,
                scratch_path,
                profile_for(compression),
                created=work.created,
                note=told,
            ),
        )


@click.command(
    "filter",
    cls=Arguments,
    short_help="Drop paths from all layers of an image.",
    help=f"Drop paths, and what is below them, from all layers of an image.\n\n{PLACES}",
    epilog="""\
\b
Examples:
  arkwright filter app --drop /usr/share/doc --drop '**/*.pyc' -t app:slim
  arkwright filter app --drop '/var/cache/**' -t app:slim    # the directory itself stays

Patterns are those of .dockerignore, from the root: `*` stays in a directory, `**` crosses them. A hard
link to a dropped file gets its content; where that is in another layer, the command refuses.
""",
)
@click.argument("image")
@click.option(
    "--drop", "patterns", metavar="GLOB", multiple=True, required=True, help="What to drop; may be repeated."
)
@output_options
@click.pass_obj
def filter_(invocation: Invocation, /, image: str, patterns: tuple[str, ...], **options: Any) -> None:
    from arkwright.images.mutate_entries import filter_paths

    with changing(invocation, options) as work:
        content = work.store.content
        work.edit(image, lambda one: filter_paths(one, content, patterns, created=work.created, note=told))


@click.command(
    "chown-map",
    cls=Arguments,
    short_help="Change the user and group ids in all layers of an image.",
    help=f"Change user and group ids in all layers of an image: FROM becomes TO, or COUNT ids from FROM on become those from TO on.\n\n{PLACES}",
    epilog="""\
\b
Examples:
  arkwright chown-map app 1000:2000 -t app:2000
  arkwright chown-map app 0:100000:65536 -t app:shifted

Ids that no map names stay. The config's user, and /etc/passwd, stay too.
""",
)
@click.argument("image")
@click.argument("maps", metavar="FROM:TO[:COUNT]...", nargs=-1, required=True)
@output_options
@click.pass_obj
def chown_map(invocation: Invocation, /, image: str, maps: tuple[str, ...], **options: Any) -> None:
    from arkwright.images.mutate_entries import map_owners

    parsed = [_id_map(text) for text in maps]
    with changing(invocation, options) as work:
        content = work.store.content
        work.edit(image, lambda one: map_owners(one, content, parsed, created=work.created))


def _id_map(text: str) -> IdMap:
    from arkwright.images.mutate_entries import IdMap

    parts = text.split(":")
    if len(parts) not in (2, 3) or not all(part.isdecimal() for part in parts):
        from arkwright.diagnostics.errors import UserError

        raise UserError.of(
            "invalid-id-map", f"{text} is no map of ids", hint="write FROM:TO or FROM:TO:COUNT"
        )
    return IdMap(first=int(parts[0]), to=int(parts[1]), count=int(parts[2]) if len(parts) == 3 else 1)
