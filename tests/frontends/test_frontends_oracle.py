"""Our parser against the Go parser, over a generated corpus; and anything at all without a crash."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arkwright.diagnostics.errors import UserError
from arkwright.diagnostics.spans import SourceFile
from arkwright.frontends.base import FrontendRequest
from arkwright.frontends.dockerfile import syntax
from arkwright.frontends.dockerfile.build import build
from arkwright.frontends.dockerfile.instructions import heredocs_of
from arkwright.frontends.dockerfile.parser import decode, parse
from arkwright.frontends.dockerfile.words import Rules, WordError, expand
from arkwright.oci.platform import Platform

# What the Go parser leaves to later stages, and we refuse while parsing.
LATER_IN_GO = {
    "unknown-instruction", "unknown-flag", "duplicate-flag", "flag-needs-value", "invalid-flag-value",
    "missing-argument", "unsupported-flag", "shell-not-json", "invalid-heredoc", "invalid-stage-name",
    "invalid-onbuild", "invalid-duration",
}  # fmt: skip

WORD = st.text(alphabet="ab1.-_/=:$é", min_size=1, max_size=6).filter(lambda word: not word.startswith("--"))
QUOTED = st.sampled_from(
    ['"a b"', "'c d'", 'x"y z"w', "a\\ b", '"\\""', "'\\'", "a\\\\b", '""', "$X", "${X:-a b}"]
)
ARGUMENT = st.one_of(WORD, QUOTED)
BLANK = st.sampled_from([" ", "  ", "\t", " \\\n ", " \\  \n", " \\\n# note\n  ", " \\\n\n "])
JSON = st.lists(st.sampled_from(["a", "b c", "\\n", '\\"', "\\u00e9", "é"]), min_size=1, max_size=3).map(
    lambda words: "[" + " , ".join(f'"{word}"' for word in words) + "]"
)
# What looks like JSON and is not: the text then is a shell's. Text behind an array is left out: the
# binding's parser is older than the rule that this is no array either.
ODD_JSON = st.sampled_from(
    ['["a",]', "['a']", '["a" "b"]', '["a", 1]', "[]", '["a"', '[ "a" , "b" ]  ', "[a]", '["\\x"]']
)
BODY_LINE = st.sampled_from(
    ["echo a", "# not a comment", "", "\ttabbed", "RUN x", "FROM y \\", "EOT ", "<<EOF"]
)


@st.composite
def shell_line(draw: st.DrawFn) -> str:
    parts = draw(st.lists(ARGUMENT, min_size=1, max_size=4))
    text = parts[0]
    for part in parts[1:]:
        text += draw(BLANK) + part
    return text


@st.composite
def heredoc(draw: st.DrawFn) -> tuple[str, str]:
    name = draw(st.sampled_from(["EOF", "END", "A1"]))
    dash = draw(st.sampled_from(["", "-"]))
    word = draw(st.sampled_from([name, f"'{name}'", f'"{name}"']))
    body = "".join(line + "\n" for line in draw(st.lists(BODY_LINE, max_size=4)))
    indent = draw(st.sampled_from(["", "\t"])) if dash else ""
    return f"{draw(st.sampled_from(['', '', '3']))}<<{dash}{word}", f"{body}{indent}{name}\n"


@st.composite
def instruction(draw: st.DrawFn) -> str:
    kind = draw(
        st.sampled_from(
            ["run", "json", "copy", "env", "legacy", "arg", "list", "one", "heredoc", "health", "odd"]
        )
    )
    if kind == "run":
        return (
            draw(st.sampled_from(["RUN", "run", "CMD", "ENTRYPOINT", "ONBUILD RUN"]))
            + " "
            + draw(shell_line())
        )
    if kind == "json":
        return draw(st.sampled_from(["RUN", "CMD", "VOLUME", "SHELL", "ONBUILD CMD"])) + " " + draw(JSON)
    if kind == "odd":
        return (
            draw(st.sampled_from(["RUN", "CMD", "ENTRYPOINT", "VOLUME", "ONBUILD RUN"]))
            + " "
            + draw(ODD_JSON)
        )
    if kind == "copy" and draw(st.booleans()):
        paths = draw(st.lists(WORD, min_size=2, max_size=3))
        return f"{draw(st.sampled_from(['COPY', 'add']))} [" + ", ".join(f'"{path}"' for path in paths) + "]"
    if kind == "copy":
        flag = draw(st.sampled_from(["", "--chown=1:2 ", "--chmod='7 5' ", "--link --exclude=a ", "-- "]))
        return f"{draw(st.sampled_from(['COPY', 'ADD']))} {flag}{draw(WORD)} {draw(WORD)}{draw(BLANK)}{draw(WORD)}"
    if kind == "env":
        pairs = draw(st.lists(st.tuples(st.sampled_from("abc"), ARGUMENT), min_size=1, max_size=3))
        return draw(st.sampled_from(["ENV ", "LABEL "])) + draw(BLANK).join(f"{k}={v}" for k, v in pairs)
    if kind == "legacy":
        return f"ENV name{draw(st.sampled_from([' ', '  ']))}{draw(shell_line())}"
    if kind == "arg":
        return "ARG " + draw(BLANK).join(
            draw(st.lists(st.sampled_from(["a", "b=1", 'c="x y"', "d="]), min_size=1))
        )
    if kind == "list":
        return "EXPOSE " + draw(BLANK).join(draw(st.lists(WORD, min_size=1, max_size=3)))
    if kind == "one":
        return (
            draw(st.sampled_from(["WORKDIR", "USER", "STOPSIGNAL", "MAINTAINER"])) + " " + draw(shell_line())
        )
    if kind == "health":
        return f"HEALTHCHECK {draw(st.sampled_from(['', '--interval=5s ']))}CMD {draw(st.one_of(JSON, shell_line()))}"
    words = draw(st.lists(heredoc(), min_size=1, max_size=2))
    head = draw(st.sampled_from(["RUN cat ", "RUN ", "COPY ", "ONBUILD RUN "]))
    tail = " /dest" if head == "COPY " else ""
    return (
        head
        + " ".join(word for word, _ in words)
        + tail
        + "\n"
        + "".join(body for _, body in words).rstrip("\n")
    )


@st.composite
def dockerfile_text(draw: st.DrawFn) -> str:
    lines = ["FROM " + draw(st.sampled_from(["a", "a AS b", "--platform=linux/amd64 a"]))]
    lines += draw(st.lists(st.one_of(instruction(), st.sampled_from(["", "# comment", "  # c"])), max_size=5))
    end = draw(st.sampled_from(["", "\n"]))
    text = "\n".join(lines) + end
    form = draw(st.sampled_from(["plain", "plain", "backtick", "directive", "crlf"]))
    if form == "backtick":
        return "# escape=`\n" + text.replace("\\", "`")
    if form == "directive":
        return "#escape = \\\n# other=directive\n" + text
    return text.replace("\n", "\r\n") if form == "crlf" else text


def ours(item: syntax.Instruction) -> tuple[object, ...]:
    """An instruction in the Go binding's shape: keyword, trigger, values, heredocs."""
    trigger = item.trigger if isinstance(item, syntax.Onbuild) else None
    inner = trigger or item
    documents = [(doc.name, doc.descriptor, doc.content.text) for doc in heredocs_of(inner)]
    # The binding shows no heredocs of triggers, though the parser behind it reads them.
    return (item.name, trigger.name if trigger else None, values(inner), [] if trigger else documents)


