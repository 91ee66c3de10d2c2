"""An image on another base: the base's layers are replaced, by digest, and nothing is run again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.images.graph import runnable, select_platform
from arkwright.images.layer_trees import LayerTrees
from arkwright.images.mutate import (
    Changed,
    Fields,
    Image,
    aligned,
    as_oci,
    edit_images,
    normal_platform,
    put_field,
    read_image,
    require_first,
    with_layers,
)
from arkwright.images.rebase_safety import base_facts, conflicts, differences
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.platform import Platform
from arkwright.store.content import ContentStore

BASE_DIGEST = "org.opencontainers.image.base.digest"
BASE_NAME = "org.opencontainers.image.base.name"
OLD_DIGEST = "dev.arkwright.rebase.old-base.digest"
OLD_NAME = "dev.arkwright.rebase.old-base.name"

_SHOWN = 20
# Taken from the new base as long as the image has what the old base has.
_WHOLE = ("User", "WorkingDir", "Entrypoint", "Cmd", "StopSignal", "Shell", "Healthcheck", "ArgsEscaped")
_BY_KEY = ("Labels", "ExposedPorts", "Volumes")


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """A base: a manifest or an index, how its user calls it, and its full name, empty if it has none."""

    descriptor: Descriptor
    text: str
    name: str = ""


def rebase_images(
    content: ContentStore,
    root: Descriptor,
    old: Base,
    new: Base,
    scratch_path: str,
    *,
    created: str,
    platform: Platform | None = None,
    force: bool = False,
) -> Changed:
    """The image, or each image of an index, on the new base. What `force` overrides is in the notes.

    Raises `UserError` `not-the-base`, `incompatible-base`, `rebase-conflict`, `no-matching-platform`,
    and as `mutate.edit_images` and `LayerTrees.stack`.
    """
    forced: list[str] = []
    edit = partial(_rebased, content, old, new, scratch_path, created=created, force=force, forced=forced)
    changed = edit_images(content, root, edit, platform=platform)
    return msgspec.structs.replace(changed, notes=(*forced, *changed.notes))


def _rebased(
    content: ContentStore, old: Base, new: Base, scratch_path: str, image: Image, *,
    created: str, force: bool, forced: list[str],
) -> Image:  # fmt: skip
    old_base, new_base = _of_platform(content, old, image, force), _of_platform(content, new, image, force)
    count = require_first(image, old_base, old.text)
    if [diff_id for diff_id, _ in old_base.layers] != [diff_id for diff_id, _ in new_base.layers]:
        _check(content, image, old_base, new_base, count, scratch_path, force=force, forced=forced)
    # Annotations are OCI's alone, and both halves must be of one kind.
    image, new_base = as_oci(image), as_oci(new_base)
    config = _config(image.config, old_base.config, new_base.config)
    config["created"] = created
    config["history"] = _history(image, old_base, new_base, count, created)
    layers = [*new_base.layers, *image.layers[count:]]
    made = with_layers(image, layers, config=config)
    annotations = dict(made.manifest.get("annotations") or {})
    for key, value in (
        (BASE_DIGEST, new_base.descriptor.digest), (BASE_NAME, new.name),
        (OLD_DIGEST, old_base.descriptor.digest), (OLD_NAME, old.name),
    ):  # fmt: skip
        annotations.pop(key, None)
        if value:
            annotations[key] = value
    return msgspec.structs.replace(made, manifest={**made.manifest, "annotations": annotations})


def _of_platform(content: ContentStore, base: Base, image: Image, force: bool) -> Image:
    """The base for the image's platform; forced, the only one that there is."""
    want = normal_platform(image.config)
    try:
        return read_image(content, select_platform(content, base.descriptor, want)[0])
    except UserError as error:
        found = runnable(content, base.descriptor) if force else []
        if error.code != "no-matching-platform" or len(found) != 1:
            raise
        return read_image(content, found[0][0])


