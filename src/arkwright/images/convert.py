"""Images in another format or compression: Docker's media types and OCI's, gzip, zstd and none.

Only what must change does: documents are edited as they are, a config keeps its bytes (the two formats
have the same), and a layer that has the wanted compression is not touched. A layer that is compressed
anew is checked against its diffID; the same profile gives the same bytes again, so that converting
there and back is exact for layers that are not compressed and for those that Arkwright wrote.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, UserError
from arkwright.images.graph import DOCUMENT_LIMIT
from arkwright.images.local import read_config
from arkwright.layer import faults
from arkwright.layer.codec import compressor, decompress
from arkwright.layer.profile import Codec, profile_for
from arkwright.layer.tar_read import DEFAULT_LIMITS
from arkwright.net.retry import cancelled
from arkwright.oci import descriptor as media
from arkwright.oci import formats
from arkwright.oci import manifest as image_manifest
from arkwright.oci.descriptor import Descriptor, plain
from arkwright.oci.digest import is_digest
from arkwright.oci.formats import Format
from arkwright.oci.manifest import Index
from arkwright.registry.parallel import run_all
from arkwright.registry.pull import BlobProgress
from arkwright.store.content import ContentStore

_READ = 1 << 20
_JOBS = 4
_DEPTH = 4
_INDENTS = (0, 3, 2, 4)

# What is said about the compressed bytes does not hold for others.
_OF_BYTES = ("containerd.io/snapshot/", "io.containers.estargz.", "io.github.containers.zstd-chunked.")
_LAYER_LIKE = re.compile(r"image\.(layer|rootfs)\.")


class Converted(msgspec.Struct, frozen=True, kw_only=True):
    """The new image, the same when nothing had to change; `lost` says what it cannot carry."""

    descriptor: Descriptor
    lost: tuple[str, ...] = ()


def convert(
    content: ContentStore,
    root: Descriptor,
    *,
    form: Format | None = None,
    codec: Codec | None = None,
    progress: BlobProgress | None = None,
    jobs: int = _JOBS,
) -> Converted:
    """Give an image, or an index with all its images, another format, another compression, or both.

    Attestations of an image that changes are dropped, as they name it by digest.
    Raises `UserError` `not-convertible`, `zstd-in-docker-format`, `layer-mismatch`,
    `archive-too-large`, `corrupt-archive`, `missing-blob`, `invalid-manifest`; `HostUnsupported`
    `missing-codec`.
    """
    if form is None and codec is None:
        return Converted(descriptor=root)
    work = _Conversion(content, form, codec, progress, jobs)
    descriptor = work.document(root, _DEPTH)
    return Converted(descriptor=plain(descriptor), lost=tuple(dict.fromkeys(work.lost)))


class _Conversion:
    def __init__(
        self,
        content: ContentStore,
        form: Format | None,
        codec: Codec | None,
        progress: BlobProgress | None,
        jobs: int,
    ) -> None:
        self._content = content
        self._form = form
        self._codec = codec
        self._progress = progress
        self._jobs = min(jobs, os.cpu_count() or 1)
        self._layers: dict[tuple[str, str], Descriptor] = {}
        self.lost: list[str] = []

    def document(self, root: Descriptor, depth: int) -> Descriptor:
        data = self._content.read(root.digest, limit=DOCUMENT_LIMIT)
        document = image_manifest.parse(data, root.media_type)
        fields = msgspec.json.decode(data)
        indent = next((one for one in _INDENTS if _written(fields, one) == data), 0)
        if isinstance(document, Index):
            if not depth:
                raise UserError.of("invalid-manifest", f"{root.digest}: indexes are nested too deeply")
            changed = self._index(fields, document, depth)
        else:
            changed = self._manifest(root, fields, document)
        if not changed:
            return root
        encoded = _written(fields, indent)
        digest = self._content.write(encoded)
        return msgspec.structs.replace(
            root, media_type=str(fields["mediaType"]), digest=digest, size=len(encoded)
        )

    # --- Indexes -------------------------------------------------------------------------------

    def _index(self, fields: dict[str, Any], document: Index, depth: int) -> bool:
        form = self._form or ("docker" if document.media_type == media.DOCKER_INDEX else "oci")
        changed = self._retype(fields, formats.INDEX[form])
        new: dict[str, str] = {}
        children: list[dict[str, Any]] = []
        absent: list[dict[str, Any]] = []
        for child, said in zip(document.manifests, fields["manifests"], strict=True):
            about = child.annotations.get(media.REFERENCE_DIGEST, "")
            if media.REFERENCE_TYPE in child.annotations and (about in new or form == "docker"):
                self.lost.append("attestations, which name the image by its old digest")
                changed = True
                continue
            if child.media_type not in media.MANIFESTS | media.INDEXES:
                self._refuse_in_docker(form, child)
                children.append(said)
                continue
            if not self._content.has(child.digest):
                absent.append(said)
                children.append(said)
                continue
            made = self.document(child, depth - 1)
            if made.digest != child.digest:
                new[child.digest] = made.digest
                changed |= _replace(said, made)
            if form == "docker":
                changed |= self._docker_child(said, made)
            children.append(said)
        if changed and absent:
            self._leave_out(absent, document)
            children = [said for said in children if said not in absent]
        fields["manifests"] = children
        return self._drop(form, fields) or changed

    def _leave_out(self, absent: list[dict[str, Any]], document: Index) -> None:
        """Images that a sparse index only names cannot be converted, and the two formats do not mix."""
        if len(absent) == len(document.manifests):
            raise UserError.of(
                "missing-blob",
                "the store has none of the images of the index",
                hint="`arkwright pull --all-platforms` fetches them",
            )
        self.lost.append(f"{len(absent)} images of the index that are not in the local store")

    def _docker_child(self, said: dict[str, Any], made: Descriptor) -> bool:
        """A list of schema 2 names each manifest's platform, and nothing else of it."""
        extra = set(said) - {"mediaType", "digest", "size", "platform"}
        for key in extra:
            del said[key]
        if "platform" in said or made.media_type in media.INDEXES:
            return bool(extra)
        manifest = image_manifest.parse(
            self._content.read(made.digest, limit=DOCUMENT_LIMIT), made.media_type
        )
        assert not isinstance(manifest, Index)
        config = read_config(self._content, manifest)
        said["platform"] = {key: config[key] for key in ("architecture", "os", "variant") if config.get(key)}
        return True

    # --- Manifests -----------------------------------------------------------------------------

    def _manifest(self, root: Descriptor, fields: dict[str, Any], document: image_manifest.Manifest) -> bool:
        if document.artifact_type or document.config.media_type not in formats.CONFIG.values():
            self._refuse_in_docker(self._form, root)
            return False
        stated = document.media_type or root.media_type
        form = self._form or ("docker" if stated == media.DOCKER_MANIFEST else "oci")
        if document.layers and not any(_LAYER_LIKE.search(layer.media_type) for layer in document.layers):
            # An attestation has the config of an image too.
            self._refuse_in_docker(self._form, root)
            return False
        layers = self._converted_layers(document, form)
        changed = False
        for said, new in zip(fields["layers"], layers, strict=True):
            changed |= _replace(said, new)
        if fields["config"]["mediaType"] != formats.CONFIG[form]:
            fields["config"]["mediaType"] = formats.CONFIG[form]
            changed = True
        if self._form == "docker":
            for said in (fields["config"], *fields["layers"]):
                changed |= self._drop("docker", said)
        changed |= self._drop(form, fields)
        if changed or self._form:
            changed |= self._retype(fields, formats.MANIFEST[form])
        return changed

    def _converted_layers(self, document: image_manifest.Manifest, form: Format) -> list[Descriptor]:
        if self._codec is None:
            return [self._described(layer, form, self._kind(layer)[1]) for layer in document.layers]
        diff_ids = self._diff_ids(document)
        tasks = [
            self._task(layer, diff_id, form) for layer, diff_id in zip(document.layers, diff_ids, strict=True)
        ]
        return run_all(tasks, jobs=self._jobs, abort=lambda: None)

    def _task(self, layer: Descriptor, diff_id: str, form: Format) -> Callable[[threading.Event], Descriptor]:
        def task(stop: threading.Event) -> Descriptor:
            assert self._codec is not None
            _, have = self._kind(layer)
            if have == self._codec or not self._content.has(layer.digest):
                return self._described(layer, form, have)
            known = self._layers.get((layer.digest, diff_id))
            if known is None:
                known = recompress(self._content, layer, have, diff_id, self._codec, self._progress, stop)
                self._layers[layer.digest, diff_id] = known
            rest = {key: text for key, text in layer.annotations.items() if not key.startswith(_OF_BYTES)}
            new = msgspec.structs.replace(layer, digest=known.digest, size=known.size, annotations=rest)
            return self._described(new, form, self._codec, of=layer)

        return task

    def _described(
        self, layer: Descriptor, form: Format, codec: Codec, of: Descriptor | None = None
    ) -> Descriptor:
        """The layer with the media type that the format has for it."""
        foreign = self._kind(of or layer)[0]
        media_type = formats.LAYER.get((form, foreign, codec))
        if media_type is None:
            raise UserError.of(
                "zstd-in-docker-format",
                f"layer {layer.digest} is compressed with zstd, which images of Docker's format cannot be",
                hint="add --dest-compress gzip, or take --format oci",
            )
        return msgspec.structs.replace(layer, media_type=media_type)

    def _kind(self, layer: Descriptor) -> tuple[bool, Codec]:
        kind = formats.LAYER_KINDS.get(layer.media_type)
        if kind is None:
            raise _not_convertible(f"its layer {layer.digest} is of the type {layer.media_type}")
        return kind

    def _diff_ids(self, document: image_manifest.Manifest) -> list[str]:
        rootfs = read_config(self._content, document).get("rootfs")
        found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
        if not isinstance(found, list) or not all(isinstance(one, str) and is_digest(one) for one in found):
            raise _not_convertible(f"its config {document.config.digest} has no list of diffIDs")
        if len(found) != len(document.layers):
            raise UserError.of(
                "layer-mismatch",
                f"config {document.config.digest} names {len(found)} layers, the manifest {len(document.layers)}",
            )
        return found

    # --- Fields --------------------------------------------------------------------------------

    def _retype(self, fields: dict[str, Any], media_type: str) -> bool:
        if fields.get("mediaType") == media_type:
            return False
        if not fields.get("mediaType"):
            # Beside the version, where other writers have it.
            rest = {key: value for key, value in fields.items() if key not in ("schemaVersion", "mediaType")}
            fields.clear()
            fields.update(schemaVersion=2, mediaType=media_type, **rest)
        fields["mediaType"] = media_type
        return True

    def _drop(self, form: Format, fields: dict[str, Any]) -> bool:
        """Take out what Docker's format does not have."""
        gone = [key for key in ("annotations", "artifactType", "subject") if key in fields]
        if form != "docker" or self._form is None or not gone:
            return False
        for key in gone:
            if fields.pop(key):
                self.lost.append(f"{key}, which Docker's format does not have")
        return True

    def _refuse_in_docker(self, form: Format | None, descriptor: Descriptor) -> None:
        if form == "docker" and self._form == "docker":
            raise _not_convertible(f"{descriptor.digest} is an artifact, which Docker's format does not have")


