"""Programs and archives that are hostile, damaged, or old: what is read of them, and that it ends."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from arkwright.attest.sbom import programs
from arkwright.attest.sbom.java import java
from arkwright.attest.sbom.licences import KNOWN, is_expression
from arkwright.attest.sbom.model import Package

# As runtime/debug.modinfo has it: sixteen bytes around lines of tabs.
MODULES = (
    b"m" * 16
    + b"path\tx.org/cmd\nmod\tx.org/cmd\t(devel)\t\ndep\ty.org/lib\tv1.2.3\th1:a=\n=>\tz.org/fork\tv0.1.0\th1:b=\n"
    + b"m" * 16
)


def packages(archive: bytes, name: str = "opt/app.jar") -> list[Package]:
    return list(java(name, io.BytesIO(archive)))


def jar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def manifest(name: str) -> bytes:
    return f"Bundle-SymbolicName: {name};x=y\r\nBundle-Version: 1\r\nBundle-Vendor: V\r\nBundle-License: MIT\r\n".encode()


def pom(artifact: str) -> dict[str, bytes]:
    return {
        f"META-INF/maven/g/{artifact}/pom.properties": f"groupId=g\nartifactId={artifact}\nversion=2\n".encode()
    }


def elf_64(content: bytes, address: int = 0x400000) -> bytes:
    """An ELF file whose only segment is all of it."""
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, address, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    size = 64 + 56 + len(content)
    return head + struct.pack("<IIQQQQQQ", 1, 5, 0, address, address, size, size, 4096) + content


def test_go_before_1_18_points_to_its_texts(tmp_path: Path) -> None:
    base, version = 0x400000, b"go1.17.4"
    texts = 128 + 32
    content = bytearray(b"\0" * 8 + b"\xff Go buildinf:" + bytes([8, 0]))
    headers = texts + len(version) + len(MODULES)
    content += struct.pack("<QQ", base + headers, base + headers + 16)
    content += version + MODULES
    content += struct.pack("<QQQQ", base + texts, len(version), base + texts + len(version), len(MODULES))
    path = tmp_path / "program"
    path.write_bytes(elf_64(bytes(content)))
    with path.open("rb") as file:
        found = [one.purl for one in programs.go("program", file)]
    assert found == ["pkg:golang/stdlib@1.17.4", "pkg:golang/x.org/cmd", "pkg:golang/z.org/fork@v0.1.0"]
    source = random.Random(1)
    for _ in range(400):
        broken = bytearray(path.read_bytes())
        for _ in range(source.choice((1, 4))):
            broken[source.randrange(len(broken))] = source.choice((0, 0xFF, source.randrange(256)))
        path.with_name("broken").write_bytes(broken)
        with path.with_name("broken").open("rb") as file:
            try:
                list(programs.go("broken", file))
                list(programs.rust("broken", file))
            except ValueError:
                continue


def sections(audit: bytes) -> bytes:
    """An ELF file with a section of cargo-auditable's name."""
    names = b"\0.dep-v0\0"
    body = 64 + len(names) + len(audit)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, body, 0, 64, 56, 0, 64, 2, 0)
    table = struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, 64, len(names), 0, 0, 1, 0)
    table += struct.pack("<IIQQQQIIQQ", 1, 1, 0, 0, 64 + len(names), len(audit), 0, 0, 1, 0)
    return head + names + audit + table


@pytest.mark.parametrize(
    "audit",
    [
        b"nothing", zlib.compress(b"{}"), zlib.compress(b"[" * 100_000), zlib.compress(b" " * (64 << 20)),
        zlib.compress(json.dumps({"packages": [{"name": 1, "version": "1"}]}).encode()), zlib.compress(b'{"packages":[]}')[:9],
    ],
)  # fmt: skip
def test_audit_data_that_is_none_is_refused(tmp_path: Path, audit: bytes) -> None:
    path = tmp_path / "program"
    path.write_bytes(sections(audit))
    with path.open("rb") as file, pytest.raises(ValueError, match=r".") as caught:
        list(programs.rust("program", file))
    assert caught.value.args[1] == "program"


