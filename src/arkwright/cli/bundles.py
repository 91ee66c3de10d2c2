"""`arkwright unpack|repack|mtree`: images as runtime bundles, and manifests of trees."""

from __future__ import annotations

import os
import sys

import click
import msgspec

from arkwright.cli.images import compression_option, epoch_option, open_store, platform_option
from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, root_option, switch, tls_option
from arkwright.diagnostics.errors import UsageError, UserError
from arkwright.oci.descriptor import Descriptor


@click.command(
    "unpack",
    cls=Arguments,
    short_help="Unpack an image to a runtime bundle.",
    epilog="""\
\b
Examples:
  arkwright unpack app bundle && runc run -b bundle app
  arkwright unpack docker://registry.example/app:1 bundle
  arkwright repack bundle app:2      # what has changed there, as one more layer
""",
)
@click.argument("image")
@click.argument("directory", metavar="DIR")
@platform_option
@switch(
    "--rootless",
    "single",
    help="Every file belongs to this user, and an attribute (user.rootlesscontainers) says whose it is. [default: for users without subordinate ids]",
)
@switch("-t", "--tty", help="Let config.json ask for a terminal.")
@tls_option()
@root_option
@click.pass_obj
def unpack(
    invocation: Invocation, /, image: str, directory: str, platform: str | None, single: bool, tty: bool,
    tls_verify: bool | None, root_path: str | None,
) -> None:  # fmt: skip
    """Unpack an image, by any spelling, to DIR, which is made: its tree as DIR/rootfs, DIR/config.json for
    crun and runc, and what `repack` and umoci need.

    For root, files have the image's owners. For others with subordinate ids they are those ids', and
    config.json maps them."""
    from arkwright.build.bundles import unpack as unpack_image

    store_root = invocation.store_root(root_path)
    found = _fetched(store_root, image, platform, tls_verify)
    unpack_image(store_root, found, directory, mode="single" if single else "auto", terminal=tty)


@click.command(
    "repack",
    cls=Arguments,
    short_help="Make an image of a bundle, with a layer of what has changed.",
    epilog="""\
\b
Examples:
  arkwright repack bundle app:2
  arkwright repack --refresh-bundle bundle docker://registry.example/app:2
  arkwright repack --image oci:layout:base bundle app:2   # of a bundle that umoci unpacked
""",
)
@click.argument("directory", metavar="DIR")
@click.argument("name")
@click.option(
    "--image",
    metavar="IMAGE",
    default="",
    help="Where the image is that was unpacked, if it is not in the store.",
)
@click.option(
    "--created-by", metavar="TEXT", default="", help="What the history says. [default: arkwright repack]"
)
@click.option("--author", metavar="TEXT", default="", help="The author in the history.")
@click.option("--comment", metavar="TEXT", default="", help="The comment in the history.")
@compression_option
@epoch_option
@switch(
    "--refresh-bundle",
    "refresh",
    help="Let the bundle be one of the new image: the next repack adds what changed since.",
)
@switch("-q", "--quiet", help="Print the image's digest and nothing else.")
@tls_option()
@root_option
@click.pass_obj
def repack(
    invocation: Invocation, /, directory: str, name: str, image: str, created_by: str, author: str, comment: str,
    compression: str, epoch: int | None, refresh: bool, quiet: bool, tls_verify: bool | None, root_path: str | None,
) -> None:  # fmt: skip
    """Make an image of a bundle of `unpack` or of umoci, and give it NAME, any place that can be written to. What
    has not changed keeps its layers; when nothing has, it is the same image."""
    from arkwright.build.bundles import repack as repack_bundle
    from arkwright.build.bundles import state_of
    from arkwright.build.upkeep import quota_kept
    from arkwright.images.deliver import deliver
    from arkwright.images.places import parse_place
    from arkwright.registry.access import Access

    store_root, place = invocation.store_root(root_path), parse_place(name)
    base = state_of(directory).base.digest
    with quota_kept(store_root):
        _require_base(store_root, base, image, tls_verify)
        made = repack_bundle(
            store_root, directory, compression=compression, created_by=created_by, author=author,
            comment=comment, epoch=epoch, refresh=refresh,
        )  # fmt: skip
        with open_store(invocation, root_path) as store:
            sent = deliver(store, made.manifest, place, access=Access(tls_verify=tls_verify))
    click.echo(made.manifest.digest if quiet else f"{sent.name} {sent.digest}")


