"""The exporter contract: finished images, to a destination."""

from __future__ import annotations

from typing import Protocol

import msgspec

from arkwright.oci.config import ImageConfig
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.platform import Platform


class BuiltImage(msgspec.Struct, frozen=True, kw_only=True):
    """One platform's result, as the straight line hands it over.

    `layers` are ids of layer records, lowest first (see `snapshot.base`); `config` lacks
    `rootfs`, which the image assembly fills in. `cache` are records for the config: cache keys,
    and how many of the layers are the result (see `cache.inline`).
    """

    platform: Platform
    layers: tuple[str, ...]
    config: ImageConfig
    cache: dict[str, int] = {}


class AssembledImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image whose every blob is in the content store. `manifest` is what `root` leads to for
    one platform; `root` is the index of a multi-platform build, else the manifest itself. `referrers` are
    artifacts of the content store that refer to them."""

    root: Descriptor
    manifests: tuple[Descriptor, ...]
    referrers: tuple[Descriptor, ...] = ()


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """One `--output`: `type` and its attributes, as buildx spells them."""

    type: str
    dest: str = ""
    attrs: dict[str, str] = {}


class ExportReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an exporter did, for the receipt and the metadata file."""

    type: str
    destination: str
    digest: str = ""
    names: tuple[str, ...] = ()


class Exporter(Protocol):
    """Writes one output. Nothing half-written is ever visible at the destination.

    `image` is None for the outputs that are file trees (`exporters.table.needs_trees`).
    """

    def __call__(
        self,
        output: Output,
        image: AssembledImage | None,
        built: tuple[BuiltImage, ...],
        names: tuple[str, ...],
    ) -> ExportReport: ...
