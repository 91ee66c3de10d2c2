"""`--check` and `--call`: what is printed, in which format, with which exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from arkwright.cli.calls import Call, parse_call
from arkwright.diagnostics.errors import UsageError

FILE = """\
# AGE of the thing
ARG AGE=1
# Build it
FROM scratch as Build
ARG AGE
COPY file secret /
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    path = tmp_path / "context"
    path.mkdir()
    (path / "Dockerfile").write_text(FILE)
    (path / ".dockerignore").write_text("secret\n")
    return path


def test_text(run: Any, context: Path) -> None:
    result = run("build", "--check", str(context))
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("warning[from-as-casing]: ")
    assert "  Dockerfile:4:14\n4 │ FROM scratch as Build\n  │              ^^\n" in result.stdout
    last = result.stdout.splitlines()[-1]
    assert last == "Dockerfile: 3 findings (CopyIgnoredFile, FromAsCasing, StageNameCasing)"
    assert result.stdout == run("build", "--call=check", str(context)).stdout
    assert result.stdout == run("build", "--call=lint,format=text", str(context)).stdout


def test_nothing_found(run: Any, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPY file /\n")
    result = run("build", "--check", str(context))
    assert (result.exit_code, result.stdout) == (0, "Dockerfile: no findings\n")


@pytest.mark.parametrize("text", ["text", "json", "sarif"])
def test_error_true_is_exit_status_1(run: Any, context: Path, text: str) -> None:
    assert run("build", f"--call=check,format={text}", str(context)).exit_code == 0
    argument = ("--build-arg", "BUILDKIT_DOCKERFILE_CHECK=error=true")
    result = run("build", f"--call=check,format={text}", *argument, str(context))
    assert result.exit_code == 1
    assert "checks-failed" in result.stdout
    (context / "Dockerfile").write_text("# check=error=true\nFROM scratch\n")
    assert run("build", "--check", str(context)).exit_code == 0


def test_json(run: Any, context: Path) -> None:
    answer = json.loads(run("build", "--call=check,format=json", str(context)).stdout)
    assert set(answer) == {"warnings", "skipped", "sources"}
    assert answer["sources"] == [{"filename": "Dockerfile", "language": "Dockerfile"}]
    assert answer["warnings"][1] == {
        "ruleName": "StageNameCasing",
        "description": "Names of stages are in lower case",
        "url": "docs/reference/errors/stage-name-casing.md",
        "detail": "the stage's name Build is not in lower case",
        "location": {
            "sourceIndex": 0,
            "ranges": [{"start": {"line": 4, "character": 16}, "end": {"line": 4, "character": 21}}],
        },
        "code": "stage-name-casing",
        "hint": "write build",
    }


def test_json_of_a_broken_file(run: Any, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nRUM x\n")
    result = run("build", "--call=check,format=json", str(context))
    assert result.exit_code == 1
    error = json.loads(result.stdout)["buildError"]
    assert error["message"] == "unknown instruction RUM"
    assert error["location"]["ranges"][0]["start"] == {"line": 2, "character": 0}
    assert [item["code"] for item in error["errors"]] == ["unknown-instruction"]


def test_sarif(run: Any, context: Path) -> None:
    answer = json.loads(run("build", "--call=check,format=sarif", str(context)).stdout)
    assert answer["version"] == "2.1.0"
    (only,) = answer["runs"]
    rules = only["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == ["from-as-casing", "stage-name-casing", "copy-ignored-file"]
    assert only["tool"]["driver"]["name"] == "arkwright"
    for result in only["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] == "warning"
    place = only["results"][2]["locations"][0]["physicalLocation"]
    assert place == {
        "artifactLocation": {"uri": "Dockerfile"},
        "region": {"startLine": 6, "startColumn": 11, "endLine": 6, "endColumn": 17},
    }


def test_targets(run: Any, context: Path) -> None:
    result = run("build", "--call", "targets", str(context))
    assert result.stdout == "TARGET           DESCRIPTION\nbuild (default)  it\n"
    answer = json.loads(run("build", "--call=targets,format=json", str(context)).stdout)
    (target,) = answer["targets"]
    assert (target["name"], target["default"], target["base"]) == ("build", True, "scratch")
    assert target["location"]["ranges"][0]["start"] == {"line": 4, "character": 0}


def test_outline(run: Any, context: Path) -> None:
    result = run("build", "--call=outline", "--build-arg", "AGE=2", str(context))
    assert result.stdout.splitlines() == [
        "TARGET: build", "DESCRIPTION: it", "", "BUILD ARG  VALUE  DESCRIPTION", "AGE        2      of the thing",
    ]  # fmt: skip
    answer = json.loads(run("build", "--call=outline,format=json", str(context)).stdout)
    assert set(answer) == {"name", "description", "args", "secrets", "ssh", "cache"}
    assert [(arg["name"], arg["value"]) for arg in answer["args"]] == [("AGE", "1")]


def test_a_broken_file_has_no_targets(run: Any, context: Path) -> None:
    (context / "Dockerfile").write_text("RUN x\n")
    result = run("build", "--call=targets", str(context))
    assert result.exit_code == 1
    assert result.stderr.startswith("error[no-stage]: ")


def test_a_call_builds_nothing(run: Any, context: Path, tmp_path: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPY absent /\n")
    result = run("build", "--check", "--iidfile", str(tmp_path / "id"), "-t", "app", str(context))
    assert result.exit_code == 0, result.stderr
    assert not (tmp_path / "id").exists()


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("build", Call("build")),
        ("check", Call("check")),
        ("lint,format=json", Call("check", "json")),
        ("check, format=sarif", Call("check", "sarif")),
        ("outline,format=json", Call("outline", "json")),
    ],
)
def test_call_is_read(text: str, call: Call) -> None:
    assert parse_call(text) == call


def test_check_takes_the_format() -> None:
    assert parse_call("check,format=json", check=True) == Call("check", "json")
    assert parse_call("build", check=True) == Call("check")


@pytest.mark.parametrize(
    "text", ["", "chek", "check,format=xml", "check,json", "targets,format=sarif", "build,format=json"]
)
def test_wrong_calls(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_call(text)
    assert caught.value.code == "invalid-option-value"


def test_contradicting_calls() -> None:
    with pytest.raises(UsageError) as caught:
        parse_call("targets", check=True)
    assert caught.value.code == "conflicting-options"
