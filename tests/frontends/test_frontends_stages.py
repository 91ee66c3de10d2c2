"""Stages, bases, arguments, platforms, named contexts: what refers to what."""

from __future__ import annotations

import json

import pytest
from frontend_data import AMD64, ARM64, DIGEST, PATH, image_config

from arkwright.diagnostics.errors import RemoteError, UserError
from arkwright.diagnostics.render import render
from arkwright.frontends.base import FrontendRequest
from arkwright.frontends.table import load
from arkwright.graph.ops import ExecOp, FileOp, SourceOp
from arkwright.oci.platform import Platform


def test_a_base_image_is_pinned(compile_file):
    built = compile_file("FROM debian:bookworm\n", images={"debian:bookworm": image_config()})
    assert built.op(SourceOp).identifier == f"docker-image://docker.io/library/debian:bookworm@{DIGEST}"
    assert built.vertices()[0].platform == AMD64
    assert built.config.created == ""
    assert built.config.rootfs.diff_ids == ()
    assert [entry.created_by for entry in built.config.history] == ["base"]


def test_scratch_has_no_vertex(compile_file):
    built = compile_file("FROM scratch\n")
    assert built.definition.target is None
    assert (built.config.config.env, built.config.config.working_dir) == ((PATH,), "/")
    assert (built.config.os, built.config.architecture) == ("linux", "amd64")


def test_an_image_without_layers_is_the_empty_tree(compile_file):
    built = compile_file("FROM empty\nRUN x\n", images={"empty": image_config(layers=0)})
    assert built.op(ExecOp).mounts[0].input == -1


def test_unused_stages_are_neither_resolved_nor_built(compile_file):
    built = compile_file("FROM missing AS unused\nRUN x\nCOPY --from=nowhere a b\nFROM debian\n")
    assert built.bridge.asked == [("debian", "linux/amd64")]
    assert built.ops(ExecOp) == []


def test_stages_by_name_number_and_case(compile_file):
    built = compile_file(
        "FROM debian AS Base\nRUN one\nFROM scratch AS two\nCOPY --from=BASE /a /\nFROM alpine\n"
        "COPY --from=0 /x /\nCOPY --from=tWo /y /\nRUN --mount=from=base,target=/m y\n"
    )
    assert len(built.ops(ExecOp)) == 2
    assert {source.identifier.split("/")[-1].split(":")[0] for source in built.ops(SourceOp)} == {
        "debian",
        "alpine",
    }


def test_a_stage_on_a_stage_inherits_all_but_triggers(compile_file):
    built = compile_file(
        "FROM debian AS base\nENV A=1\nARG B=2\nWORKDIR /w\nUSER u\nCMD c\nONBUILD USER x\nFROM base AS x\nRUN y\n"
    )
    exec_op = built.op(ExecOp)
    assert (exec_op.cwd, exec_op.user) == ("/w", "x")
    assert {"A=1", "B=2"} <= set(exec_op.env)
    assert built.config.config.on_build == ()
    assert built.config.config.cmd == ("/bin/sh", "-c", "c")


def test_target_by_name_and_number(compile_file, fails):
    text = "FROM debian AS one\nRUN 1\nFROM alpine\nRUN 2\n"
    assert compile_file(text, target="ONE").op(ExecOp).args[-1] == "1"
    assert compile_file(text, target="1").op(ExecOp).args[-1] == "2"
    found = fails("unknown-target", text, target="onne")
    assert found.hint == 'did you mean "one" (line 1)?'


def test_the_example_of_a_caret(compile_file):
    text = "#\n\nFROM debian AS builder\n" + "#\n" * 7 + "FROM debian\nCOPY --from=bulder /out /app\n"
    with pytest.raises(UserError) as caught:
        compile_file(text)
    shown = render(caught.value.diagnostics)
    assert "error[unknown-stage]: COPY --from=bulder names no stage, image or context" in shown
    assert "Dockerfile:12:13" in shown
    assert '^^^^^^ did you mean "builder" (line 3)?' in shown


