"""Images built again from their records: of the local history, of statements in a registry, from every kind of input."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.vsa.v1 import vsa_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from building import Builder, Context
from file_site import FileSite
from verifying import files, refused, rules, verified

VSA = "https://slsa.dev/verification_summary/v1"
# The fields that the specification requires, and their forms (slsa.dev/spec/v1.1/verification_summary).
VSA_SCHEMA = {
    "type": "object",
    "required": ["verifier", "timeVerified", "resourceUri", "policy", "verificationResult", "verifiedLevels"],
    "properties": {
        "verifier": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string", "format": "uri"}, "version": {"type": "object"}}},
        "timeVerified": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"},
        "resourceUri": {"type": "string", "minLength": 1},
        "policy": {"type": "object", "required": ["uri"]},
        "inputAttestations": {"type": "array", "items": {"type": "object", "required": ["digest"]}},
        "verificationResult": {"enum": ["PASSED", "FAILED"]},
        "verifiedLevels": {"type": "array", "minItems": 1, "items": {"type": "string", "not": {"pattern": "^SLSA_"}}},
        "slsaVersion": {"type": "string"},
    },
    "additionalProperties": False,
}  # fmt: skip


def git(path: Path, *args: str) -> str:
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "-C", str(path), "-c", "user.name=a", "-c", "user.email=a@b", *args]
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.strip()


def test_every_kind_of_input(
    anybody: Builder, context: Context, scratch: Path, site: FileSite, busybox_layout: Path
) -> None:
    """Base by name and from a layout, a repository whose branch moves on, a file from the web, contexts, a secret, a
    hidden argument, two targets."""
    site.files["/data"] = b"from the web"
    source = context({"file": "in git"}, "source")
    for args in (("init", "-q", "-b", "main"), ("add", "."), ("commit", "-q", "-m", "one")):
        git(source, *args)
    subprocess.run(["chown", "-R", str(anybody.uid), str(source)], check=True)
    secret = scratch / "secret"
    secret.write_text("hush")
    secret.chmod(0o644)
    text = (
        "FROM busybox AS tools\nRUN --network=none echo tool > /tool\n"
        "FROM laid\nARG API_TOKEN\nARG VERSION\nCOPY --from=tools /tool /\n"
        f"ADD http://{site.host}/data /data\nCOPY --from=git file /git\nCOPY --from=more deep /deep\nCOPY . /here\n"
        'RUN --network=none --mount=type=secret,id=key test "$(cat /run/secrets/key)$API_TOKEN" = hushabc\n'
    )
    root = context({"Dockerfile": text, "f": "x", "d/g": "y", ".dockerignore": "hidden\n", "hidden": "h"})
    os.link(root / "f", root / "h")
    more = context({"deep/file": "z"}, "more")
    anybody.build(
        root, "-t", "kinds", "--secret", f"id=key,src={secret}", "--build-arg", "API_TOKEN=abc", "--build-arg",
        "VERSION=7", "--label", "a=b", "--annotation", "c=d", "--build-context", f"git=file://{source}/.git#main",
        "--build-context", f"more={more}", "--build-context", f"laid=oci-layout://{busybox_layout}",
    )  # fmt: skip
    (source / "file").write_text("moved on")
    git(source, "-c", "safe.directory=*", "commit", "-q", "-a", "-m", "two")
    subprocess.run(["chown", "-R", str(anybody.uid), str(source)], check=True)

    assert refused(anybody, "verify", "kinds", status=1) == ["argument-needed"]
    hidden = ("--build-arg", "API_TOKEN=abc")
    assert refused(anybody, "verify", "kinds", *hidden, status=1) == ["secret-needed"]
    given = (*hidden, "--secret", f"id=key,src={secret}")
    report = verified(anybody, "kinds", *given)
    assert report["identical"]

    site.files["/data"] = b"another"
    assert refused(anybody, "verify", "kinds", *given) == ["checksum-mismatch", "input-mismatch"]


def test_a_context_elsewhere(somebody: Builder, context: Context) -> None:
    root = context({"Dockerfile": "FROM busybox\nCOPY . /c\nRUN ls -R /c > /list\n", "a/b": "1"})
    built = somebody.build(root, "-t", "moved")
    root.rename(root.parent / "elsewhere")
    assert refused(somebody, "verify", "moved", status=1) == ["context-needed"]
    report = verified(somebody, "--context", str(root.parent / "elsewhere"), "moved")
    assert (report["identical"], report["old"], report["new"]) == (True, built.digest, built.digest)
    assert verified(somebody, "--context", str(root.parent / "elsewhere"))["identical"]
    (root.parent / "elsewhere" / "a" / "b").write_text("2")
    other = verified(somebody, "--context", str(root.parent / "elsewhere"), "moved", status=3)
    assert other["error"] == "input-mismatch"
    assert [one.partition(":")[0] for one in other["moved_inputs"]] == ["context context"]
    found = files(other)["/c/a/b"]
    assert (found["step"], found["diff"], rules(found)) == (
        "COPY . /c",
        ["@@ -1 +1 @@", "-1", "+2"],
        {"other-input"},
    )


def test_a_difference_that_no_input_explains(somebody: Builder, context: Context) -> None:
    root = context(
        {"Dockerfile": "FROM busybox\nRUN --network=none date +%s > /when\nRUN --network=none echo x > /x\n"}
    )
    somebody.build(root, "-t", "when")
    report = verified(somebody, "when", status=3)
    assert report["error"] == "layer-not-reproduced"
    [image] = report["images"]
    # The second layer is the same, so nothing is said of it.
    assert [layer["number"] for layer in image["layers"]] == [2]
    assert rules(files(report)["/when"]) == {"timestamp"}
    assert not report.get("moved_inputs")


def test_several_platforms_and_targets(somebody: Builder, context: Context) -> None:
    platforms = ("--platform", "linux/amd64,linux/arm64")
    text = "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /\n"
    basis = context({"Dockerfile": text, "amd64": "a", "arm64": "b"}, "basis")
    somebody.build(basis, *platforms, "-t", "basis")
    root = context({"Dockerfile": "FROM basis AS one\nCOPY f /1\nFROM basis AS two\nCOPY f /2\n", "f": "x"})
    targets = ("--target", "one", "--target", "two", "-t", "one=image-one", "-t", "two=image-two")
    somebody.run("build", *platforms, *targets, str(root))
    for name in ("image-one", "image-two"):
        report = verified(somebody, name)
        assert report["identical"]
        assert report["old"] == somebody.run("inspect", "--format", "digest", name).out.strip()


def test_zstd_and_an_archive(somebody: Builder, context: Context) -> None:
    root = context({"Dockerfile": "FROM busybox\nCOPY f /\n", "f": "x"})
    output = f"type=oci,dest={somebody.home}/app.tar,compression=zstd,annotation.team=blue"
    built = somebody.build(root, "-o", output, "-o", "type=image,name=both")
    reports = [verified(somebody, built.fields["arkwright.build"]), verified(somebody, "both")]
    assert [one["identical"] for one in reports] == [True, True]
    assert reports[0]["old"] != reports[1]["old"]


@pytest.fixture
def keys(somebody: Builder, scratch: Path) -> Path:
    folder = scratch / "keys"
    folder.mkdir()
    os.chown(folder, somebody.uid, somebody.uid)
    for name in ("builder", "auditor", "other"):
        somebody.run("key", "generate", "--no-password", str(folder / name))
    return folder


def test_a_verification_is_signed(somebody: Builder, context: Context, keys: Path, scratch: Path) -> None:
    root = context({"Dockerfile": "FROM busybox\nRUN --network=none echo signed > /x\n"})
    built = somebody.build(root, "-t", "example.com/team/signed:1")
    name = "example.com/team/signed:1"
    assert refused(somebody, "verify", "--key", str(keys / "builder.pub"), name) == ["unsigned-image"]
    somebody.run("provenance", "--mode", "max", "--sign", str(keys / "builder.key"), name)
    assert refused(somebody, "verify", "--key", str(keys / "other.pub"), name) == ["signature-mismatch"]
    verified(somebody, "--key", str(keys / "builder.pub"), "--sign", str(keys / "auditor.key"), name)
    said = somebody.run(
        "verify-signature", "--attestation", "--type", VSA, "--key", str(keys / "auditor.pub"), name
    ).out
    checked_summary(said.encode(), built.digest, somebody, name)

    envelope_path = somebody.home / "summary.json"
    verified(somebody, "--sign", str(keys / "auditor.key"), "-o", str(envelope_path), name)
    envelope = json.loads(envelope_path.read_bytes())
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    checked_summary(base64.b64decode(envelope["payload"]), built.digest, somebody, name)
    judged_by_openssl(envelope, keys / "auditor.pub", scratch)


def checked_summary(data: bytes, digest: str, builder: Builder, name: str) -> dict[str, Any]:
    """A verification summary that the specification's fields and in-toto's library take."""
    Statement.copy_from_pb(json_format.Parse(data, statement_pb2.Statement())).validate()
    claim: dict[str, Any] = json.loads(data)
    assert claim["predicateType"] == VSA
    assert claim["subject"][0]["digest"] == {"sha256": digest.partition(":")[2]}
    predicate = claim["predicate"]
    jsonschema.validate(predicate, VSA_SCHEMA)
    # The library has one level as text, and no version of the verifier.
    known = {**predicate, "verifiedLevels": predicate["verifiedLevels"][0]}
    json_format.ParseDict(known, vsa_pb2.VerificationSummary(), ignore_unknown_fields=True)
    assert predicate["verificationResult"] == "PASSED"
    used = builder.run("provenance", "--mode", "max", name).out.rstrip("\n").encode()
    assert predicate["inputAttestations"][0]["digest"] == {"sha256": hashlib.sha256(used).hexdigest()}
    return claim


def judged_by_openssl(envelope: dict[str, Any], public: Path, scratch: Path) -> None:
    """The signature of DSSE, protocol.md, as openssl sees it."""
    payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"].encode()
    (scratch / "message").write_bytes(b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload))
    (scratch / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    subprocess.run(
        ["openssl", "dgst", "-sha256", "-verify", str(public), "-signature", str(scratch / "sig"), str(scratch / "message")],
        check=True, capture_output=True,
    )  # fmt: skip


def test_what_nothing_is_known_of(somebody: Builder, context: Context) -> None:
    assert refused(somebody, "verify", "busybox", status=1) == ["no-provenance"]
    root = context({"Dockerfile": "FROM scratch\nLABEL quiet=1\n"})
    built = somebody.build(root, "-t", "quiet", "--provenance=false")
    assert refused(somebody, "verify", built.fields["arkwright.build"], status=1) == ["no-provenance"]
