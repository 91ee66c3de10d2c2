"""Two images against each other: index, manifests, configs, and every entry of every layer, times included."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from arkwright.images.compare import FieldChange, FileState, compare_configs
from arkwright.images.graph import read_document
from arkwright.images.listing import Listed, list_layer, open_layer
from arkwright.images.local import read_config
from arkwright.images.steps import diff_ids, step_of_layer
from arkwright.layer.names import encode
from arkwright.layer.tar_read import read_tar
from arkwright.oci.descriptor import REFERENCE_TYPE, Descriptor
from arkwright.oci.manifest import Index, Manifest
from arkwright.oci.manifest import encode as encode_document
from arkwright.store.store import Store
from arkwright.verify.contents import Findings, Window, look_into
from arkwright.verify.report import FileDifference, ImageDifference, LayerDifference

# Of more files than these, only names and fields are told.
_DETAILED = 200
_TOLD = 2000
_CONTENT_LIMIT = 16 << 20
_CONTENTS_LIMIT = 256 << 20


class Comparison(msgspec.Struct, frozen=True):
    """Fields of the index that differ, and the images that do."""

    index: tuple[FieldChange, ...]
    images: tuple[ImageDifference, ...]


def compare_images(store: Store, old: Descriptor, new: Descriptor, window: Window) -> Comparison:
    """How two images whose blobs are in the store differ; attestations in an index are left out.

    Raises as `images.listing.list_layer` and `images.graph.read_document`.
    """
    before, after = _by_platform(store, old), _by_platform(store, new)
    index = [
        FieldChange(
            field=f"manifests.{name}", kind="removed" if name in before else "added",
            old=_digest(before.get(name)), new=_digest(after.get(name)),
        )
        for name in sorted(before.keys() ^ after.keys())
    ]  # fmt: skip
    if isinstance(read_document(store.content, old), Index) and isinstance(
        read_document(store.content, new), Index
    ):
        index += _document_fields(store, old, new, ("manifests",))
    images = [
        found
        for name in sorted(before.keys() & after.keys())
        if before[name].digest != after[name].digest
        for found in [_compare_image(store, name, before[name], after[name], window)]
    ]
    return Comparison(tuple(index), tuple(images))


def plain_digests(store: Store, root: Descriptor) -> set[str]:
    """The digests under which a build that attaches nothing knows an image: its own, and that of the only image of
    an index that is there for attestations."""
    found = {root.digest}
    document = read_document(store.content, root)
    if isinstance(document, Index):
        images = [one for one in document.manifests if REFERENCE_TYPE not in one.annotations]
        if len(images) == 1 and len(document.manifests) > 1:
            found.add(images[0].digest)
        without = msgspec.structs.replace(document, manifests=tuple(images))
        found.add("sha256:" + hashlib.sha256(encode_document(without)).hexdigest())
    return found


def _by_platform(store: Store, root: Descriptor) -> dict[str, Descriptor]:
    document = read_document(store.content, root)
    if isinstance(document, Manifest):
        config = read_config(store.content, document)
        parts = (config.get("os"), config.get("architecture"), config.get("variant"))
        return {"/".join(str(part) for part in parts if part): root}
    return {
        str(one.platform or one.digest): one
        for one in document.manifests
        if REFERENCE_TYPE not in one.annotations
    }


def _compare_image(
    store: Store, platform: str, old: Descriptor, new: Descriptor, window: Window
) -> ImageDifference:
    before, after = read_document(store.content, old), read_document(store.content, new)
    assert isinstance(before, Manifest)
    assert isinstance(after, Manifest)
    configs = [read_config(store.content, one) for one in (before, after)]
    return ImageDifference(
        platform=platform,
        old=old.digest,
        new=new.digest,
        manifest=tuple(_document_fields(store, old, new, ("config", "layers"))),
        config=tuple(compare_configs(*configs)),
        layers=tuple(_layers(store, (before, after), configs, window)),
    )


def _document_fields(
    store: Store, old: Descriptor, new: Descriptor, left_out: Sequence[str]
) -> Iterator[FieldChange]:
    sides = []
    for one in (old, new):
        fields: dict[str, Any] = msgspec.json.decode(store.content.read(one.digest))
        sides.append({name: value for name, value in fields.items() if name not in left_out})
    yield from compare_configs(*sides)


def _layers(
    store: Store, manifests: tuple[Manifest, Manifest], configs: list[dict[str, Any]], window: Window
) -> Iterator[LayerDifference]:
    before, after = (one.layers for one in manifests)
    ids = [diff_ids(config) for config in configs]
    steps = step_of_layer(configs[0], len(before))
    for number in range(max(len(before), len(after))):
        step = steps[number] if number < len(steps) else ""
        old = before[number] if number < len(before) else None
        new = after[number] if number < len(after) else None
        if old is None or new is None:
            yield LayerDifference(number=number + 1, step=step, old=_digest(old), new=_digest(new))
        elif old.digest != new.digest:
            same = len(ids[0]) > number < len(ids[1]) and ids[0][number] == ids[1][number]
            yield compare_layers(store, number + 1, step, old, new, window, packing=same)


def compare_layers(
    store: Store, number: int, step: str, old: Descriptor, new: Descriptor, window: Window, *, packing: bool
) -> LayerDifference:
    """Two layers entry by entry. `packing`: their tars are known to be equal."""
    found = LayerDifference(number=number, step=step, old=old.digest, new=new.digest, packing=packing)
    if packing:
        return found
    before, after = _entries(store, old), _entries(store, new)
    changes = [
        (key, fields)
        for key in sorted(before.keys() | after.keys(), key=lambda key: (encode(key[0]), key[1]))
        if (fields := tuple(_fields(before.get(key), after.get(key))))
    ]
    wanted = [key for key, fields in changes if "content" in fields][:_DETAILED]
    texts = [
        _contents(store, layer, {entries[key].position for key in wanted if key in entries})
        for layer, entries in ((old, before), (new, after))
    ]
    files = []
    for key, fields in changes[:_TOLD]:
        left, right = before.get(key), after.get(key)
        insights = Findings()
        if key in wanted and left is not None and right is not None:
            data = texts[0].get(left.position), texts[1].get(right.position)
            insights = look_into(f"/{key[0]}", data[0], data[1], window)
        elif fields:
            insights = look_into(f"/{key[0]}", None, None, window)
        files.append(
            FileDifference(
                path=f"/{key[0]}",
                kind=_kind(left, right),
                fields=fields,
                old=_state(left),
                new=_state(right),
                diff=insights.diff,
                members=insights.members,
                causes=insights.causes,
                step=step,
            )
        )
    return msgspec.structs.replace(
        found, files=tuple(files), left_out=max(0, len(changes) - _TOLD), order=not changes
    )


_Key = tuple[str, str]


def _entries(store: Store, layer: Descriptor) -> dict[_Key, Listed]:
    """By path and kind: a whiteout may stand beside what is new at its path."""
    kinds = {"whiteout": "whiteout", "opaque": "opaque"}
    return {(one.entry.path, kinds.get(one.entry.type, "")): one for one in list_layer(store, layer)}


def _fields(old: Listed | None, new: Listed | None) -> Iterator[str]:
    if old is None or new is None:
        yield "there"
        return
    before, after = old.entry, new.entry
    pairs = (
        ("type", before.type, after.type), ("mode", before.mode, after.mode),
        ("owner", (before.uid, before.gid), (after.uid, after.gid)), ("size", before.size, after.size),
        ("content", old.content, new.content), ("link", before.link, after.link),
        ("device", (before.major, before.minor), (after.major, after.minor)),
        ("xattrs", before.xattrs, after.xattrs), ("time", before.mtime_ns, after.mtime_ns),
    )  # fmt: skip
    yield from (name for name, left, right in pairs if left != right)


def _contents(store: Store, layer: Descriptor, positions: set[int]) -> dict[int, bytes]:
    """The contents of files by their positions in the layer, as far as they are small; in one look."""
    found: dict[int, bytes] = {}
    left = _CONTENTS_LIMIT
    if not positions:
        return found
    with open_layer(store.content, layer) as tar:
        for position, (entry, content) in enumerate(read_tar(tar, require_end=False)):
            if position not in positions or content is None or entry.size > min(_CONTENT_LIMIT, left):
                continue
            found[position] = content.read(entry.size)
            left -= entry.size
            if len(found) == len(positions):
                break
    return found


def _state(listed: Listed | None) -> FileState | None:
    if listed is None:
        return None
    entry = listed.entry
    return FileState(
        type=entry.type, mode=f"{entry.mode:04o}", uid=entry.uid, gid=entry.gid, size=entry.size,
        digest=f"sha256:{listed.content.hex()}" if listed.content else "", link=entry.link,
        device=f"{entry.major}:{entry.minor}" if entry.type in ("char", "block") else "", mtime_ns=entry.mtime_ns,
        xattrs={name: value.hex() for name, value in entry.xattrs},
    )  # fmt: skip


def _kind(old: Listed | None, new: Listed | None) -> str:
    if old is None:
        return "added"
    return "removed" if new is None else "changed"


def _digest(found: Descriptor | None) -> str:
    return found.digest if found is not None else ""
