"""Signed envelopes (DSSE: Dead Simple Signing Envelope, protocol.md and envelope.md v1)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence

import msgspec

from arkwright.attest.keys import PublicKey, SigningKey
from arkwright.attest.statement import STATEMENT_MEDIA_TYPE
from arkwright.diagnostics.errors import Denied, UserError

ENVELOPE_MEDIA_TYPE = "application/vnd.dsse.envelope.v1+json"


class Signature(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One signature, base64; `keyid` is a hint that nothing may be decided by."""

    keyid: str = ""
    sig: str


class Envelope(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A payload, base64, with its signatures."""

    payload_type: str
    payload: str
    signatures: tuple[Signature, ...]


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """What is signed: type and payload, each framed by its length (protocol.md, PAE)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, keys: Sequence[SigningKey], payload_type: str = STATEMENT_MEDIA_TYPE) -> bytes:
    """An envelope with a signature by each key, as canonical JSON."""
    message = pre_authentication_encoding(payload_type, payload)
    envelope = Envelope(
        payload_type=payload_type,
        payload=base64.b64encode(payload).decode(),
        signatures=tuple(
            Signature(keyid=key.key_id, sig=base64.b64encode(key.sign(message)).decode()) for key in keys
        ),
    )
    return msgspec.json.encode(envelope, order="deterministic")


def parse(data: bytes) -> tuple[Envelope, bytes]:
    """An envelope and its payload, of which nothing is verified yet. Raises `UserError` `invalid-envelope`."""
    try:
        envelope = msgspec.json.decode(data, type=Envelope)
        return envelope, _decoded(envelope.payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, binascii.Error, ValueError) as error:
        raise UserError.of("invalid-envelope", f"not a signed envelope: {error}") from error


def verify(data: bytes, keys: Sequence[PublicKey], payload_type: str = STATEMENT_MEDIA_TYPE) -> bytes:
    """The payload of an envelope that one of the keys has signed.

    Raises `UserError` `invalid-envelope`; `Denied` `signature-mismatch`, and `statement-altered` when one of the keys
    is said to have signed it, and has not.
    """
    envelope, payload = parse(data)
    if envelope.payload_type != payload_type:
        raise _denied(f"the envelope holds {envelope.payload_type}, not {payload_type}")
    message = pre_authentication_encoding(envelope.payload_type, payload)
    checks: list[Callable[[bytes, bytes], bool]] = [key.verifies for key in keys]
    for signature in envelope.signatures:
        try:
            raw = _decoded(signature.sig)
        except (binascii.Error, ValueError):
            continue
        if any(check(raw, message) for check in checks):
            return payload
    known = {key.key_id for key in keys}
    for signature in envelope.signatures:
        if signature.keyid in known:
            why = f"the payload is not what the key {signature.keyid} has signed"
            raise _denied(why, code="statement-altered")
    raise _denied(f"none of {len(envelope.signatures)} signatures is by a key that was given")


def _decoded(text: str) -> bytes:
    """Both alphabets are allowed (envelope.md)."""
    return base64.b64decode(text.translate(str.maketrans("-_", "+/")), validate=True)


def _denied(why: str, code: str = "signature-mismatch") -> Denied:
    error = Denied.of(
        code, why, details={"rule": "signature", "evidence": why},
        hint="check that the key is the signer's, and that nothing was changed on the way",
    )  # fmt: skip
    assert isinstance(error, Denied)
    return error
