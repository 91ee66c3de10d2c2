"""Expansion: every modifier, quotes, escapes, splitting."""

from __future__ import annotations

import time

import pytest

from arkwright.diagnostics.errors import UserError
from arkwright.diagnostics.spans import SourceFile, Span
from arkwright.frontends.dockerfile.tokens import Token
from arkwright.frontends.dockerfile.words import Rules, WordError, expand, process_word, process_words

ENV = {"A": "abc", "E": "", "P": "/usr/lib/x.tar.gz", "S": "a b  c", "é": "accent"}


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("$A", "abc"), ("${A}", "abc"), ("x${A}y$A", "xabcyabc"), ("$U", ""), ("${U}", ""), ("$", "$"), ("a$ b", "a$ b"),
        ("$1x", "x"), ("$@$A", "abc"), ("$$A", "A"), ("$é", "accent"), ("$A.b", "abc.b"),
        ("${A:-d}", "abc"), ("${E:-d}", "d"), ("${E-d}", ""), ("${U:-d}", "d"), ("${U-d}", "d"), ("${U-}", ""),
        ("${A:+s}", "s"), ("${E:+s}", ""), ("${E+s}", "s"), ("${U+s}", ""), ("${A:?no}", "abc"), ("${E?no}", ""),
        ("${U:-${A}}", "abc"), ("${U:-$U}", ""), ("${U:-'a}b'}", "a}b"), ('${U:-"$A"}', "abc"),
        ("${P#*/}", "usr/lib/x.tar.gz"), ("${P##*/}", "x.tar.gz"), ("${P%.*}", "/usr/lib/x.tar"),
        ("${P%%.*}", "/usr/lib/x"), ("${A#?}", "bc"), ("${A%??}", "a"), ("${A#x}", "abc"), ("${A#\\*}", "abc"),
        ("${A##*}", ""), ("${A#*}", "abc"), ("${A%%*}", ""), ("${U#x}", ""),
        ("${P/x/y}", "/usr/lib/y.tar.gz"), ("${P//./-}", "/usr/lib/x-tar-gz"), ("${A/b*/-}", "a-"),
        ("${P/\\/usr/-}", "-/lib/x.tar.gz"), ("${A/z/-}", "abc"), ("${A//?/x}", "xxx"), ("${A/b/}", "ac"),
        ("${A//b/$A}", "aabcc"),
        ("'$A'", "$A"), ('"$A"', "abc"), ('"\\$A"', "$A"), ("\\$A", "$A"), ('"a\\b"', "a\\b"), ("a\\b", "ab"),
        ('"a\\"b"', 'a"b'), ("a\\\\b", "a\\b"), ("a\\", "a"), ("''", ""), ("a'b c'd", "ab cd"), ("\"it's\"", "it's"),
    ],
)  # fmt: skip
def test_expansion(word, text):
    assert expand(word, ENV).text == text


@pytest.mark.parametrize(
    ("word", "offset"),
    [
        ("${A", 0), ("x${", 1), ("${}", 0), ("${{A}", 0), ("${:A}", 0), ("${A!x}", 0), ("${A:#x}", 0), ("${A:}", 0),
        ("${A:-x", 3), ("'abc", 0), ('x"abc', 1), ("${A/b", 3), ("${A/b/c", 5), ("${U:?}", 0), ("${U?}", 0),
        ("${E:?}", 0), ("${A#\\x}", 0), ("${U:-" * 100, 320),
    ],
)  # fmt: skip
def test_what_cannot_be_expanded_says_where(word, offset):
    with pytest.raises(WordError) as caught:
        expand(word, ENV)
    assert caught.value.offset == offset or word.startswith(("${A:-x", "${A/", "${U:-"))


def test_messages_of_required_variables():
    with pytest.raises(WordError, match="U: give it"):
        expand("${U:?give it}", ENV)
    with pytest.raises(WordError, match="E: is not allowed to be empty"):
        expand("${E:?}", ENV)
    with pytest.raises(WordError, match="U: is not allowed to be unset"):
        expand("${U?}", ENV)


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("a b", ("a", "b")), ("$S", ("a", "b", "c")), ('"$S"', ("a b  c",)), ("x$S", ("xa", "b", "c")),
        ("a\\ b", ("a b",)), ("'a b' c", ("a b", "c")), ("$U", ()), ("'' a", ("a",)), (" a\t\u00a0b ", ("a", "b")),
    ],
)  # fmt: skip
def test_splitting_after_expansion(word, words):
    assert expand(word, ENV).words == words


def test_escape_directive_changes_the_escape():
    assert expand("a`$A\\b", ENV, Rules(escape="`")).text == "a$A\\b"
    assert expand('"`$A`x"', ENV, Rules(escape="`")).text == "$A`x"


def test_rules():
    assert expand("'a'\"$A\"", ENV, Rules(raw_quotes=True)).text == "'a'\"abc\""
    assert expand("a\\$A", ENV, Rules(raw_escapes=True)).text == "a\\$A"
    assert expand('it\'s "$A" \\$A', ENV, Rules(literal_quotes=True)).text == 'it\'s "abc" $A'
    assert expand("$U ${U} ${U:-x} $A", ENV, Rules(keep_unset=True)).text == "$U ${U} ${U:-x} abc"


def test_used_and_unset_names():
    found = expand("$A $U ${V:-x} ${W}", ENV)
    assert found.used == {"A"}
    assert found.unset == {"U": (3, 5), "W": (14, 18)}


def test_tokens_keep_their_places():
    file = SourceFile("Dockerfile", "USER ab${U!x}")
    word = Token("ab${U!x}", Span(file, 5, 13))
    with pytest.raises(UserError) as caught:
        process_word(word, ENV)
    assert caught.value.code == "invalid-expansion"
    assert caught.value.diagnostics[0].labels[0].span.text == "${U!x}"
    assert process_word(Token("$A", word.span), ENV) == Token("abc", word.span)
    assert process_words(Token("$S", word.span), ENV) == tuple(Token(text, word.span) for text in "abc")


@pytest.mark.parametrize("pattern", ["*a*a*a*a*a*a*b", "?*?*?*?*?*c", "a*a*a*a*z"])
def test_patterns_do_not_explode(pattern):
    value = "a" * 20_000
    begin = time.process_time()
    for form in (f"${{V#{pattern}}}", f"${{V##{pattern}}}", f"${{V%%{pattern}}}", f"${{V//{pattern}/x}}"):
        assert expand(form, {"V": value}).text == value
    assert time.process_time() - begin < 5
