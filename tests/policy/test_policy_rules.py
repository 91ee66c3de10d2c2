"""Policies as data: reading them strictly, and what they say. Nothing is looked up."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arkwright.diagnostics.errors import UserError
from arkwright.diagnostics.spans import SourceFile
from arkwright.oci.reference import parse_reference
from arkwright.policy import decide
from arkwright.policy.instructions import forbids, parse_forbidden, parse_instruction
from arkwright.policy.load import parse
from arkwright.policy.model import Policy
from arkwright.policy.patterns import matches_any, matches_image
from arkwright.policy.places import key_places


def policy(text: str) -> Policy:
    return parse("version = 1\n" + text, "policy.toml")


# --- The file -------------------------------------------------------------------------------------

TRICKY = '''\
# [not.a.table]
version = 1 # = here
[images]
allow = [ # ] a comment
  "a/[b]", 'c = d', """x
[y]
""",
]
"max-age" = "1d"
urls.allow = ["x#y"]
[[signatures]]
names = ['''  + "'''\n]'''" + ''']
keys = ["k"]
[[signatures]]
names = []
[a."b.c" . d]
e = {f = "}", g = [1, 2]}
'''  # fmt: skip


def test_every_key_has_its_place() -> None:
    file = SourceFile("policy.toml", TRICKY)
    found = {path: span.line for path, span in key_places(file).items()}
    assert found == {
        ("version",): 2, ("images",): 3, ("images", "allow"): 4, ("images", "max-age"): 9,
        ("images", "urls", "allow"): 10, ("signatures", 0): 11, ("signatures", 0, "names"): 12,
        ("signatures", 0, "keys"): 14, ("signatures", 1): 15, ("signatures", 1, "names"): 16,
        ("a", "b.c", "d"): 17, ("a", "b.c", "d", "e"): 18,
    }  # fmt: skip
    assert key_places(file)["images", "allow"].text.endswith("]")


def paths(value: Any, here: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    found = {here} if here else set()
    if isinstance(value, dict):
        for name, item in value.items():
            found |= paths(item, (*here, name))
    return found


_NAMES = st.sampled_from(["a", "b-c", '"d e"', "'f.g'", '"h\\u0041"', "i.j"])
_VALUES = st.sampled_from(
    [
        '"x"',
        "1",
        "[1, 2]",
        '[ "]", # no\n "[x]" ]',
        "'''\n[t]\n'''",
        '"""a\\"""b"""',
        "{k = 1}",
        "true",
        '"#"',
    ]
)


@settings(
    max_examples=100,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.lists(st.tuples(st.sampled_from(["", "[t]\n", "[t.u]\n", "[[v]]\n", "# c\n\n"]), _NAMES, _VALUES)))
def test_all_that_the_parser_knows_is_found(parts: list[tuple[str, str, str]]) -> None:
    text = "".join(f"{header}{name} = {value} # end\n" for header, name, value in parts)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    found = key_places(SourceFile("x", text))
    for path, span in found.items():
        value: Any = document
        for part in path:
            value = value[part]
        assert span.text
    tables = {path for path in paths({k: v for k, v in document.items() if k != "v"}) if path[-1] != "k"}
    headers = {("t",), ("t", "u"), ("i",), ("t", "i"), ("t", "u", "i")}
    assert tables - headers <= found.keys()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("version = 2\n", 1),
        ("images = 1\nversion = 1\n", 1),
        ("version = 1\n[imagse]\nallow = []\n", 2),
        ("version = 1\n[images]\nalow = []\n", 3),
        ("version = 1\n\n[images]\nallow = 'x'\n", 4),
        ("version = 1\n[images]\nallow = ['x']\nmax_age = '1d'\n", 4),
        ("version = 1\n[images]\nmax-age = '1 day'\n", 3),
        ("version = 1\n[steps]\nnetwork = ['some']\n", 3),
        ("version = 1\n[[signatures]]\nnames = ['a']\n", 2),
        ("version = 1\n[[signatures]]\nnames = ['a']\nkeys = []\n", 2),
        ("version = 1\n[[signatures]]\nnames = ['a']\nkeys = ['b']\n[[signatures]]\nname = ['a']\n", 6),
        ("version = 1\n[instructions]\nforbid = ['run it']\n", 3),
        ("version = 1\n[images]\nallow = [\n", 0),
        ("version = 1\n[images]\nallow = ['a']\nallow = ['b']\n", 4),
        ("", 0),
    ],
)
def test_what_is_not_understood_is_an_error_with_its_line(text: str, line: int) -> None:
    with pytest.raises(UserError) as caught:
        parse(text, "policy.toml")
    assert caught.value.code == "invalid-policy"
    labels = caught.value.diagnostics[0].labels
    if line:
        assert labels and labels[0].span.line == line


def test_keys_count_from_the_policys_directory() -> None:
    found = parse(
        'version = 1\n[[signatures]]\nnames = ["a"]\nkeys = ["k.pub", "/abs.pub"]\n', "/etc/p/policy.toml"
    )
    assert found.rules.signatures[0].keys == ("/etc/p/k.pub", "/abs.pub")


