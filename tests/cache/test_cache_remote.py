"""The stores that remote caches are kept in, and what may be written on the command line."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from remote_memory import Bucket, MemoryCache

from arkwright.cache.remote import (
    CacheStore,
    PortableLayer,
    PortableRecord,
    decode,
    encode,
    layer_ids,
    mount_key,
)
from arkwright.cache.remote_layout import LayoutCache
from arkwright.cache.remote_options import parse_cache_from, parse_cache_to
from arkwright.cache.remote_registry import RegistryCache
from arkwright.cache.remote_siblings import Sibling, decode_siblings, publish_sibling, siblings_key
from arkwright.diagnostics.errors import ArkwrightError, Cancelled, UsageError, UserError
from arkwright.oci import descriptor as media
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.digest import sha256
from arkwright.store.store import Store
from loopback_server import LoopbackRegistry

Open = Callable[[], CacheStore]
KEY, OTHER = sha256(b"key"), sha256(b"other")
DATA = os.urandom(100_000)
BLOB = Descriptor(media_type=media.LAYER_GZIP, digest=sha256(DATA), size=len(DATA))


def silent(done: int, total: int) -> None:
    return


@pytest.fixture(params=["layout", "registry", "memory"])
def open_cache(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the same cache, as another session would."""
    if request.param == "layout":
        yield lambda: LayoutCache(str(tmp_path / "cache"), "main")
        return
    if request.param == "memory":
        bucket = Bucket()
        yield lambda: MemoryCache(bucket)
        return
    with LoopbackRegistry() as server:
        opened: list[RegistryCache] = []

        def open_it() -> CacheStore:
            opened.append(RegistryCache(f"{server.host}/team/cache:main", tls_verify=None, push=True))
            return opened[-1]

        yield open_it
        for one in opened:
            one.close()


def test_what_is_put_is_found_by_others(open_cache: Open, store: Store) -> None:
    writer, reader = open_cache(), open_cache()
    assert writer.name == reader.name
    assert not reader.has_record(KEY)
    assert reader.get_record(KEY) is None
    assert not writer.has_blob(BLOB.digest)
    writer.put_blob(BLOB, lambda: io.BytesIO(DATA))
    writer.put_record(KEY, b'{"a": 1}', [BLOB])
    assert reader.has_record(KEY)
    assert reader.get_record(KEY) == b'{"a": 1}'
    assert reader.get_record(OTHER) is None
    assert reader.has_blob(BLOB.digest)
    reader.fetch_blob(BLOB, store.content, silent)
    assert store.content.read(BLOB.digest) == DATA
    writer.put_record(KEY, b'{"a": 2}', [BLOB])
    assert reader.get_record(KEY) == b'{"a": 2}'


def test_a_record_without_layers(open_cache: Open) -> None:
    cache = open_cache()
    cache.put_record(KEY, b"{}", [])
    assert open_cache().get_record(KEY) == b"{}"


def test_a_blob_that_is_not_there_is_an_error(open_cache: Open, store: Store) -> None:
    open_cache().put_record(KEY, b"{}", [])
    with pytest.raises(ArkwrightError) as caught:
        open_cache().fetch_blob(BLOB, store.content, silent)
    assert caught.value.code in ("missing-blob", "registry-not-found")
    assert not store.content.has(BLOB.digest)


def sibling(number: int, record: str = KEY) -> Sibling:
    return Sibling((sha256(b"%d" % number), sha256(b"other input")), record)


