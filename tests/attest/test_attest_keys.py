"""Keys and signatures, with openssl and NaCl as the outside judges."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import subprocess
from pathlib import Path

import pytest

from arkwright.attest import keys
from arkwright.attest.secretbox import open_box
from arkwright.diagnostics.errors import ArkwrightError, UserError

nacl = pytest.importorskip("nacl.secret", reason="needs-pynacl: the judge of cosign's key form")


def openssl(*args: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["openssl", *args], input=data, capture_output=True, check=False)


KINDS = {
    "ecdsa-p256": ("EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "ecdsa-p384": ("EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
    "rsa-2048": ("RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
}


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A private and a public key that openssl made."""
    private, public = tmp_path / "k.pem", tmp_path / "k.pub"
    assert openssl("genpkey", "-algorithm", *KINDS[request.param], "-out", str(private)).returncode == 0
    assert openssl("pkey", "-in", str(private), "-pubout", "-out", str(public)).returncode == 0
    return private, public


def test_openssl_verifies_what_is_signed_here(pair: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = pair
    (tmp_path / "sig").write_bytes(keys.load_private(str(private)).sign(b"the message"))
    (tmp_path / "text").write_bytes(b"the message")
    check = ("dgst", "-sha256", "-verify", str(public), "-signature", str(tmp_path / "sig"))
    assert openssl(*check, str(tmp_path / "text")).returncode == 0
    (tmp_path / "text").write_bytes(b"another message")
    assert openssl(*check, str(tmp_path / "text")).returncode != 0


def test_what_openssl_signed_verifies_here(pair: tuple[Path, Path]) -> None:
    private, public = pair
    signed = openssl("dgst", "-sha256", "-sign", str(private), data=b"the message").stdout
    key = keys.load_public(str(public))
    assert key.verifies(signed, b"the message")
    assert not key.verifies(signed, b"the messagE")
    assert not key.verifies(signed[:-1] + bytes([signed[-1] ^ 1]), b"the message")
    assert not keys.generate().public.verifies(signed, b"the message")


def test_a_key_id_is_the_digest_of_the_der_form(pair: tuple[Path, Path]) -> None:
    _, public = pair
    der = openssl("pkey", "-pubin", "-in", str(public), "-outform", "DER").stdout
    assert keys.load_public(str(public)).key_id == hashlib.sha256(der).hexdigest()


def test_a_generated_key_is_for_openssl_too(tmp_path: Path) -> None:
    key = keys.generate()
    (tmp_path / "k").write_text(key.private_pem("a password"))
    shown = openssl("pkey", "-in", str(tmp_path / "k"), "-passin", "pass:a password", "-pubout").stdout
    assert shown.decode() == key.public.pem
    loaded = keys.load_private(str(tmp_path / "k"), lambda: "a password")
    assert loaded.key_id == key.key_id
    with pytest.raises(UserError) as caught:
        keys.load_private(str(tmp_path / "k"), lambda: "another")
    assert caught.value.code == "key-password"


def cosign_form(key: keys.SigningKey, password: str) -> str:
    """A private key as `cosign generate-key-pair` writes it, made with NaCl."""
    der = base64.b64decode("".join(key.private_pem().splitlines()[1:-1]))
    salt, nonce = secrets.token_bytes(32), secrets.token_bytes(24)
    secret = hashlib.scrypt(password.encode(), salt=salt, n=32768, r=8, p=1, maxmem=1 << 27, dklen=32)
    sealed = nacl.SecretBox(secret).encrypt(der, nonce).ciphertext
    text = json.dumps({
        "kdf": {"name": "scrypt", "params": {"N": 32768, "r": 8, "p": 1}, "salt": base64.b64encode(salt).decode()},
        "cipher": {"name": "nacl/secretbox", "nonce": base64.b64encode(nonce).decode()},
        "ciphertext": base64.b64encode(sealed).decode(),
    })  # fmt: skip
    body = base64.encodebytes(text.encode()).decode()
    label = "ENCRYPTED SIGSTORE PRIVATE KEY"
    return f"-----BEGIN {label}-----\n{body}-----END {label}-----\n"


def test_the_form_of_cosign_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = keys.generate()
    path = tmp_path / "cosign.key"
    path.write_text(cosign_form(key, "pass"))
    monkeypatch.setenv("COSIGN_PASSWORD", "pass")
    assert keys.load_private(str(path)).key_id == key.key_id
    monkeypatch.setenv("COSIGN_PASSWORD", "wrong")
    with pytest.raises(UserError) as caught:
        keys.load_private(str(path))
    assert caught.value.code == "key-password"
    monkeypatch.delenv("COSIGN_PASSWORD")
    with pytest.raises(UserError) as caught:
        keys.load_private(str(path))
    assert caught.value.code == "key-password"


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 64, 300])
def test_boxes_of_nacl_open(size: int) -> None:
    key, nonce, text = secrets.token_bytes(32), secrets.token_bytes(24), secrets.token_bytes(size)
    sealed = nacl.SecretBox(key).encrypt(text, nonce).ciphertext
    assert open_box(sealed, nonce, key) == text
    assert open_box(sealed[:-1] + bytes([sealed[-1] ^ 1]), nonce, key) is None
    assert open_box(sealed, nonce, bytes(32)) is None
    assert open_box(sealed[:15], nonce, key) is None


@pytest.mark.parametrize(
    "text",
    ["", "no key", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
     "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\ne30=\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n"],
)  # fmt: skip
def test_what_is_no_key_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "k"
    path.write_text(text)
    for load in (keys.load_public, keys.load_private):
        with pytest.raises(ArkwrightError) as caught:
            load(str(path))
        assert caught.value.code == "invalid-key"


def test_a_short_rsa_key_is_refused(tmp_path: Path) -> None:
    openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024", "-out", str(tmp_path / "k"))
    with pytest.raises(UserError) as caught:
        keys.load_private(str(tmp_path / "k"))
    assert caught.value.code == "invalid-key"


def test_a_private_key_is_in_no_repr() -> None:
    key = keys.generate()
    assert key.private_pem().splitlines()[1] not in repr(key) + repr(vars(key))
