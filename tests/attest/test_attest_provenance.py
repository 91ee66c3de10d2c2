"""SLSA provenance of facts: in-toto's own library judges its form."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement as Theirs

from arkwright.attest import kept, statement
from arkwright.attest.provenance import BuildFacts, Image, Mode, Step, predicate
from arkwright.attest.provenance import statement as claim
from arkwright.attest.statement import ResourceDescriptor, digest_set

ONE, TWO = "sha256:" + "ab" * 32, "sha256:" + "cd" * 32
FACTS = BuildFacts(
    build="20250131-142501-1a2b3c4d",
    started=1_738_333_501_999_999_999,
    finished=1_738_333_502_000_000_000,
    images=(Image(target="a", names=("app:1",), digests=(ONE,)), Image(target="b", digests=(TWO, ONE))),
    dockerfile_path="Dockerfile",
    dockerfile="FROM x\n",
    dockerfile_digest=TWO,
    args={"build-arg:A": "1", "label:l": "2", "target": "a,b"},
    contexts=("context",),
    sources=(ResourceDescriptor(uri="docker-image://x", digest=digest_set(ONE)),),
    steps=(
        Step(vertex="v1", name="FROM x", kind="source", cached=True),
        Step(
            vertex="v2", name="RUN y", kind="exec", network="default", tier="crun", secrets=("s",), ssh=("k",)
        ),
        Step(vertex="v3", name="RUN z", kind="exec", network="none", cache_mounts=True, insecure=True),
    ),
    platform="linux/amd64",
    versions={"arkwright": "1"},
)


def judged(mode: Mode) -> tuple[Any, dict[str, Any]]:
    """As the library reads it, no unknown field allowed; and as it is."""
    data = statement.encode(claim(FACTS, FACTS.digests(), mode))
    parsed = json_format.Parse(data, statement_pb2.Statement())
    Theirs.copy_from_pb(parsed).validate()
    found = msgspec.json.decode(data)
    return json_format.ParseDict(found["predicate"], provenance_pb2.Provenance()), found


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_library_reads_every_field(mode: Mode) -> None:
    theirs, ours = judged(mode)
    assert ours["predicateType"] == "https://slsa.dev/provenance/v1"
    assert [one["digest"]["sha256"] for one in ours["subject"]] == ["ab" * 32, "cd" * 32]
    assert ours["subject"][0]["name"] == "app:1"
    assert theirs.run_details.builder.id == "https://arkwright.invalid/builders/local"
    assert theirs.run_details.builder.version["arkwright"] == "1"
    assert theirs.run_details.metadata.invocation_id == FACTS.build
    assert theirs.run_details.metadata.started_on.ToJsonString() == "2025-01-31T14:25:01Z"
    assert theirs.run_details.metadata.finished_on.ToJsonString() == "2025-01-31T14:25:02Z"
    found = theirs.build_definition.resolved_dependencies
    assert [(one.name, one.uri, one.digest["sha256"]) for one in found] == [
        ("Dockerfile", "", "cd" * 32),
        ("", "docker-image://x", "ab" * 32),
    ]


def test_min_leaves_out_what_may_be_private() -> None:
    theirs, ours = judged("min")
    definition = ours["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["request"] == {
        "frontend": "dockerfile", "args": {"target": "a,b"}, "locals": [{"name": "context"}],
    }  # fmt: skip
    assert "buildConfig" not in definition["internalParameters"]
    assert not theirs.build_definition.resolved_dependencies[0].content
    assert not {"RUN y", "RUN z", "FROM x"} & set(msgspec.json.encode(ours).decode().split('"'))
    assert definition["internalParameters"]["completeness"]["request"] is False


def test_max_has_all() -> None:
    theirs, ours = judged("max")
    definition = ours["predicate"]["buildDefinition"]
    request = definition["externalParameters"]["request"]
    assert request["args"] == FACTS.args
    assert (request["secrets"], request["ssh"]) == ([{"id": "s"}], [{"id": "k"}])
    assert theirs.build_definition.resolved_dependencies[0].content == b"FROM x\n"
    steps = definition["internalParameters"]["buildConfig"]["steps"]
    assert msgspec.convert(steps, tuple[Step, ...]) == FACTS.steps
    assert definition["internalParameters"]["completeness"]["request"] is True


def test_a_hidden_value_makes_the_request_incomplete() -> None:
    facts = msgspec.structs.replace(FACTS, hidden=True)
    internal = predicate(facts, "max")["buildDefinition"]["internalParameters"]
    assert internal["completeness"]["request"] is False


@pytest.mark.parametrize("mode", ["min", "max"])
def test_what_is_not_known_is_a_gap(mode: Mode) -> None:
    internal = predicate(FACTS, mode)["buildDefinition"]["internalParameters"]
    assert [(one["step"], one["reason"]) for one in internal["gaps"]] == [
        ("v2", "network"), ("v3", "cache-mount"), ("v3", "insecure"),
    ]  # fmt: skip
    assert internal["hermetic"] is False
    assert internal["completeness"]["resolvedDependencies"] is False
    closed = msgspec.structs.replace(
        FACTS, steps=(FACTS.steps[0], Step(vertex="v", kind="exec", network="none"))
    )
    internal = predicate(closed, mode)["buildDefinition"]["internalParameters"]
    assert (internal["gaps"], internal["hermetic"]) == ([], True)
    assert internal["completeness"]["resolvedDependencies"] is True


def test_facts_are_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert kept.read(root, FACTS.build) is None
    assert list(kept.of_image(root, ONE)) == []
    later = msgspec.structs.replace(FACTS, build="20250201-000000-00000000", finished=FACTS.finished + 1)
    for facts in (later, FACTS):
        path = Path(kept.facts_path(root, facts.build))
        path.parent.mkdir(parents=True)
        partial = path.with_name("facts.json.partial")
        partial.touch(0o600)
        partial.write_text("left by a kill, and longer than what comes" * 500)
        kept.keep(root, facts)
        assert path.stat().st_mode & 0o777 == 0o600
        assert kept.read(root, facts.build) == facts
    assert list(kept.of_image(root, TWO)) == [later, FACTS]
    assert list(kept.of_image(root, "sha256:" + "00" * 32)) == []
    data = Path(kept.facts_path(root, later.build)).read_bytes()
    Path(kept.facts_path(root, later.build)).write_bytes(data[: len(data) // 2])
    assert list(kept.of_image(root, TWO)) == [FACTS]


def test_the_dockerfile_is_the_bytes_that_were_read() -> None:
    facts = msgspec.structs.replace(FACTS, dockerfile="FROM ä\r\n")
    found = predicate(facts, "max")["buildDefinition"]["resolvedDependencies"][0]
    assert base64.b64decode(found["content"]) == "FROM ä\r\n".encode()
