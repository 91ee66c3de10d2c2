"""registries.conf, and how registries ask who we are."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arkwright.diagnostics.errors import Denied, UserError
from arkwright.oci.reference import parse_reference
from arkwright.registry.auth import Token, parse_challenges, repository_scope
from arkwright.registry.hosts import Endpoint, RegistriesConfig

DIGEST = "sha256:" + "0" * 64


def load(tmp_path: Path, text: str) -> RegistriesConfig:
    path = tmp_path / "registries.conf"
    path.write_text(text)
    return RegistriesConfig.load({"CONTAINERS_REGISTRIES_CONF": str(path)})


def places(config: RegistriesConfig, name: str, *, push: bool = False) -> list[str]:
    return [f"{one.host}/{one.repository}" for one in config.endpoints(parse_reference(name), push=push)]


def only(config: RegistriesConfig, name: str, tls_verify: bool | None = None) -> Endpoint:
    (found,) = config.endpoints(parse_reference(name), tls_verify=tls_verify)
    return found


def test_without_configuration() -> None:
    config = RegistriesConfig()
    assert places(config, "debian") == ["registry-1.docker.io/library/debian"]
    found = only(config, "example.test:5000/a/b")
    assert (found.host, found.repository, found.domain) == ("example.test:5000", "a/b", "example.test:5000")
    assert (found.verify, found.plain_http) == (True, False)


@pytest.mark.parametrize("host", ["localhost", "localhost:5000", "127.0.0.1:5000", "[::1]:5000"])
def test_loopback_may_speak_plain_http(host: str) -> None:
    config = RegistriesConfig()
    assert (only(config, f"{host}/a").verify, only(config, f"{host}/a").plain_http) == (True, True)
    strict, loose = only(config, f"{host}/a", True), only(config, f"{host}/a", False)
    assert (strict.verify, strict.plain_http, loose.verify, loose.plain_http) == (True, False, False, True)


def test_insecure_registries(tmp_path: Path) -> None:
    config = load(tmp_path, '[[registry]]\nlocation = "a.test"\ninsecure = true\n')
    assert (only(config, "a.test/x").verify, only(config, "a.test/x").plain_http) == (False, True)
    assert (only(config, "a.test/x", True).verify, only(config, "a.test/x", True).plain_http) == (True, False)
    assert only(config, "b.test/x").verify is True
    assert only(config, "a.test.evil.test/x").verify is True


def test_the_longest_prefix_decides(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
        [[registry]]
        location = "a.test"
        blocked = true
        [[registry]]
        prefix = "a.test/team"
        location = "b.test/moved"
        [[registry]]
        prefix = "*.wild.test"
        location = "c.test"
        [[registry]]
        location = "x.wild.test"
        """,
    )
    assert places(config, "a.test/team/app") == ["b.test/moved/app"]
    assert places(config, "one.wild.test/app") == ["c.test/app"]
    assert places(config, "x.wild.test/app") == ["x.wild.test/app"]
    for name in ("a.test/teams/app", "a.test/x"):
        with pytest.raises(Denied) as caught:
            config.endpoints(parse_reference(name))
        assert (caught.value.code, caught.value.exit_code) == ("registry-blocked", 3)


def test_mirrors(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
        [[registry]]
        prefix = "docker.io"
        location = "docker.io"
        [[registry.mirror]]
        location = "m1.test/hub"
        insecure = true
        [[registry.mirror]]
        location = "m2.test"
        pull-from-mirror = "digest-only"
        [[registry.mirror]]
        location = "m3.test"
        pull-from-mirror = "tag-only"
        """,
    )
    last = "registry-1.docker.io/library/debian"
    assert places(config, "debian") == ["m1.test/hub/library/debian", "m3.test/library/debian", last]
    assert places(config, f"debian@{DIGEST}") == [
        "m1.test/hub/library/debian",
        "m2.test/library/debian",
        last,
    ]
    assert places(config, "debian", push=True) == [last]
    found = config.endpoints(parse_reference("debian"))
    assert [(one.mirror, one.verify, one.domain) for one in found] == [
        (True, False, "m1.test"), (True, True, "m3.test"), (False, True, "docker.io"),
    ]  # fmt: skip


def test_short_names(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        'unqualified-search-registries = ["s.test", "t.test"]\n[aliases]\n"tool" = "q.test/team/tool"\n',
    )
    assert str(config.qualify("tool:1")) == "q.test/team/tool:1"
    assert str(config.qualify("other")) == "s.test/other:latest"
    assert str(config.qualify("u.test/other")) == "u.test/other:latest"
    assert str(RegistriesConfig().qualify("debian")) == "docker.io/library/debian:latest"
    with pytest.raises(UserError) as caught:
        config.qualify("Not A Name")
    assert caught.value.code == "invalid-reference"


def test_drop_ins_replace(tmp_path: Path) -> None:
    base = tmp_path / "config/containers"
    (base / "registries.conf.d").mkdir(parents=True)
    (base / "registries.conf").write_text('[[registry]]\nlocation = "a.test"\nblocked = true\n')
    (base / "registries.conf.d/10.conf").write_text('[[registry]]\nlocation = "a.test"\n')
    (base / "registries.conf.d/20.conf.off").write_text("not TOML")
    config = RegistriesConfig.load({"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")})
    assert places(config, "a.test/x") == ["a.test/x"]


@pytest.mark.parametrize(
    "text",
    ["[", "[registries.search]\nregistries = []\n", "[[registry]]\n", "[[registry]]\nlocation = 7\n", "\udcff",
     '[[registry]]\nlocation = "a"\n[[registry.mirror]]\nlocation = "b"\npull-from-mirror = "never"\n'],
)  # fmt: skip
def test_what_is_no_configuration(tmp_path: Path, text: str) -> None:
    path = tmp_path / "registries.conf"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError) as caught:
        RegistriesConfig.load({"CONTAINERS_REGISTRIES_CONF": str(path)})
    assert caught.value.code == "invalid-registries-conf" and str(path) in str(caught.value)


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        RegistriesConfig.load({"CONTAINERS_REGISTRIES_CONF": str(tmp_path / "none")})
    assert caught.value.code == "invalid-registries-conf"


# Challenges


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        (['Basic realm="a b"'], [("basic", {"realm": "a b"})]),
        (["Negotiate"], [("negotiate", {})]),
        (
            ['Bearer realm="https://t/",service="s",scope="repository:a:pull,push"'],
            [("bearer", {"realm": "https://t/", "service": "s", "scope": "repository:a:pull,push"})],
        ),
        (
            ['BEARER Realm = "x\\"y" , error=invalid_token'],
            [("bearer", {"realm": 'x"y', "error": "invalid_token"})],
        ),
        (['Basic realm="a", Bearer realm="b"'], [("basic", {"realm": "a"}), ("bearer", {"realm": "b"})]),
        (["Basic realm=a", 'Bearer realm="b"'], [("basic", {"realm": "a"}), ("bearer", {"realm": "b"})]),
        (['realm="a"'], [("realm", {}), ("a", {})]),
    ],
)
def test_challenges(values: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(one.scheme, one.params) for one in parse_challenges(values)] == expected


@given(st.lists(st.text('Basic realm=",\\ é\t', max_size=30), max_size=3))
def test_no_challenge_is_too_odd(values: list[str]) -> None:
    for one in parse_challenges(values):
        assert one.scheme and one.scheme == one.scheme.lower()


def test_scopes_and_tokens() -> None:
    assert repository_scope("a/b", "pull", "push") == "repository:a/b:pull,push"
    assert "secret" not in repr(Token("secret", 1.0)) + repr([Token("secret", 1.0)])
