from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sources_servers import Repository, Site, answer
from sources_suite import check_file_source, snapshot

from arkwright.diagnostics.errors import RemoteError, UserError
from arkwright.graph.ops import SourceOp
from arkwright.sources.git import GitSource, commit_epoch, parse_git_url
from arkwright.sources.git.source import _relative
from arkwright.sources.git_url import parse_remote
from arkwright.store.store import Store


def op(repository: Repository | str, **attrs: str) -> SourceOp:
    url = repository if isinstance(repository, str) else repository.url
    named = {key.replace("_", "-"): value for key, value in attrs.items()}
    return SourceOp(identifier=f"git://{url}", attrs=tuple(sorted(named.items())))


def checkout(store: Store, wanted: SourceOp, place: Path) -> Path:
    source = GitSource(store)
    place.mkdir(mode=0o755)
    source.materialise(source.pin(wanted), str(place))
    return place


@pytest.mark.parametrize(
    ("text", "identifier", "attrs"),
    [
        ("https://host/a/b.git", "https://host/a/b.git", {}),
        ("https://host/b.git#main", "https://host/b.git", {"ref": "main"}),
        ("https://host/b.git#v1:sub/dir/", "https://host/b.git", {"ref": "v1", "subdir": "sub/dir"}),
        ("https://host/b.git#:../../etc", "https://host/b.git", {"subdir": "etc"}),
        ("http://host:81/b.git", "http://host:81/b.git", {}),
        ("https://tok:en@host/b.git", "https://tok:en@host/b.git", {}),
        ("git://host/b", "git://host/b", {}),
        ("ssh://git@host:22/b.git", "ssh://git@host:22/b.git", {}),
        ("git@host:a/b.git#x", "git@host:a/b.git", {"ref": "x"}),
        ("git@host:b.git?branch=x", "git@host:b.git", {"ref": "refs/heads/x"}),
        ("github.com/a/b", "https://github.com/a/b", {}),
        ("github.com/a/b.git#m", "https://github.com/a/b.git", {"ref": "m"}),
        ("file:///srv/b.git", "file:///srv/b.git", {}),
        ("HTTPS://host/b.git", "https://host/b.git", {}),
        ("https://h/b.git?ref=x&subdir=s", "https://h/b.git", {"ref": "x", "subdir": "s"}),
        ("https://h/b.git?tag=v1", "https://h/b.git", {"ref": "refs/tags/v1"}),
        ("https://h/b.git?branch=refs/heads/v1", "https://h/b.git", {"ref": "refs/heads/v1"}),
        ("https://h/b.git?commit=0123abc", "https://h/b.git", {"ref": "0123abc", "checksum": "0123abc"}),
        ("https://h/b.git?checksum=0123abc#m", "https://h/b.git", {"ref": "m", "checksum": "0123abc"}),
        ("https://h/b.git?keep-git-dir", "https://h/b.git", {"keep-git-dir": "true"}),
        ("https://h/b.git?submodules=0", "https://h/b.git", {"submodules": "false"}),
    ],
)
def test_urls(text: str, identifier: str, attrs: dict[str, str]) -> None:
    parsed = parse_git_url(text)
    assert parsed is not None
    assert parsed.identifier == f"git://{identifier}"
    assert dict(parsed.attrs) == attrs


