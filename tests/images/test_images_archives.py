"""What the archive of an image holds first, and what writing a layout again mends."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from imaging import put_image

from arkwright.images.archives import write_layout, write_oci_archive
from arkwright.oci.layout import Layout
from arkwright.store.store import Store


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
