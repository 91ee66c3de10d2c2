"""Directives, logical lines, heredocs, flags, JSON forms, and the many ways to get them wrong."""

from __future__ import annotations

import pytest

from arkwright.diagnostics.errors import UserError
from arkwright.frontends.dockerfile import syntax
from arkwright.frontends.dockerfile.checks import CheckOptions, parse_check_directive
from arkwright.frontends.dockerfile.parser import decode, detect_syntax
from arkwright.frontends.dockerfile.values import format_duration, parse_duration, parse_size


def codes(parsed: syntax.Dockerfile) -> list[str]:
    return [found.code for found in parsed.problems]


def only(parsed: syntax.Dockerfile) -> syntax.Instruction:
    assert not parsed.problems
    return parsed.instructions[-1]


def test_directives_stop_at_the_first_other_line(parse_text):
    parsed = parse_text(
        "# Syntax = docker/dockerfile:1\n#escape=`\n# check=skip=all\n\n# escape=\\\nFROM a\n"
    )
    assert [(item.name, item.value.text) for item in parsed.directives] == [
        ("syntax", "docker/dockerfile:1"), ("escape", "`"), ("check", "skip=all"),
    ]  # fmt: skip
    assert parsed.escape == "`"


@pytest.mark.parametrize("first", ["# comment\n", "\n", "FROM a\n", "# unknown=x\n"])
def test_a_directive_below_anything_else_is_a_comment(parse_text, first):
    assert parse_text(f"{first}# escape=`\nFROM a\n").escape == "\\"


def test_repeated_directives_and_wrong_escapes_are_refused(parse_text):
    parsed = parse_text("# escape=`\n# escape=`\nFROM a\n")
    assert codes(parsed) == ["duplicate-directive"]
    parsed = parse_text("# escape=x\nFROM a\n")
    assert codes(parsed) == ["invalid-escape"]
    assert parsed.problems[0].labels[0].span.text == "x"


def test_check_directive_is_parsed(parse_text):
    parsed = parse_text("# check=skip=A,B;error=true;experimental=all\nFROM a\n")
    options, problems = parse_check_directive(parsed)
    assert (options, problems) == (CheckOptions(skip=("A", "B"), error=True, experimental_all=True), [])
    _, problems = parse_check_directive(parse_text("# check=skpi=A\nFROM a\n"))
    assert [found.code for found in problems] == ["invalid-check-directive"]
    assert problems[0].labels[0].span.text == "skpi=A"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("# syntax=docker/dockerfile:1.4 extra\n", "docker/dockerfile:1.4"),
        ("#!/usr/bin/env x\n# escape=`\n# syntax=a/b\n", "a/b"),
        ("// syntax=a/b\n", "a/b"),
        ('{"syntax": "a/b"}', "a/b"),
        ("# comment\n# syntax=a/b\n", None),
        ("FROM a\n", None),
    ],
)
def test_syntax_is_found_in_all_its_forms(text, name):
    found = detect_syntax(text)
    assert (found.text if found else None) == name


def test_continuations_drop_comments_and_blank_lines_and_keep_places(parse_text):
    text = "FROM a\nRUN one \\\n  # a comment \\\n\n  two \\  \n\tthree\nUSER x\n"
    parsed = parse_text(text)
    run = parsed.instructions[1]
    assert isinstance(run, syntax.Run)
    assert run.command.arguments == ("one   two \tthree",)
    assert [found.code for found in parsed.warnings] == ["no-empty-continuation"]
    assert run.span.text == text[7:-8]
    assert run.span.line == 2
    assert parsed.instructions[2].span.line == 7


def test_doubled_escape_is_no_continuation_and_backtick_is_one(parse_text):
    parsed = parse_text("FROM a\nRUN a \\\\\nUSER x\n")
    assert [item.name for item in parsed.instructions] == ["FROM", "RUN", "USER"]
    parsed = parse_text("# escape=`\nFROM a\nRUN a\\ `\n b\n")
    assert parsed.instructions[1].source == "RUN a\\  b"


def test_crlf_and_byte_order_mark(parse_text):
    file, _ = decode(b"\xef\xbb\xbfFROM a\r\nRUN b \\\r\n c\r\n", "Dockerfile")
    parsed = parse_text(file.text)
    assert parsed.instructions[1].source == "RUN b  c"


def test_comments_above_an_instruction_belong_to_it(parse_text):
    parsed = parse_text("# gone\n#\n# builder makes it\nFROM a AS builder\n# check=skip=X\nRUN x\n")
    assert [[c.text for c in item.comments] for item in parsed.instructions] == [
        ["builder makes it"], ["check=skip=X"],
    ]  # fmt: skip


def test_long_lines_are_refused(parse_text):
    assert codes(parse_text("FROM a\nRUN " + "x" * 65531 + "\n")) == []
    assert codes(parse_text("FROM a\nRUN " + "x" * 65532 + "\n")) == ["line-too-long"]


