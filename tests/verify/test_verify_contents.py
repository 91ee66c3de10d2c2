"""Rules over contents that real tools made: twice, at two times, in two orders, in two places."""

from __future__ import annotations

import gzip
import io
import json
import py_compile
import sqlite3
import struct
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from arkwright.verify import contents
from arkwright.verify.causes import RULES, Window, by_place
from arkwright.verify.contents import Findings, look_into

NOW = 1_800_000_000
WINDOW = Window(NOW, NOW + 60)
LATER = NOW + 7


def named(path: str, old: bytes, new: bytes) -> set[str]:
    return {cause.rule for cause in look_into(path, old, new, WINDOW).causes}


@pytest.mark.parametrize(
    ("rule", "old", "new"),
    [
        ("timestamp", "built Mon Jan  2 10:11:12 UTC 2027", "built Mon Jan  2 10:11:19 UTC 2027"),
        ("timestamp", f"at={NOW}", f"at={LATER}"),
        ("timestamp", f"at={NOW}123", f"at={LATER}456"),
        ("timestamp", "2027-01-15T08:00:00Z\n", "2027-01-15T08:00:07Z\n"),
        ("uuid", "id: 8d5b6f6e-94cb-4a4c-9ee6-30b5b2a0a4f2", "id: 0c0b54f2-53fa-4816-8642-92d1c991b5df"),
        ("build-path", "cd /tmp/tmp.aB3dE6", "cd /tmp/tmp.Zy9xW8"),
        ("build-path", "prefix=/tmp/pip-install-k3j2", "prefix=/tmp/pip-install-9aa1"),
        ("random", "token=QakQSFJU2lfYh17h", "token=vEZSE3OjrjLaUQAr"),
        ("address", "<object at 0x7f03a1b2c3d0>", "<object at 0x7f99d4e5f6a0>"),
        ("hash-order", "b=1\na=2\n", "a=2\nb=1\n"),
        ("hash-order", json.dumps({"a": 1, "b": [1]}), json.dumps({"b": [1], "a": 1})),
        ("parallel-order", "[1] done\n[2] done\n", "[2] done\n[1] done\n"),
        ("locale", "LANG=de_DE.UTF-8", "LANG=tr_TR.UTF-8"),
        ("process-id", "pid 4711", "pid 4712"),
        ("cpu-count", "make -j8", "make -j2"),
        ("host-state", "MemFree: 17981884 kB", "MemFree: 17572924 kB"),
        ("hostname", "built on host build-7f3", "built on host build-9k1"),
        ("unknown", "the one", "another thing altogether"),
    ],
)
def test_texts(rule: str, old: str, new: str) -> None:
    assert named("/etc/file", old.encode(), new.encode()) == {rule}


def test_gzip_of_two_times_and_levels() -> None:
    text = b"the same text, over and over\n" * 100
    assert named("/a.gz", gzip.compress(text, mtime=NOW), gzip.compress(text, mtime=LATER)) == {"gzip-time"}
    assert named("/a.gz", gzip.compress(text, 1, mtime=0), gzip.compress(text, 9, mtime=0)) == {"compressor"}
    inner = look_into(
        "/a.gz", gzip.compress(b"at 1800000001", mtime=0), gzip.compress(b"at 1800000009", mtime=0), WINDOW
    )
    assert {one.rule for one in inner.causes} == {"timestamp"}
    assert inner.diff == ("@@ -1 +1 @@", "-at 1800000001", "+at 1800000009")


def zipped(times: tuple[int, ...], names: tuple[str, ...] = ("a", "b"), text: str = "x") -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, second in zip(names, times, strict=True):
            archive.writestr(zipfile.ZipInfo(name, (2027, 1, 15, 8, 0, second)), text)
    return made.getvalue()


