"""What a build attaches to an image: beside it in registries with and without the API, and in one index with it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from google.protobuf import json_format
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from registry_images import needs
from spdx_tools.spdx.parser.jsonlikedict.json_like_dict_parser import JsonLikeDictParser
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from arkwright.oci.reference import parse_reference
from arkwright.registry.client import open_registries
from arkwright.registry.referrers import list_referrers
from building import Builder, Context, MakeBuilder
from loopback_server import open_access

PROVENANCE, SPDX = "https://slsa.dev/provenance/v1", "https://spdx.dev/Document"
# What readers of BuildKit's layout go by (moby/buildkit, docs/attestations/attestation-storage.md).
ATTESTATION = {
    "type": "object",
    "required": ["mediaType", "digest", "size", "platform", "annotations"],
    "properties": {
        "mediaType": {"const": "application/vnd.oci.image.manifest.v1+json"},
        "platform": {"const": {"architecture": "unknown", "os": "unknown"}},
        "annotations": {
            "type": "object",
            "required": ["vnd.docker.reference.type", "vnd.docker.reference.digest"],
            "properties": {"vnd.docker.reference.type": {"const": "attestation-manifest"}},
        },
    },
}
DOCKERFILE = "FROM busybox\nCOPY var /var\n"
STATUS = (
    "Package: hello\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.10-3\n"
    "Maintainer: Nobody <nobody@example.com>\n\n"
)


@pytest.fixture
def root(context: Context) -> Path:
    return context({"Dockerfile": DOCKERFILE, "var/lib/dpkg/status": STATUS})


def checked(data: bytes) -> dict[str, Any]:
    """A statement that in-toto's library takes as it is, and spdx-tools if it is a package list."""
    Statement.copy_from_pb(json_format.Parse(data, statement_pb2.Statement())).validate()
    found: dict[str, Any] = json.loads(data)
    if found["predicateType"] == SPDX:
        document = JsonLikeDictParser().parse(found["predicate"])
        assert not validate_full_spdx_document(document)
        assert "hello" in [package.name for package in document.packages]
    return found


def referring(host: str, name: str, digest: str) -> list[dict[str, Any]]:
    """The statements of all referrers."""
    found = []
    with open_access() as access:
        [registry] = open_registries(access, parse_reference(f"{host}/{name}"))
        for one in list_referrers(registry, digest, "application/vnd.docker.attestation.manifest.v1+json"):
            manifest = json.loads(registry.get_manifest(one.digest)[1])
            assert manifest["subject"]["digest"] == digest
            for layer in manifest["layers"]:
                with registry.open_blob(layer["digest"])[0] as response:
                    statement = checked(response.read(1 << 22))
                assert layer["mediaType"] == "application/vnd.in-toto+json"
                assert layer["annotations"] == {"in-toto.io/predicate-type": statement["predicateType"]}
                found.append(statement)
    return found


def test_attestations_refer_to_an_image_that_they_do_not_change(
    host: str, make_builder: MakeBuilder, root: Path
) -> None:
    builder = make_builder("subids")
    plain = builder.build(root, "-t", "plain").digest
    place = f"{host}/attested/app:1"
    built = builder.build(
        root, "-t", place, "--push", "--provenance=mode=max", "--sbom", "--tls-verify=false"
    )
    assert built.digest == plain
    found = referring(host, "attested/app", built.digest)
    assert sorted(one["predicateType"] for one in found) == [PROVENANCE, SPDX]
    for one in found:
        assert one["subject"][0]["digest"] == {"sha256": plain.partition(":")[2]}
    [claim] = [one for one in found if one["predicateType"] == PROVENANCE]
    kept = built.fields["buildx.build.provenance"]
    assert claim["predicate"]["buildDefinition"] == kept["buildDefinition"]
    listed = json.loads(builder.run("inspect", "--tls-verify=false", f"docker://{place}").out)["referrers"]
    assert len(listed) == 1

    nothing = builder.build(root, "-t", f"{host}/attested/bare:1", "--push", "--tls-verify=false")
    assert nothing.digest == plain
    assert referring(host, "attested/bare", plain) == []


