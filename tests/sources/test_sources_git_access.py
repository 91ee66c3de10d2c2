"""Secrets and agents of git, the time of files, commits fetched as such. Names and meanings of the
secrets: BuildKit's documentation of build secrets, "Git authentication for remote contexts"."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sources_servers import Repository, Site, answer

from arkwright.diagnostics.errors import RemoteError, UserError
from arkwright.graph.ops import SourceOp
from arkwright.sources.git import GitAuth, GitSource, parse_git_url
from arkwright.sources.git_url import parse_remote
from arkwright.store.store import Store

TOKEN = "t0ken-of-the-build"
GIT = "https://git.example/a/b.git"


def auth(secrets: dict[str, str], socket: str = "") -> GitAuth:
    return GitAuth(lambda name: secrets[name].encode() if name in secrets else None, lambda _: socket or None)


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("secrets", "expected"),
    [
        ({}, ""),
        ({"GIT_AUTH_TOKEN": TOKEN}, basic(f"x-access-token:{TOKEN}")),
        ({"GIT_AUTH_TOKEN": f" {TOKEN}\n"}, basic(f"x-access-token:{TOKEN}")),
        ({"GIT_AUTH_TOKEN": TOKEN, "GIT_AUTH_HEADER": "bearer"}, f"Bearer {TOKEN}"),
        ({"GIT_AUTH_TOKEN": "me:word", "GIT_AUTH_HEADER": "Basic"}, basic("me:word")),
        ({"GIT_AUTH_HEADER": "Basic bWU6d29yZA=="}, "Basic bWU6d29yZA=="),
        ({"GIT_AUTH_TOKEN": "a", "GIT_AUTH_TOKEN.git.example": "b"}, basic("x-access-token:b")),
        ({"GIT_AUTH_TOKEN.other.example": "b"}, ""),
    ],
)
def test_what_is_sent(secrets: dict[str, str], expected: str) -> None:
    remote = parse_remote(GIT)
    assert auth(secrets).access(remote, remote).authorization == expected


def test_where_nothing_is_sent() -> None:
    every = auth({"GIT_AUTH_TOKEN": TOKEN})
    asked = parse_remote(GIT)
    for url in (
        "http://git.example/a.git",
        "git://git.example/a",
        "https://other.example/a.git",
        "file:///a",
    ):
        assert every.access(parse_remote(url), asked).authorization == "", url
    assert auth({"GIT_AUTH_TOKEN.other.example": "b"}).access(
        parse_remote("https://other.example/a.git"), asked
    ).authorization == basic("x-access-token:b")
    port = parse_remote("https://git.example:8443/a.git")
    found = auth({"GIT_AUTH_TOKEN.git.example:8443": "p", "GIT_AUTH_TOKEN.git.example": "h"})
    assert found.access(port, port).authorization == basic("x-access-token:p")


@pytest.mark.parametrize(
    "secrets",
    [
        {"GIT_AUTH_HEADER": "bearer"},
        {"GIT_AUTH_TOKEN": "a\nX-Other: b"},
        {"GIT_AUTH_HEADER": "Basic a\r\nX: b"},
    ],
)
def test_secrets_that_are_no_header(secrets: dict[str, str]) -> None:
    remote = parse_remote(GIT)
    with pytest.raises(UserError) as caught:
        auth(secrets).access(remote, remote)
    assert caught.value.code == "invalid-git-secret"
    assert "X" not in str(caught.value)


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that gets the arguments of every git, and those of ssh with its agent's socket."""
    said = tmp_path / "said"
    real = subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True).stdout.strip()
    (tmp_path / "bin").mkdir()
    for name, then in (("git", f"os.execv({real + '/git'!r}, sys.argv)"), ("ssh", "sys.exit(255)")):
        wrapper = tmp_path / "bin" / name
        wrapper.write_text(
            f"#!{sys.executable}\nimport os, sys\n"
            f"open({str(said)!r}, 'a').write(repr((sys.argv, os.environ.get('SSH_AUTH_SOCK'))) + chr(10))\n{then}\n"
        )
        wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return said


