"""NaCl's secretbox (XSalsa20 and Poly1305), to open the private keys that cosign writes.

Only opening, only of something as small as a key: the stream cipher is plain Python, which needs no further
library. Sources: Bernstein, "Extending the Salsa20 nonce" and "Salsa20 specification"; NaCl's crypto_secretbox.
"""

from __future__ import annotations

import struct

_SIGMA = struct.unpack("<4I", b"expand 32-byte k")
_MASK = 0xFFFFFFFF
# A quarter round's four words, for columns and then rows.
_ROUNDS = (
    (0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11),
    (0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14),
)  # fmt: skip


def open_box(sealed: bytes, nonce: bytes, key: bytes) -> bytes | None:
    """The content of a box, of 16 bytes of tag and the ciphertext; None when tag, key or nonce (24
    bytes) are not its own."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.poly1305 import Poly1305

    if len(sealed) < 16 or len(nonce) != 24 or len(key) != 32:
        return None
    stream = _xsalsa20(key, nonce, 32 + len(sealed) - 16)
    try:
        Poly1305.verify_tag(stream[:32], sealed[16:], sealed[:16])
    except InvalidSignature:
        return None
    return bytes(a ^ b for a, b in zip(sealed[16:], stream[32:], strict=True))


def _xsalsa20(key: bytes, nonce: bytes, size: int) -> bytes:
    state = _state(key, struct.unpack("<4I", nonce[:16]))
    mixed = _mix(state)
    subkey = struct.pack("<8I", *(mixed[at] for at in (0, 5, 10, 15, 6, 7, 8, 9)))
    tail = struct.unpack("<2I", nonce[16:])
    out = b""
    for counter in range((size + 63) // 64):
        block = _state(subkey, (*tail, counter & _MASK, counter >> 32))
        words = [(a + b) & _MASK for a, b in zip(_mix(block), block, strict=True)]
        out += struct.pack("<16I", *words)
    return out[:size]


def _state(key: bytes, middle: tuple[int, ...]) -> list[int]:
    words = struct.unpack("<8I", key)
    return [
        _SIGMA[0], *words[:4], _SIGMA[1], *middle, _SIGMA[2], *words[4:], _SIGMA[3],
    ]  # fmt: skip


def _mix(state: list[int]) -> list[int]:
    """Twenty rounds, without the final addition."""
    x = list(state)
    for _ in range(10):
        for a, b, c, d in _ROUNDS:
            x[b] ^= _rotated((x[a] + x[d]) & _MASK, 7)
            x[c] ^= _rotated((x[b] + x[a]) & _MASK, 9)
            x[d] ^= _rotated((x[c] + x[b]) & _MASK, 13)
            x[a] ^= _rotated((x[d] + x[c]) & _MASK, 18)
    return x


def _rotated(word: int, bits: int) -> int:
    return ((word << bits) | (word >> (32 - bits))) & _MASK