def values(item: syntax.Instruction) -> list[str]:
    match item:
        case syntax.From():
            return [item.base.text] + (["AS", item.stage.text] if item.stage else [])
        case syntax.Run() | syntax.Cmd() | syntax.Entrypoint():
            return list(item.command.arguments)
        case syntax.Healthcheck():
            return ["CMD", *(item.command.arguments if item.command else ())]
        case syntax.Transfer():
            return [*(source.text for source in item.sources), item.destination.text]
        case syntax.Env() | syntax.LabelSet():
            return [text for pair in item.pairs for text in (pair.key.text, pair.value.text)]
        case syntax.Arg():
            return [i.name.text + ("" if i.default is None else "=" + i.default.text) for i in item.items]
        case syntax.Expose():
            return [port.text for port in item.ports]
        case syntax.Volume():
            return [path.text for path in item.paths]
        case syntax.Shell():
            return [word.text for word in item.words]
        case syntax.Workdir():
            return [item.path.text]
        case syntax.User():
            return [item.user.text]
        case syntax.StopSignal():
            return [item.signal.text]
        case syntax.Maintainer():
            return [item.maintainer.text]
    raise AssertionError(item)


@given(text=dockerfile_text())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_agrees_with_the_go_parser(text: str) -> None:
    go = pytest.importorskip("dockerfile", reason="needs-dockerfile: the Go parser's binding")
    parsed = parse(SourceFile("Dockerfile", text))
    try:
        expected = go.parse_string(text)
    except (go.GoParseError, ValueError):
        assert parsed.problems, text
        return
    if parsed.problems:
        assert {found.code for found in parsed.problems} <= LATER_IN_GO, (text, parsed.problems)
        return
    theirs = [
        (
            item.cmd.upper(),
            item.sub_cmd.upper() if item.sub_cmd else None,
            list(item.value),
            [(doc.name, doc.file_descriptor, doc.content) for doc in item.heredocs],
        )
        for item in expected
    ]
    assert [ours(item) for item in parsed.instructions] == theirs, text
    assert [item.span.line for item in parsed.instructions] == [item.start_line for item in expected]


