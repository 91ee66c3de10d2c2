"""Signing keys: files as cosign and openssl write them.

Public keys are PEM `PUBLIC KEY` (ECDSA P-256 or P-384, Ed25519, RSA). Private keys are PKCS#8 PEM, plain or
encrypted, or cosign's own form (PEM `ENCRYPTED SIGSTORE PRIVATE KEY`, whose JSON holds scrypt's
parameters and a NaCl secretbox). Signatures are over SHA-256: ECDSA in ASN.1, RSA by PKCS#1 v1.5, as cosign's are.
A password comes from the environment ($COSIGN_PASSWORD, $ARKWRIGHT_KEY_PASSWORD) or from whom the caller asks.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from arkwright.attest.secretbox import open_box
from arkwright.diagnostics.errors import ArkwrightError, HostUnsupported, UserError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

_COSIGN_LABELS = ("ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY")
_FILE_LIMIT = 1 << 16
# scrypt takes 128 * N * r bytes: cosign asks for 32 to 64 MiB.
_SCRYPT_MEMORY = 256 << 20

AskPassword = Callable[[], str]


class PublicKey:
    """A key that verifies. `pem` is its canonical text, `key_id` the SHA-256 of its DER form, hex."""

    def __init__(self, key: PublicKeyTypes) -> None:
        serialization = _module("serialization")
        self._key: Any = key
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        der = key.public_bytes(serialization.Encoding.DER, form)
        self.pem: str = key.public_bytes(serialization.Encoding.PEM, form).decode()
        self.key_id = hashlib.sha256(der).hexdigest()

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether the signature is this key's of the message."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(signature, message, *_scheme(self._key))
        except InvalidSignature:
            return False
        return True


class SigningKey:
    """A key that signs. Nothing of it is in its repr."""

    def __init__(self, key: PrivateKeyTypes) -> None:
        self._key: Any = key
        self.public = PublicKey(key.public_key())
        _scheme(self.public._key)

    @property
    def key_id(self) -> str:
        return self.public.key_id

    def sign(self, message: bytes) -> bytes:
        """A signature; ECDSA's differ each time."""
        signed: bytes = self._key.sign(message, *_scheme(self.public._key))
        return signed

    def private_pem(self, password: str = "") -> str:
        """PKCS#8 PEM, encrypted when there is a password."""
        serialization = _module("serialization")
        cipher = (
            serialization.BestAvailableEncryption(password.encode())
            if password
            else serialization.NoEncryption()
        )
        pem: bytes = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, cipher
        )
        return pem.decode()


def generate() -> SigningKey:
    """A new ECDSA P-256 key, what cosign makes too. Raises `HostUnsupported` `needs-cryptography`."""
    elliptic: Any = _module("asymmetric.ec")
    return SigningKey(elliptic.generate_private_key(elliptic.SECP256R1()))


def load_public(path: str) -> PublicKey:
    """Read a public key. Raises `UserError` `invalid-key`; `HostUnsupported` `needs-cryptography`."""
    return public_of(_read(path), path)


def public_of(data: bytes, name: str = "the key") -> PublicKey:
    """A public key from PEM. Raises as `load_public`."""
    serialization = _module("serialization")
    try:
        key = PublicKey(serialization.load_pem_public_key(data))
        _scheme(key._key)
    except (ValueError, TypeError) as error:
        raise _invalid(name, "it is no PEM public key") from error
    return key


def load_private(path: str, ask: AskPassword | None = None) -> SigningKey:
    """Read a private key, asking for a password when it needs one.

    Raises `UserError` `invalid-key`, `key-password`; `HostUnsupported` `needs-cryptography`.
    """
    data = _read(path)
    serialization = _module("serialization")
    der = _cosign_key(data, path, ask)
    try:
        if der is not None:
            return SigningKey(serialization.load_der_private_key(der, None))
        encrypted = b"ENCRYPTED" in data.partition(b"\n")[0]
        password = _password(path, ask).encode() if encrypted else None
        return SigningKey(serialization.load_pem_private_key(data, password))
    except (ValueError, TypeError) as error:
        if "password" in str(error).lower() or "decrypt" in str(error).lower():
            raise _wrong_password(path) from error
        raise _invalid(path, "it is no PEM private key") from error


