"""Images for the tests of `images`: made by hand in a store, and archives made by hand."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest

from arkwright.diagnostics.errors import ArkwrightError
from arkwright.oci import config as image_config
from arkwright.oci import manifest as image_manifest
from arkwright.oci.config import Execution, ImageConfig, RootFS
from arkwright.oci.descriptor import CONFIG, INDEX, LAYER_GZIP, MANIFEST, Descriptor
from arkwright.oci.digest import sha256
from arkwright.oci.manifest import Index, Manifest
from arkwright.oci.platform import Platform
from arkwright.store.store import Store

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64", "v8")
S390X = Platform("linux", "s390x")

Member = bytes | tarfile.TarInfo


@contextmanager
def refused(code: str, *words: str) -> Iterator[None]:
    """The body fails with this code, and the message, its notes and its hint hold the words."""
    with pytest.raises(ArkwrightError) as caught:
        yield
    assert caught.value.code == code, caught.value
    said = " ".join(f"{one.message} {one.hint} {one.notes}" for one in caught.value.diagnostics)
    assert [word for word in words if word not in said] == [], said


def tar_of(members: Mapping[str, Member] | Iterable[tuple[str, Member]]) -> bytes:
    """An archive by another hand: names and the bytes of files, or headers for other things."""
    pairs = members.items() if isinstance(members, Mapping) else members
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in pairs:
            header = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            header.name = name
            if isinstance(data, bytes):
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
            else:
                tar.addfile(header)
    return stream.getvalue()


def link_to(target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    """A header of a link."""
    header = tarfile.TarInfo()
    header.type = kind
    header.linkname = target
    return header


def members_of(archive: bytes) -> dict[str, bytes]:
    """The regular files of an archive."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        found = {}
        for header in tar:
            file = tar.extractfile(header)
            if file is not None:
                found[header.name] = file.read()
    return found


def config_of(diff_ids: Sequence[str], platform: Platform = AMD64, label: str = "") -> bytes:
    return image_config.encode(
        ImageConfig(
            created="2000-01-01T00:00:00Z",
            architecture=platform.architecture,
            variant=platform.variant,
            os=platform.os,
            config=Execution(cmd=("sh",), labels={"label": label} if label else {}),
            rootfs=RootFS(diff_ids=tuple(diff_ids)),
        )
    )


def put_blob(store: Store, data: bytes, media_type: str) -> Descriptor:
    return Descriptor(media_type=media_type, digest=store.content.write(data), size=len(data))


def put_image(
    store: Store,
    *names: str,
    files: Mapping[str, bytes] | None = None,
    platform: Platform = AMD64,
    label: str = "",
    annotations: Mapping[str, str] | None = None,
) -> Descriptor:
    """An image with one layer under full names."""
    tar = tar_of({"hello": b"hello"} if files is None else files)
    config = put_blob(store, config_of([sha256(tar)], platform, label), CONFIG)
    layer = put_blob(store, gzip.compress(tar, mtime=0), LAYER_GZIP)
    manifest = Manifest(
        schema_version=2,
        media_type=MANIFEST,
        config=config,
        layers=(layer,),
        annotations=dict(annotations or {}),
    )
    descriptor = put_blob(store, image_manifest.encode(manifest), MANIFEST)
    for name in names:
        store.names.set(name, descriptor)
    return descriptor


def put_index(store: Store, children: Sequence[Descriptor], *names: str) -> Descriptor:
    index = Index(schema_version=2, media_type=INDEX, manifests=tuple(children))
    descriptor = put_blob(store, image_manifest.encode(index), INDEX)
    for name in names:
        store.names.set(name, descriptor)
    return descriptor


def manifest_of(store: Store, descriptor: Descriptor) -> Manifest:
    document = image_manifest.parse(store.content.read(descriptor.digest))
    assert isinstance(document, Manifest)
    return document


def other_bytes(data: bytes) -> bytes:
    """As long, but not the same."""
    return bytes([data[0] ^ 0xFF]) + data[1:]
