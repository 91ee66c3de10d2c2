"""Databases of rpm: of rpm itself where it is installed, and kept ones that real programs wrote.

The kept ones hold the same three packages, after a fourth was erased: `rpmdb.sqlite` and `Packages.db` are by
rpm 4.16.1.3, the two of Berkeley DB by `db_load` of its version 5.3, of the headers in the first.
"""

from __future__ import annotations

import lzma
import random
import shutil
import sqlite3
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from arkwright.attest.sbom import sqlite_table
from arkwright.attest.sbom.model import Distribution, Package
from arkwright.attest.sbom.rpm import RPM
from arkwright.attest.sbom.rpm_header import Header

KEPT = ("rpmdb.sqlite", "Packages.db", "Packages", "Packages-big-endian")
RHEL = Distribution(id="rhel", version_id="9.4")
SPEC = """\
Name: thing
Epoch: 2
Version: 1.0
Release: 3
Summary: A thing
License: MIT AND Apache-2.0
URL: https://thing.example/
Vendor: Some Vendor
BuildArch: noarch
%description
A thing.
"""


def needs(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs-{name}: it is not on PATH")
    return found


def kept(name: str) -> bytes:
    return lzma.decompress((Path(__file__).parent / "data" / f"{name}.xz").read_bytes())


def scanned(data: bytes, wal: bytes = b"", distribution: Distribution = RHEL) -> dict[str, Package]:
    files = {"var/lib/rpm/db": data, **({"var/lib/rpm/db-wal": wal} if wal else {})}
    return {one.name: one for one in RPM.scan(files, distribution)}


@pytest.mark.parametrize("name", KEPT)
def test_every_database_says_the_same(name: str) -> None:
    found = scanned(kept(name))
    assert sorted(found) == ["empty", "other", "thing"]
    thing, other, empty = found["thing"], found["other"], found["empty"]
    assert thing.purl == "pkg:rpm/redhat/thing@1.0-3?arch=noarch&distro=rhel-9.4&epoch=2"
    assert other.purl == "pkg:rpm/redhat/other@1.0-3?arch=noarch&distro=rhel-9.4"
    assert (thing.source, thing.supplier, thing.homepage) == (
        "thing",
        "Some Vendor",
        "https://thing.example/",
    )
    assert thing.licences == ("MIT AND Apache-2.0",)
    assert other.licences == ("GPLv2+ and Public Domain",)
    directories = {"/usr/share/thing", "/usr/share/thing/deep"}
    files = {f"/usr/share/thing/deep/file-{number}" for number in range(1, 201)}
    assert set(thing.files) == directories | files | {"/etc/thing.conf"}
    assert other.files == ("/etc/other.conf",)
    assert empty.files == ()


def database(at: Path, count: int) -> Path:
    """A database of packages that rpm built and installed here; `erased-0` is gone again."""
    needs("rpm")
    needs("rpmbuild")
    spec = SPEC + "".join(
        f"%package -n {name}\nSummary: {name}\n%description -n {name}\n{name}\n%files -n {name}\n"
        for name in ("erased-0", *(f"package-{number}" for number in range(count)))
    )
    (at / "thing.spec").write_text(spec + "%files\n")
    build = ["rpmbuild", "-bb", "--define", f"_topdir {at}/top", str(at / "thing.spec")]
    subprocess.run(build, check=True, capture_output=True)
    made = at / "db"
    rpm = ["rpm", "--dbpath", str(made), "--define", "_db_backend sqlite"]
    packages = sorted(map(str, (at / "top/RPMS").rglob("*.rpm")))
    subprocess.run(
        [*rpm, "-i", "--nodeps", "--justdb", "--force-debian", *packages], check=True, capture_output=True
    )
    subprocess.run([*rpm, "-e", "--justdb", "--force-debian", "erased-0"], check=True, capture_output=True)
    return made


def test_rpm_agrees(tmp_path: Path) -> None:
    at = database(tmp_path, 40)
    form = "%{NAME} %{VERSION}-%{RELEASE} %{ARCH}\n"
    listed = subprocess.run(
        ["rpm", "--dbpath", str(at), "-qa", "--qf", form], check=True, capture_output=True, text=True
    )
    found = scanned((at / "rpmdb.sqlite").read_bytes(), (at / "rpmdb.sqlite-wal").read_bytes())
    said = {(one.name, one.version, dict(one.qualifiers)["arch"]) for one in found.values()}
    assert said == {tuple(line.split()) for line in listed.stdout.splitlines()}
    assert len(said) == 41
    with sqlite3.connect(at / "rpmdb.sqlite") as connection:
        blobs = [row[0] for row in connection.execute("SELECT blob FROM Packages ORDER BY hnum")]
    connection.close()
    rows = sqlite_table.rows((at / "rpmdb.sqlite").read_bytes(), b"Packages")
    assert [row[1] for row in rows] == blobs


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
@pytest.mark.parametrize("logged", [False, True])
def test_sqlite_agrees(tmp_path: Path, page_size: int, logged: bool) -> None:
    """Rows of every length around what fits into a page, deleted ones, and what is in the log only."""
    path = tmp_path / "some.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA page_size={page_size}")
    connection.execute(f"PRAGMA journal_mode={'wal' if logged else 'delete'}")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute("CREATE TABLE other (a)")
    connection.execute(
        "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB, n, t, f, z, o)"
    )
    source = random.Random(page_size)
    lengths = [
        *range(440, 520),
        0,
        page_size - 40,
        page_size - 35,
        page_size - 34,
        page_size,
        3 * page_size,
        200_000,
    ]
    connection.execute("BEGIN")
    for number, length in enumerate(lengths):
        values = (
            source.randbytes(length),
            -(256**number) if number < 8 else number * 10**9,
            f"text {number}",
            0.5,
        )
        connection.execute("INSERT INTO Packages (blob, n, t, f, z, o) VALUES (?, ?, ?, ?, 0, 1)", values)
    connection.execute("COMMIT")
    if logged:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    connection.execute("DELETE FROM Packages WHERE hnum % 3 = 0")
    data = path.read_bytes()
    wal = path.with_name("some.db-wal").read_bytes() if logged else b""
    wanted = [
        (None, blob, n, t.encode(), struct.pack(">d", f), z, o)
        for _, blob, n, t, f, z, o in connection.execute("SELECT * FROM Packages ORDER BY hnum")
    ]
    if logged:
        assert len(list(sqlite_table.rows(data, b"Packages"))) == len(lengths)
        # A torn commit is none. Frames of before stand behind those of now.
        assert len(list(sqlite_table.rows(data, b"Packages", wal[: 32 + 24 + page_size - 1]))) == len(lengths)
        broken = bytearray(wal)
        broken[40] ^= 1
        assert len(list(sqlite_table.rows(data, b"Packages", bytes(broken)))) == len(lengths)
    else:
        assert len(data) % page_size == 0
    connection.close()
    assert [(row[0], row[1] or b"", *row[2:]) for row in sqlite_table.rows(data, b"Packages", wal)] == wanted


def refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        list(RPM.scan({"var/lib/rpm/db": data}, RHEL))
    assert caught.value.args[1] == "var/lib/rpm/db"


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("cut", [0.3, 0.6, 0.95])
def test_what_is_cut_off_is_refused(name: str, cut: float) -> None:
    data = kept(name)
    end = int(len(data) * cut)
    try:
        found = scanned(data[:end])
    except ValueError:
        return
    # Nothing of the packages was in the part that is missing, or they are missing.
    assert set(found) <= {"empty", "other", "thing"}


@pytest.mark.parametrize("name", KEPT)
def test_no_damage_does_more_than_to_be_refused(name: str) -> None:
    """Any byte may be any other: a value error, or an answer, and never a long one."""
    data, source = kept(name), random.Random(name)
    heads = [0, 4096, len(data) // 2, len(data) - 64]
    for _ in range(300):
        broken = bytearray(data)
        for _ in range(source.choice((1, 8))):
            place = (
                source.choice(heads) + source.randrange(64)
                if source.random() < 0.5
                else source.randrange(len(data))
            )
            broken[min(place, len(data) - 1)] = source.choice((0, 1, 0x7F, 0xFF, source.randrange(256)))
        try:
            found = scanned(bytes(broken))
        except ValueError:
            continue
        assert len(found) <= 400


def test_pages_in_a_circle_are_refused() -> None:
    data = bytearray(kept("rpmdb.sqlite"))
    (size,) = struct.unpack_from(">H", data, 16)
    # Page 2 is that of the table: an inner page whose only child is itself.
    data[size : size + 12] = struct.pack(">BHHHBI", 5, 0, 0, size, 0, 2)
    refused(bytes(data))


def test_cells_that_overlap_are_refused() -> None:
    data = bytearray(kept("rpmdb.sqlite"))
    (size,) = struct.unpack_from(">H", data, 16)
    (cell,) = struct.unpack_from(">H", data, size + 8)
    struct.pack_into(">H", data, size + 3, 100)
    data[size + 8 : size + 208] = struct.pack(">H", cell) * 100
    refused(bytes(data))


def test_slots_that_share_a_package_are_refused() -> None:
    data = bytearray(kept("Packages.db"))
    first = next(at for at in range(32, 4096, 16) if data[at + 8 : at + 12] != bytes(4))
    for at in range(32, 4096, 16):
        data[at : at + 16] = data[first : first + 16]
    refused(bytes(data))


def test_overflow_in_a_circle_is_refused() -> None:
    data = bytearray(kept("Packages"))
    overflow = next(at for at in range(0, len(data), 4096) if data[at + 25] == 7 and data[at + 16])
    struct.pack_into("<I", data, overflow + 16, overflow // 4096)
    refused(bytes(data))


@pytest.mark.parametrize("data", [b"", b"RpmP", b"RpmP" + bytes(28), b"SQLite format 3\0", bytes(4096)])
def test_what_is_no_database_is_refused(data: bytes) -> None:
    if data == b"RpmP" + bytes(28):
        assert list(RPM.scan({"db": data}, RHEL)) == []
    else:
        refused(data)


def header(*entries: tuple[int, int, int, int], data: bytes = b"", count: int = -1) -> bytes:
    index = b"".join(struct.pack(">IIII", *entry) for entry in entries)
    return struct.pack(">II", len(entries) if count < 0 else count, len(data)) + index + data


@pytest.mark.parametrize(
    ("blob", "ask"),
    [
        (b"", lambda one: one.text(1000)),
        (header((1000, 6, 0, 1), data=b"a\0", count=0xFFFFFF), lambda one: one.text(1000)),
        (header((1000, 6, 9, 1), data=b"a\0"), lambda one: one.text(1000)),
        (header((1000, 6, 0, 1), data=b"a"), lambda one: one.text(1000)),
        (header((1000, 4, 0, 1), data=bytes(4)), lambda one: one.text(1000)),
        (header((1000, 6, 0, 2), data=b"a\0b\0"), lambda one: one.text(1000)),
        (header((1003, 4, 2, 1), data=bytes(4)), lambda one: one.number(1003)),
        (header((1003, 4, 0, 0xFFFFFFFF), data=bytes(4)), lambda one: one.number(1003)),
        (header((1117, 8, 0, 0xFFFFFFFF), data=b"a\0"), lambda one: one.files()),
        (header((1117, 8, 0, 1), data=b"a\0"), lambda one: one.files()),
        (
            header((1117, 8, 0, 1), (1118, 8, 0, 1), (1116, 4, 4, 1), data=b"a\0\0\0" + struct.pack(">I", 7)),
            lambda one: one.files(),
        ),
    ],
)
def test_damaged_headers_are_refused(blob: bytes, ask: Callable[[Header], object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        ask(Header(blob))


def test_a_small_header_does_not_become_a_large_list() -> None:
    """One long directory, named by each of many files."""
    names, directory = b"a\0" * 50_000, b"/" + b"d" * 4000 + b"\0"
    numbers = bytes(4 * 50_000)
    data = numbers + names + directory
    blob = header(
        (1116, 4, 0, 50_000), (1117, 8, len(numbers), 50_000), (1118, 8, len(numbers) + len(names), 1), data=data
    )  # fmt: skip
    with pytest.raises(ValueError, match="too long"):
        Header(blob).files()