@pytest.mark.parametrize(
    "text",
    [
        ".", "./a.git", "/srv/a.git", "dir", "host:a/b", "C:/x.git", "https://host/file.tar.gz",
        "https://host/b.git/archive.tar", "ext::sh -c true", "fd::3", "s3://bucket/b.git", "-", "--upload-pack=x",
    ],
)  # fmt: skip
def test_what_is_no_git_url(text: str) -> None:
    assert parse_git_url(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "ssh://-oProxyCommand=touch%20x/b.git", "https://h/b.git?color=red", "https://h/b.git?ref=",
        "https://h/b.git?ref=a&ref=b", "https://h/b.git?ref=a#b", "https://h/b.git?tag=a&branch=b",
        "https://h/b.git?submodules=maybe", "https://h/b.git?commit=main", "https:///b.git", "file://host/b.git",
        "https://h/a b.git", "https://h/a\nb.git", "git@host:-x", "https://[/b.git",
    ],
)  # fmt: skip
def test_urls_that_are_refused(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_git_url(text)
    assert caught.value.code == "invalid-git-url"


@pytest.mark.parametrize(
    "ref", ["--upload-pack=touch x", "-x", "a..b", "a:b", "+a", "a b", "a\nb", "a^{}", "a*", "@{1}"]
)
def test_refs_that_are_refused(store: Store, repository: Repository, ref: str) -> None:
    with pytest.raises(UserError) as caught:
        GitSource(store).pin(op(repository, ref=ref))
    assert caught.value.code in ("invalid-git-ref", "unknown-git-ref")
    if ref != "+a":
        assert caught.value.code == "invalid-git-ref"


@pytest.mark.parametrize(
    "url",
    ["ext::sh -c 'touch /tmp/x'", "--upload-pack=touch", "-oProxyCommand=x@h:y", "/srv/x.git", "fd::3", ""],
)
def test_transports_that_are_refused(store: Store, url: str) -> None:
    with pytest.raises(UserError) as caught:
        GitSource(store).pin(op(url))
    assert caught.value.code == "invalid-git-url"


def test_suite(store: Store, repository: Repository, tmp_path: Path) -> None:
    check_file_source(GitSource(store), GitSource(store), op(repository), tmp_path)


def test_suite_with_a_kept_git_directory(store: Store, repository: Repository, tmp_path: Path) -> None:
    with Store.open(str(tmp_path / "store2")) as other:
        check_file_source(GitSource(store), GitSource(other), op(repository, keep_git_dir="true"), tmp_path)


def test_a_checkout(store: Store, repository: Repository, tmp_path: Path) -> None:
    (repository.path / "run").write_text("#!/bin/sh\n")
    (repository.path / "run").chmod(0o700)
    (repository.path / "link").symlink_to("/etc/passwd")
    commit = repository.commit()
    source = GitSource(store)
    pinned = source.pin(op(repository))
    assert pinned.digest == f"sha1:{commit}"
    assert commit_epoch(source, pinned) == 1_700_000_000
    tree = checkout(store, op(repository), tmp_path / "tree")
    assert sorted(os.listdir(tree)) == ["file", "link", "run", "sub"]
    assert (tree / "file").stat().st_mode & 0o7777 == 0o644
    assert (tree / "run").stat().st_mode & 0o7777 == 0o755
    assert (tree / "sub").stat().st_mode & 0o7777 == 0o755
    assert os.readlink(tree / "link") == "/etc/passwd"


def test_refs(store: Store, repository: Repository) -> None:
    first = repository.git("rev-parse", "HEAD")
    repository.git("tag", "light")
    repository.git("tag", "--annotate", "--message", "x", "annotated")
    second = repository.commit(file="2")
    repository.git("branch", "side/branch")
    repository.git("tag", "both", first)
    repository.git("branch", "both")
    third = repository.commit(file="3")
    source = GitSource(store)
    wanted = {
        "main": third, "refs/heads/main": third, "side/branch": second, "light": first, "annotated": first,
        "refs/tags/annotated": first, "tags/light": first, "both": second, "refs/tags/both": first,
        first: first, second[:9]: second, "HEAD": third,
    }  # fmt: skip
    assert {ref: source.pin(op(repository, ref=ref)).commit for ref in wanted} == wanted


def test_an_unknown_ref_has_a_suggestion(store: Store, repository: Repository) -> None:
    repository.git("branch", "release")
    for ref in ("relaese", "0" * 40, "abcdef012"):
        with pytest.raises(UserError) as caught:
            GitSource(store).pin(op(repository, ref=ref))
        assert caught.value.code == "unknown-git-ref"
        if ref == "relaese":
            assert "release" in (caught.value.diagnostics[0].hint or "")


def test_a_moving_branch(store: Store, repository: Repository, tmp_path: Path) -> None:
    before = GitSource(store).pin(op(repository, ref="main"))
    repository.commit(file="new\n")
    after = GitSource(store).pin(op(repository, ref="main"))
    assert before.key != after.key
    old, new = tmp_path / "old", tmp_path / "new"
    for place, pinned in ((old, before), (new, after)):
        place.mkdir()
        GitSource(store).materialise(pinned, str(place))
    assert ((old / "file").read_text(), (new / "file").read_text()) == ("one\n", "new\n")


def test_a_pinned_commit_needs_no_repository(store: Store, repository: Repository, tmp_path: Path) -> None:
    commit = repository.git("rev-parse", "HEAD")
    GitSource(store).pin(op(repository, ref=commit))
    repository.path.rename(tmp_path / "gone")
    assert (checkout(store, op(repository, ref=commit), tmp_path / "tree") / "file").exists()


def test_history_is_not_fetched(store: Store, repository: Repository) -> None:
    first = repository.git("rev-parse", "HEAD")
    repository.commit(file="2")
    source = GitSource(store)
    pinned = source.pin(op(repository))
    mirrors = list(Path(store.root_path, "sources", "git").glob("*/HEAD"))
    assert len(mirrors) == 1
    found = subprocess.run(
        ["git", f"--git-dir={mirrors[0].parent}", "cat-file", "-e", first], capture_output=True, check=False
    )
    assert found.returncode != 0
    assert pinned.commit != first


def test_checksums(store: Store, repository: Repository) -> None:
    commit = repository.git("rev-parse", "HEAD")
    assert GitSource(store).pin(op(repository, ref="main", checksum=commit[:12])).commit == commit
    with pytest.raises(UserError) as caught:
        GitSource(store).pin(op(repository, ref="main", checksum="0" * 40))
    assert caught.value.code == "checksum-mismatch"
    assert caught.value.details["found"] == commit


def test_a_subdirectory(store: Store, repository: Repository, tmp_path: Path) -> None:
    (repository.path / "link").symlink_to("sub")
    (repository.path / "evil").symlink_to("/etc")
    repository.commit()
    for number, subdir in enumerate(("sub", "link", "/sub/")):
        tree = checkout(store, op(repository, subdir=subdir), tmp_path / str(number))
        assert {path: content for path, (_, content) in snapshot(tree).items()}.keys() == {"inner"}
    for number, subdir in enumerate(("evil", "file", "missing")):
        with pytest.raises(UserError) as caught:
            checkout(store, op(repository, subdir=subdir), tmp_path / f"bad{number}")
        assert caught.value.code == "git-subdir-missing"
    assert os.listdir(os.path.join(store.root_path, "work")) == []


def test_a_kept_git_directory_works_and_leaks_nothing(
    store: Store, repository: Repository, tmp_path: Path
) -> None:
    tree = checkout(store, op(repository, keep_git_dir="true"), tmp_path / "tree")
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "status", "--porcelain"], cwd=tree, capture_output=True, check=True
    )
    assert listed.stdout == b""
    names = {
        os.path.relpath(os.path.join(at, name), tree) for at, _, names in os.walk(tree) for name in names
    }
    assert not names & {".git/FETCH_HEAD", ".git/ORIG_HEAD", ".git/description"}
    assert not any(name.startswith((".git/logs", ".git/hooks")) for name in names)
    for name in names:
        assert os.fsencode(store.root_path) not in (tree / name).read_bytes()


