"""Build checks: each with a file that it finds at an exact place, and one that it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest
from frontend_data import AMD64, ARM64, DataBridge, image_config

from arkwright.diagnostics.errors import RemoteError, UserError
from arkwright.frontends.base import FrontendRequest
from arkwright.frontends.dockerfile.calls import CheckReport, check, outline, targets
from arkwright.frontends.dockerfile.rules import BY_CODE, RULES

EXPERIMENTAL = {"BUILDKIT_DOCKERFILE_CHECK": "experimental=all"}
DIGEST = "sha256:" + "a" * 64


def call(function: Any, text: str, error: Exception | None = None, **request: Any) -> Any:
    known = {"debian": image_config(), "shelled": image_config(shell=("/bin/bash", "-c"))}
    bridge = DataBridge({}, known, {}, error)  # type: ignore[arg-type]
    return function(bridge, FrontendRequest(source=text, build_platform=AMD64, **request))


# code, the file with the finding between « and », a file without, further request fields
CASES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("stage-name-casing", "FROM debian AS «Build»\n", "FROM debian AS build\n", {}),
    ("from-as-casing", "FROM debian «as» a\n", "from debian as a\n", {}),
    ("from-as-casing", "from debian «AS» a\n", "From debian as a\n", {}),
    ("no-empty-continuation", "FROM debian\nRUN a \\\n«»\n  b\n", "FROM debian\nRUN a \\\n # c\n  b\n", {}),
    ("consistent-instruction-casing", "FROM debian\n«run» a\nRUN b\n", "from debian\nrun a\n", {}),
    ("consistent-instruction-casing", "from debian\nrun a\n«Run» b\n", "FROM debian\nRUN run\n", {}),
    ("duplicate-stage-name", "FROM debian AS a\nFROM debian AS «A»\n", "FROM debian AS a\nFROM debian AS b\n", {}),
    ("reserved-stage-name", "FROM debian AS «scratch»\n", "FROM scratch AS scratched\n", {}),
    ("json-args-recommended", "FROM debian\nCMD «run it»\n", 'FROM debian\nCMD ["run"]\n', {}),
    ("json-args-recommended", "FROM debian\nENTRYPOINT «run it»\n", "FROM shelled\nENTRYPOINT run\n", {}),
    ("json-args-recommended", "FROM debian\nCMD «a»\nSHELL [\"b\"]\n", 'FROM debian\nSHELL ["b"]\nCMD a\n', {}),
    ("maintainer-deprecated", "FROM debian\n«MAINTAINER» me\n", "FROM debian\nLABEL maintainer=me\n", {}),
    ("undefined-arg-in-from", "ARG A\nFROM debian«$B»\n", "ARG A=debian\nFROM $A\n", {}),
    ("undefined-arg-in-from", "FROM --platform=linux/«${X}»amd64 debian\n", "FROM --platform=$BUILDPLATFORM debian\n", {}),
    ("workdir-relative-path", "FROM debian\nWORKDIR «app»\n", "FROM debian\nWORKDIR /a\nWORKDIR b\n", {}),
    ("workdir-relative-path", "FROM debian\nARG X=a\nWORKDIR «$X/b»\n", "FROM debian AS a\nWORKDIR /a\nFROM a\nWORKDIR b\n", {}),
    ("undefined-var", "FROM debian\nUSER «$NOBODY»\n", "FROM debian\nARG NOBODY\nUSER x$NOBODY\n", {}),
    ("multiple-instructions-disallowed", 'FROM debian\n«CMD ["a"]»\nCMD ["b"]\n', 'FROM debian AS a\nCMD ["a"]\nFROM a\nCMD ["b"]\n', {}),
    ("legacy-key-value-format", "FROM debian\nENV «A b c»\n", "FROM debian\nENV A=b\n", {}),
    ("legacy-key-value-format", "FROM debian\nLABEL «a b»\n", "FROM debian\nLABEL a=b c=d\n", {}),
    ("invalid-base-image-platform", "FROM «debian»\n", "FROM scratch\n", {"platforms": (ARM64,)}),
    ("redundant-target-platform", "FROM --platform=«$TARGETPLATFORM» debian\n", "FROM --platform=$BUILDPLATFORM debian\n", {}),
    ("secrets-used-in-arg-or-env", "FROM debian\nENV A=b «API_TOKEN»=x\n", "FROM debian\nENV MONKEY=1 PUBLIC_KEY=2 KEY_FILE=3\n", {}),
    ("secrets-used-in-arg-or-env", "ARG «password»\nFROM debian\n", "ARG PASSWORDLESS\nFROM debian\n", {}),
    ("invalid-default-arg-in-from", "ARG TAG\nFROM «debian:${TAG}»\n", "ARG TAG=1\nFROM debian:${TAG}\n", {"build_args": {"TAG": "1"}}),
    ("from-platform-flag-const-disallowed", "FROM --platform=«linux/amd64» debian\n", "FROM --platform=linux/amd64 debian AS for-amd64\n", {}),
    ("copy-ignored-file", "FROM debian\nCOPY a «b/secret» /\n", "FROM debian\nCOPY a c* . /\n", {"context_exclude": ("b", "c*")}),
    ("copy-ignored-file", "FROM debian\nADD «c» /\n", "FROM debian\nCOPY b /\n", {"context_exclude": ("b", "c", "!b/kept")}),
    ("invalid-definition-description", "# «a comment»\nFROM debian AS base\n", "# base is it\nFROM debian AS base\n", {"build_args": EXPERIMENTAL}),
    ("invalid-definition-description", "# x\n# «y»\nARG A\nFROM debian@" + DIGEST + "\n", "# a comment\n\nARG A\nFROM scratch\n", {"build_args": EXPERIMENTAL}),
    ("expose-proto-casing", "FROM debian\nEXPOSE 80 81/«TCP»\n", "FROM debian\nEXPOSE 80/tcp\n", {}),
    ("expose-invalid-format", "FROM debian\nEXPOSE «127.0.0.1:80:»80\n", "FROM debian\nEXPOSE 80-90/udp\n", {}),
    ("expose-invalid-format", "FROM debian\nARG P=1:2\nEXPOSE «$P»\n", "FROM debian\nARG P=2\nEXPOSE $P\n", {}),
    ("unpinned-base-image", "FROM «debian» AS a\nFROM a\n", f"FROM scratch\nFROM debian@{DIGEST}\n", {"build_args": EXPERIMENTAL}),
    ("secret-in-copy", "FROM debian\nCOPY a «keys/id_rsa» /\n", "FROM debian\nCOPY id_rsa.pub env /\n", {"build_args": EXPERIMENTAL}),
    ("apt-get-update-alone", "FROM debian\nRUN set -e; «apt-get -q update»\n", "FROM debian\nRUN apt-get update && apt-get install -y a\n", {"build_args": EXPERIMENTAL}),
    ("apt-get-update-alone", "FROM debian\nRUN <<EOF\n«apt update»\nEOF\n", "FROM debian\nRUN <<EOF\napt update\napt install a\nEOF\n", {"build_args": EXPERIMENTAL}),
]  # fmt: skip


def test_every_check_has_a_case() -> None:
    assert {code for code, *_ in CASES} == set(BY_CODE)
    assert len(RULES) == 25


def found_by(report: CheckReport, code: str) -> list[tuple[int, int]]:
    spans = [item.labels[0].span for item in report.findings if item.code == code]
    return [(span.start, span.end) for span in spans]


@pytest.mark.parametrize(("code", "bad", "good", "request_fields"), CASES)
def test_check(code: str, bad: str, good: str, request_fields: dict[str, Any]) -> None:
    start, end = bad.index("«"), bad.index("»") - 1
    report = call(check, bad.replace("«", "").replace("»", ""), **request_fields)
    assert found_by(report, code) == [(start, end)]
    assert found_by(call(check, good, **request_fields), code) == []


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.experimental], ids=lambda rule: rule.name)
def test_experimental_checks_are_off(rule: Any) -> None:
    bad = next(text for code, text, *_ in CASES if code == rule.code).replace("«", "").replace("»", "")
    assert found_by(call(check, bad), rule.code) == []
    asked = call(check, bad, build_args={"BUILDKIT_DOCKERFILE_CHECK": f"experimental={rule.name.upper()}"})
    assert len(found_by(asked, rule.code)) == 1


BAD = "FROM debian as Build\nCMD run\n"


def codes(report: CheckReport) -> list[str]:
    return [item.code for item in report.findings]


class TestDirective:
    def test_without_one_all_are_found(self) -> None:
        report = call(check, BAD)
        assert codes(report) == ["from-as-casing", "stage-name-casing", "json-args-recommended"]
        assert report.errors == ()

    @pytest.mark.parametrize(
        ("directive", "left"),
        [
            ("skip=all", []),
            ("skip=FromAsCasing,stagenamecasing", ["json-args-recommended"]),
            (" skip = FromAsCasing , JSONArgsRecommended ", ["stage-name-casing"]),
            ("skip=all;experimental=UnpinnedBaseImage", ["unpinned-base-image"]),
            ("experimental=all;skip=all,x", ["unpinned-base-image"]),
            (
                "skip=UnpinnedBaseImage,StageNameCasing;experimental=all",
                ["from-as-casing", "json-args-recommended"],
            ),
        ],
    )
    def test_skip(self, directive: str, left: list[str]) -> None:
        report = call(check, f"# check={directive}\n{BAD}")
        assert [code for code in codes(report) if code != "unknown-check"] == left

    def test_the_build_argument_replaces_it(self) -> None:
        text = "# check=skip=all\n" + BAD
        report = call(check, text, build_args={"BUILDKIT_DOCKERFILE_CHECK": "skip=StageNameCasing"})
        assert codes(report) == ["from-as-casing", "json-args-recommended"]

    def test_unknown_names_are_told(self) -> None:
        report = call(check, "# check=skip=StageNameCasng,JSONArgsRecommended\nFROM debian\n")
        (found,) = report.findings
        assert (found.code, found.labels[0].span.text) == ("unknown-check", "StageNameCasng")
        assert found.hint == 'did you mean "StageNameCasing"?'

    @pytest.mark.parametrize("directive", ["skp=all", "error=perhaps", "skip=a;"])
    def test_refused(self, directive: str) -> None:
        report = call(check, f"# check={directive}\nFROM debian\n")
        assert [item.code for item in report.errors] == ["invalid-check-directive"]

    def test_a_comment_skips_for_one_instruction(self) -> None:
        text = "FROM debian\n# check=skip=SecretsUsedInArgOrEnv\nENV KEY=1\nENV TOKEN=1\n"
        assert found_by(call(check, text), "secrets-used-in-arg-or-env") == [(61, 66)]
        text = "FROM debian\n# check=skip=all\nENV KEY 1\n"
        assert call(check, text).findings == ()
        text = "FROM debian\n# check=skip=StageNameCasing\nENV KEY=1\n"
        assert codes(call(check, text)) == ["secrets-used-in-arg-or-env"]

    def test_a_comment_can_only_skip(self) -> None:
        text = "FROM debian\n# check=error=true\nENV KEY=1\n"
        assert codes(call(check, text)) == ["invalid-check-comment", "secrets-used-in-arg-or-env"]


class TestError:
    def test_findings_fail_a_check(self) -> None:
        report = call(check, "# check=error=true\n" + BAD)
        assert len(report.findings) == 3
        assert [item.code for item in report.errors] == ["checks-failed"]
        assert call(check, "# check=error=true\nFROM debian\n").errors == ()
        assert call(check, "# check=error=true;skip=all\n" + BAD).errors == ()

    def test_findings_fail_a_build(self, fails: Any) -> None:
        found = fails("checks-failed", "# check=error=true\nFROM debian as a\n")
        assert "FromAsCasing" in found.message

    def test_other_warnings_do_not(self, compile_file: Any) -> None:
        built = compile_file("# check=error=true\nFROM debian\n", build_args={"UNUSED": "1"})
        assert built.warnings == ["unused-build-arg"]


class TestBuild:
    def test_a_build_warns_of_unneeded_stages_too(self, compile_file: Any) -> None:
        built = compile_file("FROM debian AS A\nFROM debian\n", platforms=(AMD64,))
        assert built.warnings == ["stage-name-casing"]

    def test_a_build_shows_a_limited_number(self, compile_file: Any) -> None:
        built = compile_file("FROM debian\n" + "ENV KEY=1\n" * 60)
        assert built.warnings == ["secrets-used-in-arg-or-env"] * 50 + ["more-findings"]
        assert built.bridge.warnings[-1].message.startswith("10 more findings")

    def test_both_platforms_tell_once(self, compile_file: Any) -> None:
        built = compile_file("FROM scratch\nCMD run\n", platforms=(AMD64, ARM64))
        assert built.warnings == ["json-args-recommended"]


class TestCheck:
    def test_all_stages_are_checked(self) -> None:
        text = "FROM debian AS a\nUSER $X\nFROM debian AS b\nUSER $Y\nFROM a\nUSER $Z\n"
        assert [item.labels[0].span.text for item in call(check, text).findings] == ["$X", "$Y", "$Z"]
        only = call(check, text, target="b")
        assert [item.labels[0].span.text for item in only.findings] == ["$Y"]

    def test_a_broken_file_has_errors_and_findings(self) -> None:
        report = call(check, "FROM debian\nRUN a \\\n\n b\nFRO x\n")
        assert codes(report) == ["no-empty-continuation"]
        assert [item.code for item in report.errors] == ["unknown-instruction"]

    def test_an_unknown_target_is_an_error(self) -> None:
        assert [item.code for item in call(check, BAD, target="x").errors] == ["unknown-target"]

    @pytest.mark.parametrize(
        "error",
        [RemoteError.of("http-status", "no"), UserError.of("unknown-image", "no image")],
        ids=lambda error: error.code,
    )
    def test_without_the_registry_the_rest_is_checked(self, error: Exception) -> None:
        text = (
            "FROM debian AS Build\nWORKDIR a\nUSER $X\nFROM build\nWORKDIR b\nCMD run\nEXPOSE 1/TCP\n"
            'FROM debian\nSHELL ["a"]\nCMD run\nWORKDIR $A\nEXPOSE $P\n'
        )
        report = call(check, text, error)
        wanted = [
            "stage-name-casing",
            "workdir-relative-path",
            "json-args-recommended",
            "expose-proto-casing",
        ]
        assert codes(report) == wanted
        assert report.errors == ()
        assert report.skipped
        assert all(note.startswith("checks that need the base image of ") for note in report.skipped)


OFFER = """\
# BASE is what all is built on
ARG BASE=debian
ARG FLAVOUR
# tools has the compilers
FROM ${BASE} AS tools
# JOBS at once
ARG JOBS=4 UNTOLD
RUN --mount=type=secret,id=token,required=true --mount=type=cache,target=/c make

