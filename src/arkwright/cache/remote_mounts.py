"""Cache mounts that travel with a remote cache: `mounts=` of `--cache-to` and `--cache-from`.

A mount's content is a canonical tar under a key made of its id; the newest one counts.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO, cast

from arkwright.cache.imports import Imports
from arkwright.cache.mounts import export_mount, mount_name
from arkwright.cache.remote import CacheStore, PortableMount, decode_mount, encode, mount_key
from arkwright.diagnostics.errors import ArkwrightError, UserError
from arkwright.layer.apply import apply
from arkwright.layer.codec import compressor, decompress
from arkwright.layer.profile import Profile, media_type
from arkwright.layer.rooted import Root
from arkwright.oci.descriptor import Descriptor, layer_codec
from arkwright.store.store import Store


def publish_mount(store: Store, cache_id: str, remote: CacheStore, profile: Profile) -> None:
    """Publish what a mount holds; nothing is sent when the remote has the same, or there is no mount.

    Raises `UserError` `cache-mount-in-use` when a step with `sharing=locked` has it now.
    """
    with _unlocked(store, cache_id) as present:
        if not present:
            return
        blob = _pack(store, cache_id, profile)
    key = mount_key(cache_id)
    data = encode(PortableMount(key=key, blob=blob))
    if remote.get_record(key) == data:
        return
    remote.put_blob(blob, partial(store.content.open, blob.digest))
    remote.put_record(key, data, [blob])


def fill_mount(store: Store, imports: Imports, cache_id: str, tree_path: str) -> bool:
    """Make the directory `tree_path` from what a remote has of a mount; whether one had it.

    All or nothing; the caller sees to it that nobody else makes it. Raises what a full disk raises.
    """
    for spec, remote in imports.stores():
        if not spec.wants_mount(cache_id):
            continue
        try:
            data = remote.get_record(mount_key(cache_id))
            if data is None:
                continue
            blob = decode_mount(data, mount_key(cache_id)).blob
            remote.fetch_blob(blob, store.content, lambda done, total: None)
            _unpack(store, blob, tree_path)
        except ArkwrightError as error:
            imports.report(spec.name, error)
            continue
        return True
    return False


def _pack(store: Store, cache_id: str, profile: Profile) -> Descriptor:
    with store.content.ingest() as ingest:
        target = compressor(profile, ingest.write)
        export_mount(store, cache_id, cast(BinaryIO, target))
        target.close()
        size, digest = ingest.offset, ingest.commit()
    return Descriptor(media_type=media_type(profile), digest=digest, size=size)


def _unpack(store: Store, blob: Descriptor, tree_path: str) -> None:
    claim = store.claim_work()
    try:
        made_path = os.path.join(claim.path, "tree")
        os.mkdir(made_path, 0o755)
        os.chmod(made_path, 0o755)
        with (
            store.content.open(blob.digest) as packed,
            decompress(packed, layer_codec(blob.media_type)) as tar,
        ):
            with Root(made_path) as root:
                apply(tar, root, require_end=True)
        os.rename(made_path, tree_path)
    finally:
        store.trash(claim.path)
        claim.close()


@contextmanager
def _unlocked(store: Store, cache_id: str) -> Iterator[bool]:
    """Hold the lock of `sharing=locked`, so that such a step of another build waits; whether there
    is such a mount at all."""
    directory_path = os.path.join(store.root_path, "cache-mounts", mount_name(cache_id))
    if not os.path.isdir(directory_path):
        yield False
        return
    lock_fd = os.open(os.path.join(directory_path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"the cache mount {cache_id} is in use by another build"
            raise UserError.of("cache-mount-in-use", message) from error
        yield True
    finally:
        os.close(lock_fd)