def recompress(
    content: ContentStore,
    layer: Descriptor,
    have: Codec,
    diff_id: str,
    codec: Codec,
    progress: BlobProgress | None = None,
    stop: threading.Event | None = None,
) -> Descriptor:
    """The layer's content in another compression, verified against its diffID; digest and size are
    those of the new blob.

    Raises `UserError` `layer-mismatch`, `corrupt-archive`, `archive-too-large`, `HostUnsupported`
    `missing-codec`, `Cancelled`.
    """
    hasher = hashlib.new(diff_id.partition(":")[0])
    length = 0
    with content.open(layer.digest) as blob, content.ingest() as ingest:
        encoder = compressor(profile_for(codec), ingest.write)
        with decompress(blob, have) as tar:
            while chunk := tar.read(_READ):
                length += len(chunk)
                if length > DEFAULT_LIMITS.max_bytes:
                    raise faults.too_large(f"a layer of more than {DEFAULT_LIMITS.max_bytes} bytes")
                if stop is not None and stop.is_set():
                    raise cancelled()
                hasher.update(chunk)
                encoder.write(chunk)
                if progress is not None:
                    progress(layer, min(blob.tell(), layer.size), layer.size)
        encoder.close()
        found = f"{hasher.name}:{hasher.hexdigest()}"
        if found != diff_id:
            raise UserError.of(
                "layer-mismatch",
                f"layer {layer.digest} has the diffID {found}, the image's config says {diff_id}",
                hint="the image is damaged or was altered; fetch it again",
            )
        digest = ingest.commit()
    return msgspec.structs.replace(layer, digest=digest, size=content.size(digest))


def _written(fields: dict[str, Any], indent: int) -> bytes:
    """A document as another writer has it: docker indents by three, most others not at all. So an image
    of theirs comes back as it was."""
    encoded = msgspec.json.encode(fields)
    return msgspec.json.format(encoded, indent=indent) if indent else encoded


def _replace(said: dict[str, Any], new: Descriptor) -> bool:
    """Write what changed of a descriptor into its document; whether anything did."""
    if said["digest"] != new.digest:
        for key in media.OF_CONTENT:
            said.pop(key, None)
    wanted: dict[str, Any] = {"mediaType": new.media_type, "digest": new.digest, "size": new.size}
    if new.annotations:
        wanted["annotations"] = new.annotations
    changed = any(said.get(key) != value for key, value in wanted.items())
    said.update(wanted)
    if not new.annotations and said.get("annotations"):
        del said["annotations"]
        changed = True
    return changed


def _not_convertible(why: str) -> ArkwrightError:
    return UserError.of(
        "not-convertible",
        f"the image cannot be converted: {why}",
        hint="copy it as it is, without --format and --dest-compress",
    )