@pytest.mark.parametrize(
    ("text", "code", "place"),
    [
        ("FROM debian AS a\nCOPY --from=b x /\nFROM debian AS b\nFROM a", "unknown-stage", "b"),
        ("FROM debian AS a\nCOPY --from=1 x /\nFROM debian\nFROM a", "unknown-stage", "1"),
        ("FROM debian\nCOPY --from=7 x /\n", "unknown-stage", "7"),
        ("FROM debian\nCOPY --from=-1 x /\n", "unknown-stage", "-1"),
        ("FROM debian\nCOPY --from=0 x /\n", "circular-stages", "0"),
        ("FROM debian AS a\nCOPY --from=a x /\n", "circular-stages", "a"),
        ("FROM debian AS a\nCOPY --from=b x /\nFROM a AS b\nFROM alpine", "circular-stages", "a"),
        ("FROM debian\nCOPY --from=nothing x /\n", "unknown-stage", "nothing"),
        ("FROM debian\nRUN --mount=from=nothing,target=/x y\n", "unknown-stage", "nothing"),
        ("FROM debian\nCOPY --from=$X x /\n", "variable-in-from", "$X"),
        ("FROM debian\nRUN --mount=from=$X,target=/x y\n", "variable-in-from", "$X"),
        ("FROM nothing\n", "unknown-image", "nothing"),
        ("FROM Nothing\n", "invalid-reference", "Nothing"),
        ("FROM debian AS base\nFROM bsae\n", "unknown-stage", "bsae"),
        ("FROM $X\n", "empty-base-name", "$X"),
        ("FROM --platform=$X debian\n", "invalid-platform", "$X"),
        ("FROM --platform=a/b/c/d debian\n", "invalid-platform", "a/b/c/d"),
        ("RUN x\nFROM debian\n", "no-stage", "RUN"),
        ("FROM ${A!x}\n", "invalid-expansion", "${A!x}"),
    ],
)
def test_wrong_references_point_at_the_place(fails, text, code, place):
    found = fails(code, text)
    assert found.labels[0].span.text == place


def test_a_later_stage_says_where_it_is(fails):
    found = fails("unknown-stage", "FROM debian\nCOPY --from=late x /\nFROM alpine AS late\n", target="0")
    assert "line 3" in found.labels[0].text
    assert found.labels[1].span.line == 3


def test_nothing_to_build(fails):
    fails("empty-dockerfile", "# only this\n")
    fails("empty-dockerfile", "")
    fails("no-stages", "ARG A\n")


def test_all_problems_of_the_needed_stages(compile_file):
    with pytest.raises(UserError) as caught:
        compile_file("FROM debian\nSTOPSIGNAL x\nCOPY --chmod=9 a b\nEXPOSE y\nRUN --mount=typ=x z\n")
    codes = [found.code for found in caught.value.diagnostics]
    assert codes == ["invalid-signal", "invalid-chmod", "invalid-port", "unknown-mount-key"]


def test_a_remote_failure_keeps_its_class_and_gets_a_place(compile_file):
    error = RemoteError.of("registry-unreachable", "no route")
    with pytest.raises(RemoteError) as caught:
        compile_file("FROM debian\n", error=error)
    assert caught.value.diagnostics[0].labels[0].span.text == "debian"
    with pytest.raises(UserError) as close:
        compile_file("FROM scratch AS builder\nFROM scratch\nCOPY --from=bilder a b\n", error=error)
    assert close.value.code == "unknown-stage"
    assert close.value.diagnostics[0].notes == ("no route",)


