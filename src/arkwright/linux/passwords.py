"""Password hashes by the system's libcrypt (crypt(3), crypt(5)): bcrypt, SHA-2, yescrypt and scrypt."""

from __future__ import annotations

import functools
import hmac
from typing import TYPE_CHECKING

from arkwright.diagnostics.errors import HostUnsupported

if TYPE_CHECKING:
    import ctypes

_NAMES = ("libcrypt.so.1", "libcrypt.so.2", "libc.so")
# `struct crypt_data`: 128 KiB in glibc, 32 KiB in libxcrypt, less in musl.
_DATA_SIZE = 256 << 10

# The methods that are taken; crypt(5) has older ones, which are too fast to break.
STRONG = ("$2y$", "$2b$", "$2a$", "$5$", "$6$", "$y$", "$gy$", "$7$")


@functools.cache
def _library() -> ctypes.CDLL:
    import ctypes as c

    for name in _NAMES:
        try:
            library = c.CDLL(name, use_errno=True)
            library.crypt_r.restype = c.c_char_p
            library.crypt_r.argtypes = (c.c_char_p, c.c_char_p, c.c_void_p)
        except (OSError, AttributeError):
            continue
        return library
    raise HostUnsupported.of(
        "no-libcrypt",
        "passwords cannot be checked: this host has no libcrypt",
        hint="install the package libcrypt1 (Debian) or libxcrypt",
        details={"probe": {"libcrypt": False}, "fix": "install libcrypt1 or libxcrypt"},
    )


def verify(password: bytes, hashed: bytes) -> bool:
    """Whether the password has this hash; thread-safe, and as slow as the hash asks for.

    A hash of a method that libcrypt does not know matches no password.
    Raises `HostUnsupported` `no-libcrypt`.
    """
    import ctypes as c

    if not hashed or b"\0" in password or b"\0" in hashed:
        return False
    data = c.create_string_buffer(_DATA_SIZE)
    found = _library().crypt_r(password, hashed, data)
    # A failure is None, or a token that begins with an asterisk.
    return found is not None and not found.startswith(b"*") and hmac.compare_digest(found, hashed)


def supported(hashed: bytes) -> bool:
    """Whether libcrypt can compute hashes of this kind. Raises `HostUnsupported` `no-libcrypt`."""
    import ctypes as c

    data = c.create_string_buffer(_DATA_SIZE)
    found = _library().crypt_r(b"", hashed, data)
    return found is not None and not found.startswith(b"*")