class _Scrypt(msgspec.Struct):
    cost: int = msgspec.field(name="N")
    block: int = msgspec.field(name="r")
    parallel: int = msgspec.field(name="p")


class _Kdf(msgspec.Struct):
    name: str
    params: _Scrypt
    salt: str


class _Cipher(msgspec.Struct):
    name: str
    nonce: str


class _CosignKey(msgspec.Struct):
    kdf: _Kdf
    cipher: _Cipher
    ciphertext: str


def _cosign_key(data: bytes, path: str, ask: AskPassword | None) -> bytes | None:
    """The PKCS#8 DER inside of cosign's form; None for any other form."""
    label = next((one for one in _COSIGN_LABELS if f"-----BEGIN {one}-----".encode() in data), None)
    if label is None:
        return None
    text = data.decode(errors="replace")
    body = text.partition(f"-----BEGIN {label}-----")[2].partition(f"-----END {label}-----")[0]
    try:
        box = msgspec.json.decode(base64.b64decode("".join(body.split())), type=_CosignKey)
        if box.kdf.name != "scrypt" or box.cipher.name != "nacl/secretbox":
            raise _invalid(path, f"it is made with {box.kdf.name} and {box.cipher.name}")
        salt, nonce = base64.b64decode(box.kdf.salt), base64.b64decode(box.cipher.nonce)
        sealed = base64.b64decode(box.ciphertext)
        params = box.kdf.params
        secret = hashlib.scrypt(
            _password(path, ask).encode(), salt=salt, n=params.cost, r=params.block, p=params.parallel,
            maxmem=_SCRYPT_MEMORY, dklen=32,
        )  # fmt: skip
    except (msgspec.MsgspecError, binascii.Error, ValueError) as error:
        raise _invalid(path, f"cosign's form is damaged: {error}") from error
    opened = open_box(sealed, nonce, secret)
    if opened is None:
        raise _wrong_password(path)
    return opened


def _password(path: str, ask: AskPassword | None) -> str:
    for name in ("ARKWRIGHT_KEY_PASSWORD", "COSIGN_PASSWORD"):
        if name in os.environ:
            return os.environ[name]
    if ask is None:
        raise UserError.of(
            "key-password", f"{path} is encrypted, and there is nobody to ask for its password",
            hint="set COSIGN_PASSWORD",
        )  # fmt: skip
    return ask()


def _scheme(key: Any) -> tuple[Any, ...]:
    """What `sign` and `verify` of a public key of this kind take beside the message.

    Raises `UserError` `invalid-key` for kinds that are not used.
    """
    elliptic, rsa, edwards = (_module(f"asymmetric.{name}") for name in ("ec", "rsa", "ed25519"))
    hashes = _module("hashes")
    if isinstance(key, elliptic.EllipticCurvePublicKey):
        return (elliptic.ECDSA(hashes.SHA256()),)
    if isinstance(key, edwards.Ed25519PublicKey):
        return ()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048:
        return (_module("asymmetric.padding").PKCS1v15(), hashes.SHA256())
    raise _invalid(
        "the key", f"{type(key).__name__.removeprefix('_')}: ECDSA, Ed25519 or RSA of 2048 bits is"
    )


def _module(name: str) -> Any:
    """A module of cryptography, which is an extra and takes a tenth of a second to import."""
    import importlib

    try:
        return importlib.import_module(f"cryptography.hazmat.primitives.{name}")
    except ImportError as error:
        raise HostUnsupported.of(
            "needs-cryptography",
            "signatures need the Python package cryptography",
            hint="pip install 'arkwright[sign]'",
            details={"probe": "import cryptography", "fix": "pip install 'arkwright[sign]'"},
        ) from error


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_FILE_LIMIT)
    except OSError as error:
        raise _invalid(path, error.strerror or str(error)) from error


def _invalid(name: str, why: str) -> ArkwrightError:
    return UserError.of(
        "invalid-key", f"{name} cannot be used as a key: {why}",
        hint="`arkwright key generate` makes a pair, as `cosign generate-key-pair` does",
    )  # fmt: skip


def _wrong_password(path: str) -> ArkwrightError:
    return UserError.of("key-password", f"the password does not open {path}")
