from __future__ import annotations

import io
import os
import subprocess
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_trees import change, entries_of, opaque, python_tar, rewritten, snapshot, tar_of, whiteout, write

from arkwright.diagnostics.errors import UserError
from arkwright.layer.diff import diff
from arkwright.layer.entry import Change, Entry
from arkwright.layer.profile import CONSTANT_EPOCH, CONSTANT_NS
from arkwright.layer.rooted import Root
from arkwright.layer.tar_read import looks_like_tar, read_tar
from arkwright.layer.tar_write import write_tar

LONG = "d" * 90 + "/" + "e" * 120 + "/" + "f" * 90
RAW = os.fsdecode(b"caf\xe9/\xff\xfe")
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


def _everything() -> list[Change]:
    return [
        change("", "dir", mode=0o755),
        change("bin", "symlink", mode=0o777, link="usr/bin"),
        change("dev", "dir"),
        change("dev/null", "char", mode=0o666, major=1, minor=3),
        change("dev/sda", "block", mode=0o660, gid=6, major=8, minor=0),
        change("etc", "dir", mode=0o1777, uid=5, gid=6),
        change("etc/empty"),
        change("etc/pipe", "fifo", mode=0o600),
        whiteout("etc/removed"),
        change("etc/shadow", data=b"root", mode=0o640, gid=42),
        change("etc/ping", data=b"\x7fELF", mode=0o4755, xattrs=(("security.capability", CAPABILITY),)),
        change("etc/twin", "hardlink", link="etc/shadow", mode=0o640, gid=42),
        change("grün/datei", data=b"umlaut"),
        change("huge-owner", data=b"x", uid=3_000_000, gid=4_000_000_000),
        change(LONG, data=b"long" * 1000),
        change("link", "symlink", mode=0o777, link="t" * 150),
        opaque("opt"),
        change(RAW, data=b"raw", xattrs=(("user.a=b", b"\0\xff\n"), ("user.b%3D", b""))),
        change("target", "symlink", mode=0o777, link=RAW),
    ]


def test_every_kind_of_entry_comes_back_as_it_was_written():
    data = tar_of(_everything(), mtime_ns=None)
    expected = [item.entry for item in _everything()]
    assert [entry for entry, _ in entries_of(data)] == expected
    contents = {entry.path: content for entry, content in entries_of(data)}
    assert contents[LONG] == b"long" * 1000 and contents[RAW] == b"raw"
    assert rewritten(data) == data


def test_the_archive_has_one_time_and_ends_with_two_zero_blocks():
    data = tar_of([change("a", data=b"1", mtime_ns=123456789), change("b", "dir", mtime_ns=-5)])
    assert {entry.mtime_ns for entry, _ in entries_of(data)} == {CONSTANT_NS}
    assert data[-1024:] == bytes(1024) and len(data) == 3 * 512 + 1024
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert {info.mtime for info in archive} == {CONSTANT_EPOCH}
        assert {(info.uname, info.gname) for info in archive} == {("", "")}


def test_whiteouts_are_empty_files_without_mode_or_owner():
    data = tar_of([whiteout("a/b"), whiteout("c"), opaque("d"), opaque("")])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = [(info.name, info.mode, info.uid, info.gid, info.size, info.isreg()) for info in archive]
    assert [row[0] for row in found] == ["a/.wh.b", ".wh.c", "d/.wh..wh..opq", ".wh..wh..opq"]
    assert {row[1:] for row in found} == {(0, 0, 0, 0, True)}


def test_only_needed_pax_records_are_written_and_sorted():
    data = tar_of([change("é" * 80, data=b"x", uid=3_000_000, xattrs=(("user.z", b"1"), ("user.a", b"2")))])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        (info,) = archive
        assert list(info.pax_headers) == ["SCHILY.xattr.user.a", "SCHILY.xattr.user.z", "path", "uid"]
    assert b"././@PaxHeader" in data[:512]
    assert b"@PaxHeader" not in tar_of([change("a" * 100), change("b" * 150 + "/" + "c" * 100)])


@pytest.mark.parametrize("length", range(95, 110))
def test_names_around_the_limit_of_a_field(length):
    for kind in ("file", "dir"):
        for path in ("n" * length, "p" * 155 + "/" + "n" * length, "p" * length + "/" + "n" * 60):
            entry = change(path, kind).entry
            data = tar_of([change(path, kind)], mtime_ns=None)
            assert [found for found, _ in entries_of(data)] == [entry]
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                assert archive.getnames() == [path]