def test_a_token_reaches_the_server_and_nothing_else(store: Store, site: Site, recorded: Path) -> None:
    site.pages["/b.git/info/refs"] = lambda handler: answer(handler, 403, b"no")
    secrets = {"GIT_AUTH_TOKEN": TOKEN}
    with pytest.raises(RemoteError) as caught:
        GitSource(store, auth(secrets)).pin(SourceOp(identifier=f"git://{site.url}/b.git"))
    assert caught.value.code == "git-auth-failed"
    assert site.requests[0][1]["Authorization"] == basic(f"x-access-token:{TOKEN}")
    encoded = basic(f"x-access-token:{TOKEN}").removeprefix("Basic ")
    for text in (recorded.read_text(), repr(caught.value), str(caught.value.details)):
        assert TOKEN not in text
        assert encoded not in text


def test_a_redirect_to_another_host_gets_no_token(store: Store, site: Site) -> None:
    other = Site()
    try:
        target = other.url.replace("127.0.0.1", "localhost")
        site.pages["/b.git/info/refs"] = lambda handler: answer(
            handler, 302, b"", Location=f"{target}/b.git/info/refs?service=git-upload-pack"
        )
        with pytest.raises(RemoteError):
            GitSource(store, auth({"GIT_AUTH_TOKEN": TOKEN})).pin(
                SourceOp(identifier=f"git://{site.url}/b.git")
            )
        assert "Authorization" in site.requests[0][1]
        assert other.requests
        assert all("Authorization" not in headers for _, headers in other.requests)
    finally:
        other.close()


def test_ssh_uses_the_agent_of_the_build_and_no_key_of_the_user(
    store: Store, recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/of/the/environment")
    for made, socket in ((auth({}, "/of/the/build"), "/of/the/build"), (auth({}), "/of/the/environment")):
        with pytest.raises(RemoteError) as caught:
            GitSource(store, made).pin(SourceOp(identifier="git://git@git.example:a/b.git"))
        assert caught.value.code == "git-failed"
        ssh = [line for line in recorded.read_text().splitlines() if "/ssh'" in line][-1]
        assert repr(socket) in ssh
        assert "'IdentityFile=none'" in ssh and "'BatchMode=yes'" in ssh


def wanted(repository: Repository, query: str) -> SourceOp:
    op = parse_git_url(f"{repository.url}?{query}")
    assert op is not None
    return op


def test_files_have_the_time_of_the_commit(store: Store, repository: Repository, tmp_path: Path) -> None:
    (repository.path / "link").symlink_to("file")
    repository.commit()
    source = GitSource(store)
    keys = set()
    for mtime, expected in (("commit", True), ("checkout", False)):
        pinned = source.pin(wanted(repository, f"mtime={mtime}"))
        keys.add(pinned.key)
        place = tmp_path / mtime
        place.mkdir()
        source.materialise(pinned, str(place))
        assert source.time(pinned) == 1_700_000_000
        for name in ("", "file", "link", "sub", "sub/inner"):
            status = os.lstat(place / name)
            assert (status.st_mtime == 1_700_000_000) is expected, name
    # Steps see the times: the two are not the same tree.
    assert len(keys) == 2


def test_a_commit_is_fetched_whatever_the_ref_is_now(
    store: Store, repository: Repository, tmp_path: Path
) -> None:
    commit = repository.git("rev-parse", "HEAD")
    repository.git("checkout", "--quiet", "--orphan", "new")
    repository.commit(file="another\n")
    repository.git("branch", "--force", "main", "new")
    repository.git("config", "uploadpack.allowAnySHA1InWant", "true")
    source = GitSource(store)
    with pytest.raises(UserError) as caught:
        source.pin(wanted(repository, f"ref=main&commit={commit}"))
    assert caught.value.code == "checksum-mismatch"
    for ref in ("main", "gone"):
        pinned = source.pin(wanted(repository, f"ref={ref}&commit={commit}&fetch-by-commit=true"))
        assert pinned.commit == commit
        assert pinned.uri.endswith(f"#{ref}")


@pytest.mark.parametrize(
    "query",
    [
        "mtime=now", "mtime=", "mtime=commit&mtime=commit", "fetch-by-commit", "fetch-by-commit=1&commit=abcdef0",
        "fetch-by-commit=maybe", "checksum=abcdef0&commit=abcdef0", "keep-git-dir=2", "tag=a&branch=b", "depth=1",
    ],
)  # fmt: skip
def test_queries_that_are_refused(query: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_git_url(f"{GIT}?{query}")
    assert caught.value.code == "invalid-git-url"