class TestArguments:
    def env(self, built):
        return dict(entry.split("=", 1) for entry in built.ops(ExecOp)[-1].env)

    def test_global_arguments_are_seen_by_from_and_after_declaration(self, compile_file):
        text = "ARG TAG=debian\nARG X=${TAG}-x\nFROM $TAG\nRUN one\nARG X\nRUN two\n"
        built = compile_file(text)
        first, second = built.ops(ExecOp)
        assert not any(entry.startswith(("X=", "TAG=")) for entry in first.env)
        assert "X=debian-x" in second.env
        assert "X=given" in compile_file(text, build_args={"X": "given"}).ops(ExecOp)[1].env

    def test_what_was_said_last_wins(self, compile_file):
        built = compile_file("FROM debian\nARG V=arg\nENV V=env\nRUN x\n", build_args={"V": "given"})
        assert self.env(built)["V"] == "env"
        assert "V=env" in built.config.config.env
        built = compile_file("FROM debian\nENV V=env\nARG V=arg\nRUN x\n")
        assert self.env(built)["V"] == "arg"
        assert "V=env" in built.config.config.env
        built = compile_file("FROM debian\nENV V=env\nARG V\nRUN x\n")
        assert self.env(built)["V"] == "env"

    def test_an_instruction_sees_old_values(self, compile_file):
        built = compile_file("FROM debian\nENV A=1\nENV A=2 B=$A\n")
        assert "B=1" in built.config.config.env

    def test_the_order_of_the_environment(self, compile_file):
        one = compile_file("FROM debian\nENV A=1\nENV B=2\nRUN x\n")
        two = compile_file("FROM debian\nENV B=2\nENV A=1\nRUN x\n")
        assert one.op(ExecOp).env != two.op(ExecOp).env
        assert sorted(one.op(ExecOp).env) == sorted(two.op(ExecOp).env)

    def test_an_argument_reaches_later_steps_only_and_no_copy(self, compile_file):
        text = "FROM debian\nRUN before\nARG V\nCOPY a b\nRUN after\n"
        one, two = (compile_file(text, build_args={"V": value}) for value in "12")
        assert one.ops(ExecOp)[0] == two.ops(ExecOp)[0]
        assert one.ops(FileOp) == two.ops(FileOp)
        assert one.ops(ExecOp)[1] != two.ops(ExecOp)[1]

    def test_config_instructions_do_not_touch_later_copies(self, compile_file):
        plain = compile_file("FROM debian\nCOPY a b\n")
        other = compile_file("FROM debian\nLABEL a=b\nEXPOSE 1\nUSER u\nCMD x\nCOPY a b\n")
        assert plain.definition.target == other.definition.target

    def test_proxies_reach_steps_but_no_key_and_no_history(self, compile_file):
        args = {"HTTP_PROXY": "http://p", "no_proxy": "x"}
        text = "FROM debian\nRUN x\n"
        built, plain = compile_file(text, build_args=args), compile_file(text)
        assert built.definition.target == plain.definition.target
        assert built.config == plain.config
        assert json.loads(built.result.metadata["proxy-env"]) == [
            "HTTP_PROXY=http://p", "http_proxy=http://p", "NO_PROXY=x", "no_proxy=x",
        ]  # fmt: skip
        assert built.warnings == []

    def test_source_date_epoch_only_if_declared(self, compile_file, fails):
        assert "SOURCE_DATE_EPOCH" not in self.env(compile_file("FROM debian\nRUN x\n", epoch=5))
        text = "FROM debian\nARG SOURCE_DATE_EPOCH\nRUN x\n"
        assert self.env(compile_file(text, epoch=5))["SOURCE_DATE_EPOCH"] == "5"
        assert self.env(compile_file(text, build_args={"SOURCE_DATE_EPOCH": "7"}))["SOURCE_DATE_EPOCH"] == "7"
        fails("invalid-epoch", text, build_args={"SOURCE_DATE_EPOCH": "today"})

    def test_platform_arguments(self, compile_file):
        names = "TARGETPLATFORM TARGETOS TARGETARCH TARGETVARIANT BUILDPLATFORM BUILDARCH TARGETSTAGE"
        text = f"FROM --platform=$BUILDPLATFORM debian AS final\nARG {names}\nRUN x\n"
        arm = Platform("linux", "arm", "v7")
        built = compile_file(text, platforms=(arm,), target="final")
        env = self.env(built)
        assert [env[name] for name in names.split()] == [
            "linux/arm/v7", "linux", "arm", "v7", "linux/amd64", "amd64", "final",
        ]  # fmt: skip
        assert built.bridge.asked == [("debian", "linux/amd64")]
        assert built.vertices(ExecOp)[0].platform == AMD64
        assert (built.config.architecture, built.config.variant) == ("arm", "v7")
        assert "TARGETARCH" not in self.env(compile_file("FROM debian\nRUN x\n"))
        declared = compile_file("FROM debian\nARG TARGETARCH=mine\nRUN x\n")
        assert self.env(declared)["TARGETARCH"] == "mine"

    def test_unused_build_arguments_are_told(self, compile_file):
        built = compile_file("ARG USED\nFROM debian\nARG VERSION\n", build_args={"USED": "", "VERSOIN": "1"})
        assert built.warnings == ["unused-build-arg"]
        assert built.bridge.warnings[0].hint == 'did you mean "VERSION"?'

    def test_undefined_variables_are_told_once(self, compile_file):
        text = "FROM debian\nENV VERSION=1\nARG NOVALUE\nUSER ${VERSON}\nWORKDIR /${X:-d}/$NOVALUE\n"
        built = compile_file(text, platforms=(AMD64, ARM64))
        assert built.warnings == ["undefined-var", "invalid-base-image-platform"]
        assert built.bridge.warnings[0].labels[0].span.text == "${VERSON}"
        assert built.bridge.warnings[0].hint == 'did you mean "$VERSION"?'