@pytest.mark.parametrize("length", [*range(1, 12), 89, 90, 91, 983, 984, 985, 9979, 9980, 9981])
def test_pax_lengths_count_themselves(length):
    entry = change("x", xattrs=(("user.n", b"v" * length),)).entry
    data = tar_of([Change(entry, io.BytesIO)], mtime_ns=None)
    assert entries_of(data) == [(entry, b"")]
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.next().pax_headers == {"SCHILY.xattr.user.n": "v" * length}


def test_sizes_beyond_8_gib_go_to_pax():
    class Zeros(io.RawIOBase):
        left = size = (8 << 30) + 5

        def read(self, size=-1):
            size = min(size, self.left)
            self.left -= size
            return bytes(size)

    head = bytearray()

    def sink(data: bytes) -> None:
        if len(head) < 2048:
            head.extend(data)
        if Zeros.seen > 1 << 22:
            raise StopIteration
        Zeros.seen += len(data)

    Zeros.seen = 0
    entry = Entry(path="big", type="file", mode=0o644, size=Zeros.size)
    with pytest.raises(StopIteration):
        write_tar([Change(entry, Zeros)], sink)
    found, _ = next(read_tar(io.BytesIO(bytes(head))))
    assert found.size == Zeros.size
    info = tarfile.TarFile(fileobj=io.BytesIO(bytes(head))).firstmember
    assert info.size == Zeros.size


@pytest.mark.parametrize("seconds", [-1, -86400 * 365, 0, 1.5, -1.25, 0o77777777777, 0o77777777777 + 1])
def test_times_of_all_kinds_are_kept_exactly(seconds):
    time_ns = int(seconds * 1_000_000_000)
    data = tar_of([change("a", mtime_ns=time_ns)], mtime_ns=None)
    assert entries_of(data)[0][0].mtime_ns == time_ns
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.next().mtime == seconds
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        if form == tarfile.GNU_FORMAT and seconds != int(seconds):
            continue
        ours = entries_of(python_tar(("a", {"mtime": seconds}, b""), format=form))
        assert ours[0][0].mtime_ns == time_ns


def test_a_file_that_changed_is_refused():
    for size in (3, 5, (1 << 18) + 3):
        entry = Entry(path="a", type="file", size=size)
        for actual in (size - 1, size + 1):
            with pytest.raises(UserError) as caught:
                tar_of([Change(entry, lambda actual=actual: io.BytesIO(bytes(actual)))])
            assert caught.value.code == "content-changed"


def test_a_file_named_like_a_whiteout_is_refused():
    with pytest.raises(UserError) as caught:
        tar_of([change("a/.wh.b", data=b"x")])
    assert caught.value.code == "reserved-name"


_NAMES = st.binary(min_size=1, max_size=130).filter(
    lambda raw: (
        b"/" not in raw and b"\0" not in raw and raw not in (b".", b"..") and not raw.startswith(b".wh.")
    )
)
_PATHS = st.lists(_NAMES, min_size=1, max_size=4).map(lambda parts: os.fsdecode(b"/".join(parts)))
_XATTRS = st.dictionaries(
    st.text(st.characters(min_codepoint=33, max_codepoint=1000), min_size=1, max_size=20),
    st.binary(max_size=300),
).map(
    lambda found: tuple(
        sorted(((f"user.{key}", value) for key, value in found.items()), key=lambda i: os.fsencode(i[0]))
    )
)


