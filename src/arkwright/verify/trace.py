"""Which step made a file that differs: the stages that it was copied from, built in both worlds and compared.

Every stage is in the cache of its world already; building it again only writes its layers out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from arkwright.diagnostics.errors import ArkwrightError
from arkwright.store.store import Store
from arkwright.verify.causes import Window
from arkwright.verify.compare import compare_images
from arkwright.verify.rebuild import World, imported
from arkwright.verify.report import FileDifference, Report

_COPIES = ("COPY", "ADD")


def traced(
    store: Store, report: Report, worlds: tuple[World, World], stages: Sequence[str], window: Window
) -> Report:
    """The report with the step of each file that was copied between stages. What cannot be built is left as it is."""
    copied = [file for file in report.files() if _is_copy(file)]
    names = tuple(stages)
    if not copied or not names:
        return report
    try:
        first, second = (world.build(names).images for world in worlds)
    except ArkwrightError:
        return report
    made: dict[tuple[str, str], str] = {}
    for one, other in zip(first, second, strict=True):
        found = compare_images(store, imported(store, one), imported(store, other), window)
        for image in found.images:
            for layer in image.layers:
                for file in layer.files:
                    if not _is_copy(file):
                        made.setdefault(_content(file), f"[{one.target}] {layer.step}")
    return _with_steps(report, lambda file: made.get(_content(file), "") if _is_copy(file) else "")


def _is_copy(file: FileDifference) -> bool:
    return file.step.startswith(_COPIES)


def _content(file: FileDifference) -> tuple[str, str]:
    """What a file is in both builds, by which it is known again elsewhere."""
    return (file.old.digest if file.old else "", file.new.digest if file.new else "")


def _with_steps(report: Report, step_of: Callable[[FileDifference], str]) -> Report:
    images = []
    for image in report.images:
        layers = tuple(
            msgspec.structs.replace(
                layer,
                files=tuple(
                    msgspec.structs.replace(file, step=step_of(file) or file.step) for file in layer.files
                ),
            )
            for layer in image.layers
        )
        images.append(msgspec.structs.replace(image, layers=layers))
    return msgspec.structs.replace(report, images=tuple(images))
