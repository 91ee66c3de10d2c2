"""Provenance of real builds, against what they really used."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from arkwright.attest.provenance import TREE
from arkwright.build.contexts import Contexts
from arkwright.build.observed import seen
from arkwright.graph.ops import SourceOp
from arkwright.oci.descriptor import MANIFEST, Descriptor
from arkwright.ops.source import Pins
from arkwright.sources.base import PinnedImage
from building import Builder, Context
from file_site import FileSite

HIDDEN = "hush-hush-value"
SECRET = "never-to-be-seen"


@pytest.fixture
def site() -> Iterator[FileSite]:
    with FileSite() as made:
        yield made


def git(path: Path, *args: str) -> str:
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(
        ["git", "-C", str(path), *identity, *args], env=env, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def repository(builder: Builder, path: Path, *, sign: bool = False) -> str:
    """A repository of the user who builds, with all of a directory; its commit."""
    git(path, "init", "-q", "-b", "main")
    git(path, "add", ".")
    git(path, "commit", "-q", "-m", "one")
    if sign:
        signed(path)
    commit = git(path, "rev-parse", "HEAD")
    subprocess.run(["chown", "-R", str(builder.uid), str(path)], check=True)
    return commit


def signed(path: Path) -> None:
    """Put a commit with something like a signature on top."""
    tree, parent = git(path, "rev-parse", "HEAD^{tree}"), git(path, "rev-parse", "HEAD")
    person = "a <a@b> 1700000000 +0000"
    text = f"tree {tree}\nparent {parent}\nauthor {person}\ncommitter {person}\ngpgsig x\n y\n\nsigned\n"
    done = subprocess.run(
        ["git", "-C", str(path), "hash-object", "-t", "commit", "-w", "--stdin"],
        input=text, check=True, capture_output=True, text=True,
    )  # fmt: skip
    git(path, "update-ref", "refs/heads/main", done.stdout.strip())


def told(builder: Builder, *args: str) -> dict[str, Any]:
    """The statement that the program prints, which in-toto's library takes as it is."""
    data = builder.run("provenance", *args).out
    Statement.copy_from_pb(json_format.Parse(data, statement_pb2.Statement())).validate()
    found: dict[str, Any] = json.loads(data)
    json_format.ParseDict(found["predicate"], provenance_pb2.Provenance())
    return found