class TestPlatforms:
    def test_one_image_per_platform(self, compile_file):
        built = compile_file("FROM debian\nRUN x\nCOPY a b\n", platforms=(AMD64, ARM64))
        assert [str(image.platform) for image in built.result.images] == ["linux/amd64", "linux/arm64"]
        assert [image.config.architecture for image in built.result.images] == ["amd64", "arm64"]
        assert built.bridge.asked == [("debian", "linux/amd64"), ("debian", "linux/arm64")]
        assert built.names()[1].startswith("[linux/amd64 2/3] RUN")

    def test_the_default_is_the_build_platform(self, compile_file):
        built = compile_file("FROM debian\n", images={"debian": image_config(ARM64)}, build_platform=ARM64)
        assert str(built.image.platform) == "linux/arm64"

    def test_copies_are_the_same_for_all_platforms(self, compile_file):
        built = compile_file("FROM scratch\nCOPY a b\n", platforms=(AMD64, ARM64))
        first, second = built.result.images
        assert first.definition.target == second.definition.target


class TestNamedContexts:
    def test_an_image_by_any_of_its_spellings(self, compile_file):
        for key in ("debian:bookworm", "docker.io/library/debian:bookworm", "debian:bookworm::linux/amd64"):
            built = compile_file(
                "FROM debian:bookworm\n",
                images={"debian:bookworm": image_config()},
                contexts={key: "oci-layout:///srv/bases:bookworm"},
            )
            assert built.op(SourceOp).identifier == f"oci-layout:///srv/bases:bookworm@{DIGEST}"

    def test_a_stage_is_replaced(self, compile_file):
        built = compile_file(
            "FROM missing AS base\nRUN never\nFROM base\nRUN x\n",
            images={"base": image_config(env=("A=1",))},
            contexts={"base": "docker-image://alpine"},
        )
        assert built.bridge.asked == [("base", "linux/amd64")]
        assert [op.args[-1] for op in built.ops(ExecOp)] == ["x"]
        assert "A=1" in built.op(ExecOp).env

    def test_a_local_context_in_copy_and_mount(self, compile_file):
        built = compile_file(
            "FROM debian\nCOPY --from=Src lib/a /x\nRUN --mount=from=src,source=b,target=/b y\n",
            contexts={"src": "local://src"},
        )
        source = built.source("local://src")
        assert dict(source.attrs)["paths"] == '["b","lib/a"]'
        assert built.bridge.asked == [("debian", "linux/amd64")]

    def test_a_tree_as_base_is_needed_whole(self, compile_file):
        built = compile_file("FROM tree\nCOPY --from=tree a b\n", contexts={"tree": "local://tree"})
        assert dict(built.source("local://tree").attrs)["paths"] == '[""]'
        built = compile_file("FROM tree\n", contexts={"tree": "git://https://h/r.git"})
        assert built.op(SourceOp).identifier == "git://https://h/r.git"

    def test_per_platform(self, compile_file):
        built = compile_file(
            "FROM scratch\nCOPY --from=bin / /\n",
            contexts={"bin::linux/amd64": "local://amd", "bin": "local://any"},
            platforms=(AMD64, ARM64),
        )
        names = []
        for image in built.result.images:
            ops = [vertex.op for vertex in image.definition.vertices.values()]
            names += [op.identifier for op in ops if isinstance(op, SourceOp)]
        assert names == ["local://amd", "local://any"]

    def test_scratch_and_context_are_never_replaced(self, compile_file):
        built = compile_file("FROM scratch\n", contexts={"scratch": "local://x"})
        assert built.definition.target is None


