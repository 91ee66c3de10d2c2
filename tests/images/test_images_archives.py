"""Archives and layouts as other tools see them, and what `save` mends; see also the tests of `save`."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from imaging import put_image

from arkwright.images.archives import Format, save, write_layout, write_oci_archive
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.layout import Layout
from arkwright.store.store import Store

BUSYBOX = "docker.io/library/busybox:latest"


def test_documents_stand_first_and_nothing_tells_the_time(store: Store) -> None:
    data = bytearray()
    write_oci_archive(store.content, [(put_image(store), ())], data.extend)
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as tar:
        names = tar.getnames()
        assert {(member.mtime, member.uid, member.uname) for member in tar} == {(946684800, 0, "")}
    assert names[:4] == ["oci-layout", "index.json", "blobs", "blobs/sha256"]


def test_a_cut_blob_of_a_layout_is_written_again(store: Store, tmp_path: Path) -> None:
    path = str(tmp_path / "layout")
    image = put_image(store)
    write_layout(store.content, [(image, ())], path)
    blob_path = Path(Layout.open(path).blob_path(image.digest))
    blob_path.write_bytes(blob_path.read_bytes()[:-1])
    write_layout(store.content, [(image, ())], path)
    assert Layout.open(path).read(image.digest) == store.content.read(image.digest)


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
def test_skopeo_reads_what_is_saved(
    store: Store, busybox: Descriptor, skopeo: Callable[..., str], tmp_path: Path, form: Format
) -> None:
    path = tmp_path / "saved.tar"
    save(store.content, [(busybox, (BUSYBOX,))], str(path), form)
    skopeo("copy", f"{form}:{path}", f"oci:{tmp_path}/copy:saved")
    copy = Layout.open(str(tmp_path / "copy"))
    config, saved = (
        json.loads(read(json.loads(read(digest))["config"]["digest"]))
        for read, digest in ((copy.read, copy.find("saved").digest), (store.content.read, busybox.digest))
    )
    assert (config["rootfs"], config["config"]) == (saved["rootfs"], saved["config"])
    if form == "oci-archive":
        assert copy.find("saved").digest == busybox.digest
