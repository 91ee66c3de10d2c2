"""Build arguments that are meant for the builder. What the forms of SOURCE_DATE_EPOCH mean is in
the release notes of docker/dockerfile 1.24 and in BuildKit's docs/build-repro.md."""

from __future__ import annotations

import pytest

from arkwright.graph.ops import ExecOp, SourceOp

EPOCH = "SOURCE_DATE_EPOCH"
STAGE = "FROM debian\nARG SOURCE_DATE_EPOCH\nRUN x\n"


def env(built):
    return dict(entry.split("=", 1) for entry in built.op(ExecOp).env)


def given(value):
    return {"build_args": {EPOCH: value}}


@pytest.mark.parametrize("value", ["0", "7", "1704067200"])
def test_a_number_is_the_epoch_and_the_value_of_the_argument(compile_file, value):
    built = compile_file(STAGE, **given(value))
    assert built.result.metadata["epoch"] == value
    assert env(built)[EPOCH] == value


def test_nothing_switches_it_off(compile_file):
    built = compile_file(STAGE, **given(""))
    assert "epoch" not in built.result.metadata
    assert env(built)[EPOCH] == ""
    assert "epoch" not in compile_file(STAGE).result.metadata


def test_the_time_of_the_context(compile_file):
    built = compile_file(STAGE, times={"local://context": 1234}, **given("context"))
    assert built.result.metadata["epoch"] == "1234"
    assert env(built)[EPOCH] == "1234"
    assert built.warnings == []


def test_a_directory_has_no_time(compile_file):
    built = compile_file(STAGE, epoch=5, **given("context"))
    assert "epoch" not in built.result.metadata
    assert env(built)[EPOCH] == "5"
    assert built.warnings == ["epoch-without-time"]


def test_the_time_of_a_named_context(compile_file):
    contexts = {"src": "local://src", "base": "docker-image://debian"}
    times = {"local://src": 11, "docker-image://debian": 12}
    for name, value in (("src", "11"), ("SRC", "11"), ("base", "12")):
        built = compile_file(STAGE, contexts=contexts, times=times, **given(name))
        assert built.result.metadata["epoch"] == value


FETCHES = """\
ARG VERSION=1
FROM scratch AS source
ARG VERSION
ADD https://h.example/r.git#v$VERSION /
FROM scratch AS file
ADD --checksum=sha256:{digest} https://h.example/f.tar /
FROM debian AS more
ADD https://h.example/f.tar /
FROM scratch AS two
ADD https://h.example/f https://h.example/g /
FROM scratch AS local
ADD f /
FROM debian
ARG SOURCE_DATE_EPOCH
RUN x
""".replace("{digest}", "a" * 64)


def test_the_time_of_a_stage_that_only_fetches(compile_file):
    times = {"git://https://h.example/r.git": 21, "https://h.example/f.tar": 22}
    assert compile_file(FETCHES, times=times, **given("source")).result.metadata["epoch"] == "21"
    assert compile_file(FETCHES, times=times, **given("file")).result.metadata["epoch"] == "22"


@pytest.mark.parametrize("name", ["more", "two", "local", "sourze", "-1", "1.5", "99999999999", "stage-5"])
def test_what_is_no_time(fails, name):
    found = fails("invalid-epoch", FETCHES, **given(name))
    assert found.hint == ('did you mean "source"?' if name == "sourze" else found.hint)


def test_the_files_own_argument(compile_file, fails):
    text = "ARG SOURCE_DATE_EPOCH={}\n" + STAGE
    built = compile_file(text.format("1704067200"))
    assert (built.result.metadata["epoch"], env(built)[EPOCH]) == ("1704067200", "1704067200")
    built = compile_file(text.format("context"), times={"local://context": 9})
    assert (built.result.metadata["epoch"], env(built)[EPOCH]) == ("9", "9")
    built = compile_file(text.format("context"), epoch=5)
    assert (built.result.metadata.get("epoch"), env(built)[EPOCH]) == (None, "5")
    built = compile_file(text.format("context"), **given("3"))
    assert (built.result.metadata["epoch"], env(built)[EPOCH]) == ("3", "3")
    found = fails("invalid-epoch", text.format("contxt"))
    assert found.hint == 'did you mean "context"?'
    assert found.labels[0].span.line == 1


def test_an_index_on_request(compile_file, fails):
    for value, wanted in (("1", True), ("true", True), ("0", False), ("", False)):
        built = compile_file("FROM debian\n", build_args={"BUILDKIT_MULTI_PLATFORM": value})
        assert ("multi-platform" in built.result.metadata) is wanted
        assert built.warnings == []
    fails("invalid-control-argument", "FROM debian\n", build_args={"BUILDKIT_MULTI_PLATFORM": "yes"})


def test_an_inline_cache_is_left_to_the_build(compile_file, fails):
    for value in ("0", "false", "", "1", "true"):
        assert compile_file("FROM debian\n", build_args={"BUILDKIT_INLINE_CACHE": value}).warnings == []
    fails("invalid-control-argument", "FROM debian\n", build_args={"BUILDKIT_INLINE_CACHE": "on"})


@pytest.mark.parametrize(
    ("text", "build_args", "warned"),
    [
        ("FROM debian\n", {"BUILDKIT_SBOM_SCAN_CONTEXT": "true"}, True),
        ("FROM debian\n", {"BUILDKIT_SBOM_SCAN_STAGE": "a,b"}, True),
        ("FROM debian\n", {"BUILDKIT_SBOM_SCAN_STAGE": "false"}, False),
        ("FROM debian\nARG BUILDKIT_SBOM_SCAN_STAGE=true\n", {}, True),
        ("ARG BUILDKIT_SBOM_SCAN_CONTEXT=1\nFROM debian\n", {}, True),
        ("ARG BUILDKIT_SBOM_SCAN_CONTEXT=0\nFROM debian\n", {}, False),
    ],
)
def test_scans_are_told_to_be_missing(compile_file, text, build_args, warned):
    assert compile_file(text, build_args=build_args).warnings == ["no-attestations"] * warned


def test_an_unknown_control_is_told(compile_file):
    built = compile_file("FROM debian\n", build_args={"BUILDKIT_NO_SUCH_THING": "1"})
    assert built.warnings == ["unused-build-arg"]
    known = {"BUILDKIT_BUILD_NAME": "x", "BUILDKIT_CONTEXT_KEEP_GIT_DIR": "1", "BUILDKIT_CACHE_MOUNT_NS": "n"}
    assert compile_file("FROM debian\n", build_args=known).warnings == []


def test_the_query_of_a_git_url(compile_file, fails):
    commit = "c" * 40
    url = f"https://h.example/r.git?branch=main&commit={commit}&fetch-by-commit&mtime=commit"
    attrs = dict(compile_file(f"FROM scratch\nADD {url} /\n").source("git://").attrs)
    assert attrs == {
        "ref": "refs/heads/main", "checksum": commit, "fetch-by-commit": "true", "mtime": "commit",
    }  # fmt: skip
    plain = compile_file("FROM scratch\nADD https://h.example/r.git?mtime=checkout&fetch-by-commit=0 /\n")
    assert dict(plain.op(SourceOp).attrs) == {"mtime": "checkout"}
    for query in ("mtime=now", "fetch-by-commit=1", "fetch-by-commit=1&commit=abc", "commit=xyz", "mtime="):
        fails("invalid-source", f"FROM scratch\nADD https://h.example/r.git?{query} /\n")
    fails("invalid-source", "FROM scratch\nADD https://h.example/r.git?commit=abc&checksum=abd /\n")