def test_encodings():
    with pytest.raises(UserError) as caught:
        decode("FROM a".encode("utf-16"), "Dockerfile")
    assert caught.value.code == "dockerfile-encoding"
    file, warnings = decode(b"FROM a\nRUN \xff\n", "Dockerfile")
    assert warnings[0].code == "invalid-utf8"
    assert warnings[0].labels[0].span.text == "\ufffd" == file.text[11]


def test_heredocs_in_all_forms(parse_text):
    text = "FROM a\nRUN cat <<A 3<<-'B' > f\n$x \\\n# in\nA\n\tb\n\tB\nUSER x\n"
    run, user = parse_text(text).instructions[1:]
    first, second = run.heredocs
    assert (first.name, first.expand, first.chomp, first.content.text) == ("A", True, False, "$x \\\n# in\n")
    assert (second.name, second.expand, second.chomp, second.descriptor) == ("B", False, True, 3)
    assert (second.content.text, second.body()) == ("\tb\n", "b\n")
    assert (second.word.text, second.word.span.text, second.content.span.text) == (
        "3<<-'B'",
        "3<<-'B'",
        "\tb\n",
    )
    assert user.span.line == 8


@pytest.mark.parametrize("line", ["RUN echo '<<A'", 'RUN ["<<A"]', "RUN cat <<<A", "ENV a=<<A", "RUN x<<A"])
def test_what_only_looks_like_a_heredoc(parse_text, line):
    parsed = parse_text(f"FROM a\n{line}\nUSER x\n")
    assert not parsed.problems
    assert len(parsed.instructions) == 3


def test_unterminated_heredoc_points_at_its_word(parse_text):
    parsed = parse_text("FROM a\nRUN <<EOF\nx\n EOF\n")
    assert codes(parsed) == ["unterminated-heredoc"]
    assert parsed.problems[0].labels[0].span.text == "<<EOF"


def test_heredoc_is_no_destination(parse_text):
    assert codes(parse_text("FROM a\nCOPY a <<EOF\nEOF\n")) == ["invalid-heredoc"]


def test_onbuild_keeps_its_expression_with_heredocs(parse_text):
    item = only(parse_text("FROM a\nONBUILD  RUN <<EOF\nx\nEOF\n"))
    assert item.expression == "RUN <<EOF\nx\nEOF"
    assert isinstance(item.trigger, syntax.Run)


@pytest.mark.parametrize("trigger", ["ONBUILD RUN x", "FROM b", "MAINTAINER me"])
def test_onbuild_refuses_some_triggers(parse_text, trigger):
    assert codes(parse_text(f"FROM a\nONBUILD {trigger}\n")) == ["invalid-onbuild"]


@pytest.mark.parametrize(
    ("line", "shell", "words"),
    [
        ('CMD ["a", "b\\u0041"]', False, ("a", "bA")),
        ("CMD ['a', 'b']", True, ("['a', 'b']",)),
        ('CMD ["a", "b"] # no', True, ('["a", "b"] # no',)),
        ('CMD ["a",]', True, ('["a",]',)),
        ("CMD []", False, ()),
        ("CMD", True, ()),
        ("RUN", True, ()),
    ],
)
def test_json_form_and_its_fall_back(parse_text, line, shell, words):
    item = only(parse_text(f"FROM a\n{line}\n"))
    assert (item.command.shell, item.command.arguments) == (shell, words)


@pytest.mark.parametrize("line", ['CMD ["a", 1]', "RUN [null]", 'COPY ["a", []]', "CMD [" * 40 + "]" * 40])
def test_json_of_something_else_than_strings(parse_text, line):
    found = codes(parse_text(f"FROM a\n{line}\n"))
    assert found in (["json-not-strings"], [])
    assert found or "[CMD" in line


def test_flags_with_quotes_and_the_end_of_flags(parse_text):
    item = only(parse_text("FROM a\nCOPY --chown=\"a b\" --exclude=x --exclude='y z' --link -- --from b\n"))
    assert (item.chown.text, item.link, [e.text for e in item.exclude]) == ("a b", True, ["x", "y z"])
    assert ([s.text for s in item.sources], item.destination.text) == (["--from"], "b")
    assert item.exclude[0].span.text == "x"