def definition(found: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = found["predicate"]["buildDefinition"]
    return made


def internal(found: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = definition(found)["internalParameters"]
    return made


def dependency(found: dict[str, Any], text: str) -> dict[str, Any]:
    """The one dependency with a text in its name or URI."""
    every = definition(found)["resolvedDependencies"]
    [one] = [one for one in every if text in one.get("uri", "") or text == one.get("name")]
    made: dict[str, Any] = one
    return made


def test_what_a_build_used(
    module_builder: Builder, context: Context, scratch: Path, site: FileSite, busybox_layout: Path
) -> None:
    builder, payload = module_builder, b"from a web server"
    site.files["/data"] = site.files[f"/{HIDDEN}/more"] = payload
    address = f"http://{site.host}/data"
    source = context({"file": "in git"}, "source")
    commit = repository(builder, source)
    secret = scratch / "secret"
    secret.write_text(SECRET)
    text = (
        "FROM busybox\nARG API_TOKEN\nARG VERSION\n"
        f"ADD {address} http://{site.host}/$API_TOKEN/more /\nCOPY --from=git file /git\nCOPY file /\n"
        'RUN --mount=type=secret,id=used grep -q never /run/secrets/used && test -n "$API_TOKEN"\n'
        "RUN --network=none true\n"
    )
    root = context({"Dockerfile": text, "file": "x", "other": "not copied"})
    args = (
        "-t", "used", "--provenance=mode=max", "--secret", f"id=used,src={secret}", "--secret", f"id=spare,src={secret}",
        "--build-arg", f"API_TOKEN={HIDDEN}", "--build-arg", "VERSION=7", "--label", "team=blue",
        "--build-context", f"git=file://{source}/.git#main",
    )  # fmt: skip
    built = builder.build(root, *args)
    found = told(builder)
    assert found["subject"] == [
        {"name": "docker.io/library/used:latest", "digest": {"sha256": built.digest.partition(":")[2]}}
    ]

    index = json.loads((busybox_layout / "index.json").read_bytes())
    base = dependency(found, "docker-image://docker.io/library/busybox:latest")
    assert "sha256:" + base["digest"]["sha256"] == index["manifests"][0]["digest"]
    assert dependency(found, address)["digest"] == {"sha256": hashlib.sha256(payload).hexdigest()}
    assert dependency(found, "/…/more")["digest"] == {"sha256": hashlib.sha256(payload).hexdigest()}
    assert dependency(found, "/.git#main")["digest"] == {"sha1": commit}
    assert dependency(found, "/.git#main")["annotations"] == {"signature": "none"}
    dockerfile = dependency(found, "Dockerfile")
    assert dockerfile["digest"] == {"sha256": hashlib.sha256(text.encode()).hexdigest()}

    request = definition(found)["externalParameters"]["request"]
    assert request["args"] == {
        "build-arg:API_TOKEN": "…", "build-arg:VERSION": "7", "label:team": "blue", "context:git": f"file://{source}/.git#main",
    }  # fmt: skip
    assert request["secrets"] == [{"id": "used"}]
    runs = {one["name"]: one for one in internal(found)["buildConfig"]["steps"] if one["kind"] == "exec"}
    networks = {name: one["network"] for name, one in runs.items()}
    assert sorted(networks.values()) == ["default", "none"]
    [gap] = internal(found)["gaps"]
    assert (networks[gap["name"]], gap["reason"]) == ("default", "network")
    assert not any(one.get("cached") for one in runs.values())
    assert internal(found)["isolation"] == built.fields["arkwright.tiers"]
    assert internal(found)["compression"] == built.fields["arkwright.profile"]
    assert built.fields["buildx.build.provenance"] == found["predicate"]

    kept = (builder.store / "history" / built.fields["arkwright.build"] / "facts.json").read_text()
    for secret_text in (HIDDEN, SECRET):
        assert secret_text not in kept + json.dumps(found, ensure_ascii=False)
    assert str(scratch / "context") not in kept

    again = builder.build(root, *args)
    assert again.ran == []
    cached = told(builder)
    assert cached["predicate"]["runDetails"]["metadata"]["invocationId"] == again.fields["arkwright.build"]
    assert definition(cached)["resolvedDependencies"] == definition(found)["resolvedDependencies"]
    assert definition(cached)["externalParameters"] == definition(found)["externalParameters"]
    assert internal(cached)["gaps"] == internal(found)["gaps"]
    assert all(one.get("cached") for one in internal(cached)["buildConfig"]["steps"])


def test_the_digest_of_a_context_is_of_what_was_read(module_builder: Builder, context: Context) -> None:
    files = {"Dockerfile": "FROM scratch\nCOPY dir /\n", "dir/a": "1", "dir/b": "2", "unread": "3"}

    def tree(root: Path) -> str:
        module_builder.build(root, "-t", "tree")
        found: str = dependency(told(module_builder), "context")["digest"][TREE]
        return found

    first = context(files, "first")
    expected = tree(first)
    second = context(files, "second")
    os.utime(second / "dir/a", (1, 1))
    os.chown(second / "dir/a", 1234, 1234)
    (second / "unread").write_text("changed")
    assert tree(second) == expected
    (second / "dir/a").write_text("9")
    changed = tree(second)
    (second / "dir/a").chmod(0o755)
    moved = tree(second)
    assert len({expected, changed, moved}) == 3
    os.rename(second / "dir/a", second / "dir/c")
    assert tree(second) not in (expected, changed, moved)


def test_no_network_no_gap(module_builder: Builder, context: Context) -> None:
    root = context({"Dockerfile": "FROM busybox\nRUN echo closed > /closed\n"})
    module_builder.build(root, "-t", "closed", "--network=none")
    found = told(module_builder, "closed")
    assert internal(found)["gaps"] == []
    assert internal(found)["hermetic"] is True
    assert definition(found)["externalParameters"]["request"]["args"] == {"force-network-mode": "none"}
    module_builder.build(root, "-t", "open")
    assert internal(told(module_builder, "open"))["hermetic"] is False


def test_a_git_context_and_a_file_from_the_web(
    module_builder: Builder, context: Context, site: FileSite
) -> None:
    text = "FROM scratch\nCOPY file /\n"
    source = context({"file": "in git", "Dockerfile": text}, "source")
    commit = repository(module_builder, source, sign=True)
    module_builder.run("build", "-t", "git", f"file://{source}/.git#main")
    config = definition(told(module_builder))["externalParameters"]["configSource"]
    assert config == {"uri": f"file://{source}/.git#main", "digest": {"sha1": commit}, "path": "Dockerfile"}
    assert dependency(told(module_builder), "/.git#main")["annotations"] == {"signature": "unchecked"}
    assert "locals" not in definition(told(module_builder))["externalParameters"]["request"]

    site.files["/Dockerfile"] = text.encode()
    url = f"http://user:password@{site.host}/Dockerfile"
    module_builder.build(source, "-t", "web", "-f", url)
    found = told(module_builder)
    served = {"sha256": hashlib.sha256(text.encode()).hexdigest()}
    assert dependency(found, f"http://{site.host}/Dockerfile")["digest"] == served
    assert "password" not in json.dumps(found)


def test_of_an_index_both_digests_are_told() -> None:
    index, manifest = "sha256:" + "ab" * 32, "sha256:" + "cd" * 32
    image = PinnedImage(
        op=SourceOp(identifier="docker-image://x"), key="", uri="docker-image://x", digest=index, reference="x",
        manifest=Descriptor(media_type=MANIFEST, digest=manifest, size=1), config=b"", layers=(), diff_ids=(),
    )  # fmt: skip
    both = Pins(images={"amd64": image, "other vertex": image})
    [found] = seen(both, {}, Contexts()).sources
    assert (found.digest, found.annotations) == ({"sha256": "ab" * 32}, {"manifest": manifest})


def test_named_contexts(module_builder: Builder, context: Context, busybox_layout: Path) -> None:
    root = context({"Dockerfile": "FROM base\nCOPY --from=more file /\n"})
    more = context({"file": "x"}, "more")
    index = json.loads((busybox_layout / "index.json").read_bytes())
    module_builder.build(
        root, "-t", "named", "--provenance=mode=max", "--build-context", f"more={more}",
        "--build-context", "base=docker-image://busybox",
    )  # fmt: skip
    found = told(module_builder)
    request = definition(found)["externalParameters"]["request"]
    assert request["args"] == {"context:base": "docker-image://busybox", "context:more": "local"}
    assert request["locals"] == [{"name": "more"}]
    assert dependency(found, "context:more")["digest"].keys() == {TREE}
    base = dependency(found, "docker-image://docker.io/library/busybox")["digest"]["sha256"]
    assert f"sha256:{base}" == index["manifests"][0]["digest"]


def test_which_build_is_meant(module_builder: Builder, context: Context) -> None:
    builder = module_builder
    text = "FROM scratch AS a\nLABEL of=a\nFROM scratch AS b\nLABEL of=b\n"
    root = context({"Dockerfile": text})
    targets = ("--target", "a", "--target", "b", "-t", "a=image-a", "-t", "b=image-b")
    metadata = builder.home / "several.json"
    builder.run("build", *targets, "--metadata-file", str(metadata), str(root))
    fields = json.loads(metadata.read_bytes())
    build, digest = fields["a"]["arkwright.build"], fields["b"]["containerimage.digest"]
    assert fields["a"]["buildx.build.provenance"] == fields["b"]["buildx.build.provenance"]
    assert [one["name"].partition("/")[2] for one in told(builder, build)["subject"]] == [
        "library/image-a:latest", "library/image-b:latest",
    ]  # fmt: skip
    for text in ("image-b", digest):
        [subject] = told(builder, text)["subject"]
        assert "sha256:" + subject["digest"]["sha256"] == digest

    quiet = builder.build(root, "--target", "a", "-t", "none", "--provenance=false").fields
    assert "buildx.build.provenance" not in quiet
    done = builder.run("provenance", quiet["arkwright.build"], status=1)
    assert "error[no-provenance]" in done.err
    # The same image, by a build that does tell.
    assert told(builder, "none")["predicate"]["runDetails"]["metadata"]["invocationId"] == build
    builder.run("history", "rm", build)
    assert not (builder.store / "history" / build).exists()
    assert "error[no-provenance]" in builder.run("provenance", "image-b", status=1).err
    assert "error[no-provenance]" in builder.run("provenance", "busybox", status=1).err
    assert "error[unknown-image]" in builder.run("provenance", "not-there", status=1).err


def test_a_signed_statement_is_found_beside_the_image(
    module_builder: Builder, context: Context, scratch: Path
) -> None:
    builder = module_builder
    root = context({"Dockerfile": "FROM scratch\nLABEL a=signed\n"})
    builder.build(root, "-t", "signed")
    keys = scratch / "keys"
    keys.mkdir()
    shutil.chown(keys, builder.uid)
    for name in ("a", "b"):
        builder.run("key", "generate", "--no-password", str(keys / name))
    builder.run("provenance", "--mode", "max", "--sign", str(keys / "a.key"))
    verify = ("verify-signature", "--attestation", "--type", "https://slsa.dev/provenance/v1")
    said = builder.run(*verify, "--key", str(keys / "a.pub"), "signed").out
    assert json.loads(said) == told(builder, "--mode", "max")
    wrong = builder.run(*verify, "--key", str(keys / "b.pub"), "signed", status=3)
    assert "error[signature-mismatch]" in wrong.err
    alone = builder.run("provenance", "--attach", "signed", status=1)
    assert "error[invalid-usage]" in alone.err