class TestOnbuild:
    def test_triggers_of_an_image_run_first_and_are_dropped(self, compile_file):
        base = image_config(on_build=("COPY a /a", "RUN make", "ENV X=1"))
        built = compile_file("FROM base\nRUN own\n", images={"base": base})
        assert [op.args[-1] for op in built.ops(ExecOp)] == ["make", "own"]
        assert built.config.config.on_build == ()
        assert "X=1" in built.ops(ExecOp)[1].env
        assert any(name == "[3/4] ONBUILD RUN make" for name in built.names())
        assert built.paths() == ["a"]

    def test_triggers_see_the_child_stages(self, compile_file, fails):
        base = image_config(on_build=("COPY --from=assets /a /a", "RUN --mount=from=assets,target=/m x"))
        text = "FROM alpine AS assets\nRUN assets\nFROM base\n"
        built = compile_file(text, images={"base": base})
        assert [op.args[-1] for op in built.ops(ExecOp)] == ["assets", "x"]
        fails("unknown-stage", "FROM base\n", images={"base": base})

    def test_stored_and_not_run_in_the_same_stage(self, compile_file):
        built = compile_file("FROM debian\nONBUILD RUN later\nONBUILD COPY --from=x a b\n")
        assert built.ops(ExecOp) == []
        assert built.config.config.on_build == ("RUN later", "COPY --from=x a b")
        assert built.history() == []

    def test_a_broken_trigger_names_the_image(self, fails):
        base = image_config(on_build=("RNU x",))
        found = fails("unknown-instruction", "FROM base\n", images={"base": base})
        assert found.labels[0].span.file.path.startswith("ONBUILD of docker.io/library/base")
        assert found.labels[1].span.text == "base"
        fails("invalid-onbuild", "FROM base\n", images={"base": image_config(on_build=("FROM x",))})

    def test_a_heredoc_trigger(self, compile_file):
        built = compile_file("FROM base\n", images={"base": image_config(on_build=("RUN <<E\nhi\nE",))})
        assert built.op(ExecOp).args == ("/bin/sh", "-c", "hi\n")


@pytest.mark.parametrize(
    "name",
    [
        "docker/dockerfile", "docker/dockerfile:1", "docker/dockerfile:1.7-labs", "docker.io/docker/dockerfile:1",
        "docker/dockerfile-upstream:master", f"docker/dockerfile:1@{DIGEST}",
    ],
)  # fmt: skip
def test_the_standard_front_end_is_built_in(compile_file, name):
    compile_file(f"# syntax={name}\nFROM debian\n")
    compile_file("# syntax=other/x\nFROM debian\n", build_args={"BUILDKIT_SYNTAX": name})


def test_other_front_ends_are_refused(fails):
    assert (
        fails("unsupported-frontend", "# syntax=me/mine:1\nFROM debian\n").labels[0].span.text == "me/mine:1"
    )
    fails("unsupported-frontend", "FROM debian\n", build_args={"BUILDKIT_SYNTAX": "x"})
    fails("unsupported-frontend", "# syntax=docker/dockerfilex\nFROM debian\n")
    fails("invalid-check-directive", "# check=nope\nFROM debian\n")


