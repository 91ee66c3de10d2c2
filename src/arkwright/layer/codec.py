"""Compressors whose output depends on the profile alone, and streaming decompression.

ISA-L's output depends on how its input was cut: every compressor therefore gets blocks of one
size. The libraries are imported when they are first needed.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol, cast

from arkwright.diagnostics.errors import HostUnsupported
from arkwright.layer import faults
from arkwright.layer.profile import Profile

Sink = Callable[[bytes], object]

# RFC 1952: deflate, no flags, no time, no extra flags, operating system unknown.
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_READ = 1 << 16
_MAX_OUTPUT = 1 << 20
# A zstd block of four bytes can stand for 128 KiB, and its decoder knows no bound on its output.
_ZSTD_READ = 1 << 12
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz"),
)  # fmt: skip


class Compressor(Protocol):
    """Takes the input in pieces of any size; `close` ends the output and must be called once."""

    def write(self, data: bytes | memoryview) -> None: ...
    def close(self) -> None: ...


def compressor(profile: Profile, sink: Sink) -> Compressor:
    """A compressor that hands its output to `sink`. Raises `HostUnsupported` `missing-codec`."""
    if profile.codec == "none":
        return _Stored(sink)
    return _Blocks(
        profile.block_size, _Gzip(profile, sink) if profile.codec == "gzip" else _Zstd(profile, sink)
    )


class _Stored:
    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def write(self, data: bytes | memoryview) -> None:
        self._sink(bytes(data))

    def close(self) -> None:
        pass


class _Blocks:
    """Cuts the input into blocks of one size for the compressor behind it."""

    def __init__(self, size: int, target: Compressor) -> None:
        self._size = size
        self._target = target
        self._held = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        start = 0
        if self._held:
            start = min(self._size - len(self._held), len(view))
            self._held += view[:start]
            if len(self._held) < self._size:
                return
            self._target.write(bytes(self._held))
            self._held.clear()
        while len(view) - start >= self._size:
            self._target.write(view[start : start + self._size])
            start += self._size
        self._held += view[start:]

    def close(self) -> None:
        if self._held:
            self._target.write(bytes(self._held))
        self._target.close()


class _Gzip:
    def __init__(self, profile: Profile, sink: Sink) -> None:
        library = _deflate(profile)
        self._crc32 = library.crc32
        self._deflater = library.compressobj(profile.level, zlib.DEFLATED, -15)
        self._sink = sink
        self._crc = 0
        self._size = 0
        sink(_GZIP_HEADER)

    def write(self, data: bytes | memoryview) -> None:
        self._crc = self._crc32(data, self._crc)
        self._size += len(data)
        if out := self._deflater.compress(data):
            self._sink(out)

    def close(self) -> None:
        self._sink(self._deflater.flush() + struct.pack("<LL", self._crc, self._size & 0xFFFFFFFF))


class _Zstd:
    def __init__(self, profile: Profile, sink: Sink) -> None:
        # threads=0 gives other bytes than 1 and more, which give equal ones.
        encoder = _zstandard().ZstdCompressor(
            level=profile.level,
            threads=max(1, profile.threads),
            write_checksum=True,
            write_content_size=False,
        )
        self._encoder = encoder.compressobj()
        self._sink = sink

    def write(self, data: bytes | memoryview) -> None:
        if out := self._encoder.compress(data):
            self._sink(out)

    def close(self) -> None:
        self._sink(self._encoder.flush())


def codec_of(head: bytes) -> str:
    """What a stream with these first bytes is packed in, of which 6 suffice; `none` for no known magic."""
    return next((name for magic, name in _MAGIC if head.startswith(magic)), "none")


def decompress(stream: BinaryIO, codec: str) -> BinaryIO:
    """The decompressed bytes of `stream`, which stays open when the result is closed.

    `codec` is `gzip`, `zstd`, `bzip2`, `xz`, `none`, or `auto` for what the first bytes say (no
    known magic: `none`). Several members or frames follow one another; zeros may follow the last.
    Reading raises `UserError` `corrupt-archive`; a zstd stream may need `HostUnsupported`
    `missing-codec`.
    """
    head = b""
    if codec == "auto":
        while len(head) < 6 and (data := stream.read(6 - len(head))):
            head += data
        codec = codec_of(head)
    if codec == "none":
        return cast(BinaryIO, io.BufferedReader(_Plain(stream, head), _READ))
    start, failures, step = _decoder(codec)
    return cast(BinaryIO, io.BufferedReader(_Inflated(stream, head, start, failures, step), _READ * 4))


class _Plain(io.RawIOBase):
    def __init__(self, stream: BinaryIO, head: bytes) -> None:
        self._stream = stream
        self._head = head

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._head[: len(buffer)] or self._stream.read(len(buffer))
        self._head = self._head[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


class _Decoder(Protocol):
    """One member: `feed` gives some output; what it did not use comes back at the end."""

    def feed(self, data: bytes) -> bytes: ...
    @property
    def hungry(self) -> bool: ...
    @property
    def done(self) -> bool: ...
    @property
    def unused(self) -> bytes: ...


class _Inflated(io.RawIOBase):
    def __init__(
        self,
        stream: BinaryIO,
        head: bytes,
        start: Callable[[], _Decoder],
        failures: tuple[type[Exception], ...],
        step: int,
    ) -> None:
        self._stream = stream
        self._input = head
        self._start = start
        self._failures = failures
        self._step = step
        self._decoder: _Decoder | None = start()
        self._output = b""
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while self._at == len(self._output):
            if not self._more():
                return 0
        data = self._output[self._at : self._at + len(buffer)]
        self._at += len(data)
        buffer[: len(data)] = data
        return len(data)

    def _more(self) -> bool:
        """Decode a step; false at the end of the stream."""
        if self._decoder is None:
            if not self._next_member():
                return False
            self._decoder = self._start()
        decoder = self._decoder
        data = b""
        if decoder.hungry:
            data = self._input or self._stream.read(_READ)
            if not data:
                raise faults.corrupt("they end in the middle")
            data, self._input = data[: self._step], data[self._step :]
        try:
            self._output, self._at = decoder.feed(data), 0
        except self._failures as error:
            raise faults.corrupt(str(error)) from error
        if decoder.done:
            self._input = decoder.unused + self._input
            self._decoder = None
        return True

    def _next_member(self) -> bool:
        while True:
            self._input = (self._input or self._stream.read(_READ)).lstrip(b"\0")
            if self._input:
                return True
            if not (data := self._stream.read(_READ)):
                return False
            self._input = data


class _Zlib:
    """zlib's interface, which ISA-L has too."""

    def __init__(self, library: Any) -> None:
        self._inflater = library.decompressobj(31)

    def feed(self, data: bytes) -> bytes:
        return cast(bytes, self._inflater.decompress(data or self._inflater.unconsumed_tail, _MAX_OUTPUT))

    @property
    def hungry(self) -> bool:
        return not self._inflater.unconsumed_tail

    @property
    def done(self) -> bool:
        return bool(self._inflater.eof)

    @property
    def unused(self) -> bytes:
        return cast(bytes, self._inflater.unused_data)


