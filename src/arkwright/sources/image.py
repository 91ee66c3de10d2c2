"""Images as sources: by name from the local store, from registries, and from OCI layouts.

Pinning fetches the documents (index, manifest, config) and no layer; each layer knows the places
that have it, and is fetched when a step or an export needs it.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, RemoteError, UserError
from arkwright.diagnostics.suggest import nearest
from arkwright.graph.ops import SourceOp
from arkwright.oci import config as image_config
from arkwright.oci import descriptor as media
from arkwright.oci import manifest as image_manifest
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.digest import is_digest
from arkwright.oci.manifest import Manifest
from arkwright.oci.platform import Platform
from arkwright.oci.reference import Reference, is_short, parse_reference
from arkwright.oci.selection import Read, select
from arkwright.sources.base import PinnedImage, Progress
from arkwright.sources.pinning import attributes, pin_key
from arkwright.store.store import Store

if TYPE_CHECKING:
    from arkwright.oci.layout import Layout
    from arkwright.registry.access import Access

# What names stood for at a registry when they were last asked, and the places that have a blob.
RESOLVED, ORIGINS = "resolved", "origins"
NAMED, LAYOUT = "docker-image://", "oci-layout://"
DOCUMENT_LIMIT = 8 << 20  # bytes
_MODES = ("default", "pull", "never")
_ORIGINS_KEPT = 8
_COPY = 1 << 20


class StoreImageSource:
    """An `ImageSource` over a store. Thread-safe.

    `tls_verify` None leaves TLS to the registries' configuration; `access` replaces our own way to
    registries.
    """

    def __init__(self, store: Store, *, tls_verify: bool | None = None, access: Access | None = None) -> None:
        self._store = store
        self._content = store.content
        self._tls_verify = tls_verify
        self._shared = access
        self._own: Access | None = None
        # Whether a place other than the image's own may be asked for a layer.
        self.may_ask: Callable[[str], bool] = lambda origin: True
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connections to registries, if there were any."""
        with self._lock:
            own, self._own = self._own, None
        if own is not None:
            own.close()

    def pin(self, op: SourceOp, platform: Platform) -> PinnedImage:
        """Resolve to the manifest of one platform.

        `resolve-mode` `default` takes what the store knows before it asks a registry, `pull` asks
        in any case, `never` does not ask. Raises `UserError` `unknown-image`,
        `no-matching-platform`, `invalid-reference`, `invalid-manifest`, `invalid-image-config`,
        `not-an-oci-layout`, `missing-blob`; `Denied` `registry-blocked`; `RemoteError`.
        """
        if op.identifier.startswith(LAYOUT):
            attributes(op, frozenset())
            return self._pin_layout(op, platform)
        if not op.identifier.startswith(NAMED):
            raise UserError.of("unknown-source", f"{op.identifier} names no image")
        mode = attributes(op, frozenset({"resolve-mode"})).get("resolve-mode", "default")
        if mode not in _MODES:
            raise UserError.of(
                "invalid-source-attribute", f"resolve-mode={mode} is none of {', '.join(_MODES)}"
            )
        return self._pin_named(op, op.identifier.removeprefix(NAMED), mode, platform)

    def fetch(self, image: PinnedImage, layer: Descriptor, progress: Progress | None = None) -> None:
        """Make a layer's blob present and verified, from the image's origin or another known one.

        Raises `UserError` `missing-blob`, `corrupt-blob`, `no-space`; `RemoteError`.
        """
        if self._content.has(layer.digest):
            if progress is not None:
                progress(layer.size, layer.size)
            return
        known = [image.origin] if image.origin else []
        failure: ArkwrightError | None = None
        for origin in dict.fromkeys([*known, *self._origins(layer.digest)]):
            if origin not in known and not self.may_ask(origin):
                continue
            try:
                self._fetch_from(origin, layer, progress)
                return
            except (UserError, RemoteError) as error:
                # The first failure is that of the place which the user named.
                failure = failure or error
        if failure is not None:
            raise failure
        raise UserError.of(
            "missing-blob",
            f"layer {layer.digest} of {image.reference} is not in the store, and nothing says where it is",
            hint=f"arkwright pull {image.reference}",
        )

    def _pin_named(self, op: SourceOp, name: str, mode: str, platform: Platform) -> PinnedImage:
        if is_digest(name):
            if not self._content.has(name):
                raise self._unknown(name)
            return self._finish(op, name, self._describe(name), platform, self._read, origin="")
        reference = parse_reference(name)
        root = None if mode == "pull" else self._local(reference)
        if root is not None:
            try:
                return self._finish(
                    op, str(reference), root, platform, self._read, origin=f"{NAMED}{reference}"
                )
            except UserError as error:
                # An index that was pulled for another platform lacks the manifest of this one.
                if error.code != "missing-blob" or mode == "never":
                    raise
        elif mode == "never":
            raise self._unknown(name)
        return self._pin_remote(op, name, reference, platform)

    def _pin_remote(self, op: SourceOp, name: str, reference: Reference, platform: Platform) -> PinnedImage:
        from arkwright.registry.pull import resolve_image

        access = self._access()
        wanted = access.config.qualify(name) if is_short(name) else reference
        try:
            resolved = resolve_image(wanted, self._content, platform, access)
        except RemoteError as error:
            raise self._explained(name, error) from error
        self._store.metadata.put(RESOLVED, str(reference), msgspec.json.encode(resolved.root))
        pinned = self._finish(
            op, str(wanted), resolved.root, platform, self._read, origin=f"{NAMED}{wanted}",
            chosen=(resolved.manifest, resolved.document),
        )  # fmt: skip
        self._remember(pinned)
        return pinned

    def _pin_layout(self, op: SourceOp, platform: Platform) -> PinnedImage:
        from arkwright.oci.layout import Layout

        path, selector = split_layout(op.identifier.removeprefix(LAYOUT))
        layout = Layout.open(path)
        root = layout.find(selector)

        def read(descriptor: Descriptor) -> bytes:
            data = layout.read(descriptor.digest, limit=DOCUMENT_LIMIT)
            self._keep(descriptor, data)
            return data

        shown = f"{LAYOUT}{root.digest}"
        pinned = self._finish(op, shown, root, platform, read, origin=f"{LAYOUT}{os.path.abspath(path)}")
        self._remember(pinned)
        return pinned

    def _finish(
        self,
        op: SourceOp,
        reference: str,
        root: Descriptor,
        platform: Platform,
        read: Read,
        *,
        origin: str,
        chosen: tuple[Descriptor, Manifest] | None = None,
    ) -> PinnedImage:
        descriptor, manifest = chosen or select(
            root, image_manifest.parse(read(root), root.media_type), platform, read, reference
        )
        config = read(manifest.config)
        parsed = image_config.parse(config)
        if parsed.architecture and (parsed.os, parsed.architecture) != (platform.os, platform.architecture):
            # Steps would fail later, or the image would be labelled with what it is not.
            raise UserError.of(
                "no-matching-platform",
                f"{reference} has no image for {platform}",
                hint=f"it is for {parsed.os}/{parsed.architecture}: to use it all the same, "
                f"write FROM --platform={parsed.os}/{parsed.architecture}",
            )
        diff_ids = parsed.rootfs.diff_ids
        if len(diff_ids) != len(manifest.layers):
            raise UserError.of(
                "invalid-image-config",
                f"{reference} has {len(manifest.layers)} layers, and its config names {len(diff_ids)}",
            )
        return PinnedImage(
            op=op,
            key=pin_key("image", manifest=descriptor.digest),
            uri=reference if reference.startswith(LAYOUT) else f"{NAMED}{reference}",
            digest=root.digest,
            reference=reference,
            manifest=descriptor,
            config=config,
            layers=manifest.layers,
            diff_ids=diff_ids,
            origin=origin,
        )

    def _local(self, reference: Reference) -> Descriptor | None:
        """What the store knows of a name: its image of this name, else what a registry said."""
        if reference.digest:
            return self._describe(reference.digest) if self._content.has(reference.digest) else None
        named = self._store.names.get(str(reference))
        if named is not None:
            return named
        data = self._store.metadata.get(RESOLVED, str(reference))
        if data is None:
            return None
        root = msgspec.json.decode(data, type=Descriptor)
        return root if self._content.has(root.digest) else None

    def _describe(self, digest: str) -> Descriptor:
        data = self._content.read(digest, limit=DOCUMENT_LIMIT)
        document = image_manifest.parse(data)
        plain = media.MANIFEST if isinstance(document, Manifest) else media.INDEX
        return Descriptor(media_type=document.media_type or plain, digest=digest, size=len(data))

    def _read(self, descriptor: Descriptor) -> bytes:
        return self._content.read(descriptor.digest, limit=DOCUMENT_LIMIT)

    def _keep(self, descriptor: Descriptor, data: bytes) -> None:
        if not self._content.has(descriptor.digest):
            with self._content.ingest(expected=descriptor.digest, size=len(data)) as ingest:
                ingest.write(data)
                ingest.commit()

    def _remember(self, image: PinnedImage) -> None:
        rows = []
        for layer in image.layers:
            known = self._origins(layer.digest)
            if image.origin not in known and not self._content.has(layer.digest):
                newest_first = [image.origin, *known][:_ORIGINS_KEPT]
                rows.append((layer.digest, msgspec.json.encode(newest_first)))
        self._store.metadata.put_many(ORIGINS, rows)

    def _origins(self, digest: str) -> list[str]:
        data = self._store.metadata.get(ORIGINS, digest)
        return [] if data is None else msgspec.json.decode(data, type=list[str])

    def _fetch_from(self, origin: str, layer: Descriptor, progress: Progress | None) -> None:
        if origin.startswith(LAYOUT):
            from arkwright.oci.layout import Layout

            self._copy(Layout.open(origin.removeprefix(LAYOUT)), layer, progress)
            return
        from arkwright.registry.client import open_registries
        from arkwright.registry.pull import fetch_blob

        registries = open_registries(self._access(), parse_reference(origin.removeprefix(NAMED)))
        fetch_blob(registries, layer, self._content, progress)

    def _copy(self, layout: Layout, layer: Descriptor, progress: Progress | None) -> None:
        source = _open_regular(layout, layer.digest)
        with source, self._content.ingest(expected=layer.digest, size=layer.size) as ingest:
            while chunk := source.read(_COPY):
                ingest.write(chunk)
                if progress is not None:
                    progress(ingest.offset, layer.size)
            ingest.commit()

    def _access(self) -> Access:
        from arkwright.registry.access import Access

        if self._shared is not None:
            return self._shared
        with self._lock:
            if self._own is None:
                self._own = Access(tls_verify=self._tls_verify)
            return self._own

    def _unknown(self, name: str) -> UserError:
        error = UserError.of(
            "unknown-image", f"there is no image {name} in the store", hint=self._advice(name)
        )
        assert isinstance(error, UserError)
        return error

    def _explained(self, name: str, error: RemoteError) -> ArkwrightError:
        """What the user can do about an image that no registry gave."""
        if error.details.get("status") == 404:
            return UserError.of(
                "unknown-image",
                f"there is no image {name}, neither in the store nor at its registry",
                notes=(error.diagnostics[0].message,),
                hint=self._advice(name),
            )
        first = error.diagnostics[0]
        if first.hint:
            notes = (*first.notes, f"the store has no image {name}; {self._advice(name)}")
            advised = msgspec.structs.replace(first, notes=notes)
        else:
            advised = msgspec.structs.replace(first, hint=self._advice(name))
        return RemoteError(advised, *error.diagnostics[1:], details=error.details)

    def _advice(self, name: str) -> str:
        local = [parse_reference(full).familiar() for full, _ in self._store.names.list()]
        near = nearest(name, local)
        if near is None and is_short(name):
            near = next((one for one in local if one.partition(":")[0] == name.partition(":")[0]), None)
        suggestion = f"did you mean {near}? Else: " if near and near != name else ""
        if is_digest(name):
            return suggestion + "arkwright images lists what the store has"
        return (
            f"{suggestion}arkwright bootstrap {name} makes a base image, arkwright pull {name} asks its "
            f"registry, and --build-context {name}=oci-layout:///PATH gives one from a directory"
        )


def _open_regular(layout: Layout, digest: str) -> BinaryIO:
    """A blob of a layout, which may be a link, but nothing that blocks."""
    path = layout.blob_path(digest)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return os.fdopen(fd, "rb")
        os.close(fd)
        why = "it is no regular file"
    except OSError as error:
        why = error.strerror or str(error)
    raise UserError.of("missing-blob", f"{layout.path} has no readable blob {digest}: {why}")


def split_layout(text: str) -> tuple[str, str]:
    """A layout's directory, and the tag or digest behind it (`/DIR[:TAG][@DIGEST]`)."""
    path, _, digest = text.partition("@")
    if digest and is_digest(digest):
        text = path
    else:
        digest = ""
    if os.path.isdir(text):
        return text, digest
    head, separator, tag = text.rpartition(":")
    if separator and "/" not in tag:
        return head, digest or tag
    return text, digest