def test_zips() -> None:
    found = look_into("/app.jar", zipped((2, 4)), zipped((2, 8)), WINDOW)
    assert ({one.rule for one in found.causes}, [one.name for one in found.members]) == ({"zip-time"}, ["b"])
    assert named("/app.whl", zipped((2, 4)), zipped((4, 2), ("b", "a"))) == {"archive-order"}
    text = look_into("/app.jar", zipped((2, 4), text="id 1"), zipped((2, 4), text="id 2"), WINDOW)
    assert next((one.name, one.fields, one.diff) for one in text.members) == (
        "a",
        ("content",),
        ("@@ -1 +1 @@", "-id 1", "+id 2"),
    )


def packed(tmp_path: Path, *options: str) -> bytes:
    command = ["tar", "-cf", "-", "-C", str(tmp_path), *options, "a", "b"]
    return subprocess.run(command, check=True, capture_output=True).stdout


def test_tars(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name)
    constant = ("--mtime=@1", "--owner=0", "--group=0")
    found = look_into(
        "/t.tar", packed(tmp_path, *constant), packed(tmp_path, "--mtime=@9", *constant[1:]), WINDOW
    )
    assert {one.rule for one in found.causes} == {"tar-metadata"}
    assert [(one.name, one.fields) for one in found.members] == [("a", ("time",)), ("b", ("time",))]
    owner = look_into(
        "/t.tar", packed(tmp_path, *constant), packed(tmp_path, *constant[:2], "--group=7"), WINDOW
    )
    assert owner.members[0].fields == ("owner",)
    nested = [gzip.compress(packed(tmp_path, *constant), mtime=time) for time in (NOW, LATER)]
    assert named("/t.tgz", *nested) == {"gzip-time"}


def test_static_libraries(tmp_path: Path) -> None:
    (tmp_path / "m.o").write_bytes(b"object")
    made = []
    for time in (1, 9):
        subprocess.run(["touch", "-d", f"@{time}", str(tmp_path / "m.o")], check=True)
        path = tmp_path / f"{time}.a"
        done = subprocess.run(
            ["ar", "qcU", str(path), str(tmp_path / "m.o")], check=False, capture_output=True
        )
        if done.returncode:
            pytest.skip("needs-ar: binutils")
        made.append(path.read_bytes())
    found = look_into("/lib/x.a", *made, WINDOW)
    assert "ar-metadata" in {one.rule for one in found.causes}
    assert [(one.name, one.fields) for one in found.members] == [("m.o/", ("time",))]


def test_bytecode(tmp_path: Path) -> None:
    source = tmp_path / "m.py"
    source.write_text("x = {1, 2}\n")
    by_time, by_hash = [], []
    for time in (NOW, LATER):
        subprocess.run(["touch", "-d", f"@{time}", str(source)], check=True)
        for made, mode in ((by_time, "TIMESTAMP"), (by_hash, "CHECKED_HASH")):
            path = tmp_path / f"{mode}{time}.pyc"
            py_compile.compile(str(source), str(path), invalidation_mode=py_compile.PycInvalidationMode[mode])
            made.append(path.read_bytes())
    assert by_hash[0] == by_hash[1]
    assert named("/lib/__pycache__/m.pyc", *by_time) == {"pyc-time"}
    assert named("/lib/__pycache__/m.pyc", by_time[0], by_hash[0]) == {"pyc-time"}
    other = by_hash[0][:-1] + bytes([by_hash[0][-1] ^ 1])
    assert named("/m.pyc", by_hash[0], other) == {"pyc-content"}


def test_programs(tmp_path: Path) -> None:
    note = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0"
    head, tail = b"\x7fELF" + bytes(60), b"code" * 20
    identities = bytes(range(20)), bytes(range(20, 40))
    assert named("/bin/x", head + note + identities[0] + tail, head + note + identities[1] + tail) == {
        "build-id"
    }
    times = struct.pack("<Q", NOW), struct.pack("<Q", LATER)
    assert named("/bin/x", head + times[0] + tail, head + times[1] + tail) == {"timestamp"}
    assert named("/bin/x", head + b"\x01" + tail, head + b"\x02" + tail) == {"elf-code"}
    big = struct.pack(">I", NOW), struct.pack(">I", LATER)
    assert named("/data", b"\0head" + big[0], b"\0head" + big[1]) == {"timestamp"}