class _Bounded:
    """The interface of `bz2` and `lzma`."""

    def __init__(self, decompressor: Any) -> None:
        self._decompressor = decompressor

    def feed(self, data: bytes) -> bytes:
        return cast(bytes, self._decompressor.decompress(data, _MAX_OUTPUT))

    @property
    def hungry(self) -> bool:
        return bool(self._decompressor.needs_input)

    @property
    def done(self) -> bool:
        return bool(self._decompressor.eof)

    @property
    def unused(self) -> bytes:
        return cast(bytes, self._decompressor.unused_data)


class _Unbounded:
    """The interface of `zstandard`."""

    hungry = True

    def __init__(self, decompressor: Any) -> None:
        self._decompressor = decompressor.decompressobj()

    def feed(self, data: bytes) -> bytes:
        return cast(bytes, self._decompressor.decompress(data))

    @property
    def done(self) -> bool:
        return bool(self._decompressor.eof)

    @property
    def unused(self) -> bytes:
        return cast(bytes, self._decompressor.unused_data)


def _decoder(codec: str) -> tuple[Callable[[], _Decoder], tuple[type[Exception], ...], int]:
    """How a member is begun, what its errors are, and the size of its input's pieces."""
    if codec == "gzip":
        library = _fast_zlib()
        return lambda: _Zlib(library), (library.error, zlib.error), _READ
    if codec == "zstd":
        zstd = _zstandard()
        return lambda: _Unbounded(zstd.ZstdDecompressor()), (zstd.ZstdError,), _ZSTD_READ
    if codec == "bzip2":
        import bz2

        return lambda: _Bounded(bz2.BZ2Decompressor()), (OSError, ValueError), _READ
    if codec == "xz":
        import lzma

        return lambda: _Bounded(lzma.LZMADecompressor()), (lzma.LZMAError,), _READ
    raise ValueError(f"unknown codec {codec}")


def _deflate(profile: Profile) -> Any:
    if not profile.library.startswith("isal"):
        return zlib
    try:
        from isal import isal_zlib
    except ImportError as error:
        raise _missing("isal") from error
    return isal_zlib


def _fast_zlib() -> Any:
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib
    return isal_zlib


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise _missing("zstandard") from error
    return zstandard


def _missing(package: str) -> HostUnsupported:
    error = HostUnsupported.of(
        "missing-codec",
        f"the Python package {package} is not installed",
        hint=f"pip install {package}",
        details={"probe": package, "fix": f"pip install {package}"},
    )
    assert isinstance(error, HostUnsupported)
    return error