@pytest.mark.parametrize(
    ("line", "code", "place"),
    [
        ("COPY --form=b a c", "unknown-flag", "--form=b"),
        ("ADD --from=b a c", "unknown-flag", "--from=b"),
        ("ADD --parents a c", "unknown-flag", "--parents"),
        ("WORKDIR --x /a", "unknown-flag", "--x"),
        ("ARG --x a", "unknown-flag", "--x"),
        ("RUN --device x", "flag-needs-value", "--device"),
        ("COPY --chown=1 --chown=2 a b", "duplicate-flag", "--chown=2"),
        ("COPY --chown a b", "flag-needs-value", "--chown"),
        ("COPY --link=maybe a b", "invalid-flag-value", "maybe"),
        ("COPY --link= a b", "invalid-flag-value", "--link="),
        ("HEALTHCHECK --interval=1 CMD x", "invalid-duration", "1"),
        ("HEALTHCHECK --interval=1us CMD x", "invalid-duration", "1us"),
        ("HEALTHCHECK --retries=-1 CMD x", "invalid-flag-value", "-1"),
        ("HEALTHCHECK --retries=1 NONE", "unknown-flag", "HEALTHCHECK --retries=1 NONE"),
        ("HEALTHCHECK NONE x", "dockerfile-syntax", "x"),
        ("HEALTHCHECK EXEC x", "dockerfile-syntax", "EXEC"),
        ("HEALTHCHECK CMD", "missing-argument", "HEALTHCHECK CMD"),
        ("HEALTHCHECK", "missing-argument", "HEALTHCHECK"),
        ("COPY a", "missing-argument", "COPY a"),
        ("COPY", "missing-argument", "COPY"),
        ("ENV", "missing-argument", "ENV"),
        ("ENV a", "missing-argument", "a"),
        ("ENV a=b c", "dockerfile-syntax", "c"),
        ("ENV =b", "dockerfile-syntax", "=b"),
        ("LABEL =b", "dockerfile-syntax", "=b"),
        ("ARG =b", "dockerfile-syntax", "=b"),
        ("ARG", "missing-argument", "ARG"),
        ("USER", "missing-argument", "USER"),
        ("WORKDIR", "missing-argument", "WORKDIR"),
        ("EXPOSE", "missing-argument", "EXPOSE"),
        ("VOLUME", "missing-argument", "VOLUME"),
        ('VOLUME [""]', "missing-argument", '[""]'),
        ("STOPSIGNAL", "missing-argument", "STOPSIGNAL"),
        ("MAINTAINER", "missing-argument", "MAINTAINER"),
        ("SHELL /bin/sh -c", "shell-not-json", "/bin/sh -c"),
        ("SHELL []", "missing-argument", "SHELL []"),
        ("ONBUILD", "missing-argument", "ONBUILD"),
        ("FROM a b", "dockerfile-syntax", "FROM a b"),
        ("FROM", "dockerfile-syntax", "FROM"),
        ("FROM a AS 1x", "invalid-stage-name", "1x"),
        ("FROM a AS x/y", "invalid-stage-name", "x/y"),
        ("RNU x", "unknown-instruction", "RNU"),
    ],
)
def test_wrong_lines_point_at_the_place(parse_text, line, code, place):
    parsed = parse_text(f"FROM a\n{line}\nUSER x\n")
    assert codes(parsed) == [code]
    assert parsed.problems[0].labels[0].span.text == place


def test_every_problem_of_a_file_in_one_run(parse_text):
    parsed = parse_text("FROM a\nRNU x\nCOPY --form=x a b\nSHELL x\nEXPOSE\n")
    assert codes(parsed) == ["unknown-instruction", "unknown-flag", "shell-not-json", "missing-argument"]
    assert parsed.problems[0].hint == 'did you mean "RUN"?'
    assert parsed.problems[1].hint == 'did you mean "--from"?'


def test_key_values(parse_text):
    item = only(parse_text('FROM a\nENV a=b c="d e" f=g\\ h\n'))
    assert [(p.key.text, p.value.text, p.value.span.text) for p in item.pairs] == [
        ("a", "b", "b"), ("c", '"d e"', '"d e"'), ("f", "g\\ h", "g\\ h"),
    ]  # fmt: skip
    item = only(parse_text("FROM a\nENV  key  the value = x\n"))
    assert [(p.key.text, p.value.text, p.legacy) for p in item.pairs] == [("key", "the value = x", True)]


def test_spans_of_tokens(parse_text):
    text = "FROM --platform=$P debian AS Base\nCOPY --from=base a \\\n  b /c\n"
    head, copy = parse_text(text).instructions
    assert (head.platform.span.text, head.base.span.text) == ("$P", "debian")
    assert (head.stage.text, head.stage.span.text) == ("base", "Base")
    assert [token.span.text for token in (*copy.sources, copy.destination, copy.origin)] == [
        "a",
        "b",
        "/c",
        "base",
    ]
    assert copy.sources[1].span.line == 3
    json = parse_text('FROM a\nCMD ["x", "y z"]\n').instructions[1]
    assert [word.span.text for word in json.command.words] == ["x", "y z"]


def test_durations_and_sizes():
    assert parse_duration("1h2m3.5s") == 3_723_500_000_000
    assert (parse_duration("0"), parse_duration("-1s"), parse_duration("1ms")) == (0, -(10**9), 10**6)
    for wrong in ("", "1", "s", "1x", "1s2", "9" * 30 + "h"):
        with pytest.raises(ValueError):
            parse_duration(wrong)
    texts = ["0s", "1ms", "1.5s", "5m0s", "1h0m0.5s", "1.5ms"]
    assert [format_duration(parse_duration(text)) for text in texts] == texts
    assert (parse_size("64m"), parse_size("1.5GiB"), parse_size("10")) == (64 << 20, 3 << 29, 10)
    with pytest.raises(ValueError):
        parse_size("64q")
