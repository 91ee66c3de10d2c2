"""Signatures of images by the program itself, in a registry and in the local store; openssl judges."""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
from pathlib import Path

import pytest
from registry_images import needs

from building import Builder, Context, MakeBuilder


@pytest.fixture
def signer(make_builder: MakeBuilder, context: Context) -> Builder:
    """Builds as a user without root, has two images and two pairs of keys, `a` and `b`."""
    builder = make_builder("subids")
    builder.env["COSIGN_PASSWORD"] = "of the key"
    for name in ("one", "two"):
        builder.build(context({"Dockerfile": f"FROM scratch\nLABEL is={name}\n"}, name), "-t", name)
    directory = builder.scratch / "keys"
    directory.mkdir(mode=0o777)
    directory.chmod(0o777)
    for name in "ab":
        builder.run("key", "generate", str(directory / name))
    return builder


def key(builder: Builder, name: str) -> str:
    return str(builder.scratch / "keys" / name)


def pushed(builder: Builder, name: str, place: str) -> str:
    builder.run("push", name, place)
    return f"docker://{place}"


@pytest.fixture
def repository() -> str:
    return f"signed-{secrets.token_hex(6)}"


@pytest.fixture(params=["registry", "store"])
def image(request: pytest.FixtureRequest, signer: Builder, plain_registry: str, repository: str) -> str:
    if request.param == "store":
        return "one"
    return pushed(signer, "one", f"{plain_registry}/{repository}/one:1")


def test_a_signature_is_checked_by_its_key_alone(signer: Builder, image: str) -> None:
    none = signer.run("verify-signature", "--key", key(signer, "a.pub"), image, status=3)
    assert "error[unsigned-image]" in none.err
    signer.run("sign", "--key", key(signer, "a.key"), "-a", "build=42", image)
    said = json.loads(signer.run("verify-signature", "--key", key(signer, "a.pub"), image).out)
    assert said["optional"] == {"build": "42"}
    assert said["critical"]["identity"]["docker-reference"].endswith("/one")
    wrong = signer.run("verify-signature", "--key", key(signer, "b.pub"), image, status=3)
    assert "error[signature-mismatch]" in wrong.err
    signer.run("verify-signature", "--key", key(signer, "a.pub"), "-a", "build=42", image)
    other = signer.run("verify-signature", "--key", key(signer, "a.pub"), "-a", "build=43", image, status=3)
    assert "error[signature-mismatch]" in other.err


def test_two_signers_are_both_heard(signer: Builder, image: str) -> None:
    for name in "ab":
        signer.run("sign", "--key", key(signer, f"{name}.key"), image)
    for name in "ab":
        signer.run("verify-signature", "--key", key(signer, f"{name}.pub"), image)
    both = signer.run("verify-signature", "--key", key(signer, "a.pub"), "--key", key(signer, "b.pub"), image)
    assert len(both.out.splitlines()) == 2


def test_an_image_that_took_the_place_is_not_signed(
    signer: Builder, plain_registry: str, repository: str
) -> None:
    place = f"{plain_registry}/{repository}/replaced:1"
    image = pushed(signer, "one", place)
    signer.run("sign", "--key", key(signer, "a.key"), image)
    pushed(signer, "two", place)
    refused = signer.run("verify-signature", "--key", key(signer, "a.pub"), image, status=3)
    assert "error[unsigned-image]" in refused.err


def test_a_signature_that_was_put_beside_another_image_is_refused(signer: Builder) -> None:
    signer.run("sign", "--key", key(signer, "a.key"), "one")
    one, two = (signer.run("inspect", "--format", "digest", name).out.strip() for name in ("one", "two"))
    signer.run("tag", f"one:{one.replace(':', '-')}.sig", f"two:{two.replace(':', '-')}.sig")
    refused = signer.run("verify-signature", "--key", key(signer, "a.pub"), "two", status=3)
    assert "error[signature-of-another]" in refused.err


def test_openssl_agrees(signer: Builder, plain_registry: str, repository: str, scratch: Path) -> None:
    needs("skopeo")
    image = pushed(signer, "one", f"{plain_registry}/{repository}/judged:1")
    digest = signer.run("sign", "-q", "--key", key(signer, "a.key"), image).out.strip()
    at = scratch / "judged"
    name = f"{plain_registry}/{repository}/judged:{digest.replace(':', '-')}.sig"
    copy = ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{name}", f"dir:{at}"]
    subprocess.run(copy, check=True, capture_output=True)
    layer = json.loads((at / "manifest.json").read_text())["layers"][0]
    assert layer["mediaType"] == "application/vnd.dev.cosign.simplesigning.v1+json"
    payload = at / layer["digest"].removeprefix("sha256:")
    assert json.loads(payload.read_text())["critical"]["image"]["docker-manifest-digest"] == digest
    (at / "sig").write_bytes(base64.b64decode(layer["annotations"]["dev.cosignproject.cosign/signature"]))
    check = [
        "openssl",
        "dgst",
        "-sha256",
        "-verify",
        key(signer, "a.pub"),
        "-signature",
        str(at / "sig"),
        str(payload),
    ]
    subprocess.run(check, check=True, capture_output=True)


def test_private_keys_are_their_owners_and_never_replaced(signer: Builder) -> None:
    assert os.stat(key(signer, "a.key")).st_mode & 0o077 == 0
    kept = signer.run("key", "public", key(signer, "a.key")).out
    assert kept == Path(key(signer, "a.pub")).read_text()
    refused = signer.run("key", "generate", key(signer, "a"), status=1)
    assert "error[unwritable-file]" in refused.err
    assert signer.run("key", "public", key(signer, "a.key")).out == kept


def test_what_cannot_hold_signatures_is_named(signer: Builder) -> None:
    refused = signer.run("sign", "--key", key(signer, "a.key"), "oci:/nowhere:1", status=1)
    assert "error[no-repository]" in refused.err


def test_a_digest_leads_to_the_name(signer: Builder) -> None:
    digest = signer.run("inspect", "--format", "digest", "one").out.strip()
    signer.run("sign", "--key", key(signer, "a.key"), digest)
    signer.run("verify-signature", "--key", key(signer, "a.pub"), "one")
    signer.run("rm", "one")
    refused = signer.run("sign", "--key", key(signer, "a.key"), digest, status=1)
    assert "error[no-repository]" in refused.err
