"""OCI image-layout directories (OCI image specification, image-layout.md): `oci-layout`,
`index.json`, `blobs/<algorithm>/<hex digits>`, on plain paths.

A layout from outside is not trusted: documents are size-limited, must be regular files, and blobs
are verified by whoever reads them (`Layout.read` does). Symbolic links of blobs are followed, as
some builders make layouts of links; a link to the wrong bytes fails the verification.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable

import msgspec

from arkwright.diagnostics.errors import ArkwrightError, UserError
from arkwright.diagnostics.wire import ready
from arkwright.oci import descriptor as media
from arkwright.oci.descriptor import REF_NAME, Descriptor
from arkwright.oci.digest import is_digest, parse_digest
from arkwright.oci.manifest import Index, encode, parse
from arkwright.oci.reference import Reference, parse_reference

DOCUMENT_LIMIT = 4 << 20  # bytes; the distribution specification's floor for manifests
_VERSION = "1.0.0"
_EMPTY_INDEX = Index(schema_version=2, media_type=media.INDEX, manifests=())
# What a layout in the making has.
_OWN = re.compile(r"blobs|index\.json|oci-layout|\.(?:index\.json|oci-layout)\.[0-9]+\.[0-9a-f]{12}")
_IMAGE_NAME = "io.containerd.image.name"
_DEPTH = 4


class _Marker(msgspec.Struct, rename="camel"):
    image_layout_version: str = ""


ready(_Marker)


class Layout:
    """An image layout at `path`."""

    def __init__(self, path: str) -> None:
        self.path = path

    @classmethod
    def open(cls, path: str) -> Layout:
        """Open an existing layout.

        Raises `UserError` `not-an-oci-layout`.
        """
        try:
            marker = msgspec.json.decode(_read_file(os.path.join(path, "oci-layout"), 4096), type=_Marker)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise _not_a_layout(path, _reason(error)) from error
        if marker.image_layout_version != _VERSION:
            raise _not_a_layout(path, f"its version is {marker.image_layout_version!r}, not {_VERSION!r}")
        layout = cls(path)
        layout.index()
        return layout

    @classmethod
    def create(cls, path: str) -> Layout:
        """Make a layout with an empty index, or open the one that is there.

        Raises `UserError` `not-an-oci-layout` when `path` holds something else.
        """
        if os.path.exists(os.path.join(path, "oci-layout")):
            return cls.open(path)
        try:
            os.makedirs(path, exist_ok=True)
            strangers = [name for name in os.listdir(path) if not _OWN.fullmatch(name)]
            if strangers:
                raise _not_a_layout(path, f"it holds other files, such as {min(strangers)!r}")
            os.makedirs(os.path.join(path, "blobs", "sha256"), exist_ok=True)
            layout = cls(path)
            # Another may make it at the same time, and be further than this.
            _write_file(path, "index.json", encode(_EMPTY_INDEX), keep=True)
            # The marker comes last: a directory with it is a whole layout.
            _write_file(path, "oci-layout", msgspec.json.encode({"imageLayoutVersion": _VERSION}))
        except OSError as error:
            raise _not_a_layout(path, _reason(error)) from error
        return layout

    def index(self) -> Index:
        """The layout's `index.json`.

        Raises `UserError` `not-an-oci-layout`, `invalid-manifest`.
        """
        try:
            data = _read_file(os.path.join(self.path, "index.json"), DOCUMENT_LIMIT)
        except OSError as error:
            raise _not_a_layout(self.path, _reason(error)) from error
        return _index(data)

    def write_index(self, index: Index) -> None:
        """Replace `index.json` atomically and durably. Raises `OSError`."""
        _write_file(self.path, "index.json", encode(index))

    def blob_path(self, digest: str) -> str:
        """Where the blob is, or would be. Raises `UserError` `invalid-digest`."""
        algorithm, encoded = parse_digest(digest)
        return os.path.join(self.path, "blobs", algorithm, encoded)

    def read(self, digest: str, *, limit: int = DOCUMENT_LIMIT) -> bytes:
        """A small blob, verified.

        Raises `UserError` `missing-blob`, `corrupt-blob`.
        """
        algorithm, encoded = parse_digest(digest)
        try:
            data = _read_file(self.blob_path(digest), limit)
        except OSError as error:
            raise UserError.of(
                "missing-blob", f"{self.path} has no readable blob {digest}: {_reason(error)}"
            ) from error
        found = hashlib.new(algorithm, data).hexdigest()
        if found != encoded:
            raise UserError.of(
                "corrupt-blob", f"blob {digest} in {self.path} has the content of {algorithm}:{found}"
            )
        return data

    def find(self, selector: str) -> Descriptor:
        """The manifest or index that `selector` names; see `find_entry`.

        Raises `UserError` `unknown-image`, `ambiguous-image`.
        """

        def nested(entry: Descriptor) -> Index | None:
            present = os.path.exists(self.blob_path(entry.digest))
            return _index(self.read(entry.digest)) if present else None

        return find_entry(self.index().manifests, selector, self.path, nested)


def find_entry(
    entries: tuple[Descriptor, ...],
    selector: str,
    where: str,
    nested: Callable[[Descriptor], Index | None],
) -> Descriptor:
    """The entry of a layout's index that `selector` names.

    `selector` is a tag or a full name (compared with `org.opencontainers.image.ref.name` and
    containerd's `io.containerd.image.name`), a digest (of an entry, or of a manifest within an
    entry that is an index, which `nested` reads), or "" when there is only one image. `where` is
    for messages.
    Raises `UserError` `unknown-image`, or `ambiguous-image` when several images fit equally well.
    """
    if not selector:
        return _only(entries, where)
    found = _by_digest(selector, entries, nested, _DEPTH) if is_digest(selector) else None
    found = found or next((one for one in entries if selector in _names(one)), None)
    found = found or next((one for one in entries if _reference(selector) in _references(one)), None)
    if found is not None:
        return found
    alike = {one.digest: one for one in entries if _same_image(selector, one)}
    if not alike:
        raise _unknown(f"{where} holds no image {selector!r}", entries)
    if len(alike) > 1:
        listed = ", ".join(sorted(name for one in alike.values() for name in _names(one)))
        raise UserError.of(
            "ambiguous-image",
            f"{where} holds several images that {selector!r} fits",
            hint=f"write one of {listed}",
        )
    return next(iter(alike.values()))


def _only(entries: tuple[Descriptor, ...], where: str) -> Descriptor:
    if len({entry.digest for entry in entries}) == 1:
        return entries[0]
    problem = "several images; name one of them" if entries else "no image"
    raise _unknown(f"{where} holds {problem}", entries)


def _by_digest(
    digest: str,
    entries: tuple[Descriptor, ...],
    nested: Callable[[Descriptor], Index | None],
    depth: int,
) -> Descriptor | None:
    for entry in entries:
        if entry.digest == digest:
            return entry
    for entry in entries if depth else ():
        inner = nested(entry) if entry.media_type in media.INDEXES else None
        found = _by_digest(digest, inner.manifests, nested, depth - 1) if inner else None
        if found is not None:
            return found
    return None


def _unknown(message: str, entries: tuple[Descriptor, ...]) -> ArkwrightError:
    names = sorted({name for entry in entries for name in _names(entry)} or {one.digest for one in entries})
    listed = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
    return UserError.of("unknown-image", message, hint=f"it has: {listed}" if names else None)


def _names(entry: Descriptor) -> set[str]:
    return {entry.annotations[key] for key in (REF_NAME, _IMAGE_NAME) if entry.annotations.get(key)}


def _references(entry: Descriptor) -> list[Reference]:
    """The full names of an entry."""
    found = (_reference(name) for name in _names(entry) if "/" in name or ":" in name)
    return [one for one in found if one is not None]


def _same_image(selector: str, entry: Descriptor) -> bool:
    """Whether a name of the entry and the selector are two spellings of one reference."""
    wanted = _reference(selector)
    if wanted is None:
        return False
    for name in _names(entry):
        is_full = "/" in name or ":" in name
        have = _reference(name) if is_full else None
        if have is not None and (have == wanted or ("/" not in selector and have.tag == selector)):
            return True
        # A bare tag in the layout cannot contradict the selector's repository.
        if not is_full and ("/" in selector or ":" in selector) and name == wanted.tag:
            return True
    return False


def _reference(text: str) -> Reference | None:
    try:
        return parse_reference(text)
    except UserError:
        return None


def _index(data: bytes) -> Index:
    document = parse(data)
    if not isinstance(document, Index):
        raise UserError.of("invalid-manifest", "not an image index: it has no `manifests`")
    return document


def _read_file(path: str, limit: int) -> bytes:
    # Without O_NONBLOCK a FIFO in the layout would block the open.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{os.path.basename(path)} is not a regular file")
        if found.st_size > limit:
            raise OSError(f"{os.path.basename(path)} is larger than {limit} bytes")
        return file.read(limit)


def _write_file(directory_path: str, name: str, data: bytes, *, keep: bool = False) -> None:
    """Whole and synced or not at all; with `keep`, what is there already stays."""
    temporary_path = os.path.join(directory_path, f".{name}.{os.getpid()}.{os.urandom(6).hex()}")
    try:
        with open(temporary_path, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        path = os.path.join(directory_path, name)
        if keep:
            _link_new(temporary_path, path)
        else:
            os.replace(temporary_path, path)
    except OSError:
        if os.path.lexists(temporary_path):
            os.unlink(temporary_path)
        raise
    directory_fd = os.open(directory_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory_fd)
    finally:
        os.close(directory_fd)


def _link_new(temporary_path: str, path: str) -> None:
    try:
        os.link(temporary_path, path)
    except FileExistsError:
        pass
    except OSError:
        # A file system without hard links.
        if not os.path.exists(path):
            os.replace(temporary_path, path)
            return
    os.unlink(temporary_path)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        if error.filename:
            return f"{os.path.basename(str(error.filename))}: {error.strerror}"
        return error.strerror or str(error)
    return str(error)


def _not_a_layout(path: str, why: str) -> ArkwrightError:
    return UserError.of(
        "not-an-oci-layout",
        f"{path} is not an OCI image layout: {why}",
        hint="a layout is a directory with the files oci-layout and index.json and a directory blobs",
    )
