"""Runtime bundles: an image unpacked to `rootfs` and `config.json`, and packed again.

Beside them lie `umoci.json` and a manifest of the tree (`images.mtree`), in umoci's form, so that either
tool packs what the other one has unpacked. Nothing of a bundle is trusted: links in it are not
followed, and the base image is taken from the store by its digest.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import msgspec

from arkwright.diagnostics.errors import UserError
from arkwright.images import mtree, rootless
from arkwright.images.mtree import TreeReader
from arkwright.images.mtree_read import Manifest, read_mtree
from arkwright.images.runtime_config import IdMap, runtime_config
from arkwright.layer.apply import apply_entries
from arkwright.layer.codec import decompress
from arkwright.layer.entry import Change, Entry
from arkwright.layer.export import export_layer
from arkwright.layer.pending import Candidate, Pending
from arkwright.layer.profile import CONSTANT_NS, Profile
from arkwright.layer.rooted import Root
from arkwright.layer.tar_read import read_tar
from arkwright.layer.tree import Contents
from arkwright.oci import config as image_config
from arkwright.oci import manifest as image_manifest
from arkwright.oci.descriptor import Descriptor, layer_codec
from arkwright.oci.digest import is_digest
from arkwright.store.content import ContentStore
from arkwright.store.space import space_needed

STATE, CONFIG, ROOTFS = "umoci.json", "config.json", "rootfs"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DOCUMENT_LIMIT = 8 << 20  # bytes
_MANIFEST_LIMIT = 512 << 20  # bytes


class Owners(msgspec.Struct, frozen=True, kw_only=True):
    """Whose the files of a bundle are. `single`: all are this user's, and an attribute says the owner.
    `uids` and `gids` map (inside, outside, count) where a user namespace is between the image and the
    host; empty: none is. `inside`: this process is in that namespace."""

    single: bool = False
    uids: tuple[IdMap, ...] = ()
    gids: tuple[IdMap, ...] = ()
    inside: bool = False

    def shown(self, uid: int, gid: int) -> tuple[int, int]:
        """The host's ids for those that this process sees."""
        return (_mapped(uid, self.uids), _mapped(gid, self.gids)) if self.inside else (uid, gid)

    def in_image(self, entry: Entry) -> Entry:
        """An entry of the tree as the image has it."""
        if self.single:
            return rootless.recorded(entry)
        if self.inside or not self.uids:
            return entry
        uid, gid = _unmapped(entry.uid, self.uids), _unmapped(entry.gid, self.gids)
        return msgspec.structs.replace(entry, uid=uid, gid=gid)


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What `umoci.json` says: the manifest that was unpacked, and whose the files are."""

    base: Descriptor
    owners: Owners


class Repacked(msgspec.Struct, frozen=True, kw_only=True):
    """The image that a bundle gave, and how many paths its new layer has; 0: it is the base."""

    manifest: Descriptor
    paths: int


def unpack_bundle(
    content: ContentStore, image: Descriptor, path: str, owners: Owners, *, terminal: bool = False
) -> None:
    """Unpack the image of a manifest to the directory `path`, which exists and is empty.

    Raises `UserError` as `layer.apply`, `missing-blob`, `unknown-user`; `HostUnsupported` as `layer.apply`.
    """
    manifest = image_manifest.parse(content.read(image.digest, limit=_DOCUMENT_LIMIT))
    assert isinstance(manifest, image_manifest.Manifest)
    config = image_config.parse(content.read(manifest.config.digest, limit=_DOCUMENT_LIMIT))
    bundle_fd = os.open(path, _DIRECTORY)
    try:
        os.mkdir(ROOTFS, 0o755, dir_fd=bundle_fd)
        with _opened(bundle_fd) as root:
            os.utime(root.fd, ns=(CONSTANT_NS, CONSTANT_NS))
            for layer in manifest.layers:
                with content.open(layer.digest) as blob:
                    plain = decompress(blob, layer_codec(layer.media_type))
                    items: Any = read_tar(plain, require_end=False)
                    if owners.single:
                        items = rootless.owned_by(items, os.geteuid(), os.getegid())
                    apply_entries(items, root)
            document = runtime_config(
                config, root, rootless=owners.single or bool(owners.uids), single=owners.single,
                uids=_known(owners.uids, os.geteuid()), gids=_known(owners.gids, os.getegid()), terminal=terminal,
            )  # fmt: skip
            _write_json(bundle_fd, CONFIG, document)
            write_state(bundle_fd, root, image, owners)
    finally:
        os.close(bundle_fd)


def write_state(bundle_fd: int, root: Root, image: Descriptor, owners: Owners) -> None:
    """The manifest of the tree as it is, and what the bundle was made of."""
    name = _manifest_name(image.digest)
    with _replacing(bundle_fd, name) as file, TreeReader(root, owners.shown) as reader:
        mtree.write_mtree(reader, lambda text: file.write(text.encode()))
    maps = {
        f"{kind}_mappings": [_range(one) for one in _known(found, own)] or None
        if owners.single or found
        else None
        for kind, found, own in (("uid", owners.uids, os.geteuid()), ("gid", owners.gids, os.getegid()))
    }
    plain = {"mediaType": image.media_type, "digest": image.digest, "size": image.size}
    document = {
        "umoci_version": "2",
        "from_descriptor_path": {"descriptor_walk": [plain]},
        "map_options": {**maps, "rootless": owners.single},
        "whiteout_mode": 0,
    }
    _write_json(bundle_fd, STATE, document)


def read_state(bundle_fd: int) -> State:
    """Raises `UserError` `not-a-bundle`."""
    data = _read(bundle_fd, STATE, _DOCUMENT_LIMIT)
    try:
        document = msgspec.json.decode(data)
        if document["umoci_version"] != "2":
            raise _no_bundle(f"{STATE} has version {document['umoci_version']!r}, not 2")
        base = msgspec.convert(document["from_descriptor_path"]["descriptor_walk"][-1], Descriptor)
        maps = document["map_options"]
        uids, gids = (_ranges(maps.get(f"{kind}_mappings")) for kind in ("uid", "gid"))
        single = bool(maps.get("rootless"))
    except (
        msgspec.MsgspecError,
        UnicodeDecodeError,
        RecursionError,
        KeyError,
        IndexError,
        TypeError,
    ) as error:
        raise _no_bundle(f"{STATE} cannot be read: {error!r}") from error
    if not is_digest(base.digest):
        raise _no_bundle(f"{STATE} names no image")
    return State(base=base, owners=Owners(single=single, uids=uids, gids=gids))


def repack_bundle(
    content: ContentStore, bundle_fd: int, state: State, profile: Profile, scratch_path: str, *,
    history: dict[str, Any], refresh: bool = False,
) -> Repacked:  # fmt: skip
    """The image with a layer more that holds what has changed in the bundle since it was unpacked.

    The base must be in the store. Raises `UserError` `not-a-bundle`, `invalid-mtree`, `missing-blob`.
    """
    count = 0

    def counted(changes: Iterator[Change]) -> Iterator[Change]:
        nonlocal count
        for change in changes:
            count += 1
            yield change

    with (
        _file(bundle_fd, _manifest_name(state.base.digest), _MANIFEST_LIMIT) as file,
        space_needed(scratch_path, "the manifest of the bundle"),
        read_mtree(file, scratch_path) as expected,
        _opened(bundle_fd) as root,
    ):
        diff_id, layer = export_layer(
            counted(changes(root, expected, state.owners)), content, profile, mtime_ns=CONSTANT_NS
        )
        if not count:
            return Repacked(manifest=state.base, paths=0)
        image = _appended(content, state.base, layer, diff_id, history)
        if refresh:
            write_state(bundle_fd, root, image, state.owners)
    return Repacked(manifest=image, paths=count)


def changes(root: Root, expected: Manifest, owners: Owners) -> Iterator[Change]:
    """What a layer must say so that the tree of the manifest becomes that of `root`: the changed paths
    with their parents and the other names of their files, and whiteouts."""
    contents, pending = Contents(root), Pending()
    try:
        with TreeReader(root, owners.shown) as reader:
            for candidate in _candidates(reader, expected):
                pending.add(candidate)
                for entry in pending.ready():
                    yield _change(entry, contents, owners)
            pending.finish()
            for entry in pending.ready():
                yield _change(entry, contents, owners)
    finally:
        contents.close()


def _candidates(reader: TreeReader, expected: Manifest) -> Iterator[Candidate]:
    """Both trees side by side; of what is gone only its top."""
    directories: list[str] = []
    for path, found, keywords in mtree.side_by_side(reader, expected):
        while directories and not path.startswith(directories[-1]):
            directories.pop()
        if found is None:
            parent, slash, _ = path.rpartition("/")
            if path and directories and directories[-1] == parent + slash:
                yield Candidate(Entry(path=path, type="whiteout"), None, changed=True)
            continue
        if found[0].type == "dir":
            directories.append(f"{path}/" if path else "")
        told = None if keywords is None else mtree.compare(keywords, reader, *found, xattrs=expected.xattrs)
        # The time of the root says nothing.
        same = told is not None and not told.keys() - ({"tar_time", "time"} if path == "" else set())
        yield Candidate(*found, changed=not same)


def _change(entry: Entry, contents: Contents, owners: Owners) -> Change:
    found = entry if entry.type in ("whiteout", "hardlink") else owners.in_image(entry)
    return Change(found, lambda: contents.open(entry.path)) if entry.type == "file" else Change(found)


def _appended(
    content: ContentStore, base: Descriptor, layer: Descriptor, diff_id: str, history: dict[str, Any]
) -> Descriptor:
    """The image with a layer more; fields that we do not know stay."""
    manifest = msgspec.json.decode(content.read(base.digest, limit=_DOCUMENT_LIMIT))
    config = msgspec.json.decode(content.read(manifest["config"]["digest"], limit=_DOCUMENT_LIMIT))
    config.setdefault("rootfs", {"type": "layers"}).setdefault("diff_ids", []).append(diff_id)
    config["history"] = [*(config.get("history") or []), history]
    config["created"] = history["created"]
    data = msgspec.json.encode(config, order="sorted")
    manifest["config"] = {**manifest["config"], "digest": content.write(data), "size": len(data)}
    manifest["layers"] = [
        *manifest["layers"], {"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size}
    ]  # fmt: skip
    data = msgspec.json.encode(manifest, order="sorted")
    return Descriptor(media_type=base.media_type, digest=content.write(data), size=len(data))


@contextmanager
def _opened(bundle_fd: int) -> Iterator[Root]:
    """The bundle's tree, which must be a directory and no link. Raises `UserError` `not-a-bundle`."""
    try:
        root_fd = os.open(ROOTFS, _DIRECTORY, dir_fd=bundle_fd)
    except OSError as error:
        raise _no_bundle(f"{ROOTFS} is no directory of it: {error.strerror}") from error
    try:
        with Root(f"/proc/self/fd/{root_fd}") as root:
            yield root
    finally:
        os.close(root_fd)


