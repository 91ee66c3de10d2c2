"""What differs between two builds of the same inputs, as facts that programs and people read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from arkwright.images.compare import FieldChange, FileState


class Cause(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a file differs, by rule, and what is done about it. `evidence` is what the rule saw."""

    rule: str
    why: str
    cure: str
    evidence: str = ""


class Member(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of an archive that differs: its name within, what differs, and how its text does."""

    name: str
    fields: tuple[str, ...]
    diff: tuple[str, ...] = ()


class FileDifference(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file of a layer that differs. `path` is absolute in the image; `kind` is `added`, `removed` or `changed`, seen
    from the first image. `step` made it: that of the layer, or of the stage that it was copied from."""

    path: str
    kind: str
    fields: tuple[str, ...] = ()
    old: FileState | None = None
    new: FileState | None = None
    diff: tuple[str, ...] = ()
    members: tuple[Member, ...] = ()
    causes: tuple[Cause, ...] = ()
    step: str = ""


class LayerDifference(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A layer that differs, by its position, 1 for the lowest. `packing` says that its files are the same, and that
    only the compression differs; `order` that it is the order of entries. `left_out` counts files without details."""

    number: int
    step: str
    old: str
    new: str
    packing: bool = False
    order: bool = False
    files: tuple[FileDifference, ...] = ()
    left_out: int = 0


class ImageDifference(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One platform's image. `manifest` and `config` are fields; layers whose numbers differ are fields of it."""

    platform: str
    old: str
    new: str
    manifest: tuple[FieldChange, ...] = ()
    config: tuple[FieldChange, ...] = ()
    layers: tuple[LayerDifference, ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Two builds side by side. `worlds` is what was varied, by its name: how it was for the first and the second;
    `moved_inputs` are inputs that were not those recorded; `times_matter` the paths that depend on the times of
    context files; `notes` what could not be varied."""

    identical: bool
    old: str
    new: str
    index: tuple[FieldChange, ...] = ()
    images: tuple[ImageDifference, ...] = ()
    worlds: dict[str, tuple[str, str]] = {}
    moved_inputs: tuple[str, ...] = ()
    times_matter: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def files(self) -> Iterator[FileDifference]:
        """Every file that differs."""
        for image in self.images:
            for layer in image.layers:
                yield from layer.files


def as_json(report: Report) -> dict[str, Any]:
    """The report as JSON types; names that are not UTF-8 have their bytes as `\\xNN`."""
    found: dict[str, Any] = _printable(msgspec.to_builtins(report))
    return found


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {_printable(key): _printable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(one) for one in value]
    return value