def _require_base(store_root: str, digest: str, image: str, tls_verify: bool | None) -> None:
    """The image that a bundle was unpacked from must be in the store, all of it."""
    from arkwright.images.graph import closure
    from arkwright.images.references import describe
    from arkwright.store.store import Store

    with Store.open(store_root) as store:
        known = store.content.has(digest)
    if image:
        found = _fetched(store_root, image, None, tls_verify, wanted=digest)
        known = found.digest == digest
        if not known:
            raise UserError.of("missing-base", f"{image} is not the image {digest} that was unpacked")
    with Store.open(store_root) as store:
        descriptor = describe(store.content, digest) if known else None
        if descriptor is None:
            raise UserError.of(
                "missing-base", f"the store does not have the image {digest} that was unpacked",
                hint="say where it is with --image",
            )  # fmt: skip
        closure(store.content, descriptor)


def _fetched(
    store_root: str, text: str, platform: str | None, tls_verify: bool | None, *, wanted: str = ""
) -> Descriptor:
    """The manifest of an image, whose every blob is in the store; `wanted` chooses it in an index."""
    from arkwright.build.upkeep import quota_kept
    from arkwright.images.fetch import fetch
    from arkwright.images.graph import closure, manifests, select_platform
    from arkwright.images.places import parse_place
    from arkwright.oci.platform import host_platform, parse_platform
    from arkwright.registry.access import Access
    from arkwright.store.store import Store

    asked = parse_platform(platform) if platform else host_platform()
    with quota_kept(store_root), Store.open(store_root) as store:
        place = parse_place(text)
        descriptor = fetch(
            store, place, None if wanted else asked, access=Access(tls_verify=tls_verify)
        ).descriptor
        each = (
            [one for one, _ in manifests(store.content, descriptor) if one.digest == wanted] if wanted else []
        )
        found = each[0] if each else select_platform(store.content, descriptor, asked)[0]
        closure(store.content, found)
        return found


@click.command(
    "mtree",
    cls=Arguments,
    short_help="Write or check the manifest of a tree (mtree).",
    epilog="""\
\b
Examples:
  arkwright mtree rootfs > rootfs.mtree
  arkwright mtree --verify rootfs.mtree rootfs
  arkwright mtree debian:bookworm
""",
)
@click.argument("what", metavar="IMAGE|DIR")
@click.option(
    "--verify",
    "manifest",
    metavar="FILE",
    default="",
    help="Check DIR against a manifest instead; exit status 1 when it differs.",
)
@switch("--json", "as_json", help="Print differences as JSON.")
@platform_option
@tls_option()
@root_option
@click.pass_obj
@click.pass_context
def mtree(
    ctx: click.Context, invocation: Invocation, /, what: str, manifest: str, as_json: bool, platform: str | None,
    tls_verify: bool | None, root_path: str | None,
) -> None:  # fmt: skip
    """Write the manifest of a directory, or of an image's tree, to standard output: types, modes, owners, times,
    digests, attributes, in the form of go-mtree."""
    is_dir = os.path.isdir(what)
    if manifest:
        if not is_dir:
            raise UsageError.of("invalid-usage", f"--verify needs a directory, and {what} is none")
        ctx.exit(_verify(what, manifest, as_json=as_json))
    if is_dir:
        _write(what)
        return
    from arkwright.images.mtree import image_mtree
    from arkwright.store.store import Store

    store_root = invocation.store_root(root_path)
    found = _fetched(store_root, what, platform, tls_verify)
    with Store.open(store_root) as store:
        image_mtree(store, found, _out)


def _write(path: str) -> None:
    from arkwright.images.mtree import TreeReader, write_mtree
    from arkwright.layer.rooted import Root

    with Root(path, widen=False) as root, TreeReader(root) as reader:
        write_mtree(reader, _out)


def _out(text: str) -> None:
    sys.stdout.buffer.write(os.fsencode(text))


def _verify(path: str, manifest_path: str, *, as_json: bool) -> int:
    from arkwright.images.mtree import TreeReader, verify
    from arkwright.images.mtree_read import read_mtree
    from arkwright.layer.rooted import Root

    try:
        with open(manifest_path, "rb") as file:
            manifest = read_mtree(file)
    except OSError as error:
        raise UserError.of("invalid-mtree", f"cannot read {manifest_path}: {error.strerror}") from error
    with manifest as expected, Root(path, widen=False) as root, TreeReader(root) as reader:
        found = list(verify(expected, reader))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2))
    else:
        for one in found:
            what = ", ".join(
                f"{key} {want or '-'} -> {have or '-'}" for key, (want, have) in one.keywords.items()
            )
            click.echo(f"{one.kind:8}{one.path or '.'}" + (f": {what}" if what else ""))
    return 1 if found else 0