def _read(bundle_fd: int, name: str, limit: int) -> bytes:
    with _file(bundle_fd, name, limit) as file:
        return file.read(limit)


def _file(bundle_fd: int, name: str, limit: int) -> BinaryIO:
    """A regular file of the bundle. Raises `UserError` `not-a-bundle`."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=bundle_fd)
    except OSError as error:
        raise _no_bundle(f"it has no readable {name}: {error.strerror}") from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
        os.close(fd)
        raise _no_bundle(f"its {name} is no file of a bearable size")
    return os.fdopen(fd, "rb")


def _write_json(bundle_fd: int, name: str, document: Any) -> None:
    with _replacing(bundle_fd, name) as file:
        file.write(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")


@contextmanager
def _replacing(bundle_fd: int, name: str) -> Iterator[BinaryIO]:
    """A file that takes its place when it is whole; whatever had the name before is not written to."""
    partial = f".{name}.{os.getpid()}.partial"
    fd = os.open(
        partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=bundle_fd
    )
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
        os.rename(partial, name, src_dir_fd=bundle_fd, dst_dir_fd=bundle_fd)
    except BaseException:
        os.unlink(partial, dir_fd=bundle_fd)
        raise


def _manifest_name(digest: str) -> str:
    return f"{digest.replace(':', '_')}.mtree"


def _known(maps: Sequence[IdMap], own: int) -> tuple[IdMap, ...]:
    return tuple(maps) or ((0, own, 1),)


def _range(one: IdMap) -> dict[str, int]:
    return {"containerID": one[0], "hostID": one[1], "size": one[2]}


def _ranges(found: Any) -> tuple[IdMap, ...]:
    return tuple((int(one["containerID"]), int(one["hostID"]), int(one["size"])) for one in found or ())


def _mapped(number: int, maps: Sequence[IdMap]) -> int:
    return next(
        (out + number - inside for inside, out, count in maps if inside <= number < inside + count), number
    )


def _unmapped(number: int, maps: Sequence[IdMap]) -> int:
    return next((inside + number - out for inside, out, count in maps if out <= number < out + count), number)


def _no_bundle(why: str) -> UserError:
    error = UserError.of(
        "not-a-bundle", f"the directory is no bundle: {why}", hint="arkwright unpack IMAGE DIR makes one"
    )
    assert isinstance(error, UserError)
    return error
