"""The cases of the OCI distribution specification 1.1 (pull, push, content discovery, content
management), against `serve registry` run by root and by a user who may do nothing."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree
from typing import Any
from urllib.parse import quote

import pytest
from serving import CONFIG, OCTETS, Client, Serving, described, image, sha256

from arkwright.oci import descriptor as media
from building import Builder

ABSENT = "sha256:" + "0" * 64
DATA = b"some bytes of a blob, in three parts"


@pytest.fixture(scope="module", params=["root", "sealed"])
def registry(request: pytest.FixtureRequest) -> Iterator[Serving]:
    path = Path(tempfile.mkdtemp(prefix="arkwright-serve-"))
    path.chmod(0o755)
    with Serving(Builder(path, request.param)) as serving:
        yield serving
        assert serving.stop() == 0
    rmtree(path)


@pytest.fixture
def client(registry: Serving) -> Iterator[Client]:
    with registry.client() as made:
        yield made


# Base and pull


def test_the_base_says_that_the_api_is_there(client: Client) -> None:
    for path in ("/v2/", "/v2"):
        assert client.call("GET", path).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_blob_that_is_not_there(client: Client, method: str) -> None:
    client.put_blob("pull/none", b"x")
    reply = client.call(method, f"/v2/pull/none/blobs/{ABSENT}")
    assert reply.status == 404
    assert method == "HEAD" or reply.codes == ["BLOB_UNKNOWN"]


@pytest.mark.parametrize(
    "repository", ["pull/blobs", "a", "a.b_c__d---e/f0", "blobs/uploads/x", "manifests/blobs"]
)
def test_a_blob_that_is_there(client: Client, repository: str) -> None:
    digest = client.put_blob(repository, DATA)
    head = client.call("HEAD", f"/v2/{repository}/blobs/{digest}")
    assert (head.status, head.header("Content-Length"), head.body) == (200, str(len(DATA)), b"")
    reply = client.call("GET", f"/v2/{repository}/blobs/{digest}")
    assert (reply.status, reply.body, reply.digest) == (200, DATA, digest)
    assert reply.header("Content-Type") == OCTETS


@pytest.mark.parametrize("ref", [".INVALID", "none", ABSENT])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_manifest_that_is_not_there(client: Client, method: str, ref: str) -> None:
    reply = client.call(method, f"/v2/pull/none/manifests/{ref}")
    assert reply.status == 404
    assert method == "HEAD" or reply.codes == ["MANIFEST_UNKNOWN"]


def test_a_manifest_that_is_there(client: Client) -> None:
    digest, document = client.put_image("pull/manifests", "v1", "m")
    data = json.dumps(document).encode()
    for ref in ("v1", digest):
        reply = client.call("GET", f"/v2/pull/manifests/manifests/{ref}", Accept=media.MANIFEST)
        assert (reply.status, reply.body, reply.digest) == (200, data, digest)
        assert reply.header("Content-Type") == media.MANIFEST
        head = client.call("HEAD", f"/v2/pull/manifests/manifests/{ref}")
        assert (head.status, head.header("Content-Length"), head.digest) == (200, str(len(data)), digest)


def test_errors_have_the_body_of_the_specification(client: Client) -> None:
    reply = client.call("GET", f"/v2/pull/none/blobs/{ABSENT}")
    assert reply.header("Content-Type") == "application/json"
    (error,) = reply.json()["errors"]
    assert error["message"] and error["detail"] == {"digest": ABSENT}


@pytest.mark.parametrize(
    ("asked", "status", "sent", "stated"),
    [
        ("bytes=0-3", 206, DATA[:4], f"bytes 0-3/{len(DATA)}"),
        ("bytes=5-", 206, DATA[5:], f"bytes 5-{len(DATA) - 1}/{len(DATA)}"),
        ("bytes=-4", 206, DATA[-4:], f"bytes {len(DATA) - 4}-{len(DATA) - 1}/{len(DATA)}"),
        ("bytes=5-999", 206, DATA[5:], f"bytes 5-{len(DATA) - 1}/{len(DATA)}"),
        ("bytes=-999", 206, DATA, f"bytes 0-{len(DATA) - 1}/{len(DATA)}"),
        (f"bytes={len(DATA)}-", 416, None, f"bytes */{len(DATA)}"),
        ("bytes=-0", 416, None, f"bytes */{len(DATA)}"),
        ("bytes=3-1", 200, DATA, ""),
        ("bytes=0-1,3-4", 200, DATA, ""),
        ("lines=0-1", 200, DATA, ""),
        ("bytes=-", 200, DATA, ""),
    ],
)
def test_parts_of_a_blob(client: Client, asked: str, status: int, sent: bytes | None, stated: str) -> None:
    digest = client.put_blob("pull/parts", DATA)
    reply = client.call("GET", f"/v2/pull/parts/blobs/{digest}", Range=asked)
    assert (reply.status, reply.header("Content-Range")) == (status, stated)
    assert sent is None or reply.body == sent


def test_what_the_client_has_is_not_sent_again(client: Client) -> None:
    client.put_image("pull/etag", "v1", "etag")
    blob = client.put_blob("pull/etag", DATA)
    for path in ("manifests/v1", f"blobs/{blob}"):
        etag = client.call("HEAD", f"/v2/pull/etag/{path}").header("ETag")
        reply = client.call("GET", f"/v2/pull/etag/{path}", If_None_Match=etag)
        assert (reply.status, reply.body) == (304, b"")
    changed = client.call("GET", f"/v2/pull/etag/blobs/{blob}", Range="bytes=0-1", If_Range='"other"')
    assert (changed.status, changed.body) == (200, DATA)


# Push: blobs


def test_an_upload_in_one_post(client: Client) -> None:
    digest = sha256(DATA)
    reply = client.call("POST", f"/v2/push/post/blobs/uploads/?digest={digest}", DATA, Content_Type=OCTETS)
    assert (reply.status, reply.header("Location")) == (201, f"/v2/push/post/blobs/{digest}")
    assert client.call("GET", reply.header("Location")).body == DATA


def test_an_upload_in_post_and_put(client: Client) -> None:
    digest, location = sha256(DATA), client.begin("push/put")
    reply = client.call("PUT", f"{location}?digest={digest}", DATA, Content_Type=OCTETS)
    assert (reply.status, reply.digest) == (201, digest)
    assert client.call("GET", reply.header("Location")).body == DATA
    assert client.call("GET", location).status == 404


@pytest.mark.parametrize("chunked", [True, False])
def test_an_upload_as_a_stream(client: Client, chunked: bool) -> None:
    location = client.begin("push/stream")
    body: Any = iter([DATA[:7], DATA[7:]]) if chunked else DATA
    more = {"Transfer_Encoding": "chunked"} if chunked else {}
    reply = client.call("PATCH", location, body, chunked=chunked, Content_Type=OCTETS, **more)
    assert (reply.status, reply.header("Range")) == (202, f"0-{len(DATA) - 1}")
    done = client.call("PUT", f"{reply.header('Location')}?digest={sha256(DATA)}")
    assert done.status == 201
    assert client.call("GET", done.header("Location")).body == DATA


def chunk(client: Client, location: str, begin: int, end: int, method: str = "PATCH") -> Any:
    return client.call(
        method, location, DATA[begin:end], Content_Type=OCTETS, Content_Range=f"{begin}-{end - 1}"
    )


def test_an_upload_in_chunks(client: Client) -> None:
    location = client.begin("push/chunks")
    state = client.call("GET", location)
    assert (state.status, state.header("Range")) == (204, "0-0")
    first = chunk(client, location, 0, 10)
    assert (first.status, first.header("Range")) == (202, "0-9")
    assert chunk(client, location, 0, 10).status == 416
    out_of_order = chunk(client, location, 20, 30)
    assert (out_of_order.status, out_of_order.header("Range")) == (416, "0-9")
    assert out_of_order.header("Location")
    state = client.call("GET", location)
    assert (state.status, state.header("Range")) == (204, "0-9")
    assert chunk(client, location, 10, 20).status == 202
    done = chunk(client, f"{location}?digest={sha256(DATA)}", 20, len(DATA), "PUT")
    assert (done.status, done.digest) == (201, sha256(DATA))
    assert client.call("GET", done.header("Location")).body == DATA


@pytest.mark.parametrize("stated", ["0-", "x", "5-2", "0-99", "bytes */9", "-1-3"])
def test_a_chunk_with_a_range_that_is_none(client: Client, stated: str) -> None:
    location = client.begin("push/ranges")
    reply = client.call("PATCH", location, DATA, Content_Type=OCTETS, Content_Range=stated)
    assert (reply.status, reply.codes) == (416, ["BLOB_UPLOAD_INVALID"])
    assert client.call("PUT", f"{location}?digest={sha256(DATA)}", DATA).status == 201


@pytest.mark.parametrize("digest", ["", "sha256:abc", "md5:" + "0" * 32, "sha256:" + "0" * 63 + "/"])
def test_a_digest_that_is_none(client: Client, digest: str) -> None:
    location = client.begin("push/digests")
    reply = client.call("PUT", f"{location}?digest={digest}", DATA)
    assert (reply.status, reply.codes) == (400, ["DIGEST_INVALID"])


@pytest.mark.parametrize("form", ["post", "put", "patch"])
def test_a_digest_of_other_bytes(client: Client, form: str) -> None:
    if form == "post":
        reply = client.call("POST", f"/v2/push/wrong/blobs/uploads/?digest={ABSENT}", DATA)
    else:
        location = client.begin("push/wrong")
        body = DATA
        if form == "patch":
            client.call("PATCH", location, DATA)
            body = b""
        reply = client.call("PUT", f"{location}?digest={ABSENT}", body)
        assert client.call("GET", location).status == 404
    assert (reply.status, reply.codes) == (400, ["DIGEST_INVALID"])
    assert client.call("HEAD", f"/v2/push/wrong/blobs/{sha256(DATA)}").status == 404


@pytest.mark.parametrize("form", ["post", "named", "late"])
def test_a_digest_of_another_algorithm(client: Client, form: str) -> None:
    digest = "sha512:" + hashlib.sha512(DATA).hexdigest()
    base = "/v2/push/sha512/blobs/uploads/"
    if form == "post":
        reply = client.call("POST", f"{base}?digest={digest}", DATA)
    else:
        more = "?digest-algorithm=sha512" if form == "named" else ""
        location = client.call("POST", base + more).header("Location")
        reply = client.call("PUT", f"{location}?digest={digest}", DATA)
    assert (reply.status, reply.digest) == (201, digest)
    assert client.call("GET", f"/v2/push/sha512/blobs/{digest}").body == DATA
    assert client.call("POST", base + "?digest-algorithm=md5").codes == ["DIGEST_INVALID"]


def test_a_cancelled_upload(client: Client) -> None:
    location = client.begin("push/cancel")
    assert client.call("PATCH", location, DATA).status == 202
    assert client.call("DELETE", location).status == 204
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        reply = client.call(method, f"{location}?digest={sha256(DATA)}")
        assert (reply.status, reply.codes) == (404, ["BLOB_UPLOAD_UNKNOWN"])


def test_an_upload_belongs_to_its_repository(client: Client) -> None:
    location = client.begin("push/mine").replace("push/mine", "push/yours")
    assert client.call("PATCH", location, DATA).status == 404


def test_a_blob_of_another_repository_is_mounted(client: Client) -> None:
    digest = client.put_blob("mount/from", DATA)
    assert client.call("HEAD", f"/v2/mount/to/blobs/{digest}").status == 404
    reply = client.call("POST", f"/v2/mount/to/blobs/uploads/?mount={digest}&from=mount/from")
    assert (reply.status, reply.header("Location")) == (201, f"/v2/mount/to/blobs/{digest}")
    assert client.call("GET", reply.header("Location")).body == DATA


@pytest.mark.parametrize(
    "query",
    [
        f"mount={ABSENT}&from=mount/from",
        "mount={}&from=mount/none",
        "mount={}&from=UPPER",
        "mount=x",
        "mount={}",
    ],
)
def test_what_cannot_be_mounted_becomes_an_upload(client: Client, query: str) -> None:
    digest = client.put_blob("mount/from", DATA)
    reply = client.call("POST", f"/v2/mount/else/blobs/uploads/?{query.format(digest)}")
    assert reply.status == 202
    assert client.call("DELETE", reply.header("Location")).status == 204
    assert client.call("HEAD", f"/v2/mount/else/blobs/{digest}").status == 404


# Push: manifests


def test_a_manifest_by_its_digest(client: Client) -> None:
    digest, _ = client.put_image("push/bydigest", "digest", "d")
    reply = client.call("GET", f"/v2/push/bydigest/manifests/{digest}")
    assert (reply.status, reply.digest) == (200, digest)
    assert client.call("GET", "/v2/push/bydigest/tags/list").json()["tags"] == []


def test_a_manifest_says_where_it_is(client: Client) -> None:
    reply, data = client.put_manifest("push/where", "v1", image(client, "push/where", "w"))
    assert (reply.status, reply.digest) == (201, sha256(data))
    assert client.call("GET", reply.header("Location")).body == data
    assert reply.header("OCI-Subject") == ""


def test_a_manifest_with_another_digest(client: Client) -> None:
    reply, _ = client.put_manifest("push/other", ABSENT, image(client, "push/other", "o"))
    assert (reply.status, reply.codes) == (400, ["DIGEST_INVALID"])


@pytest.mark.parametrize("layers", [[], "all"])
def test_manifests_without_layers_and_with_many(client: Client, layers: Any) -> None:
    document = image(client, "push/layers", "l")
    document["layers"] = document["layers"] * 50 if layers else []
    reply, _ = client.put_manifest("push/layers", "v1", document)
    assert reply.status == 201


def test_a_manifest_whose_blobs_are_not_there(client: Client) -> None:
    document = image(client, "push/missing", "m")
    missing = described(b"never pushed", media.LAYER_TAR)
    document["layers"].append(missing)
    reply, _ = client.put_manifest("push/missing", "v1", document)
    assert (reply.status, reply.codes) == (404, ["MANIFEST_BLOB_UNKNOWN"])
    assert reply.json()["errors"][0]["detail"] == {"digest": missing["digest"]}
    assert client.call("GET", "/v2/push/missing/manifests/v1").status == 404
    document["layers"][1]["urls"] = ["https://example.com/layer"]
    reply, _ = client.put_manifest("push/missing", "v2", document)
    assert reply.status == 201


def test_a_manifest_whose_blob_has_another_size(client: Client) -> None:
    document = image(client, "push/size", "s")
    document["layers"][0]["size"] += 1
    reply, _ = client.put_manifest("push/size", "v1", document)
    assert (reply.status, reply.codes) == (404, ["MANIFEST_BLOB_UNKNOWN"])


def test_an_image_of_another_repository_needs_its_blobs_here(client: Client) -> None:
    _, document = client.put_image("push/first", "v1", "f")
    reply, _ = client.put_manifest("push/second", "v1", document)
    assert reply.codes == ["MANIFEST_BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN"]


@pytest.mark.parametrize(
    ("data", "stated"),
    [
        (b"", media.MANIFEST),
        (b"{", media.MANIFEST),
        (b"[]", media.MANIFEST),
        (b"\xff\xfe", media.MANIFEST),
        (b"[" * 100_000, media.MANIFEST),
        (b'{"schemaVersion":1,"fsLayers":[]}', "application/vnd.docker.distribution.manifest.v1+json"),
        (b'{"schemaVersion":2,"manifests":[],"mediaType":"%s"}' % media.INDEX.encode(), media.MANIFEST),
        (b'{"schemaVersion":2,"manifests":[]}', "text/html"),
        (b'{"schemaVersion":2,"manifests":[{"mediaType":"x","size":1,"digest":"../../etc/passwd"}]}', media.INDEX),
    ],
)  # fmt: skip
def test_what_is_no_manifest(client: Client, data: bytes, stated: str) -> None:
    reply = client.call("PUT", "/v2/push/nothing/manifests/v1", data, Content_Type=stated)
    assert (reply.status, reply.codes) == (400, ["MANIFEST_INVALID"])
    assert client.call("GET", "/v2/push/nothing/manifests/v1").status == 404


@pytest.mark.parametrize("ref", ["-x", ".x", "a" * 129, "a%2Fb", "a b".replace(" ", "%20"), "sha256:123"])
def test_what_is_no_tag(client: Client, ref: str) -> None:
    document = image(client, "push/tags", "t")
    reply, _ = client.put_manifest("push/tags", ref, document)
    assert reply.status in (400, 404)
    assert client.call("GET", "/v2/push/tags/tags/list").json()["tags"] == []


def test_a_manifest_is_as_large_as_the_specification_asks(client: Client) -> None:
    document = image(client, "push/large", "l", annotations={"note": ""})
    base = len(json.dumps(document))
    document["annotations"]["note"] = "x" * ((4 << 20) - base)
    reply, data = client.put_manifest("push/large", "v1", document)
    assert (reply.status, len(data)) == (201, 4 << 20)
    document["annotations"]["note"] += "x"
    reply, _ = client.put_manifest("push/large", "v2", document)
    assert (reply.status, reply.codes) == (413, ["SIZE_INVALID"])


def test_an_index_keeps_what_it_has(client: Client) -> None:
    digest, document = client.put_image("push/index", "digest", "child")
    child = described(json.dumps(document).encode(), media.MANIFEST)
    index = {"schemaVersion": 2, "mediaType": media.INDEX, "manifests": [child]}
    reply, data = client.put_manifest("push/index", "all", index)
    assert reply.status == 201
    got = client.call("GET", "/v2/push/index/manifests/all")
    assert (got.body, got.header("Content-Type")) == (data, media.INDEX)
    assert client.call("GET", f"/v2/push/index/manifests/{digest}").status == 200
    assert client.call("DELETE", f"/v2/push/index/manifests/{digest}").status == 405
    assert client.call("GET", f"/v2/push/index/manifests/{digest}").status == 200


def test_docker_s_media_types(client: Client) -> None:
    document = image(client, "push/docker", "docker")
    document["mediaType"] = media.DOCKER_MANIFEST
    assert client.put_manifest("push/docker", "v1", document)[0].status == 201
    reply = client.call("GET", "/v2/push/docker/manifests/v1")
    assert reply.header("Content-Type") == media.DOCKER_MANIFEST


def test_a_tag_moves(client: Client) -> None:
    first, _ = client.put_image("push/moves", "latest", "one")
    second, _ = client.put_image("push/moves", "latest", "two")
    assert client.call("HEAD", "/v2/push/moves/manifests/latest").digest == second
    assert client.call("HEAD", f"/v2/push/moves/manifests/{first}").status == 200


def test_conditions_on_a_tag(client: Client) -> None:
    first, _ = client.put_image("push/conditions", "v1", "one")
    document = image(client, "push/conditions", "two")

    def put(**headers: str) -> int:
        return client.put_manifest("push/conditions", "v1", document, **headers)[0].status

    assert put(If_None_Match="*") == 412
    assert put(If_Match=f'"{ABSENT}"') == 412
    assert client.call("HEAD", "/v2/push/conditions/manifests/v1").digest == first
    assert put(If_Match=f'"{first}"') == 201
    assert put(If_Match=f'"{first}"') == 412
    assert client.put_manifest("push/conditions", "new", document, If_None_Match="*")[0].status == 201
    assert client.put_manifest("push/conditions", "newer", document, If_Match="*")[0].status == 412


# Referrers


def attached(
    client: Client, repository: str, subject: dict[str, Any], kind: str, **more: Any
) -> tuple[str, Any]:
    client.put_blob(repository, b"{}")
    document = {
        "schemaVersion": 2, "mediaType": media.MANIFEST, "config": described(b"{}", media.EMPTY),
        "layers": [described(b"{}", media.EMPTY)], "subject": subject, "annotations": {"kind": kind}, **more,
    }  # fmt: skip
    if kind:
        document["artifactType"] = kind
    reply, data = client.put_manifest(repository, "digest", document)
    assert (reply.status, reply.header("OCI-Subject")) == (201, subject["digest"])
    return sha256(data), document


def test_referrers_are_listed_and_filtered(client: Client) -> None:
    repository = "refer/list"
    digest, document = client.put_image(repository, "v1", "subject")
    subject = described(json.dumps(document).encode(), media.MANIFEST)
    first, _ = attached(client, repository, subject, "application/vnd.test.a")
    second, _ = attached(client, repository, subject, "application/vnd.test.b")
    third, _ = attached(client, repository, subject, "", config=described(b"{}", CONFIG))
    reply = client.call("GET", f"/v2/{repository}/referrers/{digest}")
    assert (reply.status, reply.header("Content-Type")) == (200, media.INDEX)
    assert reply.header("OCI-Filters-Applied") == ""
    listed = {one["digest"]: one for one in reply.json()["manifests"]}
    assert set(listed) == {first, second, third}
    assert listed[first]["artifactType"] == "application/vnd.test.a"
    assert listed[first]["annotations"] == {"kind": "application/vnd.test.a"}
    assert listed[third]["artifactType"] == CONFIG
    assert reply.json()["schemaVersion"] == 2 and reply.json()["mediaType"] == media.INDEX
    reply = client.call("GET", f"/v2/{repository}/referrers/{digest}?artifactType=application/vnd.test.b")
    assert [one["digest"] for one in reply.json()["manifests"]] == [second]
    assert reply.header("OCI-Filters-Applied") == "artifactType"
    assert client.call("DELETE", f"/v2/{repository}/manifests/{first}").status == 202
    reply = client.call("GET", f"/v2/{repository}/referrers/{digest}")
    assert {one["digest"] for one in reply.json()["manifests"]} == {second, third}


def test_an_index_refers_too(client: Client) -> None:
    subject = described(b"not there", media.MANIFEST)
    document = {
        "schemaVersion": 2, "mediaType": media.INDEX, "manifests": [], "subject": subject, "artifactType": "a/b",
    }  # fmt: skip
    reply, data = client.put_manifest("refer/index", "digest", document)
    assert (reply.status, reply.header("OCI-Subject")) == (201, subject["digest"])
    listed = client.call("GET", f"/v2/refer/index/referrers/{subject['digest']}").json()["manifests"]
    assert [(one["digest"], one["artifactType"]) for one in listed] == [(sha256(data), "a/b")]


def test_a_referrer_before_its_subject(client: Client) -> None:
    repository = "refer/early"
    document = image(client, repository, "late subject")
    data = json.dumps(document).encode()
    digest, _ = attached(client, repository, described(data, media.MANIFEST), "a/early")
    assert client.put_manifest(repository, "v1", document)[0].status == 201
    listed = client.call("GET", f"/v2/{repository}/referrers/{sha256(data)}").json()["manifests"]
    assert [one["digest"] for one in listed] == [digest]


@pytest.mark.parametrize(
    ("repository", "digest", "status"), [("refer/none", ABSENT, 200), ("refer/none", "sha256:x", 400)]
)
def test_no_referrers(client: Client, repository: str, digest: str, status: int) -> None:
    client.put_image(repository, "v1", "none")
    reply = client.call("GET", f"/v2/{repository}/referrers/{digest}")
    assert reply.status == status
    if status == 200:
        assert (reply.header("Content-Type"), reply.json()["manifests"]) == (media.INDEX, [])


# Content discovery


def test_tags_in_pages(client: Client) -> None:
    for tag in ("b", "a", "C", "a1", "_x"):
        client.put_image("tags/pages", tag, "same")
    path = "/v2/tags/pages/tags/list"
    everything = ["C", "_x", "a", "a1", "b"]
    assert client.call("GET", path).json() == {"name": "tags/pages", "tags": everything}
    found, following = [], f"{path}?n=2"
    while following:
        reply = client.call("GET", following)
        assert len(reply.json()["tags"]) <= 2
        found += reply.json()["tags"]
        link = reply.header("Link")
        assert not link or link.endswith('>; rel="next"')
        following = link[1:].partition(">")[0]
    assert found == everything
    assert client.call("GET", f"{path}?n=0").json()["tags"] == []
    assert client.call("GET", f"{path}?last=a").json()["tags"] == ["a1", "b"]
    assert client.call("GET", f"{path}?n=1&last=aa").json()["tags"] == ["b"]
    assert client.call("GET", f"{path}?n=9").header("Link") == ""
    assert client.call("GET", f"{path}?n=x").status == 400


def test_tags_of_no_repository(client: Client) -> None:
    reply = client.call("GET", "/v2/tags/none/tags/list")
    assert (reply.status, reply.codes) == (404, ["NAME_UNKNOWN"])


def test_repositories_in_pages(client: Client) -> None:
    for name in ("catalog/b", "catalog/a", "catalog"):
        client.put_image(name, "v1", "same")
    found = client.call("GET", "/v2/_catalog").json()["repositories"]
    assert found == sorted(found) and {"catalog", "catalog/a", "catalog/b"} <= set(found)
    reply = client.call("GET", "/v2/_catalog?n=2&last=catalog")
    assert reply.json()["repositories"] == ["catalog/a", "catalog/b"]
    assert "last=catalog%2Fb" in reply.header("Link")


@pytest.mark.parametrize(
    "name", ["UPPER/x", "a//b", "a/-b", "-a", "a..b", "../../etc", "a/", "x" * 300, "a%00b", "ä"]
)
def test_what_is_no_name(client: Client, name: str) -> None:
    reply = client.call("GET", f"/v2/{quote(name, safe='/%')}/tags/list")
    assert (reply.status, reply.codes) == (400, ["NAME_INVALID"])


# Content management


def test_a_tag_is_deleted(client: Client) -> None:
    digest, _ = client.put_image("manage/tag", "v1", "t")
    client.put_image("manage/tag", "v2", "t")
    assert client.call("DELETE", "/v2/manage/tag/manifests/v1").status == 202
    assert client.call("GET", "/v2/manage/tag/manifests/v1").status == 404
    assert client.call("DELETE", "/v2/manage/tag/manifests/v1").codes == ["MANIFEST_UNKNOWN"]
    assert client.call("GET", "/v2/manage/tag/tags/list").json()["tags"] == ["v2"]
    assert client.call("GET", f"/v2/manage/tag/manifests/{digest}").status == 200


def test_a_manifest_is_deleted_with_its_tags(client: Client) -> None:
    digest, _ = client.put_image("manage/manifest", "v1", "m")
    client.put_image("manage/manifest", "v2", "m")
    other, _ = client.put_image("manage/manifest", "v3", "other")
    assert client.call("DELETE", f"/v2/manage/manifest/manifests/{digest}").status == 202
    for ref in ("v1", "v2", digest):
        assert client.call("GET", f"/v2/manage/manifest/manifests/{ref}").status == 404
    assert client.call("DELETE", f"/v2/manage/manifest/manifests/{digest}").status == 404
    assert client.call("GET", "/v2/manage/manifest/manifests/v3").digest == other


def test_a_blob_is_deleted_when_no_image_needs_it(client: Client) -> None:
    digest, document = client.put_image("manage/blob", "v1", "b")
    layer = document["layers"][0]["digest"]
    reply = client.call("DELETE", f"/v2/manage/blob/blobs/{layer}")
    assert (reply.status, reply.codes) == (405, ["UNSUPPORTED"])
    assert client.call("DELETE", f"/v2/manage/blob/manifests/{digest}").status == 202
    assert client.call("DELETE", f"/v2/manage/blob/blobs/{layer}").status == 202
    assert client.call("GET", f"/v2/manage/blob/blobs/{layer}").status == 404
    assert client.call("DELETE", f"/v2/manage/blob/blobs/{layer}").codes == ["BLOB_UNKNOWN"]


def test_a_deletion_leaves_other_repositories_alone(client: Client) -> None:
    digest, document = client.put_image("manage/one", "v1", "shared")
    client.put_image("manage/two", "v1", "shared")
    assert client.call("DELETE", f"/v2/manage/one/manifests/{digest}").status == 202
    assert client.call("GET", "/v2/manage/two/manifests/v1").digest == digest
    layer = document["layers"][0]["digest"]
    assert client.call("GET", f"/v2/manage/two/blobs/{layer}").status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", "tags/list"), ("POST", "manifests/v1"), ("PATCH", f"blobs/{ABSENT}"), ("GET", "blobs/uploads/"),
     ("PUT", f"referrers/{ABSENT}"), ("OPTIONS", "tags/list")],
)  # fmt: skip
def test_methods_that_are_not_for_a_place(client: Client, method: str, path: str) -> None:
    reply = client.call(method, f"/v2/some/name/{path}")
    assert (reply.status, reply.codes) == (405, ["UNSUPPORTED"])
    assert reply.header("Allow")


@pytest.mark.parametrize("path", ["/", "/v1/", "/v2/x", "/v2/x/y/z", "/etc/passwd", "/v2/x/blobs/a/b"])
def test_places_that_are_none(client: Client, path: str) -> None:
    assert client.call("GET", path).status == 404
