from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arkwright.diagnostics.errors import UserError
from arkwright.layer.rooted import Root
from arkwright.sources.expand import expand, shown
from arkwright.sources.ignore import Matcher, read_ignore_file
from arkwright.sources.patterns import BadPattern, has_wildcard, match_component, match_path

# (lines, ignored, seen)
CASES: list[tuple[str, str, str]] = [
    # plain names, at the root only
    ("foo", "foo foo/bar foo/a/b", "bar a/foo foobar Foo"),
    ("foo/bar", "foo/bar foo/bar/x", "foo foo/barx bar"),
    # leading and trailing slashes and blanks do not count
    ("/foo", "foo foo/x", "a/foo"),
    ("//foo", "foo", "a/foo"),
    ("foo/", "foo foo/x", "food"),
    ("  foo\t", "foo", "bar"),
    # cleaned
    ("./foo", "foo", "bar"),
    ("foo/../bar", "bar", "foo"),
    ("a//b", "a/b", "a"),
    (".", "", "a .a"),
    ("/", "", "a"),
    ("..\n../a", "", "a"),
    # comments only in the first column
    ("#foo", "", "foo #foo"),
    (" #foo", "#foo", "foo"),
    ("\\#foo", "#foo", "foo"),
    ("\n\n  \n", "", "foo"),
    # wildcards stay within a name
    ("*", "a a/b .hidden", ""),
    ("*.go", "a.go .go x.go/y", "a/b.go a.gox"),
    ("*/*.go", "a/b.go", "b.go a/b/c.go"),
    ("a?c", "abc a.c", "ac a/c abcd"),
    ("a/?/c", "a/b/c", "a/bb/c a//c"),
    (".", "", "x"),
    (".*", ".git .git/config", "a.git"),
    # classes
    ("[a-c]x", "ax bx cx", "dx x"),
    ("[^a-c]x", "dx", "ax"),
    ("[ab]", "a b a/x", "ab c"),
    ("[\\]a]x", "]x ax", "bx"),
    ("[a\\-c]x", "ax -x cx", "bx"),
    ("[*]x", "*x", "ax"),
    ("[.]x", ".x", "ax"),
    # escapes
    ("a\\*b", "a*b", "axb"),
    ("\\!a", "!a", "a"),
    ("a\\b", "ab", "a\\b"),
    # ** crosses directories
    ("**/foo", "foo a/foo a/b/foo a/foo/x", "afoo a/foob"),
    ("**", "a a/b", ""),
    ("**/*.go", "a.go a/b.go a/b/c.go", "a.c"),
    ("foo/**", "foo/a foo/a/b", "foo foob"),
    ("a/**/b", "a/b a/x/b a/x/y/b", "a b a/xb"),
    ("**/a/**", "a/x b/a/x", "a b/a"),
    ("**/**/a", "a x/a x/y/a", "b"),
    ("**.go", "a.go a/b.go", "go a.gox"),
    ("a**", "a ab a/b ab/c", "b"),
    ("a/**b", "a/b a/x/b", "a/xb"),
    ("**/a*/b", "a/b ax/b x/ay/b", "b a x/b"),
    # the last line that matches decides, parents count
    ("*.md\n!README.md", "a.md", "README.md"),
    ("!README.md\n*.md", "README.md", ""),
    ("a\n!a/b", "a a/c", "a/b a/b/c"),
    ("a\n!a/b\na/b/c", "a/b/c a/b/c/d", "a/b a/b/d"),
    ("*\n!src\nsrc/gen", "x src/gen src/gen/a", "src src/a"),
    ("**\n!**/*.go", "a a/b", "a.go a/b.go a/b.go/c"),
    ("a\n!*/b", "a a/c", "a/b"),
    ("!a\n! b\na\nb\n!  /b/", "a", "b b/x"),
    ("!!a\n", "", "a !a"),
    ("*\n!!a", "a", "!a"),
    # regular expressions mean nothing
    ("a+b", "a+b", "aab"),
    ("a.b", "a.b", "axb"),
    ("(a|b)", "(a|b)", "a"),
    ("a{2}$", "a{2}$", "aa"),
    ("^a", "^a", "a"),
]


@pytest.mark.parametrize(("lines", "ignored", "seen"), CASES)
def test_table(lines: str, ignored: str, seen: str) -> None:
    matcher = Matcher(lines.split("\n"))
    assert [path for path in ignored.split() if not matcher.excluded(path)] == []
    assert [path for path in seen.split() if matcher.excluded(path)] == []


def test_the_root_is_never_ignored() -> None:
    assert not Matcher(["**", "*"]).excluded("", True)


