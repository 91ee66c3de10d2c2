from __future__ import annotations

import base64
import hashlib
import os
import socket
from pathlib import Path

import pytest
from sources_servers import Site, answer
from sources_suite import check_file_source

from arkwright.diagnostics.errors import RemoteError, UserError
from arkwright.graph.ops import SourceOp
from arkwright.net.retry import RetryPolicy
from arkwright.net.transport import Transport
from arkwright.sources.http import HttpSource
from arkwright.store.store import Store

MODIFIED = "Sun, 06 Nov 1994 08:49:37 GMT"


def source(store: Store) -> HttpSource:
    return HttpSource(store, retry=RetryPolicy(attempts=2, base_s=0.01))


def op(url: str, **attrs: str) -> SourceOp:
    return SourceOp(identifier=url, attrs=tuple(sorted(attrs.items())))


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def out(tmp_path: Path) -> Path:
    place = tmp_path / "tree"
    place.mkdir()
    return place


def test_suite(store: Store, site: Site, tmp_path: Path) -> None:
    url = site.serve("/dir/file.txt", b"hello", Last_Modified=MODIFIED)
    check_file_source(source(store), source(store), op(url, mode="640"), tmp_path)


def test_a_download(store: Store, site: Site, tmp_path: Path) -> None:
    url = site.serve("/dir/file%20one.txt", b"hello", Last_Modified=MODIFIED)
    made = source(store)
    pinned = made.pin(op(url))
    assert pinned.digest == sha256(b"hello")
    made.materialise(pinned, str(out(tmp_path)))
    file = tmp_path / "tree" / "file one.txt"
    assert file.read_bytes() == b"hello"
    assert file.stat().st_mode & 0o7777 == 0o600
    assert file.stat().st_mtime == 784111777


def test_name_mode_and_owner_are_as_told(store: Store, site: Site, tmp_path: Path) -> None:
    url = site.serve("/x", b"hello")
    made = source(store)
    owner = {"uid": "7", "gid": "8"} if os.geteuid() == 0 else {}
    pinned = made.pin(op(url, filename="other", mode="4755", **owner))
    made.materialise(pinned, str(out(tmp_path)))
    status = (tmp_path / "tree" / "other").stat()
    assert status.st_mode & 0o7777 == 0o4755
    if owner:
        assert (status.st_uid, status.st_gid) == (7, 8)
    assert made.pin(op(url, filename="other")).key != pinned.key
    assert made.pin(op(url, filename="another", mode="4755", **owner)).key != pinned.key


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_an_unchanged_file_is_not_sent_again(store: Store, site: Site, header: str) -> None:
    value = '"tag"' if header == "ETag" else MODIFIED
    question = "If-None-Match" if header == "ETag" else "If-Modified-Since"
    body = [b"first"]

    def page(handler):  # type: ignore[no-untyped-def]
        if handler.headers.get(question) == value:
            answer(handler, 304, b"")
        else:
            answer(handler, 200, body[0], **{header: value})

    site.pages["/file"] = page
    url = site.url + "/file"
    first = source(store).pin(op(url))
    body[0] = b"second, behind the same tag"
    assert source(store).pin(op(url)) == first
    assert question in site.requests[-1][1]
    # A blob that was collected meanwhile is asked for without conditions.
    store.content.delete(first.digest)
    assert source(store).pin(op(url)).digest == sha256(b"second, behind the same tag")
    assert question not in site.requests[-1][1]


def test_a_changed_file_is_another_pin(store: Store, site: Site) -> None:
    url = site.serve("/file", b"one", ETag='"1"')
    first = source(store).pin(op(url))
    site.serve("/file", b"two", ETag='"2"')
    second = source(store).pin(op(url))
    assert first.key != second.key and second.digest == sha256(b"two")


def test_checksums(store: Store, site: Site) -> None:
    url = site.serve("/file", b"hello")
    wrong = sha256(b"else")
    with pytest.raises(UserError) as caught:
        source(store).pin(op(url, checksum=wrong))
    assert caught.value.code == "checksum-mismatch"
    assert caught.value.details == {"wanted": wrong, "found": sha256(b"hello")}
    assert not store.content.has(sha256(b"hello"))
    pinned = source(store).pin(op(url, checksum=sha256(b"hello")))
    count = len(site.requests)
    assert source(store).pin(op(url, checksum=sha256(b"hello"))) == pinned
    assert (
        source(store).pin(op(site.url + "/gone", checksum=sha256(b"hello"), filename="f")).digest
        == pinned.digest
    )
    assert len(site.requests) == count
    with pytest.raises(UserError) as caught:
        source(store).pin(op(url, checksum="md5:abc"))
    assert caught.value.code == "invalid-checksum"


