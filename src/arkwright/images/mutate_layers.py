"""Layers added to an image, and many made one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import BinaryIO, Literal, cast

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.images.layer_trees import Layer, LayerTrees, changes, tell_links
from arkwright.images.mutate import Fields, Image, aligned, require_first, with_history, with_layers
from arkwright.layer import files, names
from arkwright.layer.apply import apply_entries
from arkwright.layer.codec import codec_of, decompress
from arkwright.layer.diff import diff, diff_facts
from arkwright.layer.entry import Change, Entry
from arkwright.layer.export import export_layer
from arkwright.layer.hashed import Hashed
from arkwright.layer.profile import Profile
from arkwright.layer.rooted import Root
from arkwright.layer.tar_read import read_tar
from arkwright.layer.tree import Fact, facts
from arkwright.layer.virtual_nodes import Spool, VirtualTree
from arkwright.oci import formats
from arkwright.oci.descriptor import Descriptor
from arkwright.store.content import ContentStore
from arkwright.store.space import space_needed

Owner = tuple[int, int] | Literal["keep"]

_CHUNK = 1 << 18
_MAGIC_SIZE = 6
_NO_STATUS = os.stat_result((0,) * 10)


class Placing(msgspec.Struct, frozen=True, kw_only=True):
    """Where the entries of a new layer go, and whose they are. `prefix` is a path in the image."""

    prefix: str = ""
    owner: Owner = "keep"

    def entry(self, entry: Entry) -> Entry:
        """The entry in its place."""
        changed: dict[str, object] = {}
        if self.prefix:
            changed["path"] = f"{self.prefix}/{entry.path}"
            if entry.type == "hardlink":
                changed["link"] = f"{self.prefix}/{entry.link}"
        if self.owner != "keep":
            changed["uid"], changed["gid"] = self.owner
        return msgspec.structs.replace(entry, **changed) if changed else entry


def clean_prefix(text: str) -> str:
    """A path in the image, relative to its root. Raises `UserError` `path-escapes-root`."""
    return names.decode(names.clean(names.encode(text), "the prefix"))


def layer_of_directory(content: ContentStore, path: str, placing: Placing, profile: Profile) -> Layer:
    """A layer of what is in a directory (not of the directory itself), in the canonical form.

    Raises `UserError` `unreadable-path`, `no-space`, `reserved-name`; `HostUnsupported` `tree-unreadable`.
    """
    try:
        root = Root(path, widen=False)
    except OSError as error:
        raise UserError.of("unreadable-path", f"cannot read {path}: {error.strerror}") from error
    with root:
        return export_layer(_placed(diff(None, root), placing), content, profile)


def layer_of_tar(
    content: ContentStore, stream: BinaryIO, placing: Placing, profile: Profile, scratch_path: str
) -> Layer:
    """A layer of a tar in any compression, checked, sorted and in the canonical form: owners by number,
    times the constant, attributes that a layer of ours carries. Whiteouts are kept.

    Raises what `layer.apply` and `layer.codec.decompress` raise, and `UserError` `no-space`.
    """
    tree = VirtualTree(Spool(scratch_path))
    told: set[str] = set()
    with space_needed(scratch_path, "the contents of the layer"), Root(tree.path) as root:
        tar = read_tar(decompress(stream, "auto"), require_end=False)
        apply_entries(_noting(tar, told), root, whiteouts="overlay")
        found = _told(diff_facts(None, root, _kept(root)), {_canonical(root, path) for path in told})
        return export_layer(_placed(chain(_opaque(root), found), placing), content, profile)


def verbatim_layer(content: ContentStore, stream: BinaryIO) -> Layer:
    """A layer of a tar as it is, byte for byte, when every entry of it can be read.

    Raises what `read_tar` and `decompress` raise, and `UserError` `unsupported-layer-compression`.
    """
    with content.ingest() as ingest:
        tee = _Tee(stream, ingest.write)
        hashed = Hashed(decompress(cast(BinaryIO, tee), "auto"))
        for _ in read_tar(cast(BinaryIO, hashed), require_end=False):
            pass
        while hashed.read(_CHUNK) or tee.read(_CHUNK):
            pass
        media_type = formats.oci_layer(codec_of(tee.head))
        if not media_type:
            raise UserError.of(
                "unsupported-layer-compression",
                "a layer can be gzip, zstd or plain, and this archive is bzip2 or xz",
                hint="leave --verbatim away: the layer is then compressed anew",
            )
        size = ingest.offset
        digest = ingest.commit()
    return hashed.digest, Descriptor(media_type=media_type, digest=digest, size=size)


def append(image: Image, layer: Layer, *, created: str, history: Mapping[str, str]) -> Image:
    """The image with one more layer on top; `history` says `created_by` and maybe `comment`."""
    config = with_history(image.config, dict(history), layers=len(image.layers), created=created)
    return with_layers(image, [*image.layers, layer], config=config)


def squash(
    image: Image, content: ContentStore, scratch_path: str, profile: Profile, *, created: str,
    base: Image | None = None, base_name: str = "", note: Callable[[str], None] = lambda text: None,
) -> Image:  # fmt: skip
    """The layers above `base` (all without one) as one layer; the tree stays what it is, with its
    times. An image with nothing to join is given back as it is.

    The history keeps its entries, as empty ones, and gets one for the new layer.
    Raises `UserError` `not-the-base`, and as `LayerTrees.stack`.
    """
    kept = 0 if base is None else require_first(image, base, base_name)
    above = image.layers[kept:]
    if len(above) < 2:
        return image
    layer = _joined(image, content, scratch_path, profile, kept, note)
    entry = {"created_by": "arkwright squash", "comment": f"{len(above)} layers in one"}
    history = _emptied(aligned(image.config, len(image.layers)), kept)
    config = {**image.config, "created": created, "history": [*history, {"created": created, **entry}]}
    return with_layers(image, [*image.layers[:kept], layer], config=config)


def flatten(
    image: Image, content: ContentStore, scratch_path: str, profile: Profile, *, created: str,
    note: Callable[[str], None] = lambda text: None,
) -> Image:  # fmt: skip
    """All layers as one, and the history as one entry. Raises as `squash`."""
    if len(image.layers) < 2 and len(image.config.get("history") or []) == len(image.layers):
        return image
    layer = _joined(image, content, scratch_path, profile, 0, note)
    entry = {"created": created, "created_by": "arkwright flatten"}
    config = {**image.config, "created": created, "history": [entry]}
    return with_layers(image, [layer], config=config)


def _joined(
    image: Image, content: ContentStore, scratch_path: str, profile: Profile, kept: int,
    note: Callable[[str], None],
) -> Layer:  # fmt: skip
    trees = LayerTrees(content, scratch_path)
    lower = trees.stack(image.layers[:kept]) if kept else None
    upper = trees.stack(image.layers[kept:], lower)
    if lower is not None:
        tell_links(lower, upper)
    layer = export_layer(changes(lower, upper), content, profile, mtime_ns=None)
    for name, count in sorted(trees.dropped.items()):
        note(f"{name} of {count} links or devices was left out")
    return layer


def _emptied(history: list[Fields], kept: int) -> list[Fields]:
    """The history in which layers from number `kept` on have no entry of their own any more."""
    found = []
    used = 0
    for entry in history:
        used += not entry.get("empty_layer")
        gone = used > kept and not entry.get("empty_layer")
        found.append({**entry, "empty_layer": True} if gone else entry)
    return found


class _Tee:
    """A stream that hands on a copy of what is read; `head` is its beginning."""

    def __init__(self, stream: BinaryIO, sink: Callable[[bytes], object]) -> None:
        self._stream = stream
        self._sink = sink
        self.head = b""

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._sink(data)
        if len(self.head) < _MAGIC_SIZE:
            self.head += data[: _MAGIC_SIZE - len(self.head)]
        return data


def _placed(found: Iterable[Change], placing: Placing) -> Iterator[Change]:
    for change in found:
        # The root itself, or what stands for it below a prefix, is the image's.
        if change.entry.path:
            yield Change(placing.entry(change.entry), change.open)
        elif change.entry.type == "opaque" and placing.prefix:
            yield Change(Entry(path=placing.prefix, type="opaque"))


def _noting(
    items: Iterator[tuple[Entry, BinaryIO | None]], told: set[str]
) -> Iterator[tuple[Entry, BinaryIO | None]]:
    for entry, content in items:
        if entry.type == "dir":
            told.add(entry.path)
        yield entry, content


def _told(found: Iterator[Change], told: set[str]) -> Iterator[Change]:
    """Without directories that the archive only implied: in the image, a link may be in their place."""
    for change in found:
        if change.entry.type != "dir" or change.entry.path in told:
            yield change


def _kept(root: Root) -> Iterator[Fact]:
    for fact in facts(root, overlay=True):
        yield fact if fact.status is not None else fact._replace(status=_NO_STATUS)


def _opaque(root: Root) -> list[Change]:
    """The marks of emptied directories; they stand for what is below this layer, so they come first."""
    found = facts(root, xattrs=False, overlay=True)
    return [Change(Entry(path=fact.entry.path, type="opaque")) for fact in found if fact.opaque]


def _canonical(root: Root, path: str) -> str:
    try:
        fd, parent, name = root.locate(path)
    except OSError:
        return path
    files.close(fd)
    return f"{parent}/{name}" if parent else name
