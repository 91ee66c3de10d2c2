from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from arkwright.cache.keys import KeyBuilder, Value
from arkwright.cache.records import RECORDS, Record, Records
from arkwright.store.store import Store

VALUES = st.one_of(st.text(max_size=6), st.binary(max_size=6), st.integers())
FIELDS = st.lists(st.tuples(st.text(max_size=4), st.lists(VALUES, max_size=3)), max_size=4)


def digest(fields: list[tuple[str, list[Value]]], kind: str = "exec") -> str:
    builder = KeyBuilder(kind)
    for name, values in fields:
        builder.field(name, *values)
    return builder.digest()


@given(FIELDS, FIELDS)
def test_different_fields_have_different_keys(first: list, second: list) -> None:
    same = [(n, [(type(v), v) for v in vs]) for n, vs in first] == [
        (n, [(type(v), v) for v in vs]) for n, vs in second
    ]
    assert (digest(first) == digest(second)) == same


def test_framing_keeps_neighbours_apart() -> None:
    variants = [
        [("a", ["bc"])], [("ab", ["c"])], [("a", ["b", "c"])], [("a", ["b"]), ("a", ["c"])],
        [("a", [b"bc"])], [("a", [])], [], [("a", ["1"])], [("a", [1])], [("a", [""])],
    ]  # fmt: skip
    assert len({digest(fields) for fields in variants}) == len(variants)
    assert digest([], "exec") != digest([], "file")


def test_the_key_is_stable() -> None:
    # A change here makes every cache in the world miss: it must be meant.
    key = KeyBuilder("exec").field("args", "sh", "-c", "true").field("n", 7, b"\0").digest()
    assert key == "sha256:a4d1d4431f46e33e28f9a91e36b45c2ef248408be372a53e7247f708eb5e54cf"


def test_fields_are_kept_for_explaining_without_raw_bytes() -> None:
    builder = KeyBuilder("exec").field("env", "A=1", "B=2").field("env", "C=3").field("data", b"\xff\0")
    assert builder.fields["env"] == "A=1 B=2\nC=3"
    assert builder.fields["data"].startswith("(2 bytes, sha256 ")


def test_names_that_are_not_utf8_are_keys_too() -> None:
    assert (
        KeyBuilder("k").field("path", "a\udcff").digest() != KeyBuilder("k").field("path", "a\udcfe").digest()
    )


def record(key: str, **changes: object) -> Record:
    fields = {"operation": "sha256:o", "vertex": "sha256:v", "results": (b"\0\xff", b""), "created_at": 5}
    return Record(key=key, **{**fields, **changes})  # type: ignore[arg-type]


def test_records_are_found_replaced_and_forgotten(store: Store) -> None:
    records = Records(store.metadata)
    assert records.find("sha256:k") is None
    saved = record("sha256:k", build="b1", fields={"args": "sh"})
    records.save(saved)
    assert records.find("sha256:k") == saved
    records.save(record("sha256:k", created_at=6))
    found = records.find("sha256:k")
    assert found is not None and found.created_at == 6
    records.forget("sha256:k")
    records.forget("sha256:k")
    assert records.find("sha256:k") is None


def test_a_record_that_cannot_be_read_is_a_miss(store: Store) -> None:
    store.metadata.put(RECORDS, "sha256:k", b'{"key": 1')
    assert Records(store.metadata).find("sha256:k") is None


def test_siblings_are_the_newest_records_of_an_operation(store: Store) -> None:
    records = Records(store.metadata)
    for number in range(4):
        records.save(record(f"sha256:k{number}", created_at=number))
    records.save(record("sha256:else", operation="sha256:other", created_at=9))
    assert [one.key for one in records.siblings("sha256:o", limit=2)] == ["sha256:k3", "sha256:k2"]
    records.forget("sha256:k3")
    assert [one.key for one in records.siblings("sha256:o", limit=2)] == ["sha256:k2", "sha256:k1"]