@pytest.mark.parametrize(
    ("name", "files", "wanted"),
    [
        ("opt/a-2.jar", {**pom("a"), "META-INF/MANIFEST.MF": manifest("org.other")}, {"pkg:maven/g/a@2": "V"}),
        # What was put into an archive does not hide what the archive is.
        ("opt/app.jar", {**pom("a"), "META-INF/MANIFEST.MF": manifest("org.app")}, {"pkg:maven/g/a@2": "", "pkg:maven/org.app@1": "V"}),
        ("opt/x.jar", {**pom("a"), **pom("b"), "META-INF/MANIFEST.MF": manifest("g.b")}, {"pkg:maven/g/a@2": "", "pkg:maven/g/b@2": "V"}),
        ("opt/x.war", {"WEB-INF/lib/a.jar": jar(pom("a"))}, {"pkg:maven/g/a@2": ""}),
        ("opt/x.jar", {"META-INF/MANIFEST.MF": b"Bundle-SymbolicName: n\r\n ame\r\nBundle-Version: 1\r\n"}, {"pkg:maven/name@1": ""}),
        ("opt/x.jar", {}, {}),
    ],
)  # fmt: skip
def test_what_an_archive_is(name: str, files: dict[str, bytes], wanted: dict[str, str]) -> None:
    assert {one.purl: one.supplier for one in packages(jar(files), name)} == wanted


def nested(depth: int) -> bytes:
    found = jar(pom("deepest"))
    for _ in range(depth):
        found = jar({"inner.jar": found})
    return found


def test_archives_in_each_other_are_looked_into_so_far() -> None:
    assert [one.name for one in packages(nested(2))] == ["deepest"]
    assert packages(nested(3)) == []


def hostile() -> Iterator[tuple[str, bytes]]:
    good = jar(pom("a"))
    yield "cut off", good[:-10]
    yield "no archive", b"PK" + bytes(100)
    yield "a content that is damaged", good.replace(b"META-INF", b"META-INX", 1)
    place = good.rindex(b"PK\5\6")
    yield "a list of entries outside", good[: place + 16] + b"\xff\xff\xff\x7f" + good[place + 20 :]
    with io.BytesIO() as out:
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("x", b"")
        data = out.getvalue()
    # As of an archive of millions of entries, which the library would hold all at once.
    place = data.rindex(b"PK\5\6")
    yield (
        "a list that is too large",
        bytes(40 << 20) + data[: place + 12] + struct.pack("<I", 36 << 20) + data[place + 16 :],
    )


@pytest.mark.parametrize(("name", "data"), list(hostile()), ids=[name for name, _ in hostile()])
def test_archives_that_are_hostile_are_refused(name: str, data: bytes) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        packages(data)
    assert caught.value.args[1] == "opt/app.jar"


def test_archives_that_unpack_to_too_much_are_refused() -> None:
    big = jar({"x": bytes(100 << 20)})
    inner = {f"{number}.jar": big + b"" for number in range(3)}
    assert packages(jar(inner)) == []
    stuffed = jar({"META-INF/MANIFEST.MF": b"a" * (20 << 20)})
    assert packages(stuffed) == []


def test_the_licences_are_those_of_the_list() -> None:
    from license_expression import get_spdx_licensing

    licensing = get_spdx_licensing()
    assert [name for name in KNOWN if licensing.validate(name).errors] == []


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("MIT", True), ("MIT OR Apache-2.0", True), ("(MIT OR Apache-2.0) AND ISC", True), ("((MIT))", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0 OR MIT", True),
        ("MIT OR", False), ("OR MIT", False), ("MIT MIT", False), ("MIT WITH MIT", False), ("MIT WITH", False),
        ("((MIT)", False), ("MIT)", False), ("()", False), ("", False), ("MIT or ISC", False), ("BSD", False),
        ("MIT AND " * 60 + "MIT", False), ("(" * 5000, False),
    ],
)  # fmt: skip
def test_expressions(text: str, right: bool) -> None:
    assert is_expression(text) is right