FROM scratch AS other
ARG ELSEWHERE

# a word

FROM tools
ARG BASE
RUN --mount=type=ssh --mount=type=secret,target=/run/key,env=K x
"""


class TestTargets:
    def test_targets(self) -> None:
        found = call(targets, OFFER)
        assert [(item.name, item.description, item.default) for item in found] == [
            ("tools", "has the compilers", False),
            ("other", "", False),
            ("2", "", True),
        ]
        assert [item.base for item in found] == ["${BASE}", "scratch", "tools"]

    def test_outline_of_the_default(self) -> None:
        found = call(outline, OFFER, build_args={"JOBS": "8"})
        assert [(arg.name, arg.description, arg.value) for arg in found.args] == [
            ("BASE", "is what all is built on", "debian"),
            ("FLAVOUR", "", None),
            ("JOBS", "at once", "8"),
            ("UNTOLD", "", None),
        ]
        assert [(need.name, need.required) for need in found.secrets] == [("token", True), ("key", False)]
        assert [(need.name, need.required) for need in found.ssh] == [("default", False)]
        assert [need.name for need in found.caches] == ["/c"]

    def test_outline_of_a_target(self) -> None:
        found = call(outline, OFFER, target="other")
        assert (found.name, [arg.name for arg in found.args]) == ("other", ["BASE", "FLAVOUR", "ELSEWHERE"])
        assert (found.secrets, found.ssh, found.caches) == ((), (), ())
        with pytest.raises(UserError) as caught:
            call(outline, OFFER, target="nothing")
        assert caught.value.code == "unknown-target"
