"""The examples build: the one without network for real, the other as far as its plan."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from building import Builder, MakeBuilder

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def _needs_to_read(builder: Builder, path: Path) -> None:
    for parent in (path, *path.parents):
        if builder.uid and not os.stat(parent).st_mode & 0o001:
            pytest.skip(f"needs-readable-clone: {parent} is closed to other users")


def test_offline_example_builds_and_runs(builder: Builder) -> None:
    _needs_to_read(builder, EXAMPLES)
    built = builder.build(EXAMPLES / "offline", "--tag", "offline")
    assert built.digest.startswith("sha256:")
    assert builder.run("run", "offline").out == "1 arkwright\n2 builds\n3 images\n"
    again = builder.build(EXAMPLES / "offline", "--tag", "offline")
    assert again.digest == built.digest
    assert again.ran == []


def test_users_agree_on_the_digest(make_builder: MakeBuilder) -> None:
    builders = [make_builder("root"), make_builder("subids")]
    for builder in builders:
        _needs_to_read(builder, EXAMPLES)
    first, second = (builder.build(EXAMPLES / "offline").digest for builder in builders)
    assert first == second


def test_hello_example_is_a_dockerfile_of_two_stages() -> None:
    from arkwright.diagnostics.spans import SourceFile
    from arkwright.frontends.dockerfile.parser import parse
    from arkwright.frontends.dockerfile.stages import group

    path = EXAMPLES / "hello" / "Dockerfile"
    parsed = parse(SourceFile("Dockerfile", path.read_text()))
    assert len(group(parsed).stages) == 2
