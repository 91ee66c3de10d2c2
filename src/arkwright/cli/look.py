"""`arkwright tree|ls|cat`: the files inside an image, without unpacking it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from arkwright.cli.columns import columns
from arkwright.cli.images import PLACE_HELP, print_json
from arkwright.cli.invocation import Invocation
from arkwright.cli.looking import json_options, look_options, looking, plain_text, shown_text
from arkwright.cli.parameters import Arguments, switch
from arkwright.diagnostics.errors import UserError

if TYPE_CHECKING:
    from arkwright.images.view import Node

_LINKS = "Symbolic links in PATH are followed inside the image."


@click.command(
    "tree",
    cls=Arguments,
    short_help="Show the files of an image as a tree.",
    help=f"Show the files of an image as a tree, without unpacking it. {_LINKS}\n\n{PLACE_HELP}",
    epilog="""\
\b
Examples:
  arkwright tree debian:bookworm /etc
  arkwright tree --depth 2 --size docker://registry.example/app
""",
)
@click.argument("image")
@click.argument("path", default="/")
@click.option("-L", "--depth", type=click.IntRange(min=1), help="Not deeper than this.")
@switch("-d", "--dirs", help="Directories only.")
@switch("-s", "--size", help="The sizes of files in front of their names.")
@look_options
@click.pass_obj
def tree(
    invocation: Invocation,
    /,
    image: str,
    path: str,
    depth: int | None,
    dirs: bool,
    size: bool,
    platform: str | None,
    tls_verify: bool | None,
    root_path: str | None,
) -> None:
    from arkwright.images.opened import open_view

    with looking(invocation, root_path, tls_verify, image) as look:
        view = open_view(look.store, look.image(image, platform))
    top = view.find(path)
    click.echo(shown_text(path) + _target(top))
    counts = {"dir": 0, "other": 0}
    for line in _branches(top, depth, counts, dirs=dirs, size=size):
        click.echo(line)
    click.echo(f"\n{counts['dir']} directories, {counts['other']} files")


def _branches(
    top: Node, depth: int | None, counts: dict[str, int], *, dirs: bool, size: bool
) -> Iterator[str]:
    from arkwright.layer.names import encode

    def below(node: Node, indent: str, level: int) -> list[tuple[str, Node, str, bool, int]]:
        if depth is not None and level > depth:
            return []
        names = [name for name in node.children if not dirs or node.children[name].is_dir]
        names.sort(key=encode, reverse=True)
        return [(name, node.children[name], indent, at == 0, level) for at, name in enumerate(names)]

    pending = below(top, "", 1)
    while pending:
        name, node, indent, is_last, level = pending.pop()
        counts["dir" if node.is_dir else "other"] += 1
        amount = f"[{node.size:>11}]  " if size else ""
        yield f"{indent}{'└── ' if is_last else '├── '}{amount}{shown_text(name)}{_target(node)}"
        pending += below(node, indent + ("    " if is_last else "│   "), level + 1)


@click.command(
    "ls",
    cls=Arguments,
    short_help="List a directory inside an image.",
    help=f"List a directory, or a file, inside an image without unpacking it. {_LINKS} Owners are numbers, times "
    f"are UTC.\n\n{PLACE_HELP}",
    epilog="""\
\b
Examples:
  arkwright ls debian:bookworm /etc/apt
  arkwright ls -lR oci:build/layout:app /usr/lib
  arkwright ls --json app / | jq '.[].path'      # with digests, layers, attributes