@st.composite
def _entries(draw) -> Entry:
    kind = draw(st.sampled_from(["file", "dir", "symlink", "hardlink", "char", "block", "fifo", "whiteout"]))
    if kind == "whiteout":
        return Entry(path=draw(_PATHS), type=kind)
    device = kind in ("char", "block")
    return Entry(
        path=draw(_PATHS),
        type=kind,
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(st.integers(0, 2**32 - 2)),
        gid=draw(st.integers(0, 2**32 - 2)),
        size=draw(st.integers(0, 2000)) if kind == "file" else 0,
        mtime_ns=draw(st.integers(-(10**20), 10**20)),
        link=draw(_PATHS) if kind in ("symlink", "hardlink") else "",
        major=draw(st.integers(0, 4095)) if device else 0,
        minor=draw(st.integers(0, (1 << 20) - 1)) if device else 0,
        xattrs=draw(_XATTRS) if kind != "hardlink" else (),
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(_entries(), max_size=6))
def test_round_trip_of_anything(entries):
    def content(entry: Entry):
        return (lambda: io.BytesIO(b"\x5a" * entry.size)) if entry.type == "file" else None

    data = tar_of([Change(entry, content(entry)) for entry in entries], mtime_ns=None)
    assert [entry for entry, _ in entries_of(data)] == entries
    assert rewritten(data) == data
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert len(archive.getmembers()) == len(entries)


def _sample_tree(top: str) -> None:
    write(f"{top}/usr/bin/tool", b"#!/bin/sh\n", 0o755)
    write(f"{top}/usr/share/{'x' * 80}/{'y' * 60}", b"long name")
    write(f"{top}/short/a", b"a" * 1000)
    os.symlink("../usr/bin/tool", f"{top}/short/link")
    os.link(f"{top}/short/a", f"{top}/short/b")
    os.mkfifo(f"{top}/short/pipe")
    os.utime(f"{top}/short/a", ns=(0, 1_234_567_890 * 10**9))


@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_archives_of_gnu_tar_are_read(tmp_path, tool, form):
    top = tmp_path / "tree"
    _sample_tree(str(top))
    if form == "v7":
        os.unlink(top / "short/pipe")
        os.rename(top / f"usr/share/{'x' * 80}/{'y' * 60}", top / "usr/share/y")
    command = [tool("tar"), f"--format={form}", "-C", str(top), "--sort=name", "-cf", "-", "."]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        expected = {
            os.path.normpath(info.name): (
                info.mode,
                info.uid,
                info.gid,
                int(info.mtime),
                info.size,
                info.type,
            )
            for info in archive
        }
    kinds = {"file": b"0", "dir": b"5", "symlink": b"2", "hardlink": b"1", "fifo": b"6"}
    found = {
        entry.path or ".": (
            entry.mode, entry.uid, entry.gid, entry.mtime_ns // 10**9, entry.size, kinds[entry.type],
        )
        for entry, _ in entries_of(data)
    }  # fmt: skip
    if form == "v7":
        expected = {name: (*row[:5], b"0" if row[5] == b"\0" else row[5]) for name, row in expected.items()}
    assert found == expected
    assert ("short/b", "short/a") in {(entry.path, entry.link) for entry, _ in entries_of(data)}