def test_lists_of_siblings_hold_the_newest(open_cache: Open) -> None:
    key = siblings_key("sha256:operation")

    def listed() -> tuple[Sibling, ...]:
        data = open_cache().get_record(key)
        assert data is not None
        return decode_siblings(data, key)

    for number in range(10):
        publish_sibling(open_cache(), "sha256:operation", sibling(number))
    assert listed() == tuple(sibling(number) for number in range(9, 1, -1))
    # Of equal inputs the last record counts.
    publish_sibling(open_cache(), "sha256:operation", sibling(5, OTHER))
    assert listed()[0] == sibling(5, OTHER)
    assert len(listed()) == 8
    assert sibling(5) not in listed()
    # What nobody can read is replaced.
    open_cache().put_record(key, b"nonsense", [])
    publish_sibling(open_cache(), "sha256:operation", sibling(1))
    assert listed() == (sibling(1),)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"key": OTHER},
        {"siblings": [{"inputs": [], "record": "sha256:../../x"}]},
        {"siblings": [{"inputs": ["x"], "record": KEY}]},
        {"siblings": [{"inputs": [KEY] * 2000, "record": KEY}]},
        {"siblings": [{"inputs": [KEY], "record": KEY}] * 9},
        {"siblings": 1},
        {"padding": "x" * (2 << 20)},
    ],
)
def test_a_hostile_list_of_siblings_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UserError) as caught:
        decode_siblings(json.dumps({"version": 1, "key": KEY, "siblings": [], **changes}).encode(), KEY)
    assert caught.value.code == "invalid-cache-record"


def test_nothing_is_sent_twice(open_cache: Open) -> None:
    cache = open_cache()
    cache.put_blob(BLOB, lambda: io.BytesIO(DATA))

    def never() -> io.BytesIO:
        raise AssertionError("the blob is there")

    open_cache().put_blob(BLOB, never)


def test_an_aborted_cache_ends_transfers(open_cache: Open, store: Store) -> None:
    cache = open_cache()
    cache.put_blob(BLOB, lambda: io.BytesIO(DATA))
    cache.abort()
    with pytest.raises(ArkwrightError) as caught:
        cache.fetch_blob(BLOB, store.content, silent)
    assert isinstance(caught.value, Cancelled) or caught.value.code == "network-interrupted"
    assert not store.content.has(BLOB.digest)


def test_a_blob_with_another_content_is_refused(tmp_path: Path, store: Store) -> None:
    cache = LayoutCache(str(tmp_path / "cache"), "main")
    cache.put_blob(BLOB, lambda: io.BytesIO(DATA))
    path = tmp_path / "cache" / "blobs" / "sha256" / BLOB.digest.partition(":")[2]
    path.write_bytes(DATA[::-1])
    with pytest.raises(UserError) as caught:
        cache.fetch_blob(BLOB, store.content, silent)
    assert caught.value.code == "corrupt-blob"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError):
        cache.fetch_blob(BLOB, store.content, silent)


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(UserError) as caught:
        LayoutCache(str(tmp_path), "main").put_record(KEY, b"{}", [])
    assert caught.value.code == "not-an-oci-layout"
    assert os.listdir(tmp_path) == ["mine"]


def test_caches_with_other_tags_do_not_mix(tmp_path: Path) -> None:
    LayoutCache(str(tmp_path / "c"), "one").put_record(KEY, b"{}", [])
    assert LayoutCache(str(tmp_path / "c"), "two").get_record(KEY) is None


def record(**changes: object) -> PortableRecord:
    base = PortableLayer(diff_id=sha256(b"base"), base=sha256(b"base.gz"))
    made = PortableLayer(diff_id=sha256(b"made"), parents=(0,), profile="gzip-zlib-6", blob=BLOB)
    fields = {"key": KEY, "created_at": 1, "layers": (base, made), "results": ((0, 1),), **changes}
    return PortableRecord(**fields)  # type: ignore[arg-type]


def test_records_round_trip_and_name_layers_alike() -> None:
    read = decode(encode(record()), KEY)
    assert read == record()
    assert layer_ids(read) == layer_ids(record(created_at=7))
    other = PortableLayer(diff_id=sha256(b"made"), parents=(), profile="gzip-zlib-6", blob=BLOB)
    assert layer_ids(record(layers=(record().layers[0], other)))[1] != layer_ids(record())[1]
    assert mount_key("/c") != mount_key("/d")


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"key":1}', b"\xff" * 9, b"[" * 100_000])
def test_what_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(UserError) as caught:
        decode(data, KEY)
    assert caught.value.code == "invalid-cache-record"