""",
)
@click.argument("image")
@click.argument("path", default="/")
@switch("-l", "--long", help="Mode, links, owner, size and time too.")
@switch("-R", "--recursive", help="Everything below, by its whole path.")
@switch("-d", "--directory", help="The directory itself, not what is in it.")
@json_options
@look_options
@click.pass_obj
def ls(
    invocation: Invocation,
    /,
    image: str,
    path: str,
    long: bool,
    recursive: bool,
    directory: bool,
    as_json: bool,
    form: str | None,
    platform: str | None,
    tls_verify: bool | None,
    root_path: str | None,
) -> None:
    from arkwright.images.opened import open_view

    with looking(invocation, root_path, tls_verify, image) as look:
        opened = look.image(image, platform)
        view = open_view(look.store, opened)
    digests = [layer.digest for layer in opened.manifest.layers]
    # As ls(1): a link itself with -l or -d, unless a slash stands behind it.
    node = view.find(path, follow=not (long or directory) or path.endswith("/"))
    found = list(_listed(node, path, recursive=recursive, itself=directory))
    if as_json or form:
        print_json([_document(whole, one, digests) for _, whole, one in found], form)
    elif long:
        click.echo(columns([_row(name, one) for name, _, one in found], right=range(1, 5), gap=" "), nl=False)
    else:
        for name, *_ in found:
            click.echo(shown_text(name))


def _listed(node: Node, path: str, *, recursive: bool, itself: bool) -> Iterator[tuple[str, str, Node]]:
    """The name to show, the absolute path, the file."""
    from arkwright.images.view import walk
    from arkwright.layer.names import encode

    top = "/" + path.strip("/")
    if itself or not node.is_dir:
        yield path, top, node
    elif recursive:
        for below, one in walk(node):
            whole = f"{top.rstrip('/')}/{below}"
            yield whole, whole, one
    else:
        for name in sorted(node.children, key=encode):
            yield name, f"{top.rstrip('/')}/{name}", node.children[name]


def _document(path: str, node: Node, digests: list[str]) -> dict[str, Any]:
    import msgspec

    from arkwright.images.compare import state_of

    fields: dict[str, Any] = msgspec.to_builtins(state_of(node))
    return {
        "path": plain_text(path),
        **fields,
        "link": plain_text(node.link),
        "xattrs": {plain_text(key): value for key, value in fields["xattrs"].items()},
        "links": node.nlink,
        "layer": digests[node.layer] if node.layer >= 0 else None,
    }


def _row(name: str, node: Node) -> tuple[str, ...]:
    amount = f"{node.major}, {node.minor}" if node.type in ("char", "block") else str(node.size)
    return (
        node.mode_text,
        str(node.nlink),
        str(node.uid),
        str(node.gid),
        amount,
        _time(node.mtime_ns),
        shown_text(name) + _target(node),
    )


def _time(time_ns: int) -> str:
    try:
        return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "?"


def _target(node: Node) -> str:
    return f" -> {shown_text(node.link)}" if node.type == "symlink" else ""


@click.command(
    "cat",
    cls=Arguments,
    short_help="Print a file inside an image.",
    help=f"Print files inside an image, byte for byte, without unpacking it. {_LINKS}\n\n{PLACE_HELP}",
    epilog="\b\nExample:\n  arkwright cat debian:bookworm /etc/os-release\n",
)
@click.argument("image")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@look_options
@click.pass_obj
def cat(
    invocation: Invocation,
    /,
    image: str,
    paths: tuple[str, ...],
    platform: str | None,
    tls_verify: bool | None,
    root_path: str | None,
) -> None:
    from arkwright.images.listing import read_content
    from arkwright.images.opened import open_view

    with looking(invocation, root_path, tls_verify, image) as look:
        opened = look.image(image, platform)
        view = open_view(look.store, opened)
        for node in [_regular(view.find(path), path) for path in paths]:
            layer = opened.manifest.layers[node.layer]
            for data in read_content(look.store.content, layer, node.position):
                sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def _regular(node: Node, path: str) -> Node:
    if node.type != "file":
        raise UserError.of(
            "not-a-regular-file",
            f"{shown_text(path)} is a {_WORDS[node.type]}",
            hint="`arkwright ls` shows what is in it" if node.is_dir else None,
        )
    return node


_WORDS = {"dir": "directory", "char": "device", "block": "device", "fifo": "fifo", "symlink": "symbolic link"}