SPARSE = [
    ["--format=gnu"],
    ["--format=oldgnu"],
    *(["--format=posix", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0")),
]


@pytest.mark.parametrize("options", SPARSE, ids=["gnu", "oldgnu", "0.0", "0.1", "1.0"])
@pytest.mark.parametrize("segments", [0, 1, 3, 30, 300])
def test_sparse_files_of_gnu_tar_are_read(tmp_path, tool, options, segments):
    path = tmp_path / ("sparse-" + "n" * 60)
    with open(path, "wb") as file:
        for number in range(segments):
            file.seek(number * 65536 + 8192)
            file.write(b"%06d" % number * 700)
        file.truncate(segments * 65536 + 1_000_001)
    (tmp_path / "zz").write_bytes(b"behind")
    command = [tool("tar"), "--sparse", *options, "-C", str(tmp_path), "-cf", "-", path.name, "zz"]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    assert len(data) < 20_000 + segments * 20_000
    found = {entry.path: (entry.size, content) for entry, content in entries_of(data)}
    expected = path.read_bytes()
    assert found[path.name] == (len(expected), expected)
    assert found["zz"] == (6, b"behind")
    # And in pieces that do not fit the segments.
    for entry, content in read_tar(io.BytesIO(data)):
        if entry.path == path.name:
            assert content is not None
            assert b"".join(iter(lambda content=content: content.read(7777), b"")) == expected


def test_gnu_tar_extracts_what_we_write(tmp_path, tool, as_root):
    source, copy = tmp_path / "source", tmp_path / "copy"
    copy.mkdir(mode=0o755)
    _sample_tree(str(source))
    write(os.fsencode(source).decode() + "/" + RAW, b"raw")
    os.mknod(source / "null", 0o20666, os.makedev(1, 3))
    os.chown(source / "short/a", 70000, 3_000_000)
    os.chmod(source / "short/a", 0o4751)
    os.setxattr(source / "usr/bin/tool", "security.capability", CAPABILITY)
    os.setxattr(source / "usr/bin/tool", "user.note", b"a\0b")
    os.chmod(source, 0o755)
    with Root(str(source)) as root:
        data = tar_of(diff(None, root))
    command = [
        tool("tar"), "--numeric-owner", "-p", "--xattrs", "--xattrs-include=*",
        "--warning=no-unknown-keyword", "-C", str(copy), "-xf", "-",
    ]  # fmt: skip
    done = subprocess.run(command, input=data, check=True, capture_output=True)
    assert done.stderr == b""
    assert snapshot(str(copy)) == snapshot(str(source))
    assert os.stat(copy / "short/a").st_mtime == CONSTANT_EPOCH


def test_libarchive_lists_what_we_write(tool):
    found = subprocess.run(
        [tool("bsdtar"), "-tf", "-"],
        input=tar_of([change("a", data=b"x"), change(LONG)]),
        capture_output=True,
        check=True,
    )
    assert found.stdout.decode().split() == ["a", LONG]


def test_global_headers_apply_until_overridden():
    def record(**pairs: str) -> bytes:
        info = tarfile.TarInfo("x")
        return info._create_pax_generic_header(pairs, tarfile.XGLTYPE, "utf-8")

    data = record(uid="77", mtime="5.5") + tar_of([change("a"), change("b", uid=3_000_000)])
    found = [entry for entry, _ in entries_of(data)]
    assert [(entry.uid, entry.mtime_ns) for entry in found] == [
        (77, 5_500_000_000),
        (3_000_000, 5_500_000_000),
    ]


def test_raw_keeps_whiteout_names():
    data = python_tar(("d/.wh.x", {}, b"1"), (".wh..wh.plnk", {}, b""), ("d/.wh..wh..opq", {}, b""))
    assert [(e.path, e.type) for e, _ in entries_of(data)] == [("d/x", "whiteout"), ("d", "opaque")]
    assert [e.path for e, _ in entries_of(data, raw=True)] == ["d/.wh.x", ".wh..wh.plnk", "d/.wh..wh..opq"]


def test_absolute_and_dotted_names_are_relative_to_the_root():
    data = python_tar(("/etc/a", {}, b""), ("./b//c/./d", {}, b""), ("//", {"type": tarfile.DIRTYPE}, b""))
    assert [entry.path for entry, _ in entries_of(data)] == ["etc/a", "b/c/d", ""]


def test_overlay_attributes_are_dropped_on_reading():
    xattrs = {
        f"SCHILY.xattr.{name}": "y" for name in ("trusted.overlay.opaque", "user.overlay.x", "user.kept")
    }
    data = python_tar(("a", {"pax_headers": xattrs}, b""))
    assert entries_of(data)[0][0].xattrs == (("user.kept", b"y"),)


def test_looks_like_tar():
    assert looks_like_tar(tar_of([change("a")])[:512])
    assert looks_like_tar(python_tar(("a", {}, b""), format=tarfile.GNU_FORMAT)[:512])
    assert not looks_like_tar(bytes(512))
    assert not looks_like_tar(b"#!/bin/sh\n".ljust(512))
    assert not looks_like_tar(b"")


def test_signed_checksums_of_old_writers_are_accepted():
    block = bytearray(tar_of([change("a")])[:512])
    block[300] = 0xE9
    plain = sum(block) - sum(block[148:156]) + 256
    block[148:156] = b"%06o\0 " % (plain - 256)
    assert entries_of(bytes(block) + bytes(1024))[0][0].path == "a"


def test_a_content_stream_ends_with_its_entry():
    stream = io.BytesIO(tar_of([change("a", data=b"1" * 5000), change("b", data=b"2" * 10)]))
    found = read_tar(stream)
    _, first = next(found)
    assert first is not None and first.read(10) == b"1" * 10
    entry, second = next(found)
    assert first.read() == b""
    assert entry.path == "b" and second is not None and second.read() == b"2" * 10
    buffer = bytearray(3)
    assert second.readinto(buffer) == 0  # type: ignore[attr-defined]
