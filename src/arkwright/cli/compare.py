"""`arkwright diff`: how two images differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from arkwright.cli.images import PLACE_HELP, print_json
from arkwright.cli.invocation import Invocation
from arkwright.cli.looking import json_options, look_options, looking, plain_text, shown_text, trouble
from arkwright.cli.parameters import Arguments, switch

if TYPE_CHECKING:
    from arkwright.images.compare import FieldChange, FileChange, FileState
    from arkwright.images.opened import OpenedImage
    from arkwright.images.view import View

_MARKS = {"added": "+", "removed": "-", "changed": "~"}


@click.command(
    "diff",
    cls=Arguments,
    short_help="Show how two images differ.",
    help="Show how two images differ: fields of their configs, and files that were added, removed or changed in "
    "mode, owner, extended attributes, size or content. With PATH, only files there and below. Nothing "
    "is unpacked.\n\nExit status as of diff(1): 0 the images are alike, 1 they differ, 2 and more there was "
    f"trouble.\n\n{PLACE_HELP}",
    epilog="""\
\b
Examples:
  arkwright diff app:1 app:2
  arkwright diff --only files --name-only app:1 docker://registry.example/app:2 /etc
  arkwright diff --json app:1 app:2 | jq '.files[] | select(.kind == "changed").path'
""",
)
@click.argument("old", metavar="IMAGE")
@click.argument("new", metavar="IMAGE")
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option("--only", type=click.Choice(("config", "files")), help="Compare one of the two.")
@switch("--name-only", help="Print nothing but the paths of files that differ.")
@switch("--times", help="Times of files count, too.")
@json_options
@look_options
@click.pass_context
def diff(
    ctx: click.Context,
    /,
    old: str,
    new: str,
    paths: tuple[str, ...],
    only: str | None,
    name_only: bool,
    times: bool,
    as_json: bool,
    form: str | None,
    platform: str | None,
    tls_verify: bool | None,
    root_path: str | None,
) -> None:
    from arkwright.images.compare import compare_configs, compare_files

    invocation: Invocation = ctx.obj
    with trouble(), looking(invocation, root_path, tls_verify, old, new) as look:
        fields: list[FieldChange] = []
        changes: Iterator[FileChange] = iter(())
        with_files = only != "config"
        sides = [
            look.image(text, platform) if with_files else look.documents(text, platform)
            for text in (old, new)
        ]
        if only != "files" and not paths and not name_only:
            fields = list(compare_configs(sides[0].config, sides[1].config))
        if with_files and not _same_layers(*sides):
            changes = compare_files(_view(look.store, sides[0]), _view(look.store, sides[1]), times=times)
        chosen = (change for change in changes if _is_below(change.path, paths))
        if as_json or form:
            differs = _print_document(sides, fields, list(chosen), form)
        else:
            differs = _print_lines(fields, chosen, name_only=name_only)
    ctx.exit(1 if differs else 0)


def _view(store: Any, image: OpenedImage) -> View:
    from arkwright.images.opened import open_view

    return open_view(store, image)


def _same_layers(old: OpenedImage, new: OpenedImage) -> bool:
    return [one.digest for one in old.manifest.layers] == [one.digest for one in new.manifest.layers]


def _is_below(path: str, tops: tuple[str, ...]) -> bool:
    wanted = ["/" + top.strip("/") for top in tops]
    return not tops or any(top in ("/", path) or path.startswith(f"{top}/") for top in wanted)


def _print_document(
    sides: list[OpenedImage], fields: list[FieldChange], changes: list[FileChange], form: str | None
) -> bool:
    import msgspec

    files = [
        {
            "path": plain_text(change.path),
            "kind": change.kind,
            "fields": list(change.fields),
            "old": _state(change.old),
            "new": _state(change.new),
        }
        for change in changes
    ]
    old, new = (side.chosen.digest for side in sides)
    print_json({"old": old, "new": new, "config": msgspec.to_builtins(fields), "files": files}, form)
    return bool(fields or changes)


def _state(state: FileState | None) -> dict[str, Any] | None:
    import msgspec

    if state is None:
        return None
    fields: dict[str, Any] = msgspec.to_builtins(state)
    fields["link"] = plain_text(state.link)
    fields["xattrs"] = {plain_text(name): value for name, value in state.xattrs.items()}
    return fields


def _print_lines(fields: list[FieldChange], changes: Iterator[FileChange], *, name_only: bool) -> bool:
    differs = False
    for field in fields:
        differs = True
        click.echo(_field_line(field))
    for change in changes:
        differs = True
        click.echo(shown_text(change.path) if name_only else _file_line(change))
    return differs


def _field_line(change: FieldChange) -> str:
    name = f"{_MARKS[change.kind]} config: {shown_text(change.field)}"
    if change.kind == "added":
        return f"{name} = {_value(change.new)}"
    if change.kind == "removed":
        return f"{name} = {_value(change.old)}"
    return f"{name} = {_value(change.old)} -> {_value(change.new)}"


def _value(value: Any) -> str:
    import msgspec

    return shown_text(msgspec.json.encode(value).decode())


def _file_line(change: FileChange) -> str:
    name = f"{_MARKS[change.kind]} {shown_text(change.path)}"
    old, new = change.old, change.new
    if old is None or new is None:
        state = old or new
        return name if state is None else f"{name}  {_summary(state)}"
    parts = [f"{field} {_part(old, field)} -> {_part(new, field)}" for field in change.fields]
    return f"{name}  " + ", ".join(parts)


def _summary(state: FileState) -> str:
    more = {"file": str(state.size), "symlink": f"-> {shown_text(state.link)}"}.get(state.type, state.device)
    return f"{state.type} {state.mode} {state.uid}:{state.gid} {more}".rstrip()


def _part(state: FileState, field: str) -> str:
    if field == "owner":
        return f"{state.uid}:{state.gid}"
    if field == "content":
        return state.digest[:19]
    if field == "xattrs":
        return "{" + ", ".join(f"{shown_text(name)}={value}" for name, value in state.xattrs.items()) + "}"
    if field == "time":
        return str(state.mtime_ns / 1e9)
    return shown_text(str(getattr(state, field)))