def _check(
    content: ContentStore, image: Image, old: Image, new: Image, count: int, scratch_path: str, *,
    force: bool, forced: list[str],
) -> None:  # fmt: skip
    trees = LayerTrees(content, scratch_path)
    shared = _shared(old, new)
    below = trees.stack(old.layers[:shared], timed=False)
    old_tree = trees.stack(old.layers[shared:], below, timed=False)
    new_tree = trees.stack(new.layers[shared:], below, timed=False)
    why = differences(base_facts(old, old_tree), base_facts(new, new_tree))
    if why and not force:
        raise UserError.of(
            "incompatible-base",
            f"{image.descriptor.digest} cannot be put on {new.descriptor.digest}",
            notes=tuple(why),
            hint="build it anew from its Dockerfile; --force if you know that it works all the same",
            details={"differences": why},
        )
    image_tree = trees.stack(image.layers[count:], old_tree, timed=False)
    paths = conflicts(old_tree, new_tree, image_tree)
    if paths and not force:
        more = len(paths) - _SHOWN
        raise UserError.of(
            "rebase-conflict",
            f"{len(paths)} path{'s' * (len(paths) > 1)} changed both in the image and in the new base",
            notes=(*(f"/{path}" for path in paths[:_SHOWN]), *((f"and {more} more",) if more > 0 else ())),
            hint="build it anew from its Dockerfile; with --force the image's own files win",
            details={"paths": paths},
        )
    forced.extend(f"forced: {one}" for one in why)
    if paths:
        shown = ", ".join(f"/{path}" for path in paths[:_SHOWN])
        forced.append(f"forced: the image's own files win over the new base's: {shown}")


def _shared(old: Image, new: Image) -> int:
    """How many layers two bases have in common."""
    pairs = zip(old.layers, new.layers, strict=False)
    return next(
        (i for i, (one, other) in enumerate(pairs) if one[0] != other[0]),
        min(len(old.layers), len(new.layers)),
    )


def _config(ours: Fields, old: Fields, new: Fields) -> Fields:
    """The image's config with what it had from the old base replaced by the new base's."""
    mine, before, after = (dict(one.get("config") or {}) for one in (ours, old, new))
    made = dict(mine)
    for key in _WHOLE:
        if not _same(mine.get(key), before.get(key)):
            continue
        put_field(made, key, after.get(key))
    if not _same(mine.get("Entrypoint"), before.get("Entrypoint")):
        # Whoever sets an entrypoint has chosen the command too, even none.
        put_field(made, "Cmd", mine.get("Cmd"))
    for key in _BY_KEY:
        put_field(made, key, _merged(mine.get(key) or {}, before.get(key) or {}, after.get(key) or {}))
    env = _merged_env(mine.get("Env") or [], before.get("Env") or [], after.get("Env") or [])
    put_field(made, "Env", env)
    top = {**ours, "config": made}
    if _same(ours.get("os.version"), old.get("os.version")):
        put_field(top, "os.version", new.get("os.version"))
    return top


def _same(one: Any, other: Any) -> bool:
    return (one or None) == (other or None)


def _merged(mine: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> Fields:
    """What the image took over from the old base comes from the new one; what it set or removed
    stays so."""
    found = {key: value for key, value in after.items() if key not in before or key in mine}
    for key, value in mine.items():
        if key not in before or before[key] != value:
            found[key] = value
    return found


def _merged_env(mine: Iterable[str], before: Iterable[str], after: Iterable[str]) -> list[str]:
    ours, old, new = _variables(mine), _variables(before), _variables(after)
    found = _merged(ours, old, new)
    for name, value in ours.items():
        below = old.get(name)
        if below and name in new and value != below and f":{below}:" in f":{value}:":
            # Put in front of or behind the base's list, as in ENV PATH=/app/bin:$PATH.
            found[name] = f":{value}:".replace(f":{below}:", f":{new[name]}:", 1)[1:-1]
    return [f"{name}={value}" for name, value in found.items()]


def _variables(env: Iterable[str]) -> dict[str, str]:
    return {name: value for name, _, value in (item.partition("=") for item in env)}


def _history(image: Image, old: Image, new: Image, count: int, created: str) -> list[Fields]:
    ours = aligned(image.config, len(image.layers))
    prefix = len(old.config.get("history") or [])
    if ours[:prefix] != aligned(old.config, count)[:prefix] or _filled(ours[:prefix]) != count:
        # Another spelling of the base's history: its last layer's entry is where ours begins.
        prefix = 0
        while _filled(ours[:prefix]) < count:
            prefix += 1
    below = aligned(new.config, len(new.layers))
    entry = {"created": created, "created_by": "arkwright rebase", "empty_layer": True}
    return [*below, *ours[prefix:], entry]


def _filled(history: list[Fields]) -> int:
    return sum(not entry.get("empty_layer") for entry in history)