@pytest.mark.parametrize("line", ["[a", "[", "[]", "[]a]", "[-a]", "[a-]", "a\\", "!", "! ", "[^]", "[a\\"])
def test_malformed_lines_are_refused_with_their_number(line: str) -> None:
    with pytest.raises(UserError) as caught:
        Matcher(["ok", line])
    assert caught.value.code == "invalid-ignore-pattern"
    assert caught.value.details["line"] == 2


def test_which_line_decided() -> None:
    matcher = Matcher(["# all", "*.md", "", "!README.md "])
    assert matcher.deciding_line("a.md") == (2, "*.md")
    assert matcher.deciding_line("README.md") == (4, "!README.md")
    assert matcher.deciding_line("a.txt") is None
    assert matcher.deciding_line("") is None


def test_patterns_of_options_have_no_comments() -> None:
    assert Matcher.of_patterns(["#a"]).excluded("#a")
    assert not Matcher(["#a"]).excluded("#a")


@pytest.mark.parametrize(
    ("lines", "directory", "prunable"),
    [
        (["a"], "a", True),
        (["a"], "b", False),
        (["a", "!a/b"], "a", False),
        (["a", "!a/b"], "a/c", True),
        (["a", "!b/c"], "a", True),
        (["!a/b", "a"], "a", True),
        (["a", "!**/x"], "a/b/c", False),
        (["a", "!*/x"], "a", False),
        (["a", "!*/x"], "a/b", True),
        (["a", "!a/b/**"], "a", False),
        (["a", "!a/b/**"], "a/c", True),
        (["a", "!a/b/c*d"], "a/b", False),
        (["node_modules", "!README.md"], "node_modules", True),
    ],
)
def test_pruning(lines: list[str], directory: str, prunable: bool) -> None:
    assert Matcher(lines).may_prune(directory) == prunable


NAMES = st.text("ab.*[", min_size=1, max_size=2).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
PIECES = st.sampled_from(
    ["a", "b", "ab", "*", "**", "?", "[ab]", "[^a]", "a*", "*b", "**b", "a**", "\\a", ".", ".."]
)
PATTERNS = st.builds(
    lambda bang, lead, parts, tail: bang + lead + "/".join(parts) + tail,
    st.sampled_from(["", "", "!"]), st.sampled_from(["", "/", " "]),
    st.lists(PIECES, min_size=1, max_size=4), st.sampled_from(["", "/", " "]),
)  # fmt: skip
LINES = st.lists(PATTERNS, max_size=5)


def naive(lines: list[str], path: str) -> bool:
    """The definition, word for word: every line in order, against the path and all its parents."""
    names = path.split("/")
    parents = ["/".join(names[: count + 1]) for count in range(len(names))]
    ignored = False
    for line in lines:
        text = line.strip()
        includes = text.startswith("!")
        pattern = os.path.normpath(text.removeprefix("!").strip())
        pattern = pattern.lstrip("/") or "/"
        if any(match_path(pattern, parent) for parent in parents):
            ignored = not includes
    return ignored


@given(LINES, PATHS)
@example(["a", "!a/b"], "a/b/a")
def test_the_last_matching_line_decides(lines: list[str], path: str) -> None:
    assert Matcher(lines).excluded(path) == naive(lines, path)


@given(LINES, PATHS, PATHS)
def test_nothing_below_a_pruned_directory_is_seen(lines: list[str], directory: str, below: str) -> None:
    matcher = Matcher(lines)
    if matcher.may_prune(directory):
        assert matcher.excluded(f"{directory}/{below}")


@given(LINES, PATHS)
def test_the_deciding_line_agrees(lines: list[str], path: str) -> None:
    matcher = Matcher(lines)
    deciding = matcher.deciding_line(path)
    assert matcher.excluded(path) == (deciding is not None and not deciding[1].startswith("!"))


@given(st.text("ab*?[]^-\\/!.", max_size=12), st.text("ab/.", min_size=1, max_size=8))
def test_any_text_is_a_pattern_or_an_error(text: str, path: str) -> None:
    try:
        matcher = Matcher([text])
    except UserError as error:
        assert error.code == "invalid-ignore-pattern"
    else:
        matcher.excluded(path.strip("/") or "a")
        matcher.may_prune(path.strip("/") or "a")


# Files


def test_the_ignore_file_of_the_dockerfile_wins(tmp_path: Path) -> None:
    context = tmp_path / "context"
    (context / "docker").mkdir(parents=True)
    (context / ".dockerignore").write_text("general\n")
    assert read_ignore_file(str(context), "") == (["general", ""], str(context / ".dockerignore"))
    (context / "docker" / "Dockerfile.dockerignore").write_text("special\r\n")
    lines, path = read_ignore_file(str(context), "docker/Dockerfile")
    assert (lines[0], path) == ("special", str(context / "docker" / "Dockerfile.dockerignore"))
    outside = tmp_path / "Other"
    (tmp_path / "Other.dockerignore").write_bytes(b"\xef\xbb\xbfbom\n\xff\n")
    lines, _ = read_ignore_file(str(context), str(outside))
    assert lines[0] == "bom"
    assert Matcher(lines).excluded("\udcff")


