"""Layers become blobs in one pass: tar, its sha256, the compressor, the store (and its sha256)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from arkwright.layer.codec import compressor
from arkwright.layer.entry import Change, Entry
from arkwright.layer.profile import CONSTANT_NS, Profile, media_type
from arkwright.layer.tar_write import write_tar
from arkwright.oci.descriptor import Descriptor
from arkwright.store.content import ContentStore


def export_layer(
    changes: Iterable[Change],
    content: ContentStore,
    profile: Profile,
    *,
    mtime_ns: int | None = CONSTANT_NS,
    stamp: Callable[[Entry], int] | None = None,
) -> tuple[str, Descriptor]:
    """Write the changes as a layer blob; its diffID and descriptor. `mtime_ns` and `stamp` are those of `write_tar`.

    Raises what `diff`, `write_tar`, `compressor` and `ContentStore` raise.
    """
    uncompressed = hashlib.sha256()
    with content.ingest() as ingest:
        packed = compressor(profile, ingest.write)

        def sink(data: bytes) -> None:
            uncompressed.update(data)
            packed.write(data)

        write_tar(changes, sink, mtime_ns=mtime_ns, stamp=stamp)
        packed.close()
        size = ingest.offset
        digest = ingest.commit()
    descriptor = Descriptor(media_type=media_type(profile), digest=digest, size=size)
    return "sha256:" + uncompressed.hexdigest(), descriptor
