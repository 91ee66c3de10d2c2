"""`arkwright doctor` tells what the builds of this host do."""

from __future__ import annotations

import json

import pytest

from building import Context, MakeBuilder


@pytest.mark.parametrize("identity", ["root", "subids", "single"])
def test_doctor_tells_the_tier_of_builds(identity: str, make_builder: MakeBuilder, context: Context) -> None:
    builder = make_builder(identity)
    found = json.loads(builder.run("doctor", "--format", "json").out)
    built = builder.build(context({"Dockerfile": "FROM busybox\nRUN true\n"}))
    assert built.fields["arkwright.tiers"] == [found["isolation"]["tier"]]
    findings = {item["name"]: item for item in found["findings"]}
    assert findings["worker"]["ok"]
    assert findings["store"]["ok"]
    assert findings["subordinate-ids"]["ok"] is (identity != "single")
    assert all(item["ok"] or item["fix"] for item in findings.values())


def test_text_names_the_fix(make_builder: MakeBuilder) -> None:
    out = make_builder("single").run("doctor").out
    assert "fix: install newuidmap" in out
    assert "NAME" not in out
    assert "Steps are isolated by" in out


def test_the_store_is_not_harmed(make_builder: MakeBuilder) -> None:
    builder = make_builder("root")
    builder.run("doctor")
    builder.run("fsck")
    assert list((builder.store / "run").iterdir()) == []
