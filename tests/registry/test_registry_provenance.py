"""Provenance of an image in a registry: signed, attached there, and found by who has the key."""

from __future__ import annotations

import json
from pathlib import Path

from building import Context, MakeBuilder


def test_provenance_is_attached_where_the_image_is(
    make_builder: MakeBuilder, context: Context, plain_registry: str, scratch: Path
) -> None:
    builder = make_builder("subids")
    place = f"{plain_registry}/provenance/app:1"
    built = builder.build(context({"Dockerfile": "FROM busybox\nLABEL a=b\n"}), "-t", place, "--push")
    key = str(builder.home / "key")
    builder.run("key", "generate", "--no-password", key)
    # Of the build by its id, beside the image in the registry; and by the name of the image there.
    asked = [("--attach", f"docker://{place}", built.fields["arkwright.build"]), (f"docker://{place}",)]
    for number, args in enumerate(asked, 1):
        done = builder.run("provenance", "--sign", f"{key}.key", *args)
        assert done.out.split()[-1] == built.digest
        said = builder.run(
            "verify-signature", "--attestation", "--key", f"{key}.pub", f"docker://{place}"
        ).out.splitlines()
        assert len(said) == number
        for line in said:
            claim = json.loads(line)
            assert "sha256:" + claim["subject"][0]["digest"]["sha256"] == built.digest
            assert claim["predicate"] == built.fields["buildx.build.provenance"]