@pytest.mark.parametrize(
    ("disposition", "path", "name"),
    [
        ('attachment; filename="good.txt"', "/x", "good.txt"),
        ('attachment; filename="../../etc/passwd"', "/x", "passwd"),
        ('attachment; filename="..\\\\..\\\\evil"', "/x", "evil"),
        ('attachment; filename=".."', "/x", "x"),
        ('attachment; filename="a/.."', "/x", "x"),
        ('attachment; filename=""', "/x", "x"),
        ("attachment; filename*=UTF-8''na%2Fme%20%C3%A9", "/x", "me é"),
        ("attachment; filename*=UTF-8''a%00b", "/x", "x"),
        ('attachment; filename="' + "n" * 300 + '"', "/x", "x"),
        ("attachment", "/x", "x"),
        ("", "/dir/%2e%2e", "download"),
        ("", "/dir/..%2Fname", "name"),
        ("", "/dir/", "download"),
        ("", "/" + "n" * 256, "download"),
        ("", "/a%0ab", "download"),
    ],
)
def test_names_are_plain_names(store: Store, site: Site, disposition: str, path: str, name: str) -> None:
    headers = {"Content_Disposition": disposition} if disposition else {}
    url = site.serve(path, b"x", **headers)
    assert source(store).pin(op(url)).name == name


@pytest.mark.parametrize(
    ("attrs", "code"),
    [
        ({"filename": "../x"}, "invalid-filename"),
        ({"filename": "n" * 256}, "invalid-filename"),
        ({"mode": "888"}, "invalid-source-attribute"),
        ({"mode": "-1"}, "invalid-source-attribute"),
        ({"uid": "root"}, "invalid-source-attribute"),
        ({"gid": "4294967295"}, "invalid-source-attribute"),
        ({"color": "red"}, "unknown-source-attribute"),
    ],
)
def test_attributes_are_checked(store: Store, site: Site, attrs: dict[str, str], code: str) -> None:
    with pytest.raises(UserError) as caught:
        source(store).pin(op(site.serve("/x", b""), **attrs))
    assert caught.value.code == code
    assert site.requests == []


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (403, 1), (503, 2), (206, 1)])
def test_other_statuses(store: Store, site: Site, status: int, tries: int) -> None:
    url = site.serve("/x", b"no", status)
    with pytest.raises(RemoteError) as caught:
        source(store).pin(op(url + "?token=hidden-value"))
    assert caught.value.code == "http-status"
    assert caught.value.details["status"] == status
    assert caught.value.details["attempts"] == len(site.requests) == tries
    assert "hidden-value" not in repr(caught.value) + str(caught.value.details)


def test_a_body_that_breaks_off_is_tried_again_and_never_kept(store: Store, site: Site) -> None:
    def page(handler):  # type: ignore[no-untyped-def]
        if len(site.requests) == 1:
            handler.send_response(200)
            handler.send_header("Content-Length", "100")
            handler.end_headers()
            handler.wfile.write(b"half")
            handler.close_connection = True
        else:
            answer(handler, 200, b"whole")

    site.pages["/x"] = page
    assert source(store).pin(op(site.url + "/x")).digest == sha256(b"whole")
    assert not store.content.has(sha256(b"half"))


def test_redirects_that_go_in_circles(store: Store, site: Site) -> None:
    site.serve("/a", b"", 302, Location="/b")
    site.serve("/b", b"", 302, Location="/a")
    with pytest.raises(RemoteError) as caught:
        source(store).pin(op(site.url + "/a"))
    assert caught.value.code == "redirect-refused"


def test_a_redirect_keeps_the_name_that_was_asked_for(store: Store, site: Site) -> None:
    site.serve("/latest.tar", b"", 302, Location="/blobs/123")
    site.serve("/blobs/123", b"x")
    assert source(store).pin(op(site.url + "/latest.tar")).name == "latest.tar"


def test_credentials_of_the_url_are_sent_and_never_shown(store: Store, site: Site) -> None:
    url = site.serve("/x", b"x").replace("http://", "http://me:p%40ss@")
    pinned = source(store).pin(op(url))
    assert site.requests[0][1]["Authorization"] == "Basic " + base64.b64encode(b"me:p@ss").decode()
    assert "p%40ss" not in pinned.uri and "me" not in pinned.uri.split("/")[2]


def test_a_server_that_is_not_there(store: Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    with pytest.raises(RemoteError) as caught:
        source(store).pin(op(f"http://127.0.0.1:{port}/x"))
    assert caught.value.code == "network-unreachable"


def test_materialise_does_not_follow_a_link(store: Store, site: Site, tmp_path: Path) -> None:
    with Transport() as transport:
        made = HttpSource(store, transport=transport)
        pinned = made.pin(op(site.serve("/x", b"x")))
    (out(tmp_path) / "x").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError) as caught:
        made.materialise(pinned, str(tmp_path / "tree"))
    assert caught.value.code == "unwritable-tree"
    assert not (tmp_path / "victim").exists()
