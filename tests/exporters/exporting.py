"""What the exporters' tests share: a store with layers, as a build leaves them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import partial

import msgspec

from arkwright.exporters.base import BuiltImage
from arkwright.layer.entry import Change, Entry
from arkwright.layer.export import export_layer
from arkwright.layer.profile import profile_for
from arkwright.oci.config import Execution, History, ImageConfig
from arkwright.oci.descriptor import DOCKER_LAYER_GZIP
from arkwright.oci.platform import Platform
from arkwright.snapshot.base import Layer
from arkwright.snapshot.layers import LayerRecords
from arkwright.store.store import Store

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")


def file_change(path: str, data: bytes, mode: int = 0o644) -> Change:
    return Change(Entry(path=path, type="file", mode=mode, size=len(data)), partial(io.BytesIO, data))


class Workshop:
    """A store with records of a base layer (blob only) and of steps' layers (not exported yet)."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.layers = LayerRecords(store.metadata)
        self.profile = profile_for("gzip")
        self.diffs: dict[str, list[Change]] = {}
        self.exported: list[str] = []

    def base(self, name: str, data: bytes) -> str:
        diff_id, blob = export_layer([file_change(name, data)], self.store.content, self.profile)
        blob = msgspec.structs.replace(blob, media_type=DOCKER_LAYER_GZIP)
        layer = Layer(
            id="ba5e" + name.encode().hex().ljust(28, "0"),
            origin="applied",
            unpacked=False,
            diff_id=diff_id,
            blobs={"source": blob},
        )
        self.layers.put(layer)
        return layer.id

    def step(self, name: str, data: bytes, parents: Sequence[str] = ()) -> str:
        layer = Layer(id="57e9" + name.encode().hex().ljust(28, "0"), parents=tuple(parents))
        self.layers.put(layer)
        self.diffs[layer.id] = [file_change(name, data)]
        return layer.id

    def built(
        self, *layers: str, platform: Platform = AMD64, history: tuple[History, ...] = ()
    ) -> BuiltImage:
        config = ImageConfig(
            os=platform.os,
            architecture=platform.architecture,
            variant=platform.variant,
            config=Execution(cmd=("sh",), labels={"a": "b"}),
            history=history or tuple(History(created_by=f"RUN {number}") for number in range(len(layers))),
        )
        return BuiltImage(platform=platform, layers=layers, config=config)

    # What `assemble` needs of a snapshotter.
    def diff(self, layer: Layer) -> Iterator[Change]:
        self.exported.append(layer.id)
        yield from self.diffs[layer.id]
