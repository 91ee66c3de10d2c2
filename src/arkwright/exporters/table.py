"""The exporters by output type; each is imported when an output asks for it."""

from __future__ import annotations

import importlib

from arkwright.exporters.base import Exporter, Output
from arkwright.exporters.means import ExportMeans
from arkwright.exporters.outputs import check_output

EXPORTERS = {
    "image": ("arkwright.exporters.registry", "ImageExporter"),
    "registry": ("arkwright.exporters.registry", "RegistryExporter"),
    "oci": ("arkwright.exporters.archive", "OciExporter"),
    "docker": ("arkwright.exporters.archive", "DockerExporter"),
    "local": ("arkwright.exporters.files", "LocalExporter"),
    "tar": ("arkwright.exporters.files", "TarExporter"),
}
_NEED_TREES = ("local", "tar")


def needs_trees(output: Output) -> bool:
    """Whether the exporter reads file trees, and so must run in the worker."""
    return output.type in _NEED_TREES


def needs_image(output: Output) -> bool:
    """Whether the exporter reads the assembled image rather than trees."""
    return output.type not in _NEED_TREES


def exporter(output: Output, means: ExportMeans) -> Exporter:
    """The exporter of an output. Raises what `check_output` raises."""
    check_output(output)
    module, name = EXPORTERS[output.type]
    made: Exporter = getattr(importlib.import_module(module), name)(means)
    return made
