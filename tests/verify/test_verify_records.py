"""Records in files: verified by who has nothing else, and every way of tampering caught by its own name."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from record_editing import CONTEXT, ENVELOPE, Record, tar_of

from building import Builder
from verifying import codes, files, refused, verified

DOCKERFILE = "FROM busybox\nCOPY . /c\nRUN --network=none ls -lR /c | wc -l > /count\nLABEL from=record\n"


class Exported:
    """A build with its record, the stranger who verifies it, and where files of both may be."""

    def __init__(self, builder: Builder, stranger: Builder, path: Path) -> None:
        self.builder, self.stranger, self.path = builder, stranger, path
        self.plain, self.signed = path / "plain.record", path / "signed.record"
        self.digest = ""

    def verify(self, record: Record, *args: str, status: int = 3) -> list[str]:
        """The errors of verifying an edited record."""
        path = record.write(self.path / "edited.record")
        return refused(self.stranger, "verify", "--progress", "none", "--record", path, *args, status=status)


@pytest.fixture(scope="module")
def exported(somebody: Builder) -> Iterator[Exported]:
    path = somebody.scratch / "records"
    path.mkdir(mode=0o777)
    path.chmod(0o777)
    context = path / "context"
    (context / "d").mkdir(parents=True)
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "f").write_text("x")
    (context / "d" / "g").write_text("y")
    os.symlink("f", context / "s")
    os.link(context / "f", context / "h")
    (context / "run").write_text("#!/bin/sh\n")
    (context / "run").chmod(0o755)
    made = Exported(somebody, Builder(somebody.scratch, "subids", "stranger"), path)
    made.digest = somebody.build(context, "-t", "recorded").digest
    for name in ("a", "b"):
        somebody.run("key", "generate", "--no-password", str(path / name))
    somebody.run("export-record", "recorded", "-o", str(made.plain), "--with-image")
    somebody.run("export-record", "--sign", str(path / "a.key"), "-o", str(made.signed), "recorded")
    # Nothing of the place is needed any more.
    context.rename(path / "gone")
    yield made


def set_digest(value: dict[str, str]) -> Callable[[dict[str, Any]], object]:
    def change(statement: dict[str, Any]) -> None:
        statement["subject"] = [{"name": "x", "digest": value}]

    return change


def recipe(statement: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = statement["predicate"]["buildDefinition"]["internalParameters"]["recipe"]
    return found


def dependencies(statement: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    return found


def test_a_stranger_verifies_it(exported: Exported) -> None:
    report = verified(exported.stranger, "--record", str(exported.plain))
    assert (report["identical"], report["old"]) == (True, exported.digest)
    report = verified(
        exported.stranger, "--record", str(exported.signed), "--key", str(exported.path / "a.pub")
    )
    assert report["identical"]
    # Podman, skopeo and the like see an OCI archive with the image in it.
    assert exported.digest in [one["digest"] for one in Record(exported.plain).index["manifests"]]


def test_the_same_record_twice(exported: Exported) -> None:
    again = exported.path / "again.record"
    exported.builder.run(
        "export-record",
        "recorded",
        "--context",
        str(exported.path / "gone"),
        "-o",
        str(again),
        "--with-image",
    )
    assert again.read_bytes() == exported.plain.read_bytes()
    (exported.path / "gone" / "new").write_text("more")
    done = exported.builder.run(
        "export-record", "recorded", "--context", str(exported.path / "gone"), "-o", str(again), status=3
    )
    (exported.path / "gone" / "new").unlink()
    assert codes(done.err) == ["input-mismatch"]


def test_keys(exported: Exported) -> None:
    wrong = ("--key", str(exported.path / "b.pub"))
    assert exported.verify(Record(exported.signed), *wrong) == ["signature-mismatch"]
    assert exported.verify(Record(exported.plain), *wrong) == ["unsigned-image"]


def test_an_edited_provenance(exported: Exported) -> None:
    record = Record(exported.signed)
    record.edit(lambda statement: recipe(statement).update(labels={"from": "somebody else"}))
    assert exported.verify(record, "--key", str(exported.path / "a.pub")) == ["statement-altered"]
    # Who trusts no key still finds that this is not how the image was made.
    assert exported.verify(record) == ["config-not-reproduced"]


def test_downgraded_digests(exported: Exported) -> None:
    sha1 = hashlib.sha1(b"x").hexdigest()
    record = Record(exported.plain)
    record.edit(set_digest({"sha1": sha1}))
    assert exported.verify(record) == ["weak-digest"]
    for weak in ({"md5": "0" * 32}, {"sha256": "abc"}, {}):
        record = Record(exported.plain)
        record.edit(lambda statement, weak=weak: dependencies(statement)[-1].update(digest=weak))  # type: ignore[misc]
        assert exported.verify(record) == ["weak-digest"]


def image_of(record: Record) -> dict[str, Any]:
    """The descriptor of the image that came along."""
    found: dict[str, Any] = record.index["manifests"][-1]
    return found


def with_changed_image(record: Record, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> str:
    """Another image in the place of the one that came along, of which the statement now speaks."""
    manifest = json.loads(record.blob(image_of(record)["digest"]))
    config = json.loads(record.blob(manifest["config"]["digest"]))
    change(manifest, config)
    manifest["config"] |= record.put(json.dumps(config).encode())
    made = {"mediaType": manifest["mediaType"], **record.put(json.dumps(manifest).encode())}
    record.bases([*record.index["manifests"][1:-1], made])
    digest: str = made["digest"]
    record.edit(set_digest({"sha256": digest.removeprefix("sha256:")}))
    return digest


def test_a_changed_layer(exported: Exported) -> None:
    record = Record(exported.plain)

    def change(manifest: dict[str, Any], config: dict[str, Any]) -> None:
        # A file with a back door, in the layer of COPY.
        members: dict[str, bytes] = {}
        layer = manifest["layers"][1]
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(record.blob(layer["digest"])))) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() else None
                members[member.name] = file.read() if file else b""
        data = tar_of(
            {name: text for name, text in members.items() if text} | {"c/run": b"#!/bin/sh\nback door\n"}
        )
        config["rootfs"]["diff_ids"][1] = "sha256:" + hashlib.sha256(data).hexdigest()
        layer.update(record.put(gzip.compress(data, mtime=0)))

    digest = with_changed_image(record, change)
    assert exported.verify(record) == ["layer-not-reproduced"]
    report = verified(exported.stranger, "--record", str(exported.path / "edited.record"), status=3)
    assert report["old"] == digest
    assert "+back door" not in (found := files(report)["/c/run"])["diff"]
    assert "-back door" in found["diff"]
    assert found["step"] == "COPY . /c"


def test_a_changed_config_and_manifest(exported: Exported) -> None:
    record = Record(exported.plain)
    with_changed_image(record, lambda manifest, config: config["config"].update(Entrypoint=["/c/run"]))
    assert exported.verify(record) == ["config-not-reproduced"]
    record = Record(exported.plain)
    with_changed_image(record, lambda manifest, config: manifest.update(annotations={"by": "a forger"}))
    assert exported.verify(record)[-1] in ("manifest-not-reproduced", "config-not-reproduced")
    report = verified(exported.stranger, "--record", str(exported.path / "edited.record"), status=3)
    assert [one["field"] for one in report["images"][0]["manifest"]] == ["annotations.by"]


def test_a_record_of_another_image(exported: Exported) -> None:
    record = Record(exported.plain)
    path = record.write(exported.path / "edited.record")
    exported.builder.build(exported.path / "gone", "-t", "other", "--label", "x=y")
    done = exported.builder.run("verify", "--record", path, "other", status=3)
    assert codes(done.err) == ["record-of-another"]


def test_a_replaced_base(exported: Exported) -> None:
    record = Record(exported.plain)
    [base] = [
        one
        for one in dependencies(json.loads(record.layer("application/vnd.in-toto+json")))
        if "docker-image" in one.get("uri", "")
    ]
    real = "sha256:" + base["digest"]["sha256"]
    manifest = json.loads(record.blob(real))
    config = json.loads(record.blob(manifest["config"]["digest"]))
    config["config"]["Env"] = ["PATH=/evil"]
    manifest["config"] |= record.put(json.dumps(config).encode())
    evil = {"mediaType": manifest["mediaType"], **record.put(json.dumps(manifest).encode())}
    record.bases([evil])
    assert exported.verify(record) == ["input-mismatch"]
    # If the statement names it, it is not how the image was made.
    record.edit(
        lambda statement: next(
            one for one in dependencies(statement) if one.get("uri") == base["uri"]
        ).update(
            uri=base["uri"].replace(real, evil["digest"]),
            digest={"sha256": evil["digest"].removeprefix("sha256:")},
        )
    )
    assert exported.verify(record) == ["config-not-reproduced"]
    # With the wrong bytes under the right name nothing gets as far as that.
    broken = Record(exported.plain)
    broken.files[f"blobs/sha256/{real.removeprefix('sha256:')}"] = json.dumps(manifest).encode()
    assert exported.verify(broken, status=1) == ["corrupt-blob"]


def test_a_replaced_context(exported: Exported) -> None:
    record = Record(exported.plain)
    record.replace(CONTEXT, tar_of({"f": b"x", "Dockerfile": DOCKERFILE.encode(), "extra": b"evil"}))
    assert exported.verify(record)[:1] == ["input-mismatch"]


@pytest.mark.parametrize(
    ("context", "found"),
    [
        (tar_of({"../../escaped": b"x"}), (1, ["path-escapes-root"])),
        (tar_of({"f": b"x"}, {"d": "/tmp"}), (3, ["input-mismatch", "layer-not-reproduced"])),
        (b"\0" * 7, (1, ["truncated-archive"])),
    ],
    ids=["above", "a link out", "no tar"],
)
def test_hostile_contexts(exported: Exported, context: bytes, found: tuple[int, list[str]]) -> None:
    record = Record(exported.plain)
    record.replace(CONTEXT, context)
    path = record.write(exported.path / "edited.record")
    command = exported.stranger.command("verify", "--record", path, "--progress", "none")
    done = subprocess.run(
        command,
        env=exported.stranger.env,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, codes(done.stderr)) == found
    assert not Path("/tmp/escaped").exists()
    assert not (exported.path.parent / "escaped").exists()


def test_recipes_that_want_too_much(exported: Exported) -> None:
    def refused_for(**fields: Any) -> list[str]:
        record = Record(exported.plain)
        record.edit(lambda statement: recipe(statement).update(fields))
        status = 1 if "nonsense" in fields or fields.get("ulimits") else 3
        return exported.verify(record, status=status)

    assert refused_for(context="/etc") == ["record-refused"]
    assert refused_for(named_contexts={"x": "/etc"}) == ["record-refused"]
    assert refused_for(named_contexts={"x": "file:///etc/.git"}) == ["record-refused"]
    assert refused_for(allow=["security.insecure"]) == ["record-refused"]
    assert refused_for(nonsense=1) == ["invalid-record"]
    assert refused_for(ulimits="many") == ["invalid-record"]


def test_what_is_no_record(exported: Exported) -> None:
    def changed(change: Callable[[Record], object], status: int = 1) -> list[str]:
        record = Record(exported.plain)
        change(record)
        return exported.verify(record, status=status)

    def other_text(statement: dict[str, Any]) -> None:
        dockerfile = next(one for one in dependencies(statement) if one.get("name") == "Dockerfile")
        dockerfile["content"] = base64.b64encode(b"FROM scratch\nCOPY . /evil\n").decode()

    assert changed(lambda record: record.edit(other_text), 3) == ["record-altered"]
    assert changed(
        lambda record: record.edit(
            lambda one: one["predicate"]["buildDefinition"]["internalParameters"].pop("recipe")
        )
    ) == ["record-incomplete"]
    assert changed(
        lambda record: record.edit(lambda one: one.update(predicateType="https://example.com/x"))
    ) == ["invalid-record"]
    assert changed(lambda record: record.replace("application/vnd.in-toto+json", b"{}")) == [
        "invalid-statement"
    ]
    assert changed(lambda record: record.replace("application/vnd.in-toto+json", b"[" * 100_000)) == [
        "invalid-statement"
    ]
    image = Record(exported.plain)
    image.files["index.json"] = json.dumps({**image.index, "manifests": [image_of(image)]}).encode()
    assert exported.verify(image, status=1) == ["invalid-record"]
    nothing = exported.path / "nothing.record"
    nothing.write_bytes(b"not a tar at all")
    assert refused(exported.stranger, "verify", "--record", str(nothing), status=1) == ["truncated-archive"]
    envelope = Record(exported.signed)
    envelope.replace(ENVELOPE, b'{"payloadType":"x","payload":"%","signatures":[]}')
    assert exported.verify(envelope, status=1) == ["invalid-envelope"]
