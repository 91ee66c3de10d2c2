"""`arkwright explain`: why each step of a build ran, or from where it was taken."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import click

from arkwright.cli.images import open_store, print_json
from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, root_option

if TYPE_CHECKING:
    from arkwright.cache.explain import Difference, Explained, Explanation
    from arkwright.store.store import Store

_WIDTH = 200
# The beginning of a build's id (see `build.run.new_build_id`).
_BUILD = re.compile(r"[0-9]{1,8}(-[0-9]{0,6}(-[0-9a-f]{0,8})?)?")
# Paths shown of one difference.
_FILES = 20
_IMAGE = "docker-image://"
# The end of what counts of a path.
_XATTRS = re.compile(r" attributes ([0-9a-f]+)$")
# Fields of a step that people know by other names.
_FIELDS = {
    "action": "instruction",
    "args": "command",
    "cwd": "working directory",
    "env": "environment (ARG, ENV)",
    "input 0": "what it stands on",
}


@click.command(
    "explain",
    cls=Arguments,
    short_help="Say why steps of a build ran or were cached.",
    epilog="""\
\b
Examples:
  arkwright explain                        # the last build
  arkwright explain "RUN make"             # one step of it, by a part of its name
  arkwright explain 20250131-142501        # a build by its id, or the beginning of it
  arkwright explain 20250131-142501 COPY
  arkwright explain --format json
""",
)
@click.argument("build", required=False, default="")
@click.argument("step", required=False, default="")
@click.option("--format", "form", type=click.Choice(("text", "json")), default="text", help="How to print.")
@root_option
@click.pass_obj
def explain(invocation: Invocation, /, build: str, step: str, form: str, root_path: str | None) -> None:
    """Say why each step of a build ran: there was no earlier record, or what differs from the nearest
    one. For cached steps: from when, and from which build. BUILD is the id of a build; the last one by
    default. STEP is a part of a step's name; alone it is of the last build."""
    from arkwright.cache.explain import explain

    if not step and not _BUILD.fullmatch(build):
        build, step = "", build
    with open_store(invocation, root_path) as store:
        found = explain(store, build, step)
    if form == "json":
        print_json(found)
        return
    _print(found, err=False)


def print_explanation(store: Store, build: str, *, err: bool) -> None:
    """Explain a build on standard output or standard error."""
    from arkwright.cache.explain import explain

    _print(explain(store, build), err=err)


def _print(found: Explanation, *, err: bool) -> None:
    click.echo(f"build {found.build}", err=err)
    for step in found.steps:
        click.echo(describe(step), nl=False, err=err)


def describe(step: Explained) -> str:
    """A step's lines."""
    from arkwright.diagnostics.cells import escape

    word = "cached" if step.reason == "cached" else "failed" if step.failed else "ran"
    lines = [f"{word:<6}  {escape(_short(step.name))}", f"        {_reason(step)}"]
    for difference in step.differences:
        lines += [f"          {line}" for line in _lines(difference, inputs=step.reason == "inputs-changed")]
    return "\n".join(lines) + "\n"


def _lines(difference: Difference, *, inputs: bool) -> list[str]:
    """A difference. Of the steps above only the name says something: what they gave has no name, and why
    they ran is said in their own place."""
    from arkwright.diagnostics.cells import escape

    field = escape(_short(difference.field))
    if inputs and not difference.field.startswith("input "):
        return [f"{field} gave another result"]
    (place, old), (new_place, new) = _pinned(difference.old), _pinned(difference.new)
    if place and place == new_place:
        return [f"{escape(_short(place))} has another digest", *_sides(old, new, "  ")]
    if not difference.parts:
        return [_FIELDS.get(difference.field, field), *_sides(difference.old, difference.new, "  ")]
    lines = [field]
    for part in difference.parts[:_FILES]:
        lines += [f"  {escape(_short(part.field))}", *_changed(part.old, part.new, "    ")]
    if len(difference.parts) > _FILES:
        lines.append(f"  and {len(difference.parts) - _FILES} more, see --format json")
    return lines


def _pinned(value: str) -> tuple[str, str]:
    """What a source is called, and the digest that it had; empty for other values."""
    place, at, digest = value.rpartition("@")
    return (place.removeprefix(_IMAGE), digest) if at and "://" in place and " " not in value else ("", "")


def _changed(old: str, new: str, indent: str) -> list[str]:
    """The facts of a path before and after. Attributes have a digest only, which tells that they differ."""
    (before, old_xattrs), (after, xattrs) = _split(old), _split(new)
    if not old or not new or old_xattrs == xattrs:
        return _sides(before, after, indent)
    said = f"{indent}extended attributes changed: {old_xattrs or 'none'} before, {xattrs or 'none'} now"
    return [*(_sides(before, after, indent) if before != after else ()), said]


def _split(facts: str) -> tuple[str, str]:
    """What counts of a path (see `ops.contexts`) without its attributes, and their digest."""
    found = _XATTRS.search(facts)
    return (facts[: found.start()], f"sha256:{found[1]}") if found else (facts, "")


def _sides(old: str, new: str, indent: str) -> list[str]:
    from arkwright.diagnostics.cells import escape

    return [f"{indent}{sign} {escape(_short(value))}" for sign, value in (("-", old), ("+", new)) if value]


def _reason(step: Explained) -> str:
    from arkwright.diagnostics.cells import escape

    source = f"build {step.build}" if step.build else "an earlier build"
    if step.origin and step.origin != "local":
        source = escape(step.origin)
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(step.recorded_at / 1e9))
    near = f" of `{escape(_short(step.nearest))}`" if step.nearest and step.nearest != step.name else ""
    if step.reason == "cached":
        how = "; its inputs came out equal" if step.by == "content" else ""
        return f"from {source}, {since}{how}"
    if step.reason == "inputs-changed":
        return f"the same step is known from {source}, {since}, but its inputs have changed:"
    if step.reason == "fields-changed":
        return f"the nearest record is{near} from {source}, {since}; what differs:"
    if step.reason == "not-asked":
        if not step.recorded_at:
            return "the cache was not to be used for it (--no-cache)"
        return (
            f"the same is known from {source}, {since}, but the cache was not asked or its layers were gone"
        )
    if step.reason == "not-recorded":
        return "no record of it is left: it was interrupted, or a clean-up removed it"
    return "no earlier record of such a step"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"