def test_no_ignore_file(tmp_path: Path) -> None:
    assert read_ignore_file(str(tmp_path), "Dockerfile") == ([], "")


def test_an_ignore_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").mkdir()
    with pytest.raises(UserError) as caught:
        read_ignore_file(str(tmp_path))
    assert caught.value.code == "unreadable-ignore-file"


# Wildcards of COPY


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("*", "abc", True), ("*", "", True), ("*", "a/b", False), ("a*c", "abbc", True), ("a*c", "ab", False),
        ("**", "abc", True), ("**", "a/b", False), ("?", "a", True), ("?", "", False), ("?", "é", True),
        ("[a-c]", "b", True), ("[^a-c]", "b", False), ("[c-a]", "b", False), ("[[]x", "[x", True),
        ("\\*", "*", True), ("\\*", "a", False), ("a.b", "axb", False), ("*.txt", ".txt", True),
        ("[!a]", "!", True), ("[!a]", "b", False), ("a\nb", "a\nb", True), ("*", "a\nb", True),
    ],
)  # fmt: skip
def test_components(pattern: str, name: str, matches: bool) -> None:
    assert match_component(pattern, name) == matches


@pytest.mark.parametrize("pattern", ["[", "[a", "a\\", "[]"])
def test_malformed_components(pattern: str) -> None:
    with pytest.raises(BadPattern):
        match_component(pattern, "a")


@pytest.mark.parametrize(
    ("pattern", "wild"),
    [
        ("a", False),
        ("a*", True),
        ("a?", True),
        ("[a]", True),
        ("\\*", False),
        ("\\\\*", True),
        ("a]", False),
        ("\\[", False),
    ],
)
def test_what_is_a_wildcard(pattern: str, wild: bool) -> None:
    assert has_wildcard(pattern) == wild


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for path in ("a/one.txt", "a/two.txt", "b/one.txt", "b/c/three.txt", "top.txt", "[x].txt", "a-b/one.txt"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    (root / "link").symlink_to("/b")
    (root / "out").symlink_to("../../..")
    return root


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.txt", "[x].txt top.txt"),
        ("*/one.txt", "a/one.txt a-b/one.txt b/one.txt"),
        ("a/*", "a/one.txt a/two.txt"),
        ("*/c", "b/c"),
        ("/a/one.txt", "a/one.txt"),
        ("../../a/*e.txt", "a/one.txt"),
        ("a/../b/*.txt", "b/one.txt"),
        ("link/*", "link/c link/one.txt"),
        ("l*/*", ""),
        ("l*", "link"),
        ("out/*p.txt", "out/top.txt"),
        ("[[]x].txt", "[x].txt"),
        ("nothing*", ""),
        ("nothing/*", ""),
        ("top.txt/*", ""),
        ("top.txt", "top.txt"),
        ("missing", ""),
        ("**/one.txt", "a/one.txt a-b/one.txt b/one.txt"),
    ],
)
def test_expansion(tree: Path, pattern: str, found: str) -> None:
    with Root(str(tree)) as root:
        assert expand(root, pattern) == sorted(found.split(), key=lambda path: path.split("/"))


def test_expansion_across_directories(tree: Path) -> None:
    with Root(str(tree)) as root:
        assert expand(root, "b/**/*.txt", globstar=True) == ["b/c/three.txt", "b/one.txt"]
        assert expand(root, "**/c", globstar=True) == ["b/c"]
        assert expand(root, "/", None) == [""]


def test_expansion_leaves_ignored_paths_out(tree: Path) -> None:
    matcher = Matcher(["b", "!b/c/three.txt", "a/two.txt"])
    with Root(str(tree)) as root:
        assert expand(root, "*/one.txt", matcher) == ["a/one.txt", "a-b/one.txt"]
        assert expand(root, "a/two.txt", matcher) == []
        assert expand(root, "?", matcher) == ["a", "b"]
        assert shown(root, "link/c", matcher)
        assert not shown(root, "link/one.txt", matcher)
        hidden = Matcher(["b", "!b/c/missing.txt"])
        assert not shown(root, "b", hidden)


def test_malformed_wildcards_have_a_code(tree: Path) -> None:
    with Root(str(tree)) as root, pytest.raises(UserError) as caught:
        expand(root, "missing/*[")
    assert caught.value.code == "invalid-wildcard"