@pytest.mark.parametrize(
    "changes",
    [
        {"urls": ["http://169.254.169.254/"]},
        {"size": 1 << 50},
        {"mediaType": "text/html"},
        {"digest": "md5:00"},
    ],
)
def test_a_blob_that_is_no_layer_is_refused(changes: dict[str, object]) -> None:
    document = json.loads(encode(record()))
    document["layers"][1]["blob"].update(changes)
    with pytest.raises(UserError) as caught:
        decode(json.dumps(document).encode(), KEY)
    assert caught.value.code == "invalid-cache-record"


HOSTILE: list[Callable[[dict], object]] = [
    lambda record: record.update(key=OTHER),
    lambda record: record["layers"][1]["blob"].update(size=-1),
    lambda record: record["layers"][0].update(parents=[0]),
    lambda record: record["layers"][1].update(parents=[-1]),
    lambda record: record["layers"][1].update(profile="source"),
    lambda record: record["layers"][1].update(profile="../x"),
    lambda record: record["layers"][1].update(diff_id="sha256:../../x"),
    lambda record: record["layers"][1].pop("blob"),
    lambda record: record["layers"][0].update(base="none"),
    lambda record: record.update(results=[]),
    lambda record: record.update(results=[[0, 2]]),
    lambda record: record.update(created_at=-1),
    lambda record: record.update(created_at=1 << 63),
    lambda record: record.update(version=2),
    lambda record: record.update(layers="none"),
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_a_hostile_record_is_refused(number: int) -> None:
    document = json.loads(encode(record()))
    HOSTILE[number](document)
    with pytest.raises(UserError) as caught:
        decode(json.dumps(document).encode(), KEY)
    assert caught.value.code == "invalid-cache-record"


def test_options_as_buildx_has_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    bare = parse_cache_from("registry.example/app:cache")
    assert (bare.type, bare.ref, bare.tag) == ("registry", "registry.example/app:cache", "cache")
    assert parse_cache_from("type=local,src=c").path == str(tmp_path / "c")
    full = parse_cache_to(
        "type=registry,ref=user/app,mode=max,image-manifest=true,oci-mediatypes=true,compression=zstd,"
        "force-compression=true,ignore-error=false,mounts=/root/.cache;go"
    )
    assert (full.ref, full.mode, full.codec, full.ignore_error) == (
        "docker.io/user/app:latest",
        "max",
        "zstd",
        False,
    )
    assert full.wants_mount("go")
    assert not full.wants_mount("other")
    assert parse_cache_to("type=inline").type == "inline"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("type=gha", "not-built-yet"), ("type=s3,bucket=b", "not-built-yet"), ("type=azblob", "not-built-yet"),
        ("type=floppy", "invalid-cache-option"), ("type=registry", "invalid-cache-option"),
        ("ref=x", "invalid-cache-option"), ("type=local", "invalid-cache-option"),
        ("type=local,dest=d,mdoe=max", "invalid-cache-option"), ("type=local,dest=d,mode=most", "invalid-cache-option"),
        ("type=registry,ref=a/Upper", "invalid-reference"), ("type=local,dest=d,compression=rar", "invalid-cache-option"),
        (f"type=registry,ref=a:{'x' * 64}", "invalid-cache-option"), ("type=local,dest=d,tag=a/b", "invalid-cache-option"),
        ("type=registry,ref=a,ignore-error=perhaps", "invalid-cache-option"), ("type=inline,mode=max", "invalid-cache-option"),
        (f"type=registry,ref=a@{KEY}", "invalid-cache-option"), ("type=registry,ref=a,oci-mediatypes=false", "invalid-cache-option"),
    ],
)  # fmt: skip
def test_options_that_mean_nothing_are_refused(text: str, code: str) -> None:
    with pytest.raises((UserError, UsageError)) as caught:
        parse_cache_to(text)
    assert caught.value.code == code