def test_only_named_paths_of_the_context(compile_file):
    built = compile_file(
        "FROM debian AS unused\nCOPY secret /\nFROM debian\nCOPY ./a/b/ ../c /\nCOPY a x/*.py y/[z]/q /\n"
        "ADD /d/../e https://h/f /\nRUN --mount=target=/m,source=g x\nCOPY --parents p/./q/* /\n"
    )
    assert built.paths() == ["a", "c", "e", "g", "p/q", "x", "y"]
    assert len(built.ops(SourceOp)) == 3
    for text in ("COPY . /", "COPY *.py /", "COPY / /", "RUN --mount=target=/m x", "COPY a . /"):
        assert compile_file(f"FROM debian\n{text}\n").paths() == [""]
    assert all(
        not op.identifier.startswith("local") for op in compile_file("FROM debian\nRUN x\n").ops(SourceOp)
    )


def test_names_groups_labels_and_places(compile_file):
    built = compile_file(
        "FROM debian AS builder\nRUN apt-get update \\\n && apt-get install\nFROM debian\nCOPY --from=builder a b\n"
    )
    described = [built.definition.describe(digest) for digest in built.definition.walk()]
    names = [item.name for item in described]
    assert "[builder 2/2] RUN apt-get update && apt-get install" in names
    assert names[-1] == "[stage-1 2/2] COPY --from=builder a b"
    run = next(item for item in described if item.label == "RUN")
    assert (run.group, run.spans[0].line) == ("builder", 2)
    assert compile_file("FROM debian\nRUN x\n").names()[-1] == "[2/2] RUN x"


def test_no_cache_by_stage(compile_file):
    text = "FROM debian AS a\nRUN 1\nFROM a\nRUN 2\n"
    marks = []
    for request in ({}, {"no_cache": True}, {"no_cache_filter": ("A",)}):
        built = compile_file(text, **request)
        described = [built.definition.describe(digest) for digest in built.definition.walk()]
        marks.append([item.ignore_cache for item in described])
    assert marks == [[False] * 3, [False, True, True], [False, True, False]]


def test_a_file_with_another_name_and_the_fall_back():
    from frontend_data import DataBridge

    front_end = load("dockerfile")
    bridge = DataBridge({"dockerfile": b"FROM scratch\n"}, {}, {}, None)
    assert front_end(bridge, FrontendRequest(build_platform=AMD64)).images[0].definition.target is None
    with pytest.raises(UserError) as caught:
        front_end(bridge, FrontendRequest(build_platform=AMD64, filename="other"))
    assert caught.value.code == "dockerfile-not-found"
    result = front_end(bridge, FrontendRequest(build_platform=AMD64, source="FROM scratch\nUSER x\n"))
    assert result.images[0].config.config.user == "x"
    with pytest.raises(UserError) as unknown:
        load("makefile")
    assert unknown.value.code == "unknown-frontend"


def test_the_images_of_needed_stages_are_foreseen(compile_file):
    text = (
        "ARG V=alpine\nFROM never AS unused\nFROM debian AS a\nFROM $V AS b\nFROM --platform=linux/arm64 busybox AS c\n"
        "FROM a\nCOPY --from=b / /\nCOPY --from=c / /\nRUN --mount=from=debian:12,target=/m x\n"
        "COPY --from=tree / /\n"
    )
    images = {name: image_config() for name in ("debian:12",)} | {"busybox": image_config(ARM64)}
    built = compile_file(text, images=images, contexts={"tree": "local://tree"})
    expected = {("debian", "linux/amd64"), ("alpine", "linux/amd64"), ("busybox", "linux/arm64")}
    assert set(built.bridge.prepared) == {*expected, ("debian:12", "linux/amd64")}
    assert set(built.bridge.asked) == set(built.bridge.prepared)
    assert compile_file("FROM debian\n").bridge.prepared == []