def test_databases(tmp_path: Path) -> None:
    made = []
    for number in range(2):
        path = tmp_path / f"{number}.db"
        connection = sqlite3.connect(path)
        for _ in range(number + 1):
            connection.execute("create table if not exists t(x)")
            connection.execute("insert into t values (1)")
            connection.commit()
        connection.close()
        made.append(path.read_bytes())
    assert named("/var/lib/app/state", *made) == {"database"}


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ("log", "/var/log/dpkg.log"), ("linker-cache", "/var/cache/ldconfig/aux-cache"), ("linker-cache", "/etc/ld.so.cache"),
        ("package-index", "/var/lib/apt/lists/deb.debian.org_x"), ("machine-id", "/etc/machine-id"),
        ("password-day", "/etc/shadow"), ("password-day", "/etc/gshadow-"), ("font-cache", "/var/cache/fontconfig/x-le64.cache-8"),
        ("man-db", "/var/cache/man/index.db"), ("key-material", "/etc/ssh/ssh_host_rsa_key"),
        ("keystore", "/etc/ssl/certs/java/cacerts"), ("git-state", "/src/.git/index"), ("tool-cache", "/root/.cache/pip/x"),
        ("temporary-file", "/tmp/left"),
    ],
)  # fmt: skip
def test_places(rule: str, path: str) -> None:
    assert [cause.rule for cause in by_place(path)] == [rule]
    assert rule in named(path, b"\0one", b"\0other")


def test_every_rule_has_a_cure() -> None:
    assert all(rule.why and rule.cure for rule in RULES.values())


@pytest.mark.parametrize(
    "head", [b"\x1f\x8b\x08", b"PK\x03\x04", b"!<arch>\n", b"\x7fELF", b"SQLite format 3\0", b"", b"\xff\xfe"]
)
def test_what_is_damaged_is_only_different(head: bytes) -> None:
    found = look_into("/x", head + b"\x01" * 700, head + b"\x02" * 700, WINDOW)
    assert found.causes
    assert isinstance(found, Findings)


def test_a_bomb_is_not_unpacked() -> None:
    bombs = [gzip.compress(bytes(80 << 20) + tail, mtime=0) for tail in (b"a", b"b")]
    assert look_into("/bomb.gz", *bombs, WINDOW).causes
    made = []
    for tail in (b"a", b"b"):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            member = tarfile.TarInfo("x" * 90)
            member.size = 40 << 20
            archive.addfile(member, io.BytesIO(bytes(40 << 20)))
        made.append(gzip.compress(out.getvalue() + tail, mtime=0))
    assert look_into("/bomb.tgz", *made, WINDOW).causes


def test_many_small_bombs_in_one_archive_are_not_all_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is within its own bound."""
    size, many = 1 << 20, 40
    monkeypatch.setattr(contents, "_UNPACKED_IN_ALL", 8 * size)
    unpacked: list[int] = []
    inflate = contents._inflated

    def counted(data: bytes) -> bytes | None:
        found = inflate(data)
        unpacked.append(len(found or b""))
        return found

    monkeypatch.setattr(contents, "_inflated", counted)

    def bombs(filler: bytes) -> bytes:
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w") as archive:
            for number in range(many):
                archive.writestr(f"{number:02}.gz", gzip.compress(filler * size, mtime=0))
        return sink.getvalue()

    found = look_into("bombs.zip", bombs(b"a"), bombs(b"b"), WINDOW)
    assert len(found.members) == many, "all are told"
    assert 8 * size <= sum(unpacked) <= 10 * size