ANYTHING = st.one_of(
    st.binary(max_size=200),
    dockerfile_text().map(str.encode),
    st.lists(
        st.sampled_from([
            b"FROM a", b" AS b\n", b"\n", b"RUN ", b"COPY ", b"--from=", b"--mount=", b"type=cache,", b"<<EOF", b"$",
            b"${", b"}", b":-", b"##", b"//", b"\\", b'"', b"'", b"[", b"]", b",", b"ENV ", b"a=b ", b"# escape=`\n",
            b"ONBUILD ", b"HEALTHCHECK ", b"EXPOSE ", b"1-", b"\xff", b"\xc3\xa9", b"ADD ", b"git@h:x ", b"http://[",
            b" --", b"USER ", b"ARG X", b"WORKDIR ", b"LABEL ", b"debian ", b"scratch\n", b"0 ", b"STOPSIGNAL ",
        ]),
        max_size=25,
    ).map(b"".join),
)  # fmt: skip


class Nothing:
    """A bridge that knows no image."""

    def resolve_image_config(self, name: str, platform: Platform, *, span: object = None) -> object:
        raise UserError.of("unknown-image", "none")

    def read_file(self, reference: str, path: str) -> bytes | None:
        return None

    def inputs(self) -> dict[str, str]:
        return {}

    def warn(self, diagnostic: object) -> None: ...


@given(data=ANYTHING)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_give_a_result_or_a_user_error(data: bytes) -> None:
    platform = Platform("linux", "amd64")
    for prefix in (b"", b"FROM scratch\n"):
        try:
            file, _ = decode(prefix + data, "Dockerfile")
        except UserError as error:
            assert error.code == "dockerfile-encoding"
            continue
        request = FrontendRequest(source=file.text, build_platform=platform)
        try:
            result = build(Nothing(), request)  # type: ignore[arg-type]
        except UserError as error:
            for found in error.diagnostics:
                for label in found.labels:
                    assert 0 <= label.span.start <= label.span.end <= len(label.span.file.text)
        else:
            assert len(result.images) == 1


@given(
    text=st.text(alphabet="ab$ {}:-+?#%/*\\'\"`", max_size=24),
    env=st.dictionaries(st.sampled_from(["a", "b"]), st.text(alphabet="ab/* ", max_size=12), max_size=2),
)
@settings(max_examples=500, deadline=None)
def test_words_expand_or_say_where_they_break(text: str, env: dict[str, str]) -> None:
    for rules in (
        Rules(),
        Rules(escape="`"),
        Rules(literal_quotes=True),
        Rules(raw_quotes=True, keep_unset=True),
    ):
        try:
            found = expand(text, env, rules)
        except WordError as error:
            assert 0 <= error.offset <= len(text)
        else:
            assert all(found.words)
            assert found.used <= set(env)
            assert not set(found.unset) & set(env)
