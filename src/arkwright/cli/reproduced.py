"""Reports of rebuilds, for people: what differs, which step made it, why, and what helps."""

from __future__ import annotations

from collections.abc import Iterator

from arkwright.cli.looking import shown_text
from arkwright.images.compare import FieldChange
from arkwright.verify.report import FileDifference, ImageDifference, LayerDifference, Report

_MARKS = {"added": "+", "removed": "-", "changed": "~"}
_FILES = 40


def report_lines(report: Report) -> Iterator[str]:
    """The report as lines of text, safe for a terminal."""
    if report.identical:
        yield f"identical: {report.new}"
    else:
        yield f"different: {report.old}"
        yield f"  rebuilt: {report.new}"
    for moved in report.moved_inputs:
        yield f"another input: {shown_text(moved)}"
    for change in report.index:
        yield _field("index", change)
    for image in report.images:
        yield from _image(image)
    yield from _cures(report)
    for path in report.times_matter:
        yield f"depends on the times of context files: {shown_text(path)}"
    if report.worlds:
        yield "varied: " + "; ".join(
            f"{name} {one}{'' if one == other else f' → {other}'}"
            for name, (one, other) in report.worlds.items()
        )
    for note in report.notes:
        yield f"note: {note}"


def _image(image: ImageDifference) -> Iterator[str]:
    yield f"{image.platform}:"
    for change in image.manifest:
        yield "  " + _field("manifest", change)
    for change in image.config:
        if not change.field.startswith("rootfs"):
            yield "  " + _field("config", change)
    for layer in image.layers:
        yield from _layer(layer)


def _layer(layer: LayerDifference) -> Iterator[str]:
    yield f"  layer {layer.number}: {shown_text(layer.step)[:120]}"
    if layer.packing:
        yield "    the same files, compressed differently"
    if layer.order:
        yield "    the same files, in another order or form"
    for file in layer.files[:_FILES]:
        yield from _file(file, layer.step)
    left = len(layer.files[_FILES:]) + layer.left_out
    if left:
        yield f"    … and {left} more files (--json lists them)"


def _file(file: FileDifference, step: str) -> Iterator[str]:
    fields = "" if file.kind != "changed" else f"  {', '.join(file.fields)}"
    yield f"    {_MARKS[file.kind]} {shown_text(file.path)}{fields}"
    if file.step != step:
        yield f"        made by {shown_text(file.step)[:120]}"
    for field in file.fields:
        if field in ("mode", "time", "link", "size") and file.old is not None and file.new is not None:
            name = "mtime_ns" if field == "time" else field
            yield f"        {field} {shown_text(str(getattr(file.old, name)))} → {shown_text(str(getattr(file.new, name)))}"
    for line in file.diff:
        yield f"        {shown_text(line)}"
    for member in file.members:
        yield f"        member {shown_text(member.name)}: {', '.join(member.fields)}"
        yield from (f"          {shown_text(line)}" for line in member.diff)
    for cause in file.causes:
        said = f" ({shown_text(cause.evidence)})" if cause.evidence and not file.diff else ""
        yield f"        {cause.rule}: {cause.why}{said}"


def _cures(report: Report) -> Iterator[str]:
    """Each cure once, with how many files it is for."""
    counts: dict[tuple[str, str], int] = {}
    for file in report.files():
        for cause in file.causes:
            key = (cause.rule, cause.cure)
            counts[key] = counts.get(key, 0) + 1
    if counts:
        yield "what helps:"
    for (rule, cure), count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        yield f"  {rule} ({count}): {cure}"


def _field(where: str, change: FieldChange) -> str:
    values = {"added": f"= {change.new!r}", "removed": f"= {change.old!r}"}.get(
        change.kind, f"{change.old!r} → {change.new!r}"
    )
    return f"{_MARKS[change.kind]} {where}: {shown_text(change.field)} {shown_text(values)[:300]}"
