from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from arkwright.diagnostics.errors import UserError
from arkwright.oci import descriptor as media
from arkwright.oci.descriptor import REF_NAME, Descriptor
from arkwright.oci.layout import DOCUMENT_LIMIT, Layout
from arkwright.oci.manifest import Index, encode


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.create(str(tmp_path / "layout"))


def put(layout: Layout, data: bytes) -> str:
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    Path(layout.blob_path(digest)).write_bytes(data)
    return digest


def entry(layout: Layout, text: str, name: str = "", key: str = REF_NAME) -> Descriptor:
    data = text.encode()
    return Descriptor(
        media_type=media.MANIFEST,
        digest=put(layout, data),
        size=len(data),
        annotations={key: name} if name else {},
    )


def fill(layout: Layout, *entries: Descriptor) -> None:
    layout.write_index(Index(schema_version=2, media_type=media.INDEX, manifests=entries))


def code(call: object, *args: object) -> str:
    with pytest.raises(UserError) as caught:
        call(*args)  # type: ignore[operator]
    assert caught.value.exit_code == 1
    return caught.value.code


def test_a_new_layout_is_empty_and_opens_again(layout: Layout) -> None:
    assert sorted(os.listdir(layout.path)) == ["blobs", "index.json", "oci-layout"]
    assert Layout.open(layout.path).index().manifests == ()
    fill(layout, entry(layout, "a", "v1"))
    assert len(Layout.create(layout.path).index().manifests) == 1
    assert not [name for name in os.listdir(layout.path) if name.startswith(".")]


def test_what_is_no_layout(tmp_path: Path) -> None:
    assert code(Layout.open, str(tmp_path)) == "not-an-oci-layout"
    assert code(Layout.open, str(tmp_path / "none")) == "not-an-oci-layout"
    (tmp_path / "file").touch()
    assert code(Layout.open, str(tmp_path / "file")) == "not-an-oci-layout"
    assert code(Layout.create, str(tmp_path / "file")) == "not-an-oci-layout"
    assert code(Layout.create, str(tmp_path)) == "not-an-oci-layout"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "marker",
    [b"", b"{}", b"[]", b'{"imageLayoutVersion":"2.0.0"}', b"\xff", b" " * 5000, b'{"imageLayoutVersion":7}'],
)
def test_bad_markers(layout: Layout, marker: bytes) -> None:
    Path(layout.path, "oci-layout").write_bytes(marker)
    assert code(Layout.open, layout.path) == "not-an-oci-layout"


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (None, "not-an-oci-layout"),
        (b"{", "invalid-manifest"),
        (b'{"schemaVersion":1,"manifests":[]}', "invalid-manifest"),
        (b" " * (DOCUMENT_LIMIT + 1), "not-an-oci-layout"),
        (
            b'{"schemaVersion":2,"manifests":[{"mediaType":"a","digest":"sha256:../..","size":1}]}',
            "invalid-manifest",
        ),
    ],
)
def test_bad_indexes(layout: Layout, data: bytes | None, wanted: str) -> None:
    path = Path(layout.path, "index.json")
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    assert code(Layout.open, layout.path) == wanted


def test_a_fifo_does_not_block(layout: Layout) -> None:
    path = Path(layout.path, "index.json")
    path.unlink()
    os.mkfifo(path)
    assert code(Layout.open, layout.path) == "not-an-oci-layout"


def test_an_index_in_the_layout_may_lack_its_media_type(layout: Layout) -> None:
    Path(layout.path, "index.json").write_bytes(b'{"schemaVersion":2,"manifests":[]}')
    assert Layout.open(layout.path).index().manifests == ()


def test_images_are_found_by_their_names(layout: Layout) -> None:
    one, two = entry(layout, "1", "v1"), entry(layout, "2", "docker.io/library/app:v2")
    three = entry(layout, "3", "example.com/app:v3", "io.containerd.image.name")
    fill(layout, one, two, three)
    assert layout.find("v1") == one
    for selector in ("v2", "app:v2", "docker.io/library/app:v2"):
        assert layout.find(selector) == two
    assert layout.find("example.com/app:v3") == three
    assert layout.find("example.com/any:v1") == one
    assert layout.find(two.digest) == two
    for selector in ("v4", "", "other:v2", "sha256:" + "0" * 64, "NOT//A REFERENCE"):
        assert code(layout.find, selector) == "unknown-image"


def test_a_failed_search_tells_what_there_is(layout: Layout) -> None:
    fill(layout, *(entry(layout, name, name) for name in "abcdefghijk"))
    with pytest.raises(UserError) as caught:
        layout.find("z")
    hint = caught.value.diagnostics[0].hint or ""
    assert "a, b" in hint and hint.endswith("…")


def test_a_lone_image_needs_no_name(layout: Layout) -> None:
    assert code(layout.find, "") == "unknown-image"
    one = entry(layout, "1", "v1")
    fill(layout, one, msgspec.structs.replace(one, annotations={REF_NAME: "v2"}))
    assert layout.find("").digest == one.digest


def test_a_digest_within_an_index(layout: Layout) -> None:
    child = entry(layout, "child")
    data = encode(Index(schema_version=2, media_type=media.INDEX, manifests=(child,)))
    root = Descriptor(media_type=media.INDEX, digest=put(layout, data), size=len(data))
    fill(layout, root)
    assert layout.find(child.digest) == child


def test_blobs_are_verified(layout: Layout) -> None:
    digest = put(layout, b"data")
    assert layout.read(digest) == b"data"
    assert code(layout.read, "sha256:" + "0" * 64) == "missing-blob"
    Path(layout.blob_path(digest)).write_bytes(b"other")
    assert code(layout.read, digest) == "corrupt-blob"
    Path(layout.blob_path(digest)).unlink()
    Path(layout.blob_path(digest)).symlink_to("/etc/passwd")
    assert code(layout.read, digest) == "corrupt-blob"
    wide = "sha512:" + hashlib.sha512(b"wide").hexdigest()
    Path(layout.blob_path(wide)).parent.mkdir()
    Path(layout.blob_path(wide)).write_bytes(b"wide")
    assert layout.read(wide) == b"wide"
    assert code(layout.blob_path, "sha256:../../x") == "invalid-digest"


def test_a_blob_beyond_the_limit(layout: Layout) -> None:
    digest = put(layout, b"12345")
    with pytest.raises(UserError) as caught:
        layout.read(digest, limit=4)
    assert caught.value.code == "missing-blob"


FULL = Index(
    schema_version=2,
    media_type=media.INDEX,
    manifests=(Descriptor(media_type=media.MANIFEST, digest="sha256:" + "0" * 64, size=2),),
)


def test_two_may_make_a_layout_at_the_same_time(tmp_path: Path) -> None:
    """One comes while the other is half done: what is there stays, and what is in the making is no stranger's."""
    (tmp_path / "blobs").mkdir()
    Layout(str(tmp_path)).write_index(FULL)
    (tmp_path / ".oci-layout.77.0123456789ab").write_bytes(b"{")
    assert Layout.create(str(tmp_path)).index() == FULL
    assert sorted(os.listdir(tmp_path)) == [
        ".oci-layout.77.0123456789ab",
        "blobs",
        "index.json",
        "oci-layout",
    ]


def test_many_make_a_layout_and_none_loses_what_another_wrote(tmp_path: Path) -> None:
    def make(number: int) -> None:
        layout = Layout.create(str(tmp_path / f"{number // 8}"))
        layout.write_index(FULL)
        assert layout.index() == FULL

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make, range(160)))
