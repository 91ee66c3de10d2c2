"""Which line of an image's history made which layer (OCI image specification, config.md, `history`)."""

from __future__ import annotations

from typing import Any

import msgspec


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the history. `layer` is the number of the layer that it made, from 0; None for one that
    made none."""

    layer: int | None
    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


def history_lines(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The history as it is, of a config that may be anything."""
    lines = config.get("history")
    return [line for line in lines if isinstance(line, dict)] if isinstance(lines, list) else []


def match_steps(config: dict[str, Any], layers: int) -> list[Step]:
    """The history's lines with their layers, lowest first. A line without an empty layer made the
    next one; lines that are left over when there is no further layer have none."""
    steps = []
    at = 0
    for line in history_lines(config):
        empty = line.get("empty_layer") is True
        has_layer = not empty and at < layers
        steps.append(
            Step(
                layer=at if has_layer else None,
                created=_text(line, "created"),
                created_by=_text(line, "created_by"),
                author=_text(line, "author"),
                comment=_text(line, "comment"),
                empty_layer=empty,
            )
        )
        at += has_layer
    return steps


def step_of_layer(config: dict[str, Any], layers: int) -> list[str]:
    """For each layer what made it; empty where the history does not say."""
    made = {step.layer: step.created_by or step.comment for step in match_steps(config, layers)}
    return [made.get(number, "") for number in range(layers)]


def diff_ids(config: dict[str, Any]) -> list[str]:
    """The layers' diffIDs, as the config has them."""
    rootfs = config.get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def _text(line: dict[str, Any], key: str) -> str:
    value = line.get(key)
    return value if isinstance(value, str) else ""