def test_users_git_is_not_used(
    store: Store, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    marker = tmp_path / "marker"
    hook = tmp_path / "hooks" / "post-checkout"
    hook.parent.mkdir()
    hook.write_text(f"#!/bin/sh\ntouch {marker}\n")
    hook.chmod(0o755)
    (home / ".gitconfig").write_text(
        f'[core]\n hooksPath = {hook.parent}\n autocrlf = true\n[filter "x"]\n smudge = touch {marker}; cat\n'
        f'[url "file:///nowhere/"]\n insteadOf = {repository.url}\n'
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_SSH_COMMAND", f"touch {marker}")
    (repository.path / ".gitattributes").write_text("* filter=x\n")
    (repository.path / "crlf").write_text("a\n")
    repository.commit()
    tree = checkout(store, op(repository), tmp_path / "tree")
    assert (tree / "crlf").read_bytes() == b"a\n"
    assert not marker.exists()


@pytest.fixture
def nested(tmp_path: Path, repository: Repository) -> Repository:
    inner = Repository(tmp_path / "inner.git")
    inner.commit(deep="deepest\n")
    middle = Repository(tmp_path / "middle.git")
    middle.commit(mid="m\n")
    for parent, child in ((middle, inner), (repository, middle)):
        parent.git(
            "-c",
            "protocol.file.allow=always",
            "submodule",
            "add",
            "--quiet",
            f"../{child.path.name}",
            "lib/x",
        )
        # Relative to where the repository itself is.
        parent.git("config", "--file", ".gitmodules", "submodule.lib/x.url", f"../{child.path.name}")
        parent.commit()
    return repository


def test_submodules(store: Store, nested: Repository, tmp_path: Path) -> None:
    pinned = GitSource(store).pin(op(nested))
    for gone in ("inner.git", "middle.git"):
        (tmp_path / gone).rename(tmp_path / f"gone-{gone}")
    tree = tmp_path / "tree"
    tree.mkdir()
    GitSource(store).materialise(pinned, str(tree))
    assert (tree / "lib/x/mid").read_text() == "m\n"
    assert (tree / "lib/x/lib/x/deep").read_text() == "deepest\n"
    assert list(tree.rglob(".git")) == []
    without = checkout(store, op(nested, submodules="false"), tmp_path / "without")
    assert list((without / "lib/x").iterdir()) == []
    assert GitSource(store).pin(op(nested, submodules="false")).key != pinned.key


@pytest.mark.parametrize(
    "url", ["ext::sh -c true", "--upload-pack=touch x", "-x@host:y", "/etc", "../../../../../../../.."]
)
def test_hostile_submodules(store: Store, nested: Repository, url: str) -> None:
    nested.git("config", "--file", ".gitmodules", "submodule.lib/x.url", url)
    nested.commit()
    with pytest.raises((UserError, RemoteError)) as caught:
        GitSource(store).pin(op(nested))
    assert caught.value.code in ("invalid-git-url", "git-failed")


def test_a_submodule_of_a_remote_repository_is_not_on_this_host() -> None:
    from arkwright.sources.git.source import _submodule_remote

    with pytest.raises(UserError) as caught:
        _submodule_remote(parse_remote("https://host/a.git"), "file:///srv/secret.git")
    assert caught.value.code == "invalid-git-url"


@pytest.mark.parametrize(
    ("base", "url", "joined"),
    [
        ("https://h/a/b.git", "../c.git", "https://h/a/c.git"),
        ("https://h/a/b.git/", "../../c.git", "https://h/c.git"),
        ("https://h/a/b.git", "./c.git", "https://h/a/b.git/c.git"),
        ("git@h:a/b.git", "../c.git", "git@h:a/c.git"),
        ("git@h:b.git", "../c.git", "git@h:c.git"),
        ("file:///a/b.git", "../c.git", "file:///a/c.git"),
    ],
)
def test_relative_submodule_urls(base: str, url: str, joined: str) -> None:
    assert _relative(base, url) == joined


def test_sha256_repositories(store: Store, tmp_path: Path) -> None:
    made = Repository(tmp_path / "long.git", "--object-format=sha256")
    commit = made.commit(file="x")
    pinned = GitSource(store).pin(op(made))
    assert pinned.digest == f"sha256:{commit}"
    assert (checkout(store, op(made), tmp_path / "tree") / "file").read_text() == "x"


def test_a_repository_that_is_not_there(store: Store, tmp_path: Path) -> None:
    with pytest.raises(RemoteError) as caught:
        GitSource(store).pin(op(f"file://{tmp_path}/missing.git"))
    assert caught.value.code == "git-failed"


def test_credentials_reach_the_server_and_nothing_else(
    store: Store, site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = os.path.join(
        subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True).stdout.strip(),
        "git",
    )
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin" / "git"
    wrapper.write_text(
        f'#!{sys.executable}\nimport os, sys\nopen({str(tmp_path / "argv")!r}, "a").write(repr(sys.argv))\nos.execv({real!r}, sys.argv)\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    site.pages["/b.git/info/refs"] = lambda handler: answer(handler, 403, b"no")
    url = site.url.replace("http://", "http://me:s3cr3t-word@") + "/b.git"
    with pytest.raises(RemoteError) as caught:
        GitSource(store).pin(op(url))
    assert caught.value.code == "git-auth-failed"
    assert "Authorization" in site.requests[0][1]
    assert "s3cr3t-word" not in (tmp_path / "argv").read_text()
    assert "s3cr3t-word" not in repr(caught.value) + str(caught.value.diagnostics) + str(caught.value.details)


def test_stale_locks_of_a_killed_git_do_not_matter(store: Store, repository: Repository) -> None:
    GitSource(store).pin(op(repository))
    (mirror,) = [path.parent for path in Path(store.root_path, "sources", "git").glob("*/HEAD")]
    for name in ("shallow.lock", "HEAD.lock", "packed-refs.lock"):
        (mirror / name).touch()
    commit = repository.commit(file="2")
    assert GitSource(store).pin(op(repository)).commit == commit
