"""Images in a registry built again by a stranger, from what is attached to them there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from building import Builder, Context, MakeBuilder
from verifying import refused, verified

DOCKERFILE = "FROM busybox\nCOPY f /f\nRUN --network=none cat /f > /g\n"


@pytest.fixture
def stranger(make_builder: MakeBuilder) -> Builder:
    return make_builder("subids", "stranger")


def test_a_stranger_has_the_referrers(
    host: str, make_builder: MakeBuilder, stranger: Builder, context: Context
) -> None:
    root = context({"Dockerfile": DOCKERFILE, "f": "x"})
    place = f"{host}/verify/app"
    builder = make_builder("root")
    push = ("--push", "--tls-verify=false")
    built = builder.build(root, "-t", f"{place}:max", *push, "--provenance=mode=max")
    builder.build(root, "-t", f"{place}-min:1", *push, "--provenance")
    inline = builder.build(
        root, "-t", f"{place}:inline", *push, "--attest", "type=provenance,mode=max,inline"
    )
    plain = ("--tls-verify=false", "--context", str(root))

    report = verified(stranger, *plain, f"docker://{place}:max")
    assert (report["identical"], report["old"], report["new"]) == (True, built.digest, built.digest)
    report = verified(stranger, *plain, f"docker://{place}:inline")
    assert (report["identical"], report["old"], report["new"]) == (True, inline.digest, built.digest)
    assert refused(stranger, "verify", *plain, f"docker://{place}-min:1", status=1) == ["record-incomplete"]
    # A tag that was moved to another image has nothing that speaks of it.
    other = context({"Dockerfile": "FROM busybox\nLABEL evil=1\n"}, "other")
    builder.build(other, "-t", f"{place}:max", *push, "--provenance=false")
    assert refused(stranger, "verify", *plain, f"docker://{place}:max", status=1) == ["no-provenance"]


def test_what_a_key_has_signed(
    plain_registry: str, make_builder: MakeBuilder, stranger: Builder, context: Context, scratch: Path
) -> None:
    root = context({"Dockerfile": DOCKERFILE, "f": "y"})
    place = f"docker://{plain_registry}/verify/signed:1"
    builder = make_builder("subids")
    built = builder.build(root, "-t", place.removeprefix("docker://"), "--push")
    keys = scratch / "keys"
    keys.mkdir()
    os.chown(keys, builder.uid, builder.uid)
    for name in ("a", "b"):
        builder.run("key", "generate", "--no-password", str(keys / name))
    builder.run("provenance", "--mode", "max", "--sign", str(keys / "a.key"), place)
    given = ("--context", str(root), place)
    report = verified(stranger, "--key", str(keys / "a.pub"), "--sign", str(keys / "b.key"), *given)
    assert report["identical"]
    said = stranger.run(
        "verify-signature", "--attestation", "--type", "https://slsa.dev/verification_summary/v1", "--key", str(keys / "b.pub"), place
    ).out  # fmt: skip
    claim = json.loads(said)
    assert claim["subject"][0]["digest"]["sha256"] == built.digest.partition(":")[2]
    assert claim["predicate"]["resourceUri"] == f"{plain_registry}/verify/signed"
    # Nobody but the builder may say how it was made.
    assert refused(stranger, "verify", "--key", str(keys / "b.pub"), *given) == ["signature-mismatch"]
