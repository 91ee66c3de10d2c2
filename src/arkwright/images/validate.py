"""Whether an image is what the specification demands: documents, digests, layers.

Everything is read again from the store, nothing that was remembered is believed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, BinaryIO, cast

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, RemoteError, UserError
from arkwright.images import schema
from arkwright.images.fetch import fetch
from arkwright.images.graph import DOCUMENT_LIMIT
from arkwright.images.listing import Listed, read_entries
from arkwright.images.local import choose
from arkwright.images.opened import open_image
from arkwright.images.places import Place
from arkwright.images.steps import diff_ids, history_lines
from arkwright.images.view import View, Watcher
from arkwright.layer.codec import codec_of, decompress
from arkwright.layer.hashed import Hashed
from arkwright.layer.names import encode
from arkwright.oci import descriptor as media
from arkwright.oci import formats
from arkwright.oci.descriptor import Descriptor, layer_codec
from arkwright.oci.digest import is_digest
from arkwright.oci.platform import Platform
from arkwright.registry.access import Access
from arkwright.store.content import ContentStore
from arkwright.store.store import Store

_MOST = 1000
_DEPTH = 4
_NAME_MAX = 255  # bytes; NAME_MAX of Linux's file systems
# What a reader says of an image that is not what its documents promise.
_BROKEN = frozenset(
    {
        "corrupt-blob", "corrupt-manifest", "missing-blob", "invalid-manifest", "invalid-image-config",
        "layer-mismatch", "not-an-image-archive", "blob-too-large", "manifest-too-large", "config-too-large",
    }
)  # fmt: skip


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something wrong: a kebab-case kind, the digest of the blob, the place in it, and words."""

    kind: str
    digest: str
    where: str
    message: str


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at, and what was found; of more than 1000 findings only the number is kept."""

    digest: str
    documents: int
    layers: int
    entries: int
    findings: tuple[Finding, ...]
    more: int = 0

    @property
    def is_valid(self) -> bool:
        return not self.findings


def validate_image(store: Store, root: Descriptor, *, only: str = "") -> Validation:
    """Check an image of the store; `only` is the digest of the one manifest of an index to look into,
    else it is all that the store has."""
    checking = _Checking(store.content, only)
    checking.document(root, {}, _DEPTH)
    return Validation(
        digest=root.digest,
        documents=checking.documents,
        layers=checking.layers,
        entries=checking.entries,
        findings=tuple(checking.findings),
        more=checking.more,
    )


def validate_place(
    store: Store,
    place: Place,
    platform: Platform | None = None,
    *,
    all_platforms: bool = False,
    access: Access | None = None,
) -> Validation:
    """Fetch an image, unless the store has it, and check it. What makes fetching stop because the image
    is broken is a finding too.

    Of an index all images that the store has are checked; of one from elsewhere that of `platform`
    (default: the host's), or all of them. Raises as `images.fetch.fetch`.
    """
    try:
        if place.transport == "store":
            found = fetch(store, place)
            root = found.descriptor
            only = choose(store.content, root, platform)[0].digest if platform is not None else ""
        elif all_platforms:
            root, only = fetch(store, place, access=access).descriptor, ""
        else:
            image = open_image(store, place, platform, access=access)
            root, only = image.root, image.chosen.digest
    except (UserError, RemoteError) as error:
        if error.code not in _BROKEN:
            raise
        finding = Finding(kind=error.code, digest="", where=place.text, message=error.diagnostics[0].message)
        return Validation(digest="", documents=0, layers=0, entries=0, findings=(finding,))
    return validate_image(store, root, only=only)


class _Checking:
    def __init__(self, content: ContentStore, only: str) -> None:
        self.findings: list[Finding] = []
        self.documents = self.layers = self.entries = self.more = 0
        self.content = content
        self._only = only
        self._seen: set[str] = set()

    def add(self, kind: str, digest: str, where: str, message: str) -> None:
        if len(self.findings) < _MOST:
            self.findings.append(Finding(kind=kind, digest=digest, where=where, message=message))
        else:
            self.more += 1

    def document(self, descriptor: Descriptor, entry: dict[str, Any], depth: int) -> None:
        """A manifest or an index, and all below it. `entry` is what its index says of it."""
        if descriptor.digest in self._seen:
            return
        self._seen.add(descriptor.digest)
        document = self._json(descriptor)
        if document is None:
            return
        stated = document.get("mediaType")
        if stated is not None and stated != descriptor.media_type:
            self.add(
                "media-type-mismatch", descriptor.digest, "mediaType",
                f"it says {stated!r}, its descriptor {descriptor.media_type!r}",
            )  # fmt: skip
        if "manifests" in document and "config" not in document:
            self._problems(descriptor, "invalid-index", schema.check_index(document))
            self._children(document, descriptor, depth)
        else:
            self._problems(descriptor, "invalid-manifest", schema.check_manifest(document))
            self._image(document, descriptor, entry)

    def _children(self, index: dict[str, Any], parent: Descriptor, depth: int) -> None:
        if not depth:
            self.add(
                "nested-too-deeply", parent.digest, "manifests", "indexes stand in each other too deeply"
            )
            return
        for child, entry in _descriptors(index.get("manifests")):
            known = child.media_type in media.MANIFESTS | media.INDEXES
            wanted = not self._only or child.digest == self._only or child.media_type in media.INDEXES
            if known and wanted and self.content.has(child.digest):
                self.document(child, entry, depth - 1)

    def _image(self, manifest: dict[str, Any], descriptor: Descriptor, entry: dict[str, Any]) -> None:
        configs = _descriptors([manifest.get("config")])
        layers = [layer for layer, _ in _descriptors(manifest.get("layers"))]
        is_image = False
        ids: list[str] = []
        for config, _ in configs:
            is_image = config.media_type in formats.CONFIG.values()
            if is_image and (fields := self._json(config)) is not None:
                self._config(config, fields, layers, entry)
                ids = diff_ids(fields)
            elif not is_image:
                self._hash(config)
        view = View(_Entries(self, descriptor.digest))
        for number, layer in enumerate(layers):
            self.layers += 1
            if is_image and layer.media_type in formats.LAYER_KINDS:
                _LayerCheck(self, layer, view).run(ids[number] if number < len(ids) else "")
            else:
                self._hash(layer)

    def _config(
        self, config: Descriptor, fields: dict[str, Any], layers: list[Descriptor], entry: dict[str, Any]
    ) -> None:
        self._problems(config, "invalid-config", schema.check_config(fields))
        add = partial(self.add, digest=config.digest)
        count = len(diff_ids(fields))
        if count != len(layers):
            add("diff-id-count", where="rootfs.diff_ids", message=f"{count} diffIDs for {len(layers)} layers")
        lines = history_lines(fields)
        made = sum(line.get("empty_layer") is not True for line in lines)
        if lines and made != len(layers):
            message = f"{made} lines made a layer, there are {len(layers)} layers"
            add("history-count", where="history", message=message)
        platform = entry.get("platform")
        stated = platform if isinstance(platform, dict) else {}
        for name in ("os", "architecture", "variant"):
            have, said = fields.get(name), stated.get(name)
            if have and said and have != said:
                message = f"it says {have!r}, the index {said!r}"
                add("platform-mismatch", where=name, message=message)

    def _json(self, descriptor: Descriptor) -> dict[str, Any] | None:
        self.documents += 1
        if not self._hash(descriptor):
            return None
        try:
            document = msgspec.json.decode(self.content.read(descriptor.digest, limit=DOCUMENT_LIMIT))
        except UserError as error:
            self.error(error, descriptor.digest)
            return None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self.add("not-json", descriptor.digest, "", f"not JSON: {error}")
            return None
        if not isinstance(document, dict):
            self.add("not-json", descriptor.digest, "", "not a JSON object")
            return None
        return document

    def _hash(self, descriptor: Descriptor) -> bool:
        """Whether the blob is there with its digest and size."""
        try:
            with self.content.open(descriptor.digest) as blob:
                tee = Hashed(blob, descriptor.digest.partition(":")[0])
                tee.drain()
        except UserError as error:
            self.error(error, descriptor.digest)
            return False
        return self.compare(descriptor, tee)

    def compare(self, descriptor: Descriptor, read: Hashed) -> bool:
        """What was read of a blob to its end, against its descriptor."""
        if read.digest != descriptor.digest:
            self.add("digest-mismatch", descriptor.digest, "", f"its bytes have the digest {read.digest}")
        if read.size != descriptor.size:
            message = f"it has {read.size} bytes, its descriptor says {descriptor.size}"
            self.add("size-mismatch", descriptor.digest, "", message)
        return read.digest == descriptor.digest

    def error(self, error: ArkwrightError, digest: str) -> None:
        """An error that some reader raised, as a finding."""
        self.add(error.code, digest, "", error.diagnostics[0].message)

    def _problems(self, descriptor: Descriptor, kind: str, problems: Iterator[schema.Problem]) -> None:
        for where, message in problems:
            self.add(kind, descriptor.digest, where, message)


class _LayerCheck:
    """One layer, read once: its bytes, the tar in them, the entries."""

    def __init__(self, checking: _Checking, layer: Descriptor, view: View) -> None:
        self._checking = checking
        self._layer = layer
        self._view = view
        self._watcher = cast(_Entries, view.watcher)

    def run(self, diff_id: str) -> None:
        checking, digest = self._checking, self._layer.digest
        try:
            blob = checking.content.open(digest)
        except UserError as error:
            checking.error(error, digest)
            self._watcher.is_whole = False
            return
        with blob:
            packed = Hashed(blob, digest.partition(":")[0])
            self._watcher.digest = digest
            self._compression(blob)
            tar = Hashed(decompress(cast(BinaryIO, packed), layer_codec(self._layer.media_type)))
            whole = self._entries(tar)
            packed.drain()
        checking.compare(self._layer, packed)
        if whole and diff_id.startswith("sha256:") and tar.digest != diff_id:
            checking.add(
                "diff-id-mismatch",
                digest,
                "",
                f"the tar has the digest {tar.digest}, the config says {diff_id}",
            )

    def _compression(self, blob: BinaryIO) -> None:
        found = codec_of(blob.read(6))
        blob.seek(0)
        codec = layer_codec(self._layer.media_type)
        if found != codec and "none" not in (found, codec):
            self._checking.add(
                "compression-mismatch", self._layer.digest, "",
                f"it is {found}, its media type says {self._layer.media_type}",
            )  # fmt: skip

    def _entries(self, tar: Hashed) -> bool:
        """Read the archive; whether its end was reached."""
        try:
            self._view.add_layer(self._listing(tar))
        except UserError as error:
            self._checking.error(error, self._layer.digest)
            self._watcher.is_whole = False
        try:
            tar.drain()
        except UserError as error:
            if self._watcher.is_whole:
                self._checking.error(error, self._layer.digest)
            self._watcher.is_whole = False
            return False
        return True

    def _listing(self, tar: Hashed) -> Iterator[Listed]:
        for listed in read_entries(cast(BinaryIO, tar)):
            self._checking.entries += 1
            path = listed.entry.path
            if len(path) > _NAME_MAX // 4 and any(len(encode(name)) > _NAME_MAX for name in path.split("/")):
                self._checking.add(
                    "name-too-long", self._layer.digest, f"/{path}", "a name has more than 255 bytes"
                )
            yield listed


class _Entries(Watcher):
    """Turns what a view tells into findings. Once a layer could not be read, deletions of later ones
    may well name something."""

    def __init__(self, checking: _Checking, digest: str) -> None:
        self._checking = checking
        self.digest = digest
        self.is_whole = True

    def nothing_hidden(self, path: str) -> None:
        if self.is_whole:
            message = "the deletion names nothing of the layers below"
            self._checking.add("whiteout-of-nothing", self.digest, f"/{path}", message)

    def repeated(self, path: str) -> None:
        self._checking.add("duplicate-entry", self.digest, f"/{path}", "the layer has a second entry for it")

    def broken(self, error: ArkwrightError) -> None:
        self._checking.error(error, self.digest)


def _descriptors(value: Any) -> Iterator[tuple[Descriptor, dict[str, Any]]]:
    """The well-formed descriptors of a list, with the objects that they stand in."""
    for item in value if isinstance(value, list) else ():
        try:
            descriptor = msgspec.convert(
                {key: item.get(key) for key in ("mediaType", "digest", "size")}, Descriptor
            )
        except (msgspec.ValidationError, AttributeError):
            continue
        if is_digest(descriptor.digest):
            yield descriptor, item
