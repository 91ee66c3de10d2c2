from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import os
import subprocess
import sys
import zlib

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from arkwright.diagnostics.errors import HostUnsupported, UserError
from arkwright.layer.codec import compressor, decompress
from arkwright.layer.profile import PROFILES, Profile, media_type, profile_for
from arkwright.oci import descriptor as media

COMPRESSING = ["isal", "zlib", "zstd"]


def _compress(profile: Profile, pieces) -> bytes:
    out = io.BytesIO()
    packed = compressor(profile, out.write)
    for piece in pieces:
        packed.write(piece)
    packed.close()
    return out.getvalue()


def _sample(size: int) -> bytes:
    words = b"the quick brown fox %d jumps over 0123456789 "
    return b"".join(words % (number * 7919 % 10007) for number in range(size // 40))[:size]


SAMPLE = _sample(700_000)


@pytest.mark.parametrize("name", COMPRESSING)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_output_does_not_depend_on_how_the_input_is_cut(name, data):
    profile = PROFILES[name]
    size = data.draw(st.integers(0, len(SAMPLE)))
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=12)))
    ends = [0, *cuts, size]
    pieces = [memoryview(SAMPLE)[a:b] for a, b in itertools.pairwise(ends)]
    packed = _compress(profile, pieces)
    assert packed == _compress(profile, [SAMPLE[:size]])
    with decompress(io.BytesIO(packed), profile.codec) as stream:
        assert stream.read() == SAMPLE[:size]


@pytest.mark.parametrize("name", ["isal", "zlib"])
def test_gzip_has_a_constant_header_and_is_read_by_others(name):
    packed = _compress(PROFILES[name], [SAMPLE])
    assert packed[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    assert gzip.decompress(packed) == SAMPLE


def test_zstd_is_read_by_others_and_threads_do_not_matter():
    packed = _compress(PROFILES["zstd"], [SAMPLE])
    assert zstandard.ZstdDecompressor().decompressobj().decompress(packed) == SAMPLE
    two = Profile(name="two", codec="zstd", library="zstd", level=3, threads=2)
    assert _compress(two, [SAMPLE]) == packed


@pytest.mark.parametrize("name", [*COMPRESSING, "none"])
def test_nothing_compresses_to_something_that_is_read_as_nothing(name):
    with decompress(io.BytesIO(_compress(PROFILES[name], [])), PROFILES[name].codec) as stream:
        assert stream.read() == b""


@pytest.mark.parametrize(
    ("pack", "codec"),
    [(gzip.compress, "gzip"), (zstandard.compress, "zstd"), (bz2.compress, "bzip2"), (lzma.compress, "xz")],
)
def test_several_members_and_codecs_recognised_by_their_magic(pack, codec):
    packed = pack(b"one ") + pack(SAMPLE) + pack(b" two")
    for name in (codec, "auto"):
        with decompress(io.BytesIO(packed), name) as stream:
            assert stream.read() == b"one " + SAMPLE + b" two"


def test_zstd_skippable_frames_are_skipped():
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
    packed = zstandard.compress(SAMPLE) + skippable + zstandard.compress(b"end")
    with decompress(io.BytesIO(packed), "zstd") as stream:
        assert stream.read() == SAMPLE + b"end"


def test_auto_passes_anything_else_through():
    for data in (b"", b"abc", SAMPLE):
        with decompress(io.BytesIO(data), "auto") as stream:
            assert stream.read() == data


def test_zeros_after_the_last_member_are_padding():
    with decompress(io.BytesIO(gzip.compress(b"x") + bytes(100_000)), "gzip") as stream:
        assert stream.read() == b"x"


def _flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data + b"junk",
        _flip,
    ],
    ids=["last-byte", "half", "empty", "garbage-behind", "flipped-byte"],
)
@pytest.mark.parametrize(
    ("pack", "codec"),
    [
        (gzip.compress, "gzip"),
        (lambda data: _compress(PROFILES["zstd"], [data]), "zstd"),
        (bz2.compress, "bzip2"),
        (lzma.compress, "xz"),
    ],
    ids=["gzip", "zstd", "bzip2", "xz"],
)
def test_damaged_data_are_corrupt_archive(pack, codec, spoil):
    with decompress(io.BytesIO(spoil(pack(SAMPLE))), codec) as stream:
        with pytest.raises(UserError) as caught:
            stream.read()
    assert caught.value.code == "corrupt-archive"


def test_a_gzip_bomb_is_not_unpacked_in_one_piece():
    deflater = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(deflater.compress(bytes(1 << 20)) for _ in range(200)) + deflater.flush()
    with decompress(io.BytesIO(bomb), "gzip") as stream:
        assert stream.raw.readinto(bytearray(1 << 26)) <= 1 << 20


def test_the_source_stays_open():
    source = io.BytesIO(gzip.compress(b"x"))
    decompress(source, "gzip").close()
    assert not source.closed


def test_profiles_name_library_and_version():
    gzipped, zstd = profile_for("gzip"), profile_for("zstd")
    assert gzipped.library.split()[0] == "isal" and gzipped.name.startswith("gzip-isal-2-")
    assert zstd.library == "zstd " + ".".join(map(str, zstandard.ZSTD_VERSION))
    assert [media_type(profile_for(codec)) for codec in ("gzip", "zstd", "none")] == [
        media.LAYER_GZIP, media.LAYER_ZSTD, media.LAYER_TAR,
    ]  # fmt: skip


def test_without_the_libraries(monkeypatch):
    for module in ("isal", "isal.isal_zlib", "zstandard"):
        monkeypatch.setitem(sys.modules, module, None)
    profile = profile_for("gzip")
    assert profile.library == f"zlib {zlib.ZLIB_RUNTIME_VERSION}"
    packed = _compress(profile, [SAMPLE])
    with decompress(io.BytesIO(packed), "gzip") as stream:
        assert stream.read() == SAMPLE
    for use in (
        lambda: profile_for("zstd"),
        lambda: compressor(PROFILES["zstd"], lambda data: None),
        lambda: compressor(PROFILES["isal"], lambda data: None),
        lambda: decompress(io.BytesIO(), "zstd"),
    ):
        with pytest.raises(HostUnsupported) as caught:
            use()
        assert caught.value.code == "missing-codec"


def test_the_package_imports_no_heavy_module():
    code = (
        "import sys, arkwright.layer.apply, arkwright.layer.diff, arkwright.layer.export\n"
        "bad = {'isal', 'zstandard', 'tarfile', 'subprocess', 'ctypes', 'asyncio', 'http', 'bz2', 'lzma',"
        " 'arkwright.linux'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True, env={"PATH": os.environ["PATH"]})