def test_inline_is_the_index_that_buildkit_writes(builder: Builder, root: Path) -> None:
    needs("skopeo")
    layout = builder.home / "layout"
    plain = builder.build(root, "-t", "plain").digest
    output = f"type=oci,dest={layout},tar=false"
    built = builder.build(root, "-o", output, "--attest", "type=provenance,mode=max,inline", "--sbom")

    def blob(digest: str) -> dict[str, Any]:
        made: dict[str, Any] = json.loads(
            (layout / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes()
        )
        return made

    [entry] = json.loads((layout / "index.json").read_bytes())["manifests"]
    assert (entry["digest"], entry["mediaType"]) == (built.digest, "application/vnd.oci.image.index.v1+json")
    image, attestation = blob(built.digest)["manifests"]
    assert image["digest"] == plain
    jsonschema.validate(attestation, ATTESTATION)
    assert attestation["annotations"]["vnd.docker.reference.digest"] == plain
    manifest = blob(attestation["digest"])
    assert blob(manifest["config"]["digest"])["rootfs"]["diff_ids"] == [
        one["digest"] for one in manifest["layers"]
    ]
    kinds = {one["annotations"]["in-toto.io/predicate-type"] for one in manifest["layers"]}
    assert kinds == {PROVENANCE, SPDX}
    for one in manifest["layers"]:
        claim = checked((layout / "blobs" / "sha256" / one["digest"].removeprefix("sha256:")).read_bytes())
        assert claim["subject"][0]["digest"] == {"sha256": plain.removeprefix("sha256:")}
    # What knows nothing of attestations runs the image.
    copied = builder.home / "copied"
    subprocess.run(
        ["skopeo", "copy", "-q", f"oci:{layout}", f"dir:{copied}"], check=True, capture_output=True
    )
    assert (
        json.loads((copied / "manifest.json").read_bytes())["config"]["digest"]
        == blob(plain)["config"]["digest"]
    )
    known = json.loads(builder.run("provenance", built.fields["arkwright.build"]).out)
    assert ["sha256:" + one["digest"]["sha256"] for one in known["subject"]] == [built.digest, plain]


def test_an_oci_archive_can_hold_referrers(make_builder: MakeBuilder, root: Path) -> None:
    builder = make_builder("subids")
    layout = builder.home / "with"
    built = builder.build(root, "-o", f"type=oci,dest={layout},tar=false,referrers=true", "--provenance")
    image, artifact = json.loads((layout / "index.json").read_bytes())["manifests"]
    assert image["digest"] == built.digest
    manifest = json.loads(
        (layout / "blobs" / "sha256" / artifact["digest"].removeprefix("sha256:")).read_bytes()
    )
    assert manifest["subject"]["digest"] == built.digest
    # Without its being asked for, an archive stays what other tools take for one image.
    builder.build(root, "-o", f"type=oci,dest={builder.home}/without,tar=false", "--provenance")
    assert len(json.loads((builder.home / "without" / "index.json").read_bytes())["manifests"]) == 1


def test_every_platform_has_its_own(make_builder: MakeBuilder, context: Context) -> None:
    builder = make_builder("root")
    files = context({"Dockerfile": "FROM scratch\nCOPY f /\n", "f": "x"})
    layout = builder.home / "several"
    builder.build(
        files,
        "--platform",
        "linux/amd64,linux/arm64",
        "-o",
        f"type=oci,dest={layout},tar=false",
        "--attest",
        "inline",
    )
    [entry] = json.loads((layout / "index.json").read_bytes())["manifests"]
    index = json.loads((layout / "blobs" / "sha256" / entry["digest"].removeprefix("sha256:")).read_bytes())
    images = [one["digest"] for one in index["manifests"] if one["platform"]["os"] == "linux"]
    about = [
        one["annotations"]["vnd.docker.reference.digest"]
        for one in index["manifests"]
        if one["platform"]["os"] != "linux"
    ]
    assert len(images) == 2
    assert about == images