# --- Patterns -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("example.org", "example.org/a/b", True),
        ("example.org", "example.org.evil/a", False),
        ("example.org/dl/*", "example.org/dl/a", True),
        ("example.org/dl/*", "example.org/dl/a/b", False),
        ("example.org/dl/**", "example.org/dl/a/b", True),
        ("*.example.org/**", "x.example.org/a", True),
        ("*.example.org", "evil.example/.example.org/a", False),
        ("example.org/a.c", "example.org/abc", False),
    ],
)
def test_patterns(pattern: str, name: str, fits: bool) -> None:
    assert matches_any([pattern], name) is fits


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("docker.io/library/*", "debian", True),
        ("docker.io/library/debian:bookworm*", "debian:bookworm-slim", True),
        ("docker.io/library/debian:bookworm*", "debian:trixie", False),
        ("docker.io/library/debian:bookworm", "debian@sha256:" + "0" * 64, False),
        ("localhost:5000", "localhost:5000/team/app:1", True),
        ("localhost:5000/team/*", "localhost:5000/team/app", True),
        ("localhost:5000/team/*", "localhost:5001/team/app", False),
        ("docker.io/library/*", "docker.io/librarian/x", False),
    ],
)
def test_patterns_of_images(pattern: str, name: str, fits: bool) -> None:
    reference = parse_reference(name)
    assert matches_image([pattern], reference.name, reference.tag) is fits


# --- Decisions ------------------------------------------------------------------------------------


def test_an_empty_policy_allows_nothing() -> None:
    closed = policy("")
    reference = parse_reference("debian")
    assert [
        decide.image(closed, reference),
        decide.nameless_image(closed, "sha256:" + "0" * 64),
        decide.nameless_image(closed, "oci-layout:///x"),
        decide.url(closed, "https://example.org/a"),
        decide.git(closed, "https://example.org/a.git"),
        decide.step(closed, "default", "sandbox"),
        decide.step(closed, "none", "insecure"),
        decide.frontend(closed, parse_reference("docker/dockerfile:1")),
        decide.cache(closed, "registry:x", reference),
        decide.cache(closed, "local:/x", None),
    ].count(None) == 0
    assert decide.step(closed, "none", "sandbox") is None


URLS = '[urls]\nallow = ["example.org/dl/**"]\nchecksums = true\n'


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("https://example.org/dl/a", None),
        ("https://EXAMPLE.org/dl/a?x=1#y", None),
        ("https://user:pw@example.org/dl/a", None),
        ("http://example.org/dl/a", "schemes"),
        ("https://example.org/dl/../secret", "allow"),
        ("https://example.org/dl/%2e%2e/secret", "allow"),
        ("https://example.org@evil.example/dl/a", "allow"),
        ("https://example.org:444/dl/a", "allow"),
        ("https://[evil/dl/a", "schemes"),
        ("ftp://example.org/dl/a", "schemes"),
    ],
)
def test_urls(text: str, rule: str | None) -> None:
    found = decide.url(policy(URLS), text)
    assert (None if found is None else found.rule[1]) == rule
    if found is None:
        unpinned = decide.url(policy(URLS), text, pinned=False)
        assert unpinned is not None and unpinned.rule == ("urls", "checksums")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("https://github.com/team/app.git", None),
        ("https://github.com/team/app", None),
        ("git@github.com:team/app.git", None),
        ("ssh://git@github.com/team/app.git", None),
        ("https://github.com/other/app.git", "allow"),
        ("https://github.com/team/../other/app.git", "allow"),
        ("http://github.com/team/app.git", "schemes"),
        ("file:///srv/team/app.git", "schemes"),
        ("git://github.com/team/app.git", "schemes"),
    ],
)
def test_repositories(text: str, rule: str | None) -> None:
    found = decide.git(policy('[git]\nallow = ["github.com/team/*"]\ncommits = true\n'), text)
    assert (None if found is None else found.rule[1]) == rule


def test_the_age_and_the_labels_of_a_base() -> None:
    rules = policy('[images]\nallow = ["a"]\nmax-age = "2w"\nlabels = ["team", "tier=gold*"]\n')
    good = {"team": "", "tier": "golden"}
    now = 10_000_000
    assert decide.pinned_image(rules, "x", now - 14 * 86400, good, now) is None
    for created, labels, rule in (
        (now - 14 * 86400 - 1, good, "max-age"),
        (None, good, "max-age"),
        (now, {"team": ""}, "labels"),
        (now, {"team": "", "tier": "silver"}, "labels"),
    ):
        found = decide.pinned_image(rules, "x", created, labels, now)
        assert found is not None and found.rule == ("images", rule)


@pytest.mark.parametrize(
    ("rule", "line", "forbidden"),
    [
        ("VOLUME", "VOLUME /x", True),
        ("VOLUME", "volume /x", True),
        ("VOLUME", "ONBUILD VOLUME /x", True),
        ("VOLUME", "RUN VOLUME", False),
        ("RUN --security=insecure", "RUN --security=insecure x", True),
        ("RUN --security=insecure", "RUN --network=none --security=insecure x", True),
        ("RUN --security=insecure", "RUN --security=sandbox x", False),
        ("RUN --security=insecure", "RUN --security=$HOW x", True),
        ("RUN --security=insecure", "RUN echo --security=insecure", False),
        ("RUN --network", "RUN --network=none x", True),
        ("RUN --mount=type=ssh", "RUN --mount=type=ssh,id=a x", True),
        ("RUN --mount=type=ssh", "RUN --mount=id=a,type=ssh x", True),
        ("RUN --mount=type=ssh", "RUN --mount=type=cache,target=/x x", False),
        ("COPY --chown=0*", "COPY --chown=0:0 a b", True),
        ("ADD", "ADD a b", True),
    ],
)
def test_forbidden_instructions(rule: str, line: str, forbidden: bool) -> None:
    parsed = parse_forbidden(rule)
    assert parsed is not None
    assert forbids(parsed, parse_instruction(line)) is forbidden


def test_a_rule_says_where_it_stands() -> None:
    found = policy('[images]\nallow = ["a"]\n')
    assert found.place(("images", "allow")) == "policy.toml:3:1"
    assert found.place(("images", "digests")) == "policy.toml:2:1"
    assert found.place(("urls", "allow")) == "policy.toml"
