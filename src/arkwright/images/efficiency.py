"""What each layer holds, and how much of it no container sees, because a later layer hides it."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import msgspec

from arkwright.images.listing import Listed, list_layer
from arkwright.images.opened import OpenedImage
from arkwright.images.steps import diff_ids, step_of_layer
from arkwright.images.view import Node, View, Watcher
from arkwright.store.store import Store


class LayerContent(msgspec.Struct, frozen=True, kw_only=True):
    """One layer. `size` is its bytes as stored, `content` those of its regular files, `wasted` those
    of them that a later layer hides; `files` counts entries that are no directories and no deletions."""

    number: int
    digest: str
    diff_id: str
    media_type: str
    size: int
    created_by: str
    entries: int
    files: int
    deletions: int
    content: int
    wasted: int


class WastedPath(msgspec.Struct, frozen=True, kw_only=True):
    """A path with bytes that no container sees: how many, of how many copies, and the numbers of the
    layers that hold and that hide the last of them."""

    path: str
    bytes: int
    copies: int
    layer: int
    hidden_by: int
    removed: bool


class Efficiency(msgspec.Struct, frozen=True, kw_only=True):
    """`score` is the visible part of all content, between 0 and 1; an image without content has 1."""

    layers: tuple[LayerContent, ...]
    content: int
    wasted: int
    wasted_paths: int
    score: float
    worst: tuple[WastedPath, ...]


class _Count:
    def __init__(self) -> None:
        self.entries = self.files = self.deletions = self.content = self.wasted = 0


class _Waste(Watcher):
    def __init__(self, counts: list[_Count]) -> None:
        self._counts = counts
        self.paths: dict[str, WastedPath] = {}

    def hidden(self, node: Node, layer: int, *, removed: bool) -> None:
        if not node.size:
            return
        self._counts[node.layer].wasted += node.size
        path = f"/{node.path}"
        known = self.paths.get(path)
        self.paths[path] = WastedPath(
            path=path,
            bytes=node.size + (known.bytes if known else 0),
            copies=1 + (known.copies if known else 0),
            layer=node.layer,
            hidden_by=layer,
            removed=removed,
        )


def measure(store: Store, image: OpenedImage, *, worst: int = 20) -> Efficiency:
    """Read an image's layers; `worst` bounds the list of paths.

    Raises as `listing.list_layer` and `View.add_layer`.
    """
    layers = image.manifest.layers
    counts = [_Count() for _ in layers]
    waste = _Waste(counts)
    view = View(waste)
    for layer, count in zip(layers, counts, strict=True):
        view.add_layer(_counted(list_layer(store, layer), count))
    ids, made = diff_ids(image.config), step_of_layer(image.config, len(layers))
    content = sum(count.content for count in counts)
    wasted = sum(count.wasted for count in counts)
    return Efficiency(
        layers=tuple(
            LayerContent(
                number=number,
                digest=layer.digest,
                diff_id=ids[number] if number < len(ids) else "",
                media_type=layer.media_type,
                size=layer.size,
                created_by=made[number],
                entries=count.entries,
                files=count.files,
                deletions=count.deletions,
                content=count.content,
                wasted=count.wasted,
            )
            for number, (layer, count) in enumerate(zip(layers, counts, strict=True))
        ),
        content=content,
        wasted=wasted,
        wasted_paths=len(waste.paths),
        score=(content - wasted) / content if content else 1.0,
        worst=tuple(heapq.nsmallest(worst, waste.paths.values(), key=lambda one: (-one.bytes, one.path))),
    )


def _counted(listing: Iterator[Listed], count: _Count) -> Iterator[Listed]:
    for listed in listing:
        entry = listed.entry
        count.entries += 1
        count.deletions += entry.type in ("whiteout", "opaque")
        count.files += entry.type not in ("dir", "whiteout", "opaque")
        count.content += entry.size
        yield listed
