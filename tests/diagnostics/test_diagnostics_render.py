"""Caret excerpts: golden text, written by hand."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from arkwright.diagnostics.cells import layout, text_width
from arkwright.diagnostics.errors import Diagnostic, Label, Severity
from arkwright.diagnostics.render import render, to_json
from arkwright.diagnostics.spans import SourceFile, Span


def span(file: SourceFile, text: str, upto: str = "") -> Span:
    start = file.text.index(text)
    end = file.text.index(upto, start) + len(upto) if upto else start + len(text)
    return Span(file, start, end)


def one(*labels: Label, message: str = "wrong", **more: object) -> str:
    return render([Diagnostic(code="some-code", message=message, labels=labels, **more)])  # type: ignore[arg-type]


def body(text: str) -> list[str]:
    """The excerpt's lines: without head, location and docs line."""
    return text.splitlines()[2:-1]


def test_the_example_of_the_architecture() -> None:
    file = SourceFile(
        "Dockerfile", "FROM debian AS builder\n" + "#\n" * 10 + "COPY --from=bulder /out /app\n"
    )
    found = Diagnostic(
        code="unknown-stage",
        message="COPY --from=bulder names no stage, image or context",
        labels=(Label(span(file, "bulder"), 'did you mean "builder" (line 3)?'),),
    )
    assert render([found]) == (
        "error[unknown-stage]: COPY --from=bulder names no stage, image or context\n"
        "  Dockerfile:12:13\n"
        "12 │ COPY --from=bulder /out /app\n"
        '   │             ^^^^^^ did you mean "builder" (line 3)?\n'
        "  docs: docs/reference/errors/unknown-stage.md\n"
    )


def test_hint_notes_and_several_lines_of_message() -> None:
    text = one(
        message="first\nsecond", notes=("because", "and\nso"), hint="try this", severity=Severity.WARNING
    )
    assert text == (
        "warning[some-code]: first\n"
        "  second\n"
        "  note: because\n"
        "  note: and\n"
        "        so\n"
        "  hint: try this\n"
        "  docs: docs/reference/errors/some-code.md\n"
    )


def test_several_labels_are_shown_in_file_order_with_the_gap_marked() -> None:
    file = SourceFile("f", "FROM a AS one\nRUN 2\nRUN 3\nRUN 4\nCOPY --from=on x y\n")
    text = one(Label(span(file, "on x"), "here"), Label(span(file, "one"), "declared"))
    assert text.splitlines()[1:-1] == [
        "  f:5:13",
        "1 │ FROM a AS one",
        "  │           --- declared",
        "… │",
        "5 │ COPY --from=on x y",
        "  │             ^^^^ here",
    ]


def test_a_gap_of_one_line_shows_the_line() -> None:
    file = SourceFile("f", "aaa\nbbb\nccc\n")
    assert body(one(Label(span(file, "aaa")), Label(span(file, "ccc"), "x"))) == [
        "1 │ aaa",
        "  │ ^^^",
        "2 │ bbb",
        "3 │ ccc",
        "  │ --- x",
    ]


def test_two_labels_on_one_line_have_a_row_each() -> None:
    file = SourceFile("f", "COPY a b\n")
    assert body(one(Label(span(file, "a"), "no"), Label(span(file, "b"), "target"))) == [
        "1 │ COPY a b",
        "  │      ^ no",
        "  │        - target",
    ]


def test_labels_in_several_files() -> None:
    first, second = SourceFile("one", "abc\n"), SourceFile("two", "def\n")
    text = one(Label(span(first, "b"), "x"), Label(span(second, "def"), "y"))
    assert text.splitlines()[1:-1] == [
        "  one:1:2",
        "1 │ abc",
        "  │  ^ x",
        "  two:1:1",
        "1 │ def",
        "  │ --- y",
    ]


def test_a_span_of_several_lines_marks_each_but_not_blank_ones() -> None:
    file = SourceFile("f", "RUN a \\\n\t&& b \\\n\n  && c\nEND\n")
    assert body(one(Label(span(file, "RUN", "c\n"), "status 1"))) == [
        "1 │ RUN a \\",
        "  │ ^^^^^^^",
        "2 │     && b \\",
        "  │     ^^^^^^",
        "3 │",
        "4 │   && c",
        "  │   ^^^^ status 1",
    ]


def test_a_long_span_shows_both_ends() -> None:
    file = SourceFile("f", "".join(f"line{n}\n" for n in range(1, 21)))
    lines = body(one(Label(Span(file, 0, len(file.text)), "all")))
    assert [line.split()[0] for line in lines if line[1] != " " and "│" in line] == ["…"] or lines[
        0
    ] == " 1 │ line1"
    assert lines[6] == " … │"
    assert lines[-2:] == ["20 │ line20", "   │ ^^^^^^ all"]
    assert len(lines) == 11


