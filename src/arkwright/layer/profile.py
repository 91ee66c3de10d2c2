"""What makes a layer reproducible: its one time, what is scrubbed, how it is compressed.

Steps see real times; only here, at export, every time becomes one constant. diffIDs are equal
always; blob digests are equal per `Profile`, whose name states the library and its version.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from arkwright.diagnostics.errors import HostUnsupported
from arkwright.oci import descriptor as media

Codec = Literal["gzip", "zstd", "none"]

# 2000-01-01T00:00:00Z. Not 0: zip refuses years before 1980, and a last password change on day
# zero locks an account.
CONSTANT_EPOCH = 946684800
CONSTANT_NS = CONSTANT_EPOCH * 1_000_000_000

# Files whose content depends on the clock or on inode numbers and which are made anew on demand.
SCRUB_DEFAULT: tuple[str, ...] = (
    "/var/log/dpkg.log",
    "/var/log/alternatives.log",
    "/var/log/apt",
    "/var/cache/ldconfig/aux-cache",
    "/var/cache/apt/*.bin",
)


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A compressor with everything that its output depends on.

    `library` is `name version`; `block_size` is the size, in bytes, of the pieces in which the
    compressor gets its input. `threads` is part of the output for some codecs.
    """

    name: str
    codec: Codec
    library: str = ""
    level: int = 0
    block_size: int = 1 << 17
    threads: int = 1


# By library; `profile_for` adds the version that is installed.
PROFILES: dict[str, Profile] = {
    "isal": Profile(name="gzip-isal-2", codec="gzip", library="isal", level=2),
    "zlib": Profile(name="gzip-zlib-6", codec="gzip", library="zlib", level=6),
    "zstd": Profile(name="zstd-3", codec="zstd", library="zstd", level=3),
    "none": Profile(name="none", codec="none"),
}

_MEDIA_TYPES: dict[Codec, str] = {
    "gzip": media.LAYER_GZIP,
    "zstd": media.LAYER_ZSTD,
    "none": media.LAYER_TAR,
}


def profile_for(codec: Codec) -> Profile:
    """The best installed profile of a codec; gzip without `isal` falls back to zlib.

    Raises `HostUnsupported` `missing-codec`.
    """
    if codec == "none":
        return PROFILES["none"]
    if codec == "zstd":
        return _versioned(PROFILES["zstd"], _zstd_version())
    try:
        import isal
    except ImportError:
        import zlib

        return _versioned(PROFILES["zlib"], zlib.ZLIB_RUNTIME_VERSION)
    return _versioned(PROFILES["isal"], isal.__version__)


def media_type(profile: Profile) -> str:
    """The OCI media type of a layer written with `profile`."""
    return _MEDIA_TYPES[profile.codec]


def _versioned(profile: Profile, version: str) -> Profile:
    return msgspec.structs.replace(
        profile, name=f"{profile.name}-{version}", library=f"{profile.library} {version}"
    )


def _zstd_version() -> str:
    try:
        import zstandard
    except ImportError as error:
        raise HostUnsupported.of(
            "missing-codec",
            "the Python package zstandard is not installed",
            hint="pip install zstandard, or use gzip",
            details={"probe": "zstandard", "fix": "pip install zstandard"},
        ) from error
    return ".".join(str(part) for part in zstandard.ZSTD_VERSION)
