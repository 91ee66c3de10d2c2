"""What every `FileSource` and `ImageSource` must do; each implementation's tests call these."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from arkwright.graph.ops import SourceOp
from arkwright.layer.rooted import Root
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.platform import Platform
from arkwright.sources.base import FileSource, ImageSource, PinnedImage


def snapshot(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Modes and contents below a directory."""
    from arkwright.cache.checksum import TreeDigester

    with Root(str(directory)) as root:
        return {
            facts.path: (facts.mode, facts.content.encode())
            for facts in TreeDigester(root, ownership=False).facts("")
            if facts.path
        }


def check_file_source(source: FileSource, again: FileSource, op: SourceOp, scratch: Path) -> None:
    """Pinning is repeatable, materialising is a function of the pin, and keys hold no host facts."""
    pinned = source.pin(op)
    assert pinned.op == op
    assert pinned.key.startswith("sha256:")
    algorithm, _, encoded = pinned.digest.partition(":")
    assert algorithm in ("sha1", "sha256", "sha512") and encoded
    repeated = again.pin(op)
    assert (repeated.key, repeated.digest, repeated.uri) == (pinned.key, pinned.digest, pinned.uri)
    trees = []
    for number, maker in enumerate((source, again)):
        place = scratch / f"out{number}"
        place.mkdir(mode=0o755)
        maker.materialise(pinned, str(place))
        trees.append(snapshot(place))
    assert trees[0] == trees[1] != {}


def check_image_source(
    source: ImageSource, op: SourceOp, platform: Platform, has: Callable[[str], bool]
) -> PinnedImage:
    """Pinning brings documents and no layer; fetching brings layers, verified and idempotent."""
    image = source.pin(op, platform)
    assert image.op == op
    assert image.key.startswith("sha256:")
    assert len(image.layers) == len(image.diff_ids)
    assert has(image.manifest.digest) and image.config
    assert source.pin(op, platform).key == image.key
    for layer in image.layers:
        seen: list[tuple[int, int]] = []
        source.fetch(image, layer, lambda done, total, seen=seen: seen.append((done, total)))
        assert has(layer.digest)
        assert seen[-1] == (layer.size, layer.size)
        source.fetch(image, layer)
    return image


def one_layer(image: PinnedImage) -> Descriptor:
    (layer,) = image.layers
    return layer


def owned_by_us(path: Path) -> bool:
    return path.stat().st_uid == os.geteuid()