def test_wide_combining_tab_and_control_characters_keep_the_carets_aligned() -> None:
    file = SourceFile("f", "漢字 e\u0301\tab\x1b[31m x\u202ey 😀z\n")
    assert body(
        one(Label(span(file, "字"), "1"), Label(span(file, "ab"), "2"), Label(span(file, "\x1b"), "3"))
    ) == [
        "1 │ 漢字 e\u0301  ab\\x1b[31m x<U+202E>y 😀z",
        "  │   ^^ 1",
        "  │         -- 2",
        "  │           ---- 3",
    ]
    assert body(one(Label(span(file, "z"), "4")))[1] == "  │                                 ^ 4"


def test_an_empty_span_and_the_end_of_the_file_get_one_caret() -> None:
    file = SourceFile("f", "ab\n")
    assert body(one(Label(Span(file, 1, 1), "x"))) == ["1 │ ab", "  │  ^ x"]
    assert body(one(Label(Span(file, 3, 3), "x"))) == ["2 │", "  │ ^ x"]
    assert body(one(Label(Span(SourceFile("e", ""), 0, 0)))) == ["1 │", "  │ ^"]


def test_crlf_lines() -> None:
    file = SourceFile("f", "RUN a\r\nRUN b\r\n")
    assert body(one(Label(Span(file, 0, 7), "x"))) == ["1 │ RUN a", "  │ ^^^^^ x"]


def test_a_long_line_is_cut_around_the_span() -> None:
    file = SourceFile("f", "x" * 300 + "SPAN" + "y" * 300)
    found = Diagnostic(code="c", message="m", labels=(Label(span(file, "SPAN"), "here"),))
    line, marks = render([found], width=60).splitlines()[2:4]
    assert line == "1 │ …" + "x" * 16 + "SPAN" + "y" * 34 + "…"
    assert len(line) == 60
    assert marks == "  │ " + " " * 17 + "^^^^ here"
    start = render([Diagnostic(code="c", message="m", labels=(Label(Span(file, 0, 2)),))], width=60)
    assert start.splitlines()[2] == "1 │ " + "x" * 55 + "…"
    end = render([Diagnostic(code="c", message="m", labels=(Label(Span(file, 602, 604)),))], width=60)
    assert end.splitlines()[2:4] == ["1 │ …" + "y" * 18, "  │ " + " " * 17 + "^^"]


def test_control_characters_of_messages_and_paths_reach_no_terminal() -> None:
    file = SourceFile("a\x1b]0;x\x07", "b\n")
    text = one(Label(span(file, "b"), "l\x1b[2J"), message="m\x1b[2J\r", hint="h\x9b1m", notes=("n\x07",))
    assert not [char for char in text if unicodedata.category(char) == "Cc" and char != "\n"]
    assert "m\\x1b[2J\\x0d" in text


def test_colour_changes_nothing_but_colour() -> None:
    file = SourceFile("f", "abc def\n")
    found = Diagnostic(code="c", message="m", labels=(Label(span(file, "def"), "x"),), hint="h")
    coloured = render([found], color=True)
    assert coloured.startswith("\x1b[1;31merror[c]\x1b[0m: \x1b[1mm\x1b[0m\n")
    import re

    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == render([found])


def test_several_diagnostics_are_separated_by_an_empty_line() -> None:
    found = Diagnostic(code="c", message="m")
    assert render([found, found]) == render([found]) + "\n" + render([found])
    assert render([]) == ""


def test_json() -> None:
    file = SourceFile("Dockerfile", "FROM a\nRUN b\n")
    found = Diagnostic(code="c", message="m", labels=(Label(span(file, "b"), "t"),), notes=("n",), hint="h")
    assert to_json([found]) == [
        {
            "code": "c",
            "severity": "error",
            "message": "m",
            "labels": [
                {
                    "path": "Dockerfile",
                    "start": {"line": 2, "column": 5, "offset": 11},
                    "end": {"line": 2, "column": 6, "offset": 12},
                    "text": "t",
                }
            ],
            "notes": ["n"],
            "hint": "h",
            "docs": "docs/reference/errors/c.md",
        }
    ]


@given(st.text(max_size=120), st.integers(0, 120), st.integers(0, 120), st.integers(10, 90))
def test_any_text_renders_within_the_width(text: str, start: int, length: int, width: int) -> None:
    start = min(start, len(text))
    file = SourceFile("f", text)
    labels = (Label(Span(file, start, min(len(text), start + length))),)
    rendered = render([Diagnostic(code="c", message="m", labels=labels)], width=width)
    lines = rendered.split("\n")[2:-2]
    assert lines
    assert any("^" in line for line in lines)
    for line in lines:
        assert text_width(line) <= max(width, 24 + 6) + 1
        assert not [char for char in line if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp")]


@given(st.text(max_size=60))
def test_layout_counts_the_cells_that_it_prints(line: str) -> None:
    for text, cells in layout(line):
        assert text_width(text) == cells
