from __future__ import annotations

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from arkwright.diagnostics.errors import UserError
from arkwright.oci.reference import Reference, is_short, parse_reference

SHA256, SHA512 = "sha256:" + "0a" * 32, "sha512:" + "b1" * 64

components = st.from_regex(r"[a-z0-9]{1,4}((\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}", fullmatch=True)
paths = st.lists(components, min_size=1, max_size=4).map("/".join)
labels = st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,5}[a-zA-Z0-9])?", fullmatch=True)
ports = st.one_of(st.just(""), st.integers(1, 65535).map(lambda number: f":{number}"))
hosts = st.one_of(
    st.tuples(st.lists(labels, min_size=2, max_size=4).map(".".join), ports).map("".join),
    st.tuples(st.sampled_from(["localhost", "127.0.0.1", "[::1]", "[fe80::1]"]), ports).map("".join),
)
tags = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
digests = st.sampled_from([SHA256, SHA512])
optional_tags = st.one_of(st.just(""), tags.map(":{}".format))
optional_digests = st.one_of(st.just(""), digests.map("@{}".format))


@given(st.one_of(st.just(""), hosts.map("{}/".format)), paths, optional_tags, optional_digests)
@example("", "library/debian", "", "")
@example("docker.io/", "library/a/b", "", "")
@example("docker.io/", "localhost/b", "", "")
@example("index.docker.io/", "debian", ":x", "")
@example("docker.io/", "a.b/c", "", "")
def test_every_spelling_comes_back(host: str, path: str, tag: str, digest: str) -> None:
    # Without a host, a first component with a dot is taken for one.
    assume(host or "." not in path.partition("/")[0])
    first = parse_reference(host + path + tag + digest)
    assert parse_reference(str(first)) == first
    assert parse_reference(first.familiar()) == first
    assert len(first.familiar()) <= len(str(first))
    assert first.tag == (tag[1:] or ("" if digest else "latest"))
    assert first.digest == digest[1:]
    assert f"{first.domain}/{first.path}" == first.name


@given(st.text(max_size=60))
@example("a" * 2000)
@example("\u0130mage")
@example("a\n")
@example("debian:bookworm\n")
@example("[::1]/a@b")
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        found = parse_reference(text)
    except UserError as error:
        assert error.code == "invalid-reference"
    else:
        assert parse_reference(str(found)) == found
        assert re.fullmatch(r"[\x21-\x7e]+", str(found))


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("debian", "docker.io/library/debian:latest", "debian:latest"),
        ("debian:bookworm", "docker.io/library/debian:bookworm", "debian:bookworm"),
        ("team/app", "docker.io/team/app:latest", "team/app:latest"),
        ("docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
        ("index.docker.io/team/app", "docker.io/team/app:latest", "team/app:latest"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/app:1", "localhost:5000/app:1", "localhost:5000/app:1"),
        ("example.com/a/b/c:v", "example.com/a/b/c:v", "example.com/a/b/c:v"),
        ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
        ("UPPER/app", "UPPER/app:latest", "UPPER/app:latest"),
        (f"debian@{SHA256}", f"docker.io/library/debian@{SHA256}", f"debian@{SHA256}"),
        (f"debian:x@{SHA256}", f"docker.io/library/debian:x@{SHA256}", f"debian:x@{SHA256}"),
        ("docker.io/library/localhost", "docker.io/library/localhost:latest", "localhost:latest"),
    ],
)
def test_dockers_normalisation(text: str, full: str, familiar: str) -> None:
    found = parse_reference(text)
    assert (str(found), found.familiar()) == (full, familiar)


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "@", "/", "a:", "a@", ":tag", "Debian", "team/App", "a//b", "a/", "/a", "a..b", "a___b", "-a",
        "a:-tag", "a:" + "t" * 129, "a" * 300, f"a@{SHA256[:-1]}", "a@md5:00", "a b", "a:b:c", "a@b@c", "ex_ample.com/a",
        "example.com:port/a", "example.com:/a", "https://example.com/a", "[::1/a", "a" * 64, f"a@{SHA256.upper()}",
        f"a@{SHA256}@{SHA256}", f"a@{SHA256}:tag",
    ],
)  # fmt: skip
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_reference(text)
    assert caught.value.code == "invalid-reference" and caught.value.exit_code == 1


def test_upper_case_gets_a_hint() -> None:
    with pytest.raises(UserError) as caught:
        parse_reference("Debian:Bookworm")
    assert caught.value.diagnostics[0].hint


def test_the_default_tag() -> None:
    assert parse_reference("a", default_tag="") == Reference("docker.io", "library/a")
    assert parse_reference("a", default_tag="x").tag == "x"
    assert parse_reference(f"a@{SHA256}").tag == ""


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("debian", True),
        ("team/app:1", True),
        ("localhost/a", False),
        ("a.b/c", False),
        ("h:5/a", False),
        ("docker.io/a", False),
    ],
)
def test_short_names(text: str, short: bool) -> None:
    assert is_short(text) is short
