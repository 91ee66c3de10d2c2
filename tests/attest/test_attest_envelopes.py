"""Statements, envelopes and cosign's layout; in-toto's own library and the published vectors judge."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from google.protobuf import json_format
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement as Theirs
from securesystemslib.dsse import Envelope as TheirEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from arkwright.attest import cosign, dsse, keys, statement
from arkwright.attest.statement import STATEMENT_MEDIA_TYPE, ResourceDescriptor, Statement
from arkwright.diagnostics.errors import ArkwrightError, Denied
from arkwright.oci import manifest as image_manifest
from arkwright.oci.manifest import Manifest

DIGEST = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32
CLAIM = Statement(
    subject=(ResourceDescriptor(name="app", digest=statement.digest_set(DIGEST)),),
    predicate_type="https://example.org/claim/v1",
    predicate={"answer": 42},
)


def test_the_library_of_in_toto_takes_a_statement() -> None:
    parsed = json_format.Parse(statement.encode(CLAIM), statement_pb2.Statement())
    theirs = Theirs.copy_from_pb(parsed)
    theirs.validate()
    assert theirs.pb.subject[0].digest["sha256"] == "ab" * 32


def test_a_statement_is_read_back() -> None:
    assert statement.parse(statement.encode(CLAIM)) == CLAIM
    assert statement.speaks_of(CLAIM, DIGEST)
    assert not statement.speaks_of(CLAIM, OTHER)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"_type":"x","subject":[],"predicateType":"y","predicate":1}']
)
def test_what_is_no_statement_is_refused(data: bytes) -> None:
    with pytest.raises(ArkwrightError) as caught:
        statement.parse(data)
    assert caught.value.code == "invalid-statement"


def test_the_encoding_is_that_of_the_protocol() -> None:
    # protocol.md, "Test Vectors".
    found = dsse.pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    assert found == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def theirs_of(key: keys.PublicKey) -> SSlibKey:
    return SSlibKey.from_crypto(load_pem_public_key(key.pem.encode()), keyid=key.key_id)


def test_the_library_behind_in_toto_and_sigstore_verifies_an_envelope() -> None:
    mine, other = keys.generate(), keys.generate()
    sealed = json.loads(dsse.sign(statement.encode(CLAIM), [mine]))
    envelope = TheirEnvelope.from_dict(sealed)
    assert list(envelope.verify([theirs_of(other.public), theirs_of(mine.public)], 1)) == [mine.key_id]
    assert envelope.payload == statement.encode(CLAIM)
    with pytest.raises(VerificationError):
        envelope.verify([theirs_of(other.public)], 1)
    envelope.payload = envelope.payload.replace(b"42", b"43")
    with pytest.raises(VerificationError):
        envelope.verify([theirs_of(mine.public)], 1)


def test_what_that_library_signed_verifies_here() -> None:
    signer = CryptoSigner.generate_ecdsa()
    public = keys.public_of(signer.public_key.keyval["public"].encode())
    envelope = TheirEnvelope(statement.encode(CLAIM), STATEMENT_MEDIA_TYPE, {})
    envelope.sign(signer)
    assert dsse.verify(json.dumps(envelope.to_dict()).encode(), [public]) == statement.encode(CLAIM)


def test_an_envelope_is_for_those_who_have_the_key() -> None:
    mine, theirs = keys.generate(), keys.generate()
    sealed = dsse.sign(statement.encode(CLAIM), [theirs, mine])
    assert dsse.verify(sealed, [mine.public]) == statement.encode(CLAIM)
    with pytest.raises(Denied) as caught:
        dsse.verify(sealed, [keys.generate().public])
    assert caught.value.code == "signature-mismatch"


@pytest.mark.parametrize("what", ["payload", "payloadType", "sig"])
def test_a_changed_envelope_is_caught(what: str) -> None:
    key = keys.generate()
    fields = json.loads(dsse.sign(statement.encode(CLAIM), [key]))
    if what == "payload":
        fields["payload"] = base64.b64encode(statement.encode(CLAIM).replace(b"42", b"43")).decode()
    elif what == "payloadType":
        fields["payloadType"] = "application/other"
    else:
        fields["signatures"][0]["sig"] = base64.b64encode(keys.generate().sign(b"x")).decode()
    with pytest.raises(Denied) as caught:
        dsse.verify(json.dumps(fields).encode(), [key.public])
    # What another key has signed is no alteration; what this one is said to have signed is.
    assert caught.value.code == ("signature-mismatch" if what == "payloadType" else "statement-altered")


@pytest.mark.parametrize("data", [b"", b"{}", b'{"payloadType":"x","payload":"%%%","signatures":[]}'])
def test_what_is_no_envelope_is_refused(data: bytes) -> None:
    with pytest.raises(ArkwrightError) as caught:
        dsse.verify(data, [keys.generate().public])
    assert caught.value.code == "invalid-envelope"


def test_a_payload_is_as_the_format_says() -> None:
    # containers-signature(5): these names, in this form.
    assert json.loads(cosign.payload(DIGEST, "example.org/app", {"by": "me"})) == {
        "critical": {
            "identity": {"docker-reference": "example.org/app"},
            "image": {"docker-manifest-digest": DIGEST},
            "type": "cosign container image signature",
        },
        "optional": {"by": "me"},
    }


def test_a_signature_is_for_its_image_alone() -> None:
    key = keys.generate()
    layer, data = cosign.signature_layer(cosign.payload(DIGEST, "app"), key)
    assert cosign.check_payload(layer, data, DIGEST, [key.public]).critical.identity.docker_reference == "app"
    for wanted, digest, found in (
        ("signature-of-another", OTHER, data),
        ("invalid-signature", OTHER, data.replace(DIGEST.encode(), OTHER.encode())),
    ):
        with pytest.raises(ArkwrightError) as caught:
            cosign.check_payload(layer, found, digest, [key.public])
        assert caught.value.code == wanted
    with pytest.raises(Denied) as denied:
        cosign.check_payload(layer, data, DIGEST, [keys.generate().public])
    assert denied.value.code == "signature-mismatch"


def test_a_second_signature_stands_beside_the_first() -> None:
    data = cosign.payload(DIGEST, "app")
    first = cosign.artifact([cosign.signature_layer(data, keys.generate())])
    older = image_manifest.parse(first.manifest)
    assert isinstance(older, Manifest)
    second = cosign.artifact([cosign.signature_layer(data, keys.generate())], older=older)
    both = image_manifest.parse(second.manifest)
    assert isinstance(both, Manifest)
    assert both.layers[0] == older.layers[0]
    assert len(both.layers) == 2
    for digest, blob in (*first.blobs.items(), *second.blobs.items()):
        assert digest == "sha256:" + hashlib.sha256(blob).hexdigest()


def test_tags_are_where_cosign_looks() -> None:
    assert cosign.tag_of(DIGEST, "sig") == f"sha256-{'ab' * 32}.sig"
